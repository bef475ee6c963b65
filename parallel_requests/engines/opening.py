"""How an engine opens on a thread of its own, although the call that starts it may be interrupted."""

from __future__ import annotations

import threading

from parallel_requests.engines.notifier import Notifier


class Opening:
    """One attempt to open an engine.

    A call that is interrupted may or may not have started a thread for it. The next call starts another
    unless one has claimed the attempt, and the first thread to do so makes it.

    Attributes:
        is_over: Whether the attempt has succeeded or failed.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._claim = threading.Lock()  # taken once, and never released
        self._notifier = Notifier()  # not a Future, whose Condition a Ctrl-C may leave locked
        self._error: BaseException | None = None

    def claim(self) -> bool:
        """Return True if the calling thread has to make the attempt, False if another one makes it."""
        return self._claim.acquire(blocking=False)

    def is_claimed(self) -> bool:
        """Whether a thread makes the attempt, or has made it."""
        return self._claim.locked()

    def end(self, error: BaseException | None = None) -> None:
        """Note that the attempt is over, and the error if it has failed."""
        self._error = error
        self.is_over = True
        self._notifier.notify()

    def wait(self) -> None:
        """Wait until the attempt is over; called by one thread at a time.

        Raises:
            BaseException: What it has failed with.
        """
        self._notifier.wait(lambda: self.is_over)
        if self._error is not None:
            raise self._error
