"""Content codings (RFC 9110, 8.4): gzip and deflate; br and zstd if their packages are installed."""

from __future__ import annotations

import importlib.util
import zlib
from typing import TYPE_CHECKING, Protocol

from parallel_requests.exceptions import ProtocolError
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.models import Headers

_STEP = 1 << 20
"""Bytes that gzip, deflate and br yield at a time, at most."""
_MOST_CODINGS = 5
"""Nested content codings that are undone at most."""


class Decoder(Protocol):
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


_DECODERS: dict[str, Callable[[], Decoder]] = {
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


def decoders_for(headers: Headers, url: str) -> list[Decoder]:
    """Return what undoes the content codings of a body, one after another; unknown codings are left out.

    Args:
        headers: The headers of the response.
        url: Where it comes from.

    Raises:
        ProtocolError: There are too many of them.
    """
    if not headers.may_have(b"content-encoding"):
        return []
    value = headers.get("content-encoding", "")
    codings = [coding.strip().lower() for coding in value.split(",") if coding.strip()]
    if len(codings) > _MOST_CODINGS:
        raise ProtocolError(
            f"{redact(url)} answered in {len(codings)} nested content codings; "
            f"at most {_MOST_CODINGS} are undone.",
            url=url,
        )
    return [_DECODERS[coding]() for coding in reversed(codings) if coding in _DECODERS]
