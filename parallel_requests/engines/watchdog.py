"""Ends blocking attempts from outside: at their deadline, or because the run has to stop.

A blocking HTTP library bounds single socket operations, so a server that sends a byte now and then
holds it for ever. The watchdog shuts the attempt's socket down; the library then fails at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Flight:
    """One blocking attempt under way."""

    __slots__ = ("_lock", "_means", "deadline", "is_cut", "owner")

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
        self._lock = threading.Lock()  # guards _means and is_cut

    def uses(self, means: socket.socket | Callable[[], object] | None) -> None:
        """Tell how to end the attempt: which socket it is on, or what to call where it shares one.

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
        if isinstance(self._means, socket.socket):
            # The base class's method: that of SSLSocket would take the TLS layer from under a reader.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._means, socket.SHUT_RDWR)
        elif callable(self._means):
            self._means()


class Watchdog:
    """One thread, started with the first attempt that has a deadline, that ends overdue attempts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._flights: set[Flight] = set()
        self._changed = threading.Condition()  # guards all here
        self._thread: threading.Thread | None = None
        self._looks_at = float("inf")
        self._closed = False

    def watch(self, owner: Any, timeout: float | None) -> Flight:
        """Begin to watch an attempt that may take ``timeout`` seconds.

        Raises:
            RuntimeError: There is no thread left to do so.
        """
        deadline = None if timeout is None else self._clock() + timeout
        flight = Flight(owner, deadline)
        with self._changed:
            if deadline is not None and self._thread is None and not self._closed:
                thread = threading.Thread(target=self._work, name="parallel-requests-watchdog")
                thread.start()
                self._thread = thread
            self._flights.add(flight)
            if deadline is not None and deadline < self._looks_at:
                self._changed.notify()
        return flight

    def release(self, flight: Flight) -> None:
        """Let an attempt go: it has ended by itself."""
        flight.uses(None)
        with self._changed:
            self._flights.discard(flight)

    def cut(self, owner: Any) -> None:
        """End all attempts of an owner now."""
        with self._changed:
            flights = [flight for flight in self._flights if flight.owner is owner]
        for flight in flights:
            flight.cut()

    def close(self) -> None:
        """End every attempt, and the thread."""
        with self._changed:
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
                now = self._clock()
                overdue = [f for f in self._flights if f.deadline is not None and f.deadline <= now]
                if not overdue:
                    deadlines = [f.deadline for f in self._flights if f.deadline is not None]
                    self._looks_at = min(deadlines, default=float("inf"))
                    self._changed.wait(None if not deadlines else max(0.0, self._looks_at - now))
                    continue
                for flight in overdue:
                    self._flights.discard(flight)
            for flight in overdue:
                flight.cut()
