"""Serialises calls without blocking: the callers' hooks are called through it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Turns(Generic[T]):
    """Handles items from several threads, one at a time.

    A thread that brings an item while another thread is handling one leaves it to that thread and goes
    on. A lock would not do: a hook may be slow, use the session, or close it and so wait for the very
    thread that waits for the hook.
    """

    def __init__(self, handle: Callable[[T], object]) -> None:
        """Set up.

        Args:
            handle: Called with each item.
        """
        self._handle = handle
        self._lock = Lock()  # guards all below
        self._due: deque[T] = deque()
        self._is_handling = False

    def bring(self, item: T) -> None:
        """Handle an item now, or leave it to the thread that is handling one.

        Raises:
            BaseException: Handling an item in this thread raised; the rest is left to the next call.
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
