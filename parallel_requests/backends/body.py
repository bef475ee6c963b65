"""Reading bodies for all backends: completeness, size limit, decompression and streaming.

Backends hand over the bytes without transfer coding, but still with their content coding. Decoding them
here makes a truncated gzip stream an error and a decompression bomb harmless, whatever the library.
"""

from __future__ import annotations

import importlib.util
import math
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

from parallel_requests.exceptions import BodyTooLarge, ProtocolError, RequestTimeout, TruncatedBody
from parallel_requests.header_fields import byte_count
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.exchange import Send
    from parallel_requests.models import Headers

_STEP = 1 << 20
_SLICE = 1 << 14
"""Coded bytes that are decoded at a time: the rest of a slice is copied for every piece decoded from it."""
_MOST_CODINGS = 5
"""Nested content codings that are undone at most."""
_ROOM_FOR_CODING = 1 << 10
"""Bytes by which compression may enlarge even a short body."""
BODILESS_STATUSES = frozenset({204, 304})


class _Decoder(Protocol):
    """Decodes one content coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded bytes, in pieces of bounded size."""

    def is_complete(self) -> bool:
        """Whether the coded stream is complete."""


class _Zlib:
    """gzip (RFC 1952, members one after another) and deflate (RFC 1950, or raw as some servers send)."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._engine = zlib.decompressobj(window)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._engine.eof:
                if self._window != 31 or not data.startswith(b"\x1f"):
                    return  # padding after the last member
                self._engine = zlib.decompressobj(self._window)
            try:
                piece = self._engine.decompress(data, _STEP)
            except zlib.error:
                if self._begun or self._window != zlib.MAX_WBITS:
                    raise
                self._window = -zlib.MAX_WBITS
                self._engine = zlib.decompressobj(self._window)
                piece = self._engine.decompress(data, _STEP)
            self._begun = True
            data = self._engine.unused_data if self._engine.eof else self._engine.unconsumed_tail
            yield piece

    def is_complete(self) -> bool:
        return self._engine.eof


class _Brotli:
    """br (RFC 7932)."""

    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped]

        self._engine = brotli.Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._engine.process(data, output_buffer_limit=_STEP)
        while not self._engine.can_accept_more_data():
            yield self._engine.process(b"", output_buffer_limit=_STEP)

    def is_complete(self) -> bool:
        return bool(self._engine.is_finished())


class _Zstd:
    """zstd (RFC 8878)."""

    def __init__(self) -> None:
        import zstandard

        self._new = zstandard.ZstdDecompressor(max_window_size=1 << 23).decompressobj
        self._engine = self._new()

    def feed(self, data: bytes) -> Iterator[bytes]:
        # This library cannot limit its output, so its input is limited: 128 bytes become 4 MiB at most.
        position = 0
        while position < len(data):
            if self._engine.eof:
                self._engine = self._new()
            part = data[position : position + 128]
            yield self._engine.decompress(part)
            position += len(part) - len(self._engine.unused_data)

    def is_complete(self) -> bool:
        return bool(self._engine.eof)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": lambda: _Zlib(31),
    "x-gzip": lambda: _Zlib(31),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
}
if importlib.util.find_spec("brotli") is not None:
    _DECODERS["br"] = _Brotli
if importlib.util.find_spec("zstandard") is not None:
    _DECODERS["zstd"] = _Zstd

ACCEPT_ENCODING = ", ".join(coding for coding in _DECODERS if coding != "x-gzip")
"""The content codings that can be decoded here."""


def content_length(headers: Headers, send: Send) -> int | None:
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
    """Receives the body of one response, piece by piece."""

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
        self._expected = None if bodiless else content_length(headers, send)
        self._raw = self._decoded = 0
        self._content: BytesIO | None = None
        self._streams = policy.deliver is not None and 200 <= status_code < 300
        codings = [] if bodiless else _codings(headers, send)
        self._decoders = [_DECODERS[coding]() for coding in reversed(codings) if coding in _DECODERS]
        self._coded = [0] * len(self._decoders)
        self._ends_at = math.inf if send.timeout is None else send.began_at + send.timeout
        if self._streams and policy.resume is not None:
            self._decoded = policy.resume.begin(send.request, status_code, headers)
        if (
            self._limit is not None
            and not self._decoders
            and self._decoded + (self._expected or 0) > self._limit
        ):
            raise too_large(self._send)

    @property
    def expected(self) -> int | None:
        """The announced length, or None."""
        return self._expected

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
        is_short = self._expected is not None and self._raw < self._expected
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


def _codings(headers: Headers, send: Send) -> list[str]:
    if not headers.may_have(b"content-encoding"):
        return []
    value = headers.get("content-encoding", "")
    codings = [coding.strip().lower() for coding in value.split(",") if coding.strip()]
    if len(codings) > _MOST_CODINGS:
        raise ProtocolError(
            f"{redact(send.request.url)} answered in {len(codings)} nested content codings; "
            f"at most {_MOST_CODINGS} are undone.",
            url=send.request.url,
        )
    return codings
