"""Bytes → what ``return_type`` names."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from parallel_requests.models import Response, ReturnType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def _whole(response: Response) -> Response:
    return response


DECODERS: Mapping[ReturnType, Callable[[Response], Any]] = {
    ReturnType.JSON: Response.json,
    ReturnType.TEXT: attrgetter("text"),
    ReturnType.CONTENT: attrgetter("content"),
    ReturnType.RESPONSE: _whole,
    ReturnType.STREAM: _whole,
}
"""What makes json, text or content of a Response, or leaves it whole; json may raise a DecodeError."""
