"""Reads answers with the standard library, and stricter than it."""

from __future__ import annotations

import http.client
import re
from email.errors import FirstHeaderLineIsContinuationDefect
from typing import Any

from parallel_requests.backends.body import BODILESS_STATUSES

_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
_LONGEST_LINE = 1 << 16
_BLANK_LINES = frozenset({b"\r\n", b"\n"})
_PADDED = (b" \r\n", b"\t\r\n", b" \n", b"\t\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9]\d\d(?: [^\0\r\n]*)?\r?\n")
_FIELD_LINE = re.compile(rb"(?:(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:|[ \t])[^\0\r\n]*)?\r?\n")


class MalformedChunk(http.client.HTTPException):
    """A chunk does not begin with its size."""


class MalformedHead(http.client.HTTPException):
    """A line of a head is no header."""


class PeerReset(ConnectionError):
    """The peer reset the connection."""


class TellsResets:
    """Mixed into a socket: tells a reset by an error that urllib3-future does not take for a body's end."""

    def recv(self, *args: Any) -> bytes:
        """Receive, as any socket does.

        Raises:
            PeerReset: The peer reset the connection.
        """
        try:
            data: bytes = super().recv(*args)  # type: ignore[misc]
        except ConnectionResetError as error:
            raise PeerReset(*error.args) from None
        return data


class _Head:
    """Hands the lines of heads to the standard library, to which cut and malformed ones look valid."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self._next = _STATUS_LINE

    def readline(self, limit: int) -> bytes:
        line: bytes = self._lines.readline(limit)
        if self._next.fullmatch(line) is not None:
            self._next = _STATUS_LINE if line in _BLANK_LINES else _FIELD_LINE
            return line if not line.endswith(_PADDED) or line[:1].isspace() else line.rstrip() + b"\r\n"
        is_whole = line.endswith(b"\n") or len(line) == limit
        if self._next is _STATUS_LINE and (not line or not (is_whole or b"HTTP/".startswith(line[:5]))):
            return line  # there is no answer, or it is not HTTP
        if not is_whole:
            raise http.client.IncompleteRead(line)
        raise MalformedHead("a line of the head is no header")

    def close(self) -> None:
        self._lines.close()


class FinalResponse(http.client.HTTPResponse):
    """Closes the gaps of the standard library's reader.

    It reads past informational answers, 103 Early Hints above all (RFC 8297), to the final one; it
    tells a cut head or trailer from a whole one, and a bad chunk size (RFC 9112, 7.1) from a cut body;
    it takes no head with a line that is no header, all after which, Content-Length too, would be
    lost; and it waits for no chunk after a 204 or a 304.
    """

    def begin(self) -> None:
        lines = self.fp
        self.fp = _Head(lines)  # type: ignore[assignment]
        try:
            super().begin()
            while 100 <= self.status < 200 and self.status != 101:
                self.headers = self.msg = None  # type: ignore[assignment]
                super().begin()
            if FirstHeaderLineIsContinuationDefect in map(type, self.headers.defects):
                raise MalformedHead("the first header goes on with another")
            self.chunked = self.chunked and self.status not in BODILESS_STATUSES
        finally:
            if self.fp is not None:  # closed, where it failed
                self.fp = lines

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise http.client.LineTooLong("chunk size")
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        size = line.partition(b";")[0].rstrip()
        if not size or not _HEX_DIGITS.issuperset(size):
            raise MalformedChunk("a chunk does not begin with its size")
        return int(size, 16)

    def _read_and_discard_trailer(self) -> None:
        while (line := self.fp.readline(_LONGEST_LINE)) not in _BLANK_LINES:
            if not line.endswith(b"\n"):
                raise http.client.IncompleteRead(b"")
            if _FIELD_LINE.fullmatch(line) is None:
                raise MalformedHead("a trailer is no header")
