"""Keeps the open connections of urllib3's pools, and of those of the libraries based on it, few."""

from __future__ import annotations

from operator import attrgetter
from typing import Any
from weakref import WeakSet

from parallel_requests.locks import Lock


class OpenConnections:
    """The connections of all pools of a backend; those idle for longest are closed to make room for others.

    urllib3 limits the connections of a pool, and how many pools there are, but together these are too many.
    """

    def __init__(self, most: int) -> None:
        """Set up.

        Args:
            most: Connections that stay open, as far as they are idle.
        """
        self._most = most
        self._lock = Lock()  # guards _connections
        self._connections: WeakSet[Any] = WeakSet()

    def make_room(self, connection: Any) -> None:
        """Note that a connection is about to be opened, and close others if there are too many."""
        with self._lock:
            self._connections.add(connection)
            if len(self._connections) <= self._most:
                return
            others = [other for other in self._connections if other.sock is not None]
        surplus = len(others) + 1 - self._most
        for other in sorted(others, key=attrgetter("used_at")):
            if surplus <= 0:
                return
            surplus -= other.close_if_idle()
