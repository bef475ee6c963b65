"""Deterministic bytes, computed alike by the server and by the test that checks them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# A prime length: a download resumed at a wrong offset never lines up by accident.
_PERIOD = 1_000_003
_PATTERN = hashlib.shake_256(b"deterministic content").digest(_PERIOD)
_STRIDE = 7_919
_CHUNK = 65_536


def content_chunks(start: int, stop: int, seed: int = 0) -> Iterator[bytes]:
    """Yield bytes ``start`` to ``stop`` (exclusive) of the endless content number ``seed``."""
    position = start
    while position < stop:
        offset = (position + seed * _STRIDE) % _PERIOD
        chunk = _PATTERN[offset : offset + min(_CHUNK, stop - position)]
        yield chunk
        position += len(chunk)


def content(length: int, seed: int = 0) -> bytes:
    """The first ``length`` bytes of content number ``seed``."""
    return b"".join(content_chunks(0, length, seed))


def content_sha256(length: int, seed: int = 0) -> str:
    """The SHA-256 (hex) of ``content(length, seed)``, in constant memory."""
    digest = hashlib.sha256()
    for chunk in content_chunks(0, length, seed):
        digest.update(chunk)
    return digest.hexdigest()
