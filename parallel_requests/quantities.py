"""What a number must be to be the value of an option."""

from __future__ import annotations

import sys

_LONGEST_TIME = 1e9
"""Seconds, some 32 years; what sockets and locks can wait for ends at about ten times that."""


def is_rate(value: object) -> bool:
    """Whether a value is a number above 0, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def is_seconds(value: object, *, or_none_at_all: bool = False) -> bool:
    """Whether a value is a time above 0 that can be waited for.

    Args:
        value: Any value.
        or_none_at_all: Let 0 pass, too.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (0 < value <= _LONGEST_TIME) or (or_none_at_all and value == 0)


def is_count(value: object, minimum: int) -> bool:
    """Whether a value is a whole number of at least so many, and of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= sys.maxsize
