"""Content codings (RFC 9110, 8.4): gzip and deflate; br and zstd where there is a decoder for them."""

from __future__ import annotations

import functools
import importlib.util
import sys
import zlib
from typing import TYPE_CHECKING, Protocol

from parallel_requests.exceptions import ProtocolError
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.models import Headers

_STEP = 1 << 20
"""Bytes that a decoder yields at a time, at most."""
_ZSTD_WINDOW_LOG = 23
"""The largest window that browsers take, too: 8 MiB (RFC 9659)."""
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
        self._head = b""  # what came before there were the two bytes that tell the formats apart
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not self._begun:
            data = self._head + data
            if len(data) < 2:
                self._head = data
                return
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
    """br (RFC 7932), decoded by the package ``brotli``."""

    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped]

        self._engine = brotli.Decompressor()

    @staticmethod
    def is_available() -> bool:
        """Whether it is installed, and can limit its output, which versions before 1.2 cannot."""
        try:
            import brotli
        except ImportError:
            return False
        return hasattr(brotli.Decompressor, "can_accept_more_data")

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self._engine.process(data, output_buffer_limit=_STEP)
        while not self._engine.can_accept_more_data():
            yield self._engine.process(b"", output_buffer_limit=_STEP)

    def is_complete(self) -> bool:
        return bool(self._engine.is_finished())


class _Zstd:
    """zstd (RFC 8878, frames one after another), decoded by the standard library of 3.14, or its backport."""

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd

        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._new = functools.partial(zstd.ZstdDecompressor, options=options)
        self._engine = self._new()

    @staticmethod
    def is_available() -> bool:
        """Whether it is installed; Python itself may have been built without it."""
        modules = ["_zstd"] if sys.version_info >= (3, 14) else ["backports", "backports.zstd"]
        return all(importlib.util.find_spec(module) is not None for module in modules)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or not (self._engine.eof or self._engine.needs_input):
            if self._engine.eof:
                self._engine = self._new()
            yield self._engine.decompress(data, _STEP)
            data = self._engine.unused_data if self._engine.eof else b""

    def is_complete(self) -> bool:
        return bool(self._engine.eof)


_DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: _Zlib(31),
    "x-gzip": lambda: _Zlib(31),
    "deflate": lambda: _Zlib(zlib.MAX_WBITS),
}
if _Brotli.is_available():
    _DECODERS["br"] = _Brotli
if _Zstd.is_available():
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
