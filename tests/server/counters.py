"""What a server saw: the judge of every test about counts, rates and duplicates."""

from __future__ import annotations

import itertools
import time
from array import array
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.server.routing import Call

LOG_LENGTH = 10_000


class Counters:
    """Counts of one server process.

    Memory per request is a few bytes (the full log keeps the last ``LOG_LENGTH``),
    so a million requests can be judged too. Used from the event loop alone.
    """

    def __init__(self) -> None:
        self._connection_numbers = itertools.count(1)
        self._in_flight = 0
        self._in_flight_by_listener: Counter[str] = Counter()
        self._open_connections: Counter[str] = Counter()
        self.reset()

    def reset(self) -> None:
        """Start counting afresh; what is open or in flight now stays known."""
        self._requests = 0
        self._by_path: Counter[str] = Counter()
        self._by_host: Counter[str] = Counter()
        self._by_method: Counter[str] = Counter()
        self._by_status: Counter[int] = Counter()
        self._connections: Counter[str] = Counter()
        self._abandoned = 0
        self._mismatched_ids = 0
        self._max_in_flight = self._in_flight
        self._max_in_flight_by_listener = Counter(self._in_flight_by_listener)
        self._arrivals: defaultdict[tuple[str, str], array[float]] = defaultdict(lambda: array("d"))
        self._ids: array[int] = array("q")
        self._log: deque[tuple[float, Call]] = deque(maxlen=LOG_LENGTH)
        self._occurrences: Counter[str] = Counter()
        self._window_starts: dict[str, float] = {}
        self._max_lag = 0.0

    def open_connection(self, listener: str) -> int:
        """Count a connection; the number given to it is never used twice."""
        self._connections[listener] += 1
        self._open_connections[listener] += 1
        return next(self._connection_numbers)

    def close_connection(self, listener: str) -> None:
        """A counted connection has ended."""
        self._open_connections[listener] -= 1

    def begin(self, call: Call) -> None:
        """Stamp and count a request whose headers are complete."""
        now = time.monotonic()
        listener = call.listener
        self._requests += 1
        # /id/{n} has a record of its own; a million paths would only fill memory.
        self._by_path["/id" if call.route == "id" else call.path] += 1
        self._by_host[call.host] += 1
        self._by_method[call.method] += 1
        self._arrivals[call.host, call.route].append(now)
        self._log.append((now, call))
        self._in_flight += 1
        self._in_flight_by_listener[listener] += 1
        self._max_in_flight = max(self._max_in_flight, self._in_flight)
        self._max_in_flight_by_listener[listener] = max(
            self._max_in_flight_by_listener[listener], self._in_flight_by_listener[listener]
        )

    def end(self, call: Call, status: int | None) -> None:
        """The answer left completely, or (``status`` None) the client left before it did."""
        self._in_flight -= 1
        self._in_flight_by_listener[call.listener] -= 1
        if status is None:
            self._abandoned += 1
        else:
            self._by_status[status] += 1

    def record_id(self, path_id: int, body_id: int | None) -> None:
        """Remember a request's id, and whether its body named another one."""
        self._ids.append(path_id)
        self._mismatched_ids += body_id is not None and body_id != path_id

    def in_flight_at(self, listener: str) -> int:
        """Requests being answered now on one listener."""
        return self._in_flight_by_listener[listener]

    def note_lag(self, seconds: float) -> None:
        """Remember by how much the server itself came late: its stamps may be as late."""
        self._max_lag = max(self._max_lag, seconds)

    def occurrence(self, key: str) -> int:
        """How often this key was asked for by now, this time included (1 for the first)."""
        self._occurrences[key] += 1
        return self._occurrences[key]

    def occurrence_in_window(self, key: str, seconds: float) -> tuple[int, float]:
        """Like ``occurrence``, within fixed windows; also the seconds until the window ends."""
        now = time.monotonic()
        started = self._window_starts.get(key)
        if started is None or now - started >= seconds:
            self._window_starts[key] = started = now
            del self._occurrences[key]
        return self.occurrence(key), started + seconds - now

    def stats(self) -> dict[str, Any]:
        """All counts, ready for JSON; the keys are the fields of ``control.Stats``."""
        return {
            "requests": self._requests,
            "by_path": self._by_path,
            "by_host": self._by_host,
            "by_method": self._by_method,
            "by_status": self._by_status,
            "connections": self._connections.total(),
            "connections_by_listener": self._connections,
            "open_connections": self._open_connections.total(),
            "in_flight": self._in_flight,
            "max_in_flight": self._max_in_flight,
            "max_in_flight_by_listener": self._max_in_flight_by_listener,
            "abandoned": self._abandoned,
            "mismatched_ids": self._mismatched_ids,
            "max_lag": self._max_lag,
        }

    def arrivals(self, host: str | None = None, route: str | None = None) -> list[float]:
        """Sorted ``time.monotonic()`` stamps, of one Host header or first path segment."""
        return sorted(
            itertools.chain.from_iterable(
                stamps
                for (its_host, its_route), stamps in self._arrivals.items()
                if host in (None, its_host) and route in (None, its_route)
            )
        )

    def ids(self) -> list[int]:
        """Every id asked for through /id/{n}, in order of arrival."""
        return self._ids.tolist()

    def log(self) -> list[dict[str, Any]]:
        """The last requests in full; the keys are the fields of ``control.LogEntry``."""
        return [
            {
                "at": at,
                "method": call.method,
                "path": call.path,
                "query": call.query_string,
                "host": call.host,
                "listener": call.listener,
                "connection": call.connection,
                "request_on_connection": call.request_on_connection,
                "headers": call.headers,
            }
            for at, call in self._log
        ]
