"""Polling for what happens in a real server or process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.005


def until(condition: Callable[[], object]) -> None:
    """Return once a condition holds; one that never does fails the test."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(_PAUSE_SECONDS)
