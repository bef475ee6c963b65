"""How an engine opens on a thread of its own, although the call that starts it may be interrupted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from parallel_requests.engines.notifier import Notifier

if TYPE_CHECKING:
    from collections.abc import Callable


class Opening:
    """One attempt to open an engine.

    Attributes:
        is_over: Whether the attempt has succeeded or failed.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._claim = threading.Lock()  # taken once, and never released
        self._notifier = Notifier()  # not a Future, whose Condition a Ctrl-C may leave locked
        self._error: BaseException | None = None

    def make(self, work: Callable[[Opening], object], thread_name: str) -> None:
        """Make the attempt on a new thread, and wait until it is over; called by one thread at a time.

        A call that is interrupted may or may not have started a thread for it. The next call starts another
        unless one has claimed the attempt, and the first thread to do so makes it.

        Args:
            work: Called with this attempt on the thread, where it opens the engine, calls `end` and goes on.
            thread_name: What the thread is called.

        Raises:
            BaseException: What the attempt has failed with.
        """
        if not self._claim.locked():
            threading.Thread(target=self._work, args=(work,), name=thread_name).start()
        self._notifier.wait(lambda: self.is_over)
        if self._error is not None:
            raise self._error

    def _work(self, work: Callable[[Opening], object]) -> None:
        if self._claim.acquire(blocking=False):
            work(self)

    def end(self, error: BaseException | None = None) -> None:
        """Note that the attempt is over, and the error if it has failed."""
        self._error = error
        self.is_over = True
        self._notifier.notify()
