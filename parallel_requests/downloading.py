"""Answers → files: written beside their place, resumed where they broke off, moved there when whole.

What is not whole yet lies in a hidden ``.part`` file; a ``.json`` file beside it remembers what has
to be the same for the rest to fit. Both survive a crash, and the next call goes on from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from io import BufferedWriter, FileIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from parallel_requests.exceptions import (
    ConfigurationError,
    DownloadError,
    ParallelRequestsError,
    ProtocolError,
)
from parallel_requests.filenames import name_from_headers, name_from_url, numbered
from parallel_requests.models import Headers, Request, Response, Result
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from parallel_requests.exchange import Reply
    from parallel_requests.observing import ByteProgress

logger = logging.getLogger("parallel_requests")

Existing: TypeAlias = Literal["skip", "replace", "keep"]
Target: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Checksums: TypeAlias = str | bool | Sequence[str | None] | Mapping[str, str] | None

CHUNK_SIZE: Final = 1 << 20
_BUFFER_SIZE: Final = 1 << 16
"""Many files are written side by side: with larger buffers they would no longer fit the processor's cache."""
_RECORD_AFTER: Final = 0.25
"""Seconds a transfer lasts before its note is written: what is quicker is as quickly fetched again."""
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Download:
    """One file that is there now.

    Attributes:
        path: Where it is.
        url: What it was asked for under, without credentials.
        size: Its bytes.
        sha256: Its SHA-256 in hex, where one was given or asked for.
        status: ``"downloaded"``; ``"resumed"``, if the beginning was there from an earlier attempt or
            call; ``"skipped"``, if it was there already and nothing was sent.
        result: The Result of the exchange.
    """

    path: Path
    url: str
    size: int
    sha256: str | None
    status: Literal["downloaded", "resumed", "skipped"]
    result: Result[Any]


class _Part:
    """The file of one item while it is not whole.

    It is used by one thread at a time: by whoever carries the item's exchange forward.
    """

    def __init__(self, place: Path, stem: str, checksum: str | bool | None) -> None:
        """Set up, and look up what an earlier call has left.

        Args:
            place: Where the file is to be.
            stem: What the temporary files begin with.
            checksum: The SHA-256 it must have; True to have it worked out.
        """
        self.place = place
        self.checksum = checksum
        self.name_is_sent = False
        self.starts_at = 0
        self.size: int | None = None
        self.counted = self.expected = 0
        self._path = place.with_name(f".{stem}.part")
        self._record_path = place.with_name(f".{stem}.json")
        self._validator: str | None = None
        self._file: BufferedWriter[FileIO] | None = None
        self._opened_at = 0.0
        self._has_begun = self._is_unfit = False
        record = self._read_record()
        self._is_recorded = record is not None
        known = record or {}
        if isinstance(known.get("validator"), str):
            self._validator = known["validator"]
            self.size = known["size"] if isinstance(known.get("size"), int) else None
        name = known.get("name")
        self.known_as: str | None = name if isinstance(name, str) and name == Path(name).name else None

    def headers(self) -> dict[str, str]:
        """Return what asks for the rest alone, where there is a beginning."""
        self.break_off()
        self._is_unfit = False
        self.starts_at = self._length() if self._validator is not None else 0
        if self.size is not None:  # at least one byte, or there would be nothing to send
            self.starts_at = max(0, min(self.starts_at, self.size - 1))
        if not self.starts_at or self._validator is None:
            return {}
        return {"Range": f"bytes={self.starts_at}-", "If-Range": self._validator}

    def begin(self, request: Request, status_code: int, headers: Headers) -> int:
        """Open the file for an answer's body and return how much of it is there.

        Raises:
            ProtocolError: The answer is a part that does not fit.
            DownloadError: The file cannot be opened.
        """
        self._has_begun = True
        if status_code != 206:
            self.starts_at = 0
            self._start(headers)
            return 0
        if not self._fits(headers):
            self._is_unfit = True
            raise ProtocolError(
                f"{redact(request.url)} answered with another part than asked for.", url=request.url
            )
        try:
            self._open(os.open(self._path, os.O_WRONLY | _NO_LINK))
            assert self._file is not None  # noqa: S101 - just opened
            self._file.truncate(self.starts_at)
            self._file.seek(self.starts_at)
        except OSError as error:
            raise self._failure("resumed", error) from error
        return self.starts_at

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            DownloadError: They could not be written.
        """
        assert self._file is not None  # noqa: S101 - begin() comes first
        try:
            self._file.write(chunk)
            if not self._is_recorded and monotonic() - self._opened_at > _RECORD_AFTER:
                self._file.flush()
                self._record()
        except OSError as error:
            raise self._failure("written", error) from error

    def is_refused(self, reply: Reply) -> bool:
        """Whether the server has nothing that fits the beginning: it is dropped then."""
        is_refused = self.starts_at > 0 and (
            self._is_unfit or (isinstance(reply, Response) and reply.status_code == 416)
        )
        if is_refused:
            self.discard()
        return is_refused

    def finish(self, result: Result[Any], *, may_replace: bool) -> Download:
        """Check the whole file and move it to its place.

        Raises:
            DownloadError: There is none, it is not what its checksum says, or it cannot be moved.
        """
        url = redact(result.request.url)
        if not self._has_begun:
            status = result.response.status_code if result.response else "nothing"
            raise DownloadError(f"{url} answered {status}, which is no file.", str(self.place))
        digest = None
        try:
            size = self._close()
            if self.checksum:
                digest = sha256_of(self._path)
            if isinstance(self.checksum, str) and digest != self.checksum:
                self.discard()
                raise DownloadError(
                    f"What {url} sent has the SHA-256 {digest} and not {self.checksum}.", str(self.place)
                )
            if not may_replace and os.path.lexists(self.place):
                raise FileExistsError("it has come to be there in the meantime")
            self._path.replace(self.place)
            self._drop_record()
            if self.name_is_sent:
                self._write_record({"name": self.place.name})
        except OSError as error:
            raise self._failure("finished", error) from error
        self._has_begun = False
        return Download(self.place, url, size, digest, "resumed" if self.starts_at else "downloaded", result)

    def break_off(self) -> None:
        """Close for now, so that another attempt or call may go on."""
        if self._file is None:
            return
        try:
            self._close()
            self._record()
        except OSError as error:  # what is missing will be asked for again
            logger.warning("%s could not be written: %s", self._path, error)

    def give_up(self) -> None:
        """Close, and keep only what a later call can go on from."""
        self.break_off()
        if self._validator is None and self._has_begun:
            self.discard()

    def discard(self) -> None:
        """Drop what is there."""
        self._validator = self.size = None
        self.break_off()
        try:
            self._drop_record()
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s could not be removed: %s", self._path, error)

    def _start(self, headers: Headers) -> None:
        """Begin a new file, and note what tells whether a later answer is of the same one."""
        coded = headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")
        self._validator = None if coded else _validator(headers)
        self.size = None if coded else _number(headers.get("content-length"))
        try:
            self._drop_record()
            try:
                self._open(_create(self._path))
            except FileNotFoundError:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._open(_create(self._path))
        except OSError as error:
            raise self._failure("created", error) from error

    def _fits(self, headers: Headers) -> bool:
        """Whether an answer with status 206 goes on where the file ends, and to its end."""
        match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
        if match is None or not self.starts_at or int(match[1]) != self.starts_at:
            return False
        total = int(match[2]) + 1
        if match[3] != "*" and int(match[3]) != total:
            return False
        etag = headers.get("etag")
        is_same = etag is None or not str(self._validator).startswith('"') or etag == self._validator
        if self.size is None:
            self.size = total
        return is_same and total == self.size

    def _length(self) -> int:
        try:
            found = self._path.lstat()
        except OSError:
            return 0
        # A link, hard or symbolic, is none of ours: it might lead out of the folder.
        return found.st_size if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else 0

    def _open(self, descriptor: int) -> None:
        self._file = BufferedWriter(FileIO(descriptor, "w"), _BUFFER_SIZE)
        self._opened_at = monotonic()

    def _close(self) -> int:
        """Write what is still buffered, give the descriptor back, and return the size of the file.

        Raises:
            OSError: It could not be written; the descriptor is given back all the same.
        """
        file, self._file = self._file, None
        assert file is not None  # noqa: S101 - asked for once, of an open file
        with file:
            return file.tell()

    def _record(self) -> None:
        """Leave a note of what has to be the same for the rest to fit."""
        if self._validator is not None and not self._is_recorded:
            self._write_record({"validator": self._validator, "size": self.size})

    def _read_record(self) -> dict[str, Any] | None:
        try:
            descriptor = os.open(self._record_path, os.O_RDONLY | _NO_LINK)
        except OSError:
            return None
        with FileIO(descriptor, "r") as file:
            try:
                record = json.load(file)
            except (OSError, ValueError):
                return {}
        return record if isinstance(record, dict) else {}

    def _write_record(self, record: Mapping[str, object]) -> None:
        self._is_recorded = True
        draft = self._record_path.with_suffix(".draft")
        with FileIO(_create(draft), "w") as file:
            file.write(json.dumps(record).encode())
        draft.replace(self._record_path)  # a note that is there is whole, whenever the process dies

    def _drop_record(self) -> None:
        if self._is_recorded:
            self._record_path.unlink(missing_ok=True)
            self._is_recorded = False

    def _failure(self, what: str, error: OSError) -> DownloadError:
        return DownloadError(f"The file {self.place} could not be {what}: {error}", str(self.place))


class Downloads:
    """The files of one batch: where they go, what is skipped, and what came of each."""

    def __init__(
        self,
        to: Target,
        *,
        sha256: Checksums = None,
        existing: Existing = "skip",
        progress: ByteProgress | None = None,
    ) -> None:
        """Set up, and create the folder.

        Args:
            to: The folder, or one path per URL.
            sha256: The checksum of all, a list with one per URL, or a dict by URL; True works it out only.
            existing: What is done about a file that is there: skip, replace, or keep both.
            progress: Told of bytes.

        Raises:
            ConfigurationError: One of these is wrong, or the folder cannot be created.
        """
        if existing not in get_args(Existing):
            raise ConfigurationError(
                f"existing must be 'skip', 'replace' or 'keep', not {existing!r}.", "existing"
            )
        self._existing = existing
        self._checksums = _checked_checksums(sha256)
        self._paths: list[Path] | None = None
        if isinstance(to, str | os.PathLike):
            self._folder = _made_folder(to)
        else:
            self._folder = Path()
            self._paths = _checked_paths(to)
        self.is_counted = False
        self.observe: Callable[[Result[Any]], object] | None = None
        self._skipped: list[Result[Any]] = []
        self._progress = progress
        self._parts: dict[int, _Part] = {}
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()  # guards _taken
        self._taken: set[str] = set()

    @property
    def needs_time(self) -> bool:
        """Whether to finish a file takes more than moving it."""
        return self._checksums is not None

    def check(self, urls: Iterable[object]) -> None:
        """Do nothing where what is given per URL fits the number of URLs.

        Raises:
            ConfigurationError: It does not.
        """
        self.is_counted = isinstance(urls, Sized)
        if not isinstance(urls, Sized):
            return
        for name, column in (("to", self._paths), ("sha256", self._checksums)):
            if isinstance(column, list) and len(column) != len(urls):
                raise ConfigurationError(f"{name} has {len(column)} entries for {len(urls)} URLs.", name)

    def wanted(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Yield the Requests whose files are not there; the others become Results at once."""
        for request in requests:
            if request.problem is not None:
                yield request
                continue
            part = self._new_part(request)
            there = self._found(part)
            if there is None:
                self._parts[request.index] = part
                yield request
            else:
                self._skip(request, there, part.checksum)

    def merge(
        self, results: Iterable[Result[Any]], left_out: Iterable[Request], stop: ParallelRequestsError | None
    ) -> list[Result[Any]]:
        """Return all Results, in input order.

        Args:
            results: Those of the run.
            left_out: What a run that was stopped never came to.
            stop: What that dies of.
        """
        unsent: list[Result[Any]] = (
            [Result(request, error=request.problem or stop) for request in left_out] if stop else []
        )
        return sorted([*results, *unsent, *self._skipped], key=lambda result: result.index)

    def close(self) -> None:
        """End the progress bar."""
        if self._progress is not None:
            self._progress.close()

    # What an exchange and its answer's body ask for; see `exchange.Resumption`.

    def prepare(self, request: Request) -> Request:
        """Ask for the rest alone, where there is a beginning."""
        headers = self._parts[request.index].headers()
        return dataclasses.replace(request, headers={**request.headers, **headers}) if headers else request

    def begin(self, request: Request, status_code: int, headers: Headers) -> int:
        """Open the file for a body and return how many bytes of it are there."""
        part = self._parts[request.index]
        start = part.begin(request, status_code, headers)
        if self._paths is None and not part.name_is_sent:
            name = name_from_headers(headers)
            if name is not None and name != part.place.name:
                # Whose the file of that name is cannot be told, if there is one: only "replace" touches it.
                part.place = self._folder / self._take(name, beside_files=self._existing != "replace")
                part.name_is_sent = True
        if self._progress is not None:
            self._progress.advance(start - part.counted, (part.size or 0) - part.expected)
            part.counted, part.expected = start, part.size or 0
        return start

    def write(self, chunk: bytes, request: Request) -> None:
        """Add a piece of a body to its file."""
        part = self._parts[request.index]
        part.write(chunk)
        if self._progress is not None:
            part.counted += len(chunk)
            self._progress.advance(len(chunk), 0)

    def starts_over(self, request: Request, reply: Reply) -> bool:
        """Whether another attempt, for the whole file, has to follow at once."""
        return self._parts[request.index].is_refused(reply)

    # What becomes of a Result.

    def finish(self, result: Result[Any], deliver: Callable[[Result[Any]], None]) -> None:
        """Turn a finished exchange into a file in its place, and hand the Result on."""
        part = self._parts[result.index]
        may_replace = not (self._existing == "keep" or part.name_is_sent) or self._existing == "replace"
        try:
            result.value = part.finish(result, may_replace=may_replace)
        except DownloadError as error:
            result.error = error
        deliver(result)

    def let_go(self, result: Result[Any]) -> None:
        """Give back what an item holds; called once with each Result."""
        part = self._parts.pop(result.index, None)
        if part is not None:
            part.give_up()
        if self.observe is not None:
            self.observe(result)

    def _new_part(self, request: Request) -> _Part:
        checksum = self._checksum_of(request)
        self._asked[request.url] += 1
        occurrence = f"{request.method} {request.url} {self._asked[request.url]}"
        mark = hashlib.sha256(occurrence.encode()).hexdigest()[:16]
        if self._paths is not None:
            place = self._paths[request.index]
            return _Part(place, mark, checksum)
        name = name_from_url(request.url)
        place = self._folder / self._take(name, beside_files=self._existing == "keep")
        return _Part(place, f"{name}.{mark}", checksum)

    def _checksum_of(self, request: Request) -> str | bool | None:
        if isinstance(self._checksums, list):
            return self._checksums[request.index]
        if isinstance(self._checksums, Mapping):
            return self._checksums.get(request.url)
        return self._checksums

    def _take(self, name: str, *, beside_files: bool) -> str:
        """Return a name nobody else in this batch has; with ``beside_files``, no file either."""
        with self._lock:
            for candidate in numbered(name):
                folded = candidate.casefold()  # some file systems do not tell a from A
                if folded in self._taken or (beside_files and os.path.lexists(self._folder / candidate)):
                    continue
                self._taken.add(folded)
                return candidate
        raise AssertionError("numbers do not end")

    def _found(self, part: _Part) -> Path | None:
        """Return the file that makes a request needless."""
        if self._existing != "skip":
            if self._existing == "keep" and self._paths is not None:
                part.place = _free(part.place)
            return None
        there = part.place
        if not there.is_file() and (name := part.known_as) is not None:
            there = there.with_name(name)
        if not there.is_file():
            return None
        if isinstance(part.checksum, str):
            try:
                return there if sha256_of(there) == part.checksum else None
            except OSError:
                return None
        return there

    def _skip(self, request: Request, there: Path, checksum: str | bool | None) -> None:
        result: Result[Any] = Result(request)
        try:
            digest = sha256_of(there) if checksum is True else checksum or None
            size = there.stat().st_size
            result.value = Download(there, redact(request.url), size, digest, "skipped", result)
        except OSError as error:
            result.error = DownloadError(f"The file {there} cannot be read: {error}", str(there))
        self._skipped.append(result)
        if self.observe is not None:
            self.observe(result)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _create(path: Path) -> int:
    """Open a new file; what is there is unlinked, so that no link is ever written through."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        path.unlink()
        return os.open(path, flags, 0o666)


def _free(path: Path) -> Path:
    return next(place for name in numbered(path.name) if not os.path.lexists(place := path.with_name(name)))


def _made_folder(to: str | os.PathLike[str]) -> Path:
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
        raise ConfigurationError(f"to must be a folder, or a list with one path per URL, not {to!r}.", "to")
    paths = [Path(path) for path in to]
    for place, count in Counter(path.absolute() for path in paths).items():
        if count > 1:
            raise ConfigurationError(
                f"to names {place} {count} times; every file needs a path of its own.", "to"
            )
    for path in paths:
        if not path.name or "\0" in str(path):
            raise ConfigurationError(f"to has {str(path)!r}, which is no path of a file.", "to")
    return paths


def _checked_checksums(
    sha256: Checksums,
) -> str | bool | list[str | bool | None] | dict[str, str | bool | None] | None:
    """Return checksums in lower case.

    Raises:
        ConfigurationError: One of them is none.
    """
    if sha256 is None or sha256 is False:
        return None
    if isinstance(sha256, Mapping):
        return {url: _checked_checksum(value) for url, value in sha256.items()}
    if isinstance(sha256, list | tuple):
        return [_checked_checksum(value) for value in sha256]
    return _checked_checksum(sha256)


def _checked_checksum(value: object) -> str | bool | None:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return value.lower()
    if value is None or value is True:
        return value
    raise ConfigurationError(
        f"sha256 must be 64 hex digits, True, a list with one per URL or a dict by URL, not {value!r}.",
        "sha256",
    )


def _validator(headers: Headers) -> str | None:
    """Return what identifies this very content: a strong ETag, or a date as good (RFC 9110, 8.8.2.2)."""
    if headers.get("accept-ranges", "").strip().lower() == "none":
        return None
    etag = headers.get("etag", "")
    if etag.startswith('"'):
        return etag
    modified = headers.get("last-modified", "")
    try:
        age = parsedate_to_datetime(headers.get("date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError):
        return None
    return modified if age.total_seconds() >= 60 and not etag else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 18 else None
