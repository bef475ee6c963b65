"""Parsing the heads of responses, which libcurl hands over as they came."""

from __future__ import annotations

import re
from typing import TypeAlias

from parallel_requests.models import Headers

Head: TypeAlias = tuple[int, str, str, Headers]
"""Status, reason, version and headers."""

SWITCHED = "it switches to another protocol, unasked"
_BLANK_LINE, _BETWEEN_HEADS = re.compile(rb"\n\r?\n"), re.compile(rb"\n\r?\n(?=HTTP/)")
_HEAD = re.compile(
    rb"(HTTP/(?:1\.[01]|[23])) ([1-9]\d\d)(?: ([^\n]*+))?\r?"
    rb"(?:\n[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\n]*+)*+"
)


def parse_head(block: bytes) -> Head | None:
    """Return the last head among all that were received, without trailers; None if it is incomplete.

    Raises:
        ValueError: It is not valid HTTP.
    """
    last = _BETWEEN_HEADS.split(block)[-1]
    end = _BLANK_LINE.search(last)
    if end is None:
        return None
    head = last[: end.start()]
    parts = _HEAD.fullmatch(head)
    if parts is None:
        raise ValueError("a line of the head is not a header")
    version, status, reason = (part.decode("latin-1") for part in parts.groups(b""))
    if status == "101":
        raise ValueError(SWITCHED)
    return None if int(status) < 200 else (int(status), reason.strip(), version, Headers(head))
