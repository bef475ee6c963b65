"""Bytes → what ``return_type`` names."""

from __future__ import annotations

from typing import Any

from parallel_requests.models import Response, ReturnType


def decode(response: Response, return_type: ReturnType) -> Any:
    """Return the answer as json, text, content or the Response itself.

    Raises:
        DecodeError: ``return_type`` is json and the body is not.
    """
    if return_type is ReturnType.JSON:
        return response.json()
    if return_type is ReturnType.TEXT:
        return response.text
    if return_type is ReturnType.CONTENT:
        return response.content
    return response
