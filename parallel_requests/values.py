"""What simple values must be, in options as in policies and buckets, and the error if they are not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from parallel_requests.exceptions import ConfigurationError
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_TIME = 1e9
"""Seconds, some 32 years; what sockets and locks can wait for ends at about ten times that."""
_LONGEST_SHOWN = 200


class Check(NamedTuple):
    """What a value must be.

    Attributes:
        accepts: Whether a value is right.
        expected: What is right, as it follows "must be" in a message.
        is_secret: Whether a message must not quote the value.
    """

    accepts: Callable[[Any], bool]
    expected: str
    is_secret: bool = False

    def error(self, name: str, value: object) -> ConfigurationError:
        """Return the error for the wrong value of an option, a field or a parameter."""
        found = type(value).__name__ if self.is_secret else shown(value)
        return ConfigurationError(f"{name} must be {self.expected}, not {found}.", name)

    def enforce(self, name: str, value: object) -> None:
        """Refuse a wrong value.

        Raises:
            ConfigurationError: It is wrong.
        """
        if not self.accepts(value):
            raise self.error(name, value)


def shown(value: object) -> str:
    """Return how a message shows a caller's value: as its repr, cut short, or by its type if that raises."""
    try:
        text = redact(repr(value))  # first, as a URL that is cut short shows its password
    except Exception:  # noqa: BLE001 - the caller's own code, or an int of more than 4,300 digits
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def is_rate(value: object) -> bool:
    """Whether a value is a number above 0, and not too large for a float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def is_seconds(value: object, *, or_zero: bool = False) -> bool:
    """Whether a value is a time above 0 that can be waited for.

    Args:
        value: Any value.
        or_zero: Let 0 pass, too.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (0 < value <= _LONGEST_TIME) or (or_zero and value == 0)


def is_count(value: object, minimum: int) -> bool:
    """Whether a value is a whole number of at least so many, and of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= sys.maxsize


BOOLEAN = Check(lambda value: isinstance(value, bool), "True or False")
AT_LEAST_0 = Check(lambda value: is_count(value, 0), "a whole number of at least 0")
AT_LEAST_1 = Check(lambda value: is_count(value, 1), "a whole number of at least 1")
