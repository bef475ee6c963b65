"""Ends blocking attempts from outside: at their deadline, or because the run has to stop.

A blocking HTTP library bounds single socket operations only, so a server that sends a byte now and
then can hold it forever. The watchdog shuts the attempt's socket down, and the library fails at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Callable


_LONGEST_WAIT = 1_000_000.0
"""Seconds; locks overflow beyond some 292 years."""


class Flight:
    """One blocking attempt under way."""

    __slots__ = ("__weakref__", "_lock", "_means", "deadline", "is_cut", "owner")

    def __init__(self, owner: Any, deadline: float | None) -> None:
        """Begin an attempt.

        Args:
            owner: What it belongs to, so that all attempts of an owner can be ended.
            deadline: When it is ended, in monotonic seconds; None for never.
        """
        self.owner = owner
        self.deadline = deadline
        self.is_cut = False
        self._means: socket.socket | Callable[[], object] | None = None
        self._lock = Lock()  # guards _means and is_cut

    def uses(self, means: socket.socket | Callable[[], object] | None) -> None:
        """Set how to end the attempt: the socket it is on, or a function to call if it shares one.

        Called by the backend whenever that changes.
        """
        with self._lock:
            self._means = means
            if self.is_cut:
                self._end()

    def cut(self) -> None:
        """End the attempt now."""
        with self._lock:
            self.is_cut = True
            self._end()

    def _end(self) -> None:
        # SocketType is what they all derive from, even if a test has replaced the class since it was opened.
        if isinstance(self._means, socket.SocketType | socket.socket):
            # The base class's method: that of SSLSocket would drop the TLS layer while a thread reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._means, socket.SHUT_RDWR)
        elif callable(self._means):
            self._means()


class Watchdog:
    """One thread, started with the first attempt that has a deadline, that ends overdue attempts."""

    def __init__(self) -> None:
        self._flights: set[Flight] = set()
        # Guards all but _flights, which is only used in single atomic operations: attempts come and go often.
        self._lock = Lock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._wakes_at = float("inf")
        self._closed = False

    def watch(self, owner: Any, timeout: float | None) -> Flight:
        """Begin to watch an attempt that may take ``timeout`` seconds.

        Raises:
            RuntimeError: No thread can be started to do so.
        """
        deadline = None if timeout is None else monotonic() + timeout
        flight = Flight(owner, deadline)
        self._flights.add(flight)
        if deadline is not None and deadline < self._wakes_at:
            self._wake_sooner(flight)
        return flight

    def _wake_sooner(self, flight: Flight) -> None:
        with self._changed:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._work, name="parallel-requests-watchdog")
                try:
                    thread.start()
                except RuntimeError:
                    self._flights.discard(flight)
                    raise
                self._thread = thread
            self._changed.notify()

    def release(self, flight: Flight) -> None:
        """Let an attempt go: it has ended by itself."""
        flight.uses(None)
        self._flights.discard(flight)

    def call_at(self, deadline: float, function: Callable[[], object]) -> Callable[[], None]:
        """Call a function at a deadline, in monotonic seconds; return what prevents that.

        Raises:
            RuntimeError: No thread can be started to do so.
        """
        flight = self.watch(None, deadline - monotonic())
        flight.uses(function)
        return partial(self._flights.discard, flight)

    def cut(self, owner: Any) -> None:
        """End all attempts of an owner now."""
        for flight in list(self._flights):
            if flight.owner is owner:
                flight.cut()

    def close(self) -> None:
        """End every attempt, and the thread."""
        with self._lock:  # itself, as a Ctrl-C while a Condition is entered would leave it locked
            self._closed = True
            flights = list(self._flights)
            thread = self._thread
            self._changed.notify()
        for flight in flights:
            flight.cut()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                now = monotonic()
                # Set before the flights are read: an attempt that begins in between then notifies.
                self._wakes_at = float("inf")
                deadlines = {f: f.deadline for f in list(self._flights) if f.deadline is not None}
                overdue = [flight for flight, deadline in deadlines.items() if deadline <= now]
                if not overdue:
                    self._wakes_at = min(deadlines.values(), default=float("inf"))
                    self._changed.wait(min(_LONGEST_WAIT, self._wakes_at - now) if deadlines else None)
                    continue
                for flight in overdue:
                    self._flights.discard(flight)
            for flight in overdue:
                flight.cut()
