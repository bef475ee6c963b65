"""Reading bodies for all backends: completeness, size limit, decoding and streaming.

Backends hand over the bytes without transfer coding, but still with their content coding. Decoding them
here makes a truncated gzip stream an error and a decompression bomb harmless, whatever the library.
"""

from __future__ import annotations

import math
from io import BytesIO
from typing import TYPE_CHECKING

from parallel_requests.backends.content_codings import decoders_for
from parallel_requests.exceptions import BodyTooLarge, ProtocolError, RequestTimeout, TruncatedBody
from parallel_requests.header_fields import byte_count
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parallel_requests.exchange import Send
    from parallel_requests.models import Headers

_SLICE = 1 << 14
"""Coded bytes that are decoded at a time: the rest of a slice is copied for every piece decoded from it."""
_ROOM_FOR_CODING = 1 << 10
"""Bytes by which compression may enlarge even a short body."""
BODILESS_STATUSES = frozenset({204, 304})


def _content_length(headers: Headers, send: Send) -> int | None:
    """Return the announced length of a body, or None if there is none.

    Raises:
        ProtocolError: It is negative, not a number, or given twice differently (RFC 9112, 6.3); or the
            body has a transfer coding that was not asked for.
    """
    if "transfer-encoding" in headers:
        if {coding.lower() for coding in headers.get_all("transfer-encoding")} != {"chunked"}:
            raise ProtocolError(
                f"{redact(send.request.url)} answered in the transfer coding "
                f"{headers['transfer-encoding']!r}, which cannot be undone.",
                url=send.request.url,
            )
        return None
    values = set(headers.get_all("content-length"))
    if not values:
        return None
    length = byte_count(values.pop())
    if values or length is None:
        raise ProtocolError(
            f"{redact(send.request.url)} announced the conflicting or impossible content-length "
            f"{headers['content-length']!r}.",
            url=send.request.url,
        )
    return length


def most_coded(max_response_size: int) -> int:
    """Return how many bytes a body of that size may have while it is compressed."""
    return 2 * max_response_size + _ROOM_FOR_CODING


def too_large(send: Send) -> BodyTooLarge:
    """Return the error for a body above ``max_response_size``."""
    url, limit = send.request.url, send.policy.max_response_size
    return BodyTooLarge(
        f"The body of {redact(url)} is larger than max_response_size = {limit} bytes.", url=url
    )


class Body:
    """Receives the body of one response, piece by piece.

    Attributes:
        expected: Its announced length in bytes, before decoding; None if it has none.
    """

    def __init__(self, send: Send, status_code: int, headers: Headers) -> None:
        """Get ready for the body that follows a head.

        Raises:
            ProtocolError: The announced length is invalid, or there are too many content codings.
            BodyTooLarge: The announced length is above ``max_response_size``.
        """
        policy = send.policy
        self._send = send
        self._limit = policy.max_response_size
        bodiless = send.request.method == "HEAD" or status_code in BODILESS_STATUSES
        self.expected = None if bodiless else _content_length(headers, send)
        self._raw = self._decoded = 0
        self._content: BytesIO | None = None
        self._streams = policy.deliver is not None and 200 <= status_code < 300
        self._decoders = [] if bodiless else decoders_for(headers, send.request.url)
        self._coded = [0] * len(self._decoders)
        self._ends_at = math.inf if send.timeout is None else send.began_at + send.timeout
        if self._streams and policy.resume is not None:
            self._decoded = policy.resume.begin(send.request, status_code, headers)
        if (
            self._limit is not None
            and not self._decoders
            and self._decoded + (self.expected or 0) > self._limit
        ):
            raise too_large(self._send)

    def feed(self, data: bytes) -> None:
        """Receive bytes as they came from the server.

        Raises:
            BodyTooLarge: There are more decoded bytes than ``max_response_size``, or far more compressed
                ones.
            ProtocolError: They cannot be decoded as ``content-encoding`` says.
            RequestTimeout: The attempt has to end, and decoding would have gone on.
        """
        self._raw += len(data)
        if not self._decoders:
            self._emit(data)
            return
        for piece in self._decode_checked(data):
            self._emit(piece)

    def finish(self) -> bytes:
        """Return the whole body; empty if it was streamed.

        Raises:
            TruncatedBody: It ended too soon.
        """
        is_short = self.expected is not None and self._raw < self.expected
        if is_short or (self._raw and any(not decoder.is_complete() for decoder in self._decoders)):
            raise TruncatedBody(
                f"The body of {redact(self._send.request.url)} ended after {self._raw} bytes, "
                "before its time.",
                url=self._send.request.url,
            )
        return b"" if self._content is None else self._content.getvalue()

    def _decode_checked(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._decode(data, 0)
        except (BodyTooLarge, RequestTimeout):
            raise
        except Exception as error:  # noqa: BLE001 - each of the libraries has its own
            reason = str(error)
        else:
            return
        raise ProtocolError(
            f"The body of {redact(self._send.request.url)} is not what its content-encoding says ({reason}).",
            url=self._send.request.url,
        )

    def _decode(self, data: bytes, level: int) -> Iterator[bytes]:
        if level == len(self._decoders):
            yield data
            return
        self._coded[level] += len(data)
        # Data that decodes to nothing, such as empty gzip members, would never reach the limit itself.
        if self._limit is not None and self._coded[level] > most_coded(self._limit):
            raise too_large(self._send)
        for start in range(0, len(data), _SLICE):
            for piece in self._decoders[level].feed(data[start : start + _SLICE]):
                self._check_time()
                yield from self._decode(piece, level + 1)

    def _check_time(self) -> None:
        """Let decoding, which no engine can interrupt, end with its attempt: a few KB may decode for minutes.

        Raises:
            RequestTimeout: Its time is up, or its batch has to stop.
        """
        send = self._send
        if send.policy.stop is not None or send.policy.pacer.clock() >= self._ends_at:
            raise RequestTimeout(
                f"The body of {redact(send.request.url)} took too long to decode.",
                url=send.request.url,
            )

    def _emit(self, piece: bytes) -> None:
        if not piece:
            return
        self._decoded += len(piece)
        if self._limit is not None and self._decoded > self._limit:
            raise too_large(self._send)
        if not self._streams:
            if self._content is None:
                self._content = BytesIO(piece)  # shares the object until written to, so it costs nothing
                self._content.seek(len(piece))
            else:
                self._content.write(piece)
            return
        deliver, size = self._send.policy.deliver, self._send.policy.chunk_size
        assert deliver is not None  # noqa: S101 - it is set whenever _streams is
        self._send.delivered += len(piece)
        for start in range(0, len(piece), size):
            deliver(piece[start : start + size], self._send.request)
