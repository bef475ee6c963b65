"""Which connection each thread's attempt is on, and how far it has come there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from parallel_requests.backends.sockets import WatchedSocket, socket_beneath
from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from parallel_requests.engines.watchdog import Flight
    from parallel_requests.exchange import Send


class Wire:
    """Keeps what connections report of each thread's attempt; tells the engine's watchdog how to end it."""

    def __init__(self) -> None:
        self._local = threading.local()  # not of a subclass, whose attributes take twice the time
        self._lock = Lock()  # guards connections_opened
        self.connections_opened = 0

    def begin(self, send: Send) -> None:
        """Note which attempt this thread makes."""
        self._local.flight = send.flight
        self._local.refuses_idle = send.needs_new_connection
        self._local.is_fresh = self._local.is_ready = self._local.is_answered = False
        self._local.took_idle = False

    def answered(self) -> None:
        """Note that the head of the response has come."""
        self._local.is_answered = True

    def is_stale(self) -> bool:
        """Whether this thread's attempt failed, unanswered, on a reused connection."""
        return not (self._local.is_fresh or self._local.is_answered)

    def refuses_idle(self) -> bool:
        """Whether this thread's attempt needs a new connection, and has not opened one yet."""
        return getattr(self._local, "refuses_idle", False) and not self._local.is_fresh

    def took_idle(self) -> bool:
        """Whether this thread's attempt took an idle connection."""
        return bool(self._local.took_idle)

    def is_ready(self) -> bool:
        """Whether this thread's attempt got a connection, TLS included: its request may have been sent."""
        return bool(self._local.is_ready)

    def uses(self, means: Any) -> None:
        """Note which socket this thread's attempt uses, or what else aborts it."""
        flight = getattr(self._local, "flight", None)
        if flight is not None:
            flight.uses(socket_beneath(means))

    def takes_over(self, sock: Any, former: ReferenceType[Flight] | None) -> ReferenceType[Flight] | None:
        """Note that this thread's attempt uses a socket that is still registered for an earlier attempt.

        The earlier one has returned it to the pool, but its thread has not unregistered it yet: cutting
        that attempt must not cut this one.

        Args:
            sock: The socket; None if it has yet to be opened.
            former: Who used it before.

        Returns:
            Who uses it now.
        """
        flight = getattr(self._local, "flight", None)
        before = None if former is None else former()
        if before is not None:
            before.uses(None)
        self.uses(sock)
        return None if flight is None else ref(flight)

    def is_cut(self) -> bool:
        """Whether this thread's attempt has been cut by the watchdog."""
        flight = getattr(self._local, "flight", None)
        return flight is not None and bool(flight.is_cut)

    def opened(self, sock: Any) -> None:
        """Note a new connection."""
        with self._lock:
            self.connections_opened += 1
        self._local.is_fresh, self._local.is_ready = True, False
        self.uses(sock)

    def connected(self, sock: Any) -> None:
        """Note that a connection is ready for use."""
        self._local.is_ready = True
        self.uses(sock)
        if isinstance(sock, WatchedSocket):
            sock.leave_to_watchdog()

    def requests(self, sock: Any) -> None:
        """Note that the request is sent: at once or, without a connection, as soon as there is one."""
        self._local.is_ready = sock is not None
        self._local.took_idle = sock is not None and not self._local.is_fresh
