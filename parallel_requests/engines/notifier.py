"""How a thread or an event loop learns that something has changed."""

from __future__ import annotations

import math
import threading
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_SLEEP = 0.25
"""Seconds. A Ctrl-C that comes just before the thread falls asleep is not handled until it wakes."""


class Notifier:
    """Wakes whoever waits for a change: a thread, or a function that has been registered."""

    def __init__(self) -> None:
        # Unlocked once something has changed. A Ctrl-C at the wrong moment would leave a Condition locked.
        self._unchanged = threading.Lock()
        self._listener: Callable[[], None] | None = None

    def notify(self) -> None:
        """Say that something has changed; called by one thread at a time."""
        if self._unchanged.locked():
            self._unchanged.release()
        if self._listener is not None:
            self._listener()

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Block until a condition holds or the timeout is over; return whether it holds.

        The condition is checked whenever something has changed. Only one thread at a time may wait.
        """
        end = math.inf if timeout is None else monotonic() + timeout
        while not until():
            left = end - monotonic()
            if left <= 0:
                return False
            self._unchanged.acquire(timeout=min(left, _LONGEST_SLEEP))
        return True

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a function called, on any thread, whenever something has changed."""
        self._listener = listener
