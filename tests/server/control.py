"""Start a server process and ask it what it saw, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import select
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from tests.server.tls import Identity

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 20
_STOP_SECONDS = 5


def together(count: int) -> str:
    """A path that responds once this number of calls is in flight, and again for as many more."""
    return f"/together?count={count}&key={uuid4()}"


@dataclass(frozen=True)
class Stats:
    """The counts of a server since its last reset; control calls are not in them.

    Attributes:
        requests: Requests whose headers arrived.
        by_path: Requests by path (all of /id/{n} under "/id").
        by_host: Requests by Host header.
        by_method: Requests by method.
        by_status: Complete answers by status (a string, as JSON has it).
        connections: Connections accepted (HTTP/2 server: that carried a request).
        connections_by_listener: The same by "address:port".
        open_connections: Connections open now (not known to the HTTP/2 server).
        in_flight: Requests being answered now.
        max_in_flight: The most at any time.
        max_in_flight_by_listener: The same by "address:port".
        abandoned: Requests whose client left before the answer was complete.
        mismatched_ids: Requests to /id/{n} whose body named another id.
        max_lag: Seconds by which the server's own timer came late at most, because the machine was
            busy; its stamps may be as late (not known to the HTTP/2 server).
    """

    requests: int
    by_path: dict[str, int]
    by_host: dict[str, int]
    by_method: dict[str, int]
    by_status: dict[str, int]
    connections: int
    connections_by_listener: dict[str, int]
    open_connections: int
    in_flight: int
    max_in_flight: int
    max_in_flight_by_listener: dict[str, int]
    abandoned: int
    mismatched_ids: int
    max_lag: float


@dataclass(frozen=True)
class LogEntry:
    """One request the server saw; ``at`` is ``time.monotonic()``, header names are lower-case."""

    at: float
    method: str
    path: str
    query: str
    host: str
    listener: str
    connection: int
    request_on_connection: int
    headers: dict[str, str]


class Server:
    """A server process; use it as a context manager, or ``start()`` and ``stop()``.

    Args:
        module: ``tests.server.app`` (HTTP/1.1), ``tests.server.h2`` or ``tests.server.h3``.
        addresses: Loopback addresses to listen on, each on a port of its own or on the one it names.
        identity: Certificate to serve TLS with; None serves plain HTTP.
        ca_file: The authority clients must trust, for the caller's convenience.
    """

    def __init__(
        self,
        module: str = "tests.server.app",
        *,
        addresses: Sequence[str] = ("127.0.0.1",),
        identity: Identity | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.ca_file = ca_file
        self._scheme = "https" if identity else "http"
        self._command = [sys.executable, "-m", module]
        for address in addresses:
            self._command += ["--listen", address]
        if identity:
            self._command += ["--certificate", str(identity.certificate), "--key", str(identity.key)]

    def start(self) -> Self:
        """Start the process; returns when it listens."""
        # A session of its own: Ctrl-C in the terminal must not end it before the tests.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _START_SECONDS)
        line = self._process.stdout.readline() if readable else b""
        if not line:
            self.stop()
            raise RuntimeError(f"{' '.join(self._command)} did not start")
        ready = json.loads(line)
        self.listeners: list[str] = ready["listeners"]
        self._control: str = ready["control"]
        return self

    def stop(self) -> None:
        """Close the process's stdin, which ends it, and wait."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the first listener."""
        host, port = self.listeners[0].split(":")
        return host, int(port)

    @property
    def urls(self) -> list[str]:
        """The base URL of every listener, without a slash at the end."""
        return [f"{self._scheme}://{listener}" for listener in self.listeners]

    def url(self, path: str = "/", listener: int = 0) -> str:
        """The URL of a path on one listener."""
        return self.urls[listener] + path

    def stats(self) -> Stats:
        """The counts since the last reset."""
        return Stats(**self._ask("stats"))

    def reset(self) -> None:
        """Start counting afresh."""
        self._ask("reset")

    def arrivals(self, *, host: str | None = None, route: str | None = None) -> list[float]:
        """Sorted ``time.monotonic()`` stamps of requests (comparable with this process's clock).

        Args:
            host: Only those with this Host header.
            route: Only those with this first path segment, "ratio" for instance.
        """
        return list(self._ask("arrivals", host=host, route=route))

    def ids(self) -> list[int]:
        """Every n of /id/{n} asked for, in order of arrival, duplicates included."""
        return list(self._ask("ids"))

    def log(self) -> list[LogEntry]:
        """The last 10,000 requests, oldest first."""
        return [LogEntry(**entry) for entry in self._ask("log")]

    def _ask(self, name: str, **query: str | None) -> Any:
        given = {key: value for key, value in query.items() if value is not None}
        connection = http.client.HTTPConnection(self._control, timeout=30)
        try:
            connection.request("GET", f"/_control/{name}?{urlencode(given)}")
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"control route {name}: {response.status} {body.decode()}")
        return json.loads(body)
