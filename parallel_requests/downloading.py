"""Responses → files: which exist already, what each body is written to, and what came of each.

Where each one goes is in `destinations`; how one is written, resumed and completed is in `part_files`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, Final

from parallel_requests.checksums import ExpectedChecksums, sha256_of
from parallel_requests.destinations import Destinations
from parallel_requests.exceptions import ConfigurationError, DownloadError, ValidationError
from parallel_requests.logs import warn
from parallel_requests.models import Headers, Request, Result
from parallel_requests.part_files import Download, PartFile
from parallel_requests.redaction import redact, text_of
from parallel_requests.turns import Turns

if TYPE_CHECKING:
    from pathlib import Path

    from parallel_requests.checksums import Checksum, Checksums
    from parallel_requests.destinations import Existing, Target
    from parallel_requests.exchange import Reply
    from parallel_requests.observing import Progress
    from parallel_requests.policy import Policy

_CHUNK_SIZE: Final = 1 << 20


class Downloads:
    """The files of one batch: which are skipped, how far they are, and what came of each.

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
        self._checksums = ExpectedChecksums(sha256)
        self._destinations = Destinations(to, existing)  # last, as it creates the folder
        self.is_counted = isinstance(urls, Sized)
        if isinstance(urls, Sized):
            self._check_lengths(len(urls))
        # Those of files that are skipped come from the consumer's thread.
        self._observe = Turns(observe).bring
        self.progress: Progress | None = None
        self._parts: dict[int, PartFile] = {}
        self._counted: dict[int, tuple[int, int]] = {}  # bytes of each file that were there, and announced

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
        """Yield the Requests whose files do not exist, and the Results of those that are not sent.

        Once the batch has to end, no more files are looked for: verifying those that exist may take long.
        """
        for request in requests:
            self._checksums.unmatched.discard(request.url)
            if request.problem is None:
                request.problem = self._missing_entry(request)
            if request.problem is not None or policy.reason_to_stop() is not None:
                yield request
                continue
            result = self._result_without_sending(request)
            if result is not None:
                self._observe(result)
            yield request if result is None else result
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
        self._destinations.rename(part.destination, headers)
        if self.progress is not None:
            self._count(self.progress, request.index, start, part.size or 0)
        return start

    def write(self, chunk: bytes, request: Request) -> None:
        """Append a chunk of a body to its file."""
        self._parts[request.index].write(chunk)
        if self.progress is not None:
            there, announced = self._counted[request.index]
            self._count(self.progress, request.index, there + len(chunk), announced)

    def starts_over(self, request: Request, reply: Reply) -> bool:
        """Whether another attempt, for the whole file, has to follow at once."""
        return self._parts[request.index].is_refused(reply)

    # Called with each Result.

    def finish(self, result: Result[Any], deliver: Callable[[Result[Any]], None]) -> None:
        """Move the file of a finished exchange to its place, and hand the Result on."""
        part = self._parts[result.index]
        try:
            result.value = part.finish(result, self._destinations.elsewhere(part.destination))
        except DownloadError as error:
            result.error = error
        except Exception as error:  # noqa: BLE001 - whatever it is, it must cost no more than this item
            reason = f"{type(error).__name__}: {text_of(error)}"
            message = f"The file {part.destination.path} could not be finished: {reason}"
            result.error = DownloadError(message, str(part.destination.path))
        deliver(result)

    def release(self, result: Result[Any]) -> None:
        """Release what an item holds; called once with each Result."""
        self._counted.pop(result.index, None)
        part = self._parts.pop(result.index, None)
        if part is not None:
            part.give_up()
        self._observe(result)

    def _result_without_sending(self, request: Request) -> Result[Any] | None:
        """Return the Result of an item whose file exists or can never be there; None if it is to be sent."""
        destination = self._destinations.of(request)
        if self._destinations.is_blocked(destination):
            return _blocked(request, destination.path)
        part = PartFile(destination, self._checksums.of(request))
        there = self._destinations.found(destination, part.known_as)
        if there is not None and _matches(there, part.checksum):
            return _skipped(request, there, part.checksum)
        self._parts[request.index] = part
        return None

    def _lengths(self) -> Iterator[tuple[str, int]]:
        """Yield the name and the length of each list with one entry per URL."""
        for name, column in (("to", self._destinations.paths), ("sha256", self._checksums.in_order)):
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

    def _count(self, progress: Progress, index: int, there: int, announced: int) -> None:
        """Show how much of a file is there, and how much there will be."""
        there_before, announced_before = self._counted.get(index, (0, 0))
        self._counted[index] = there, announced
        progress.advance(there - there_before, announced - announced_before)


def _matches(there: Path, checksum: Checksum) -> bool:
    """Whether a file has the checksum it must have, if any."""
    if not isinstance(checksum, str):
        return True
    try:
        return sha256_of(there) == checksum
    except OSError:
        return False


def _blocked(request: Request, place: Path) -> Result[Any]:
    """Return the Result of an item that is not sent because what has its place is no file."""
    result: Result[Any] = Result(request, _index=request.index)
    result.error = DownloadError(
        f"The file {place} cannot be created: what is there is no file, and is not replaced.", str(place)
    )
    return result


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
