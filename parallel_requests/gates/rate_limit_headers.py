"""The waits that servers ask for in their headers: ``Retry-After``, and the reset of a spent quota."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.models import Headers

_DIGITS = re.compile(r"\d{1,10}(?:\.\d{1,6})?")
_NOTHING = re.compile(r"0(?:\.0{1,6})?")
_NOTHING_REMAINING = re.compile(r"(?:^|[;,\s])r(?:emaining)?\s*=\s*0(?![\d.])")
_RESET = re.compile(r"(?:^|[;,\s])(?:t|reset)\s*=\s*(\d{1,10})(?![\d.])")


def parse_delay(value: str, wall_clock: Callable[[], float]) -> float | None:
    """Return the seconds that one ``Retry-After`` asks for (RFC 9110, 10.2.3), or None if it is invalid."""
    value = value.strip()
    if _DIGITS.fullmatch(value):
        return float(value)
    if not 16 <= len(value) <= 40:
        return None
    from datetime import UTC
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        if date.tzinfo is None:  # an HTTP-date is in GMT even if it does not say so
            date = date.replace(tzinfo=UTC)
        delay = date.timestamp() - wall_clock()
    except (ValueError, OverflowError, OSError, IndexError, TypeError):
        return None
    return delay if delay > 0 else None


def parse_retry_after(headers: Headers, wall_clock: Callable[[], float]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for: of several the longest, or None if none is valid."""
    if not headers.may_have(b"retry-after"):
        return None
    delays = [parse_delay(value, wall_clock) for value in headers.get_all("retry-after")]
    return max((delay for delay in delays if delay is not None), default=None)


def parse_quota(headers: Headers, wall_clock: Callable[[], float]) -> float | None:
    """Return the seconds until an exhausted quota is reset, or None if some of it is left.

    Reads ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers), its earlier form
    ``RateLimit-Remaining`` / ``RateLimit-Reset``, and ``X-RateLimit-Remaining`` /
    ``X-RateLimit-Reset`` (seconds, or a Unix time as GitHub sends it).
    """
    longest: float | None = None
    structured = headers.get("ratelimit", "")
    # The draft has one member for each quota; before, it had one quota in three members.
    for member in structured.split(",") if ";" in structured else [structured]:
        reset = _RESET.search(member)
        if reset and _NOTHING_REMAINING.search(member):
            longest = max(longest or 0.0, float(reset[1]))
    if structured:
        return longest
    for prefix in ("ratelimit-", "x-ratelimit-", "x-rate-limit-"):
        if not _NOTHING.fullmatch(headers.get(prefix + "remaining", "").strip()):
            continue
        value = headers.get(prefix + "reset", "").strip()
        if _DIGITS.fullmatch(value):
            seconds = float(value)
            if seconds > 1e9:
                seconds -= wall_clock()
            return seconds if seconds > 0 else None
    return None
