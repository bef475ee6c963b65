"""The headers and the body of a request in the form that aiohttp takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict

from parallel_requests.exceptions import ValidationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter

_SENT_AT_ONCE = 1 << 18
"""Bytes of a body that are sent before others have their turn on the loop."""
_PLANNED_HEADERS = frozenset({"User-Agent", "Accept", "Accept-Encoding"})
AUTOMATIC_HEADERS = _PLANNED_HEADERS | {"Content-Type"}
"""The headers that aiohttp adds to a request that does not have them."""


class SentHeaders:
    """The headers of a Request in the form that aiohttp takes.

    Attributes:
        planned: The headers of the Request.
        fields: The same for aiohttp.
        are_complete: Whether they contain all that aiohttp would add to a request without a body.
    """

    __slots__ = ("are_complete", "fields", "planned")

    def __init__(self, planned: Mapping[str, str]) -> None:
        self.planned = planned
        self.fields = CIMultiDict(as_utf8(planned))
        self.are_complete = planned.keys() >= _PLANNED_HEADERS


def as_utf8(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers so that the same bytes are sent: ours are Latin-1, aiohttp encodes as UTF-8.

    Raises:
        ValidationError: A value is not UTF-8, which aiohttp cannot send.
    """
    if all(map(str.isascii, headers.values())):
        return headers
    try:
        return {name: value.encode("latin-1").decode() for name, value in headers.items()}
    except UnicodeDecodeError:
        problem = ValidationError("aiohttp sends no header values but ASCII and UTF-8 ones.", "headers")
    raise problem


def payload(content: bytes | None) -> bytes | aiohttp.Payload | None:
    """Return a body in the form that aiohttp takes."""
    return content if content is None or len(content) <= _SENT_AT_ONCE else _LargeBody(content)


class _LargeBody(aiohttp.Payload):
    """A body that is sent piece by piece, so as not to block the loop; of a BytesIO aiohttp makes a copy."""

    _autoclose = True  # there is nothing to close

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return it as text; aiohttp demands this method."""
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        rest = memoryview(self._value)
        while rest:
            await writer.write(rest[:_SENT_AT_ONCE])
            rest = rest[_SENT_AT_ONCE:]
            await asyncio.sleep(0)
