"""One thing at a time, and nobody waits for it: what hooks of callers are called through."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Turns(Generic[T]):
    """Handles what several threads bring, one item at a time.

    Who comes while another thread is handling leaves its item to that one and goes on: a hook may take
    long, use the session, or end it and wait for the very thread that would wait for the hook.
    """

    def __init__(self, handle: Callable[[T], object]) -> None:
        """Set up.

        Args:
            handle: Called with each item.
        """
        self._handle = handle
        self._lock = threading.Lock()  # guards all below
        self._due: deque[T] = deque()
        self._is_handling = False

    def bring(self, item: T) -> None:
        """Have an item handled, now or by the thread that is at it.

        Raises:
            BaseException: What handling an item in this thread raised; what is due waits for the next.
        """
        with self._lock:
            self._due.append(item)
            if self._is_handling:
                return
            self._is_handling = True
        try:
            while self._has_next():
                self._handle(self._due.popleft())
        except BaseException:
            self._is_handling = False
            raise

    def _has_next(self) -> bool:
        with self._lock:
            self._is_handling = bool(self._due)
            return self._is_handling
