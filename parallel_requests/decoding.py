"""Bytes → what ``return_type`` names."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from parallel_requests.models import Response, ReturnType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def decoder(return_type: ReturnType) -> Callable[[Response], Any]:
    """Return the function that makes json, text or content of a Response, or leaves it as it is.

    The one for json raises DecodeError if the body is not JSON.
    """
    return _DECODERS[return_type]


def _whole(response: Response) -> Response:
    return response


_DECODERS: Mapping[ReturnType, Callable[[Response], Any]] = {
    ReturnType.JSON: Response.json,
    ReturnType.TEXT: attrgetter("text"),
    ReturnType.CONTENT: attrgetter("content"),
    ReturnType.RESPONSE: _whole,
    ReturnType.STREAM: _whole,
}
