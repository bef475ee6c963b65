"""One file while it is downloaded: written beside its place, resumed, and moved there when complete.

An incomplete file is a hidden ``.part`` file. A ``.json`` file beside it, its record, says what has to be
the same for the missing part to fit. Both survive a crash, and the next call continues from them. If two
downloads, in one process or in several, write the same file, the second one writes a part file of its own.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from io import BufferedWriter, FileIO
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal

from parallel_requests.checksums import sha256_of
from parallel_requests.exceptions import DownloadError, ProtocolError
from parallel_requests.file_claims import (
    CAN_MOVE_OPEN_FILES,
    begin_claimed,
    is_claimed,
    move_to_free,
    open_claimed,
    status_of_ours,
)
from parallel_requests.header_fields import byte_count, is_utf8
from parallel_requests.models import Headers, Request, Response, Result
from parallel_requests.part_records import PartRecord
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.checksums import Checksum
    from parallel_requests.destinations import Destination
    from parallel_requests.exchange import Reply

logger = logging.getLogger("parallel_requests")

_BUFFER_SIZE: Final = 1 << 16
"""Many files are written side by side: with larger buffers they would no longer fit the processor's cache."""
_RECORD_AFTER: Final = 0.25
"""Seconds a transfer lasts before its record is written: a shorter one can be repeated as quickly."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\x80-\xff]+")


@dataclass(frozen=True, slots=True)
class Download:
    """One file that is in its place now.

    Attributes:
        path: Where it is.
        url: Its URL, without credentials.
        size: Its size in bytes.
        sha256: Its SHA-256 in hex, if one was given or asked for.
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


class PartFile:
    """The file of one item while it is incomplete.

    It is used by one thread at a time: the one that advances the item's exchange.

    Attributes:
        destination: Where the complete file is to be.
        checksum: The SHA-256 it must have; True to compute it.
        starts_at: Bytes that were there when the attempt began.
        size: Bytes of the complete file, if known.
        known_as: The name under which an earlier call has put the file in its place.
    """

    def __init__(self, destination: Destination, checksum: Checksum) -> None:
        """Set up, and read the record of an earlier call.

        Args:
            destination: Where the file is to be.
            checksum: The SHA-256 it must have; True to compute it.
        """
        self.destination = destination
        self.checksum = checksum
        self.starts_at = 0
        self.size: int | None = None
        place, stem = destination.path, destination.stem
        self._path = place.with_name(f".{stem}.part")
        self._record = PartRecord(place.with_name(f".{stem}.json"))
        self._other_names = (f".{stem}.{number}.part" for number in itertools.count(2))
        self._validator: str | None = None
        self._file: BufferedWriter[FileIO] | None = None
        self._opened_at = 0.0
        self._has_begun = self._is_unfit = self._is_second_writer = False
        known = self._record.read()
        validator, size, name = known.get("validator"), known.get("size"), known.get("name")
        if isinstance(validator, str) and _can_be_sent(validator):
            self._validator = validator
            self.size = size if isinstance(size, int) else None
        self.known_as = name if isinstance(name, str) and name and name == Path(name).name else None

    def headers(self) -> dict[str, str]:
        """Return the headers that request the missing part only; empty if there is no beginning."""
        self.break_off()
        self._is_unfit = False
        self.starts_at = self._length() if self._validator is not None else 0
        if self.size is not None:  # at least one byte, or there would be nothing to send
            self.starts_at = max(0, min(self.starts_at, self.size - 1))
        if not self.starts_at or self._validator is None:
            return {}
        return {"Range": f"bytes={self.starts_at}-", "If-Range": self._validator}

    def begin(self, request: Request, status_code: int, headers: Headers) -> int:
        """Open the file for a body and return how many bytes of it are there already.

        Raises:
            ProtocolError: The response is a part that does not fit.
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
            descriptor = open_claimed(self._path, os.O_WRONLY)
            if descriptor is not None:
                self._open(descriptor, self.starts_at)
        except OSError as error:
            raise self._failure("resumed", error) from error
        if descriptor is None:
            self._is_unfit = True
            raise ProtocolError(
                f"The beginning of {redact(request.url)} is being written elsewhere.", url=request.url
            )
        return self.starts_at

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            DownloadError: They could not be written.
        """
        assert self._file is not None  # noqa: S101 - begin() comes first
        try:
            self._file.write(chunk)
            if not self._record.is_ours and monotonic() - self._opened_at > _RECORD_AFTER:
                self._write_record()
        except OSError as error:
            raise self._failure("written", error) from error

    def is_refused(self, reply: Reply) -> bool:
        """Whether the server has nothing that fits the beginning, which is then discarded."""
        is_refused = self.starts_at > 0 and (
            self._is_unfit or (isinstance(reply, Response) and reply.status_code == 416)
        )
        if is_refused:
            self.discard()
        return is_refused

    def finish(self, result: Result[Any], elsewhere: Callable[[], Path] | None) -> Download:
        """Check the complete file and move it to its place.

        Args:
            result: The Result of the exchange.
            elsewhere: Returns another place if this one is taken by now; None to replace what is there.

        Raises:
            DownloadError: There is no file, it does not match its checksum, or it cannot be moved.
        """
        url, destination = redact(result.request.url), self.destination
        if not self._has_begun:
            status = result.response.status_code if result.response else "nothing"
            raise DownloadError(f"{url} answered {status}, which is not a file.", str(destination.path))
        try:
            size = self._flush()
            digest = sha256_of(self._path) if self.checksum else None
            if isinstance(self.checksum, str) and digest != self.checksum:
                self.discard()
                raise DownloadError(
                    f"What {url} sent has the SHA-256 {digest} and not {self.checksum}.",
                    str(destination.path),
                )
            self._move(elsewhere)
            self._close()
        except OSError as error:
            raise self._failure("finished", error) from error
        self._has_begun = False
        return Download(
            destination.path, url, size, digest, "resumed" if self.starts_at else "downloaded", result
        )

    def break_off(self) -> None:
        """Close for now, so that another attempt or call can continue."""
        if self._file is None:
            return
        try:
            try:
                self._close()
            finally:  # what a full disk has taken is a beginning, too
                self._write_record()
        except OSError as error:  # what is missing will be requested again
            logger.warning("%s could not be written: %s", self._path, error)

    def give_up(self) -> None:
        """Close, and keep only what a later call can continue."""
        self.break_off()
        if self._has_begun and not self._record.is_ours:
            self.discard()

    def discard(self) -> None:
        """Remove what is there, unless it is being written elsewhere."""
        self._validator = self.size = None
        self.break_off()
        if is_claimed(self._path):
            return
        try:
            self._record.drop()
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s could not be removed: %s", self._path, error)

    def _start(self, headers: Headers) -> None:
        """Begin a new file, and remember what identifies its content."""
        try:
            try:
                descriptor = self._begin_file()
            except FileNotFoundError:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = self._begin_file()
            self._record.drop()
            self._open(descriptor, 0)
        except OSError as error:
            raise self._failure("created", error) from error
        coded = headers.get("content-encoding", "identity").strip().lower() not in ("", "identity")
        self._validator = None if coded or self._is_second_writer else _validator(headers)
        self.size = None if coded else byte_count(headers.get("content-length", ""))

    def _begin_file(self) -> int:
        """Return the descriptor of a file that nobody else is writing."""
        while (descriptor := begin_claimed(self._path)) is None:
            # The record belongs to the other writer. No later call looks for this file or continues it.
            self._is_second_writer, self._record.is_ours = True, False
            self._path = self._path.with_name(next(self._other_names))
        return descriptor

    def _fits(self, headers: Headers) -> bool:
        """Whether a 206 response begins where the file ends and contains all that is missing."""
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
        found = status_of_ours(self._path)
        return 0 if found is None else found.st_size

    def _open(self, descriptor: int, length: int) -> None:
        """Continue after the first ``length`` bytes."""
        self._file = BufferedWriter(FileIO(descriptor, "w"), _BUFFER_SIZE)
        self._file.truncate(length)
        self._file.seek(length)
        self._opened_at = monotonic()

    def _close(self) -> None:
        """Flush and close the file, if it is open.

        Raises:
            OSError: It could not be flushed; it is closed all the same.
        """
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _write_record(self) -> None:
        """Write the record, if something identifies the content and none has been written."""
        if self._validator is not None and not self._record.is_ours:
            self._record.write({"validator": self._validator, "size": self.size})

    def _flush(self) -> int:
        """Get the complete file ready to be read and moved, and return its size."""
        assert self._file is not None  # noqa: S101 - begin() comes first
        self._file.flush()
        size = self._file.tell()
        if not CAN_MOVE_OPEN_FILES:
            self._close()
        return size

    def _move(self, elsewhere: Callable[[], Path] | None) -> None:
        """Move the complete file to its place, and note the name that its server has given it."""
        destination = self.destination
        if elsewhere is None:
            self._path.replace(destination.path)
        else:
            while not move_to_free(self._path, destination.path):
                destination.path = elsewhere()
        self._record.drop()
        if destination.is_named_by_server:
            self._record.write({"name": destination.path.name})

    def _failure(self, what: str, error: OSError) -> DownloadError:
        path = self.destination.path
        return DownloadError(f"The file {path} could not be {what}: {error}", str(path))


def _validator(headers: Headers) -> str | None:
    """Return what identifies the content: a strong ETag, or a date that is as good (RFC 9110, 8.8.2.2)."""
    if headers.get("accept-ranges", "").strip().lower() == "none":
        return None
    etag = headers.get("etag", "")
    if etag.startswith('"'):
        return etag if _can_be_sent(etag) else None
    modified = headers.get("last-modified", "")
    try:
        age = parsedate_to_datetime(headers.get("date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError):
        return None
    return modified if age.total_seconds() >= 60 and not etag and _can_be_sent(modified) else None


def _can_be_sent(validator: str) -> bool:
    """Whether every backend can send it back as ``If-Range``."""
    return _FIELD_VALUE.fullmatch(validator) is not None and is_utf8(validator)
