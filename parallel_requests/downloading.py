"""Responses → files: where each one goes, which files exist already, and what came of each.

How a single file is written, resumed and completed is in `part_files`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from parallel_requests.checksums import ExpectedChecksums, sha256_of
from parallel_requests.exceptions import ConfigurationError, DownloadError, ValidationError
from parallel_requests.filenames import name_from_headers, name_from_url, numbered
from parallel_requests.locks import Lock
from parallel_requests.logs import warn
from parallel_requests.models import Headers, Request, Result
from parallel_requests.part_files import Download, PartFile
from parallel_requests.redaction import redact, text_of
from parallel_requests.turns import Turns
from parallel_requests.values import shown

if TYPE_CHECKING:
    from parallel_requests.checksums import Checksum, Checksums
    from parallel_requests.exchange import Reply
    from parallel_requests.observing import Progress
    from parallel_requests.policy import Policy

Existing: TypeAlias = Literal["skip", "replace", "keep"]
Target: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_CHUNK_SIZE: Final = 1 << 20


class Downloads:
    """The files of one batch: where they go, which are skipped, and what came of each.

    Attributes:
        is_counted: Whether the number of URLs is known beforehand.
        progress: Shows the bytes received, if set.
    """

    def __init__(
        self,
        urls: Iterable[object],
        to: Target,
        *,
        sha256: Checksums,
        existing: Existing,
        observe: Callable[[Result[Any]], object],
    ) -> None:
        """Set up, and create the folder.

        Args:
            urls: What is downloaded.
            to: The folder, or one path per URL.
            sha256: The checksum of all, a list with one per URL, or a dict by URL; True only computes it.
            existing: What to do if a file exists: skip, replace, or keep both.
            observe: Called with each Result, one at a time.

        Raises:
            ConfigurationError: One of these is wrong, a list with one entry per URL has another length than
                the list of URLs, or the folder cannot be created.
        """
        if existing not in get_args(Existing):
            raise ConfigurationError(
                f"existing must be 'skip', 'replace' or 'keep', not {shown(existing)}.", "existing"
            )
        self._existing = existing
        self._checksums = ExpectedChecksums(sha256)
        self._paths: list[Path] | None = None
        if isinstance(to, str | os.PathLike):
            self._folder = _create_folder(to)
        else:
            self._folder = Path()
            self._paths = _checked_paths(to)
        self.is_counted = isinstance(urls, Sized)
        if isinstance(urls, Sized):
            self._check_lengths(len(urls))
        # Those of files that are skipped come from the consumer's thread.
        self._observe = Turns(observe).bring
        self.progress: Progress | None = None
        self._parts: dict[int, PartFile] = {}
        self._asked: Counter[str] = Counter()
        self._lock = Lock()  # guards _taken
        self._taken: set[str] = set()

    @property
    def needs_time(self) -> bool:
        """Whether finishing a file takes more than moving it."""
        return bool(self._checksums)

    def policy(self, policy: Policy) -> Policy:
        """Return a policy of a batch changed so that bodies go to these files."""
        return dataclasses.replace(
            policy, raise_for_status=True, deliver=self.write, resume=self, chunk_size=_CHUNK_SIZE
        )

    def checked(self, requests: Iterator[Request]) -> Iterable[Request]:
        """Return the Requests after checking that each checksum by URL belongs to one of them.

        For a lazy input this is only known at its end: `missing_or_skipped` warns then.

        Raises:
            ConfigurationError: A checksum is for a URL that is not in the batch.
        """
        unmatched = self._checksums.unmatched
        if not self.is_counted or not unmatched:
            return requests
        planned = list(requests)
        unmatched.difference_update(request.url for request in planned)
        if unmatched:
            raise ConfigurationError(self._checksums.unmatched_text(), "sha256")
        return planned

    def missing_or_skipped(
        self, requests: Iterable[Request], policy: Policy
    ) -> Iterator[Request | Result[Any]]:
        """Yield the Requests whose files do not exist, and the Results of those that are skipped.

        Once the batch has to end, no more files are looked for: verifying those that exist may take long.
        """
        for request in requests:
            self._checksums.unmatched.discard(request.url)
            if request.problem is None:
                request.problem = self._missing_entry(request)
            if request.problem is not None or policy.reason_to_stop() is not None:
                yield request
                continue
            part = self._new_part(request)
            there = self._found(part)
            if there is None:
                self._parts[request.index] = part
                yield request
            else:
                result = _skipped(request, there, part.checksum)
                self._observe(result)
                yield result
        if self._checksums.unmatched:
            warn(self._checksums.unmatched_text())

    def close(self) -> None:
        """End the progress bar."""
        if self.progress is not None:
            self.progress.close()

    # Called by an exchange and while a body is read; see `policy.Resumption`.

    def prepare(self, request: Request) -> Request:
        """Return a request for the missing part only, if there is a beginning."""
        headers = self._parts[request.index].headers()
        return dataclasses.replace(request, headers={**request.headers, **headers}) if headers else request

    def begin(self, request: Request, status_code: int, headers: Headers) -> int:
        """Open the file for a body and return how many bytes of it are there already."""
        part = self._parts[request.index]
        start = part.begin(request, status_code, headers)
        if self._paths is None and not part.name_is_sent:
            name = name_from_headers(headers)
            if name is not None and name != part.place.name:
                # An existing file of that name may be of any origin: only "replace" overwrites it.
                part.wanted = self._folder / name
                part.place = self._folder / self._take(name, beside_files=self._existing != "replace")
                part.name_is_sent = True
        if self.progress is not None:
            self.progress.advance(start - part.counted, (part.size or 0) - part.expected)
            part.counted, part.expected = start, part.size or 0
        return start

    def write(self, chunk: bytes, request: Request) -> None:
        """Append a chunk of a body to its file."""
        part = self._parts[request.index]
        part.write(chunk)
        if self.progress is not None:
            part.counted += len(chunk)
            self.progress.advance(len(chunk), 0)

    def starts_over(self, request: Request, reply: Reply) -> bool:
        """Whether another attempt, for the whole file, has to follow at once."""
        return self._parts[request.index].is_refused(reply)

    # Called with each Result.

    def finish(self, result: Result[Any], deliver: Callable[[Result[Any]], None]) -> None:
        """Move the file of a finished exchange to its place, and hand the Result on."""
        part = self._parts[result.index]
        is_kept = self._existing == "keep" or (part.name_is_sent and self._existing != "replace")
        try:
            result.value = part.finish(result, partial(self._beside, part.wanted) if is_kept else None)
        except DownloadError as error:
            result.error = error
        except Exception as error:  # noqa: BLE001 - whatever it is, it must cost no more than this item
            reason = f"{type(error).__name__}: {text_of(error)}"
            message = f"The file {part.place} could not be finished: {reason}"
            result.error = DownloadError(message, str(part.place))
        deliver(result)

    def release(self, result: Result[Any]) -> None:
        """Release what an item holds; called once with each Result."""
        part = self._parts.pop(result.index, None)
        if part is not None:
            part.give_up()
        self._observe(result)

    def _lengths(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the length of each list with one entry per URL."""
        for name, column in (("to", self._paths), ("sha256", self._checksums.in_order)):
            if column is not None:
                yield name, len(column)

    def _check_lengths(self, count: int) -> None:
        for name, length in self._lengths():
            if length != count:
                raise ConfigurationError(f"{name} has {length} entries for {count} URLs.", name)

    def _missing_entry(self, request: Request) -> ValidationError | None:
        """Return the error of an item that a list has no entry for, as may happen with a lazy input."""
        for name, length in self._lengths():
            if request.index >= length:
                return ValidationError(f"{name} ended before urls did; give one entry per URL.", name)
        return None

    def _new_part(self, request: Request) -> PartFile:
        checksum = self._checksums.of(request)
        self._asked[request.url] += 1
        occurrence = f"{request.method} {request.url} {self._asked[request.url]}"
        mark = hashlib.sha256(occurrence.encode()).hexdigest()[:16]
        if self._paths is not None:
            place = self._paths[request.index]
            return PartFile(place, mark, checksum)
        name = name_from_url(request.url)
        part = PartFile(self._folder / name, f"{name}.{mark}", checksum)
        part.place = self._folder / self._take(name, beside_files=self._existing == "keep")
        return part

    def _take(self, name: str, *, beside_files: bool) -> str:
        """Return a name that is unused in this batch and, with ``beside_files``, in the folder."""
        with self._lock:
            for candidate in numbered(name):
                folded = candidate.casefold()  # some file systems ignore case
                if folded in self._taken or (beside_files and os.path.lexists(self._folder / candidate)):
                    continue
                self._taken.add(folded)
                return candidate
        raise AssertionError("numbers do not end")

    def _beside(self, place: Path) -> Path:
        """Return a numbered place next to one that was free when it was assigned."""
        if self._paths is not None:
            return _free_place(place)
        return self._folder / self._take(place.name, beside_files=True)

    def _found(self, part: PartFile) -> Path | None:
        """Return the existing file that makes a request needless, or None."""
        if self._existing != "skip":
            if self._existing == "keep" and self._paths is not None:
                part.place = _free_place(part.place)
            return None
        there = part.place
        if not _is_file(there) and (name := part.known_as) is not None:
            there = there.with_name(name)
        if not _is_file(there):
            return None
        if isinstance(part.checksum, str):
            try:
                return there if sha256_of(there) == part.checksum else None
            except OSError:
                return None
        return there


def _skipped(request: Request, there: Path, checksum: Checksum) -> Result[Any]:
    """Return the Result of an item that is not sent because its file exists."""
    result: Result[Any] = Result(request, _index=request.index)
    try:
        digest = sha256_of(there) if checksum is True else checksum or None
        size = there.stat().st_size
        result.value = Download(there, redact(request.url), size, digest, "skipped", result)
    except OSError as error:
        result.error = DownloadError(f"The file {there} cannot be read: {error}", str(there))
    return result


def _is_file(path: Path) -> bool:
    """Whether a file is there; False if that cannot be found out, as when the name is too long."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises then


def _free_place(path: Path) -> Path:
    return next(place for name in numbered(path.name) if not os.path.lexists(place := path.with_name(name)))


def _create_folder(to: str | os.PathLike[str]) -> Path:
    try:
        folder = Path(to)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = str(error)
    else:
        return folder
    raise ConfigurationError(f"The folder {os.fspath(to)!r} cannot be created: {reason}", "to")


def _checked_paths(to: object) -> list[Path]:
    if not isinstance(to, list | tuple) or not all(isinstance(path, str | os.PathLike) for path in to):
        raise ConfigurationError(
            f"to must be a folder, or a list with one path per URL, not {shown(to)}.", "to"
        )
    paths = [Path(path) for path in to]
    for place, count in Counter(path.absolute() for path in paths).items():
        if count > 1:
            raise ConfigurationError(
                f"to names {place} {count} times; every file needs a path of its own.", "to"
            )
    for path in paths:
        if not path.name or not _is_encodable(path):
            raise ConfigurationError(f"to has {str(path)!a}, which is not the path of a file.", "to")
    return paths


def _is_encodable(path: Path) -> bool:
    """Whether a path can be given to the operating system, in the encoding of this locale."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
