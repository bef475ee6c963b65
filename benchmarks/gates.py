"""What the gates promise, measured on every installed backend: ``python -m benchmarks.gates``.

The server's own stamps and counts are the judge. Lateness of the machine shows in the figures, so run it
on a quiet one.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

from parallel_requests import ParallelSession, RetryPolicy
from parallel_requests.backends.registry import BACKEND_NAMES, is_installed
from tests.server.arrivals import mean_rate, worst_excess
from tests.server.control import Server
from tests.server.faults import FaultServer, read_request, response, send, trickle

if TYPE_CHECKING:
    from collections.abc import Sequence

RATE: Final = 200
BURST: Final = 5
OUTAGE_CALLS: Final = 2_000
TIMEOUT: Final = 0.5

COLUMNS: Final = {
    "excess": ".2f",
    "mean error": ".2%",
    "stop s": ".3f",
    "begun after": "d",
    "overshoot s": ".3f",
    "in outage": ",d",
    "lag s": ".3f",
}
"""The figures by title, and how they are written."""

INTERRUPTED: Final = """
import sys
from parallel_requests import ParallelSession
backend, url = sys.argv[1:]
with ParallelSession(backend=backend, concurrency=50, timeout=None) as session:
    try:
        session.get([url] * 1000)
    except KeyboardInterrupt:
        pass
"""


@dataclass(frozen=True)
class Figures:
    """What was measured on one backend.

    Attributes:
        excess: Arrivals above ``rate * t + burst`` in the worst window; negative if it stays below.
        mean_error: Error of the mean rate, as a share of it.
        stop_seconds: From SIGINT to the end of the process.
        begun_after: Requests begun after SIGINT.
        overshoot: Seconds the longest attempt lasted beyond its timeout, against trickling servers.
        outage_requests: Requests made by 2,000 calls of which every answer is a 503.
        lag: Seconds by which the server itself came late at most while the rate was measured.
    """

    excess: float
    mean_error: float
    stop_seconds: float
    begun_after: int
    overshoot: float
    outage_requests: int
    lag: float


def measure(backend: str, server: Server, *, seconds: float) -> Figures:
    """Measure everything on one backend.

    Args:
        backend: Its name.
        server: Who judges.
        seconds: How long the rate is measured.
    """
    excess, mean_error, lag = rate(backend, server, seconds=seconds)
    stop_seconds, begun_after = stop(backend, server)
    return Figures(
        excess, mean_error, stop_seconds, begun_after, overshoot(backend), outage(backend, server), lag
    )


def rate(backend: str, server: Server, *, seconds: float) -> tuple[float, float, float]:
    """The worst excess, the error of the mean rate and the server's lag, with one 503 in five responses."""
    server.reset()
    retry = RetryPolicy(max_retries=20, backoff_factor=0.01, backoff_max=0.05)
    urls = [server.url("/ratio?percent=20")] * int(RATE * seconds * 0.8)
    with ParallelSession(
        backend=backend, concurrency=50, rate_limit=RATE, rate_limit_burst=BURST, retry=retry
    ) as session:
        session.get(urls)
    stamps = server.arrivals()
    steady = stamps[BURST:-20]  # the first burst is no rate, and the last retries wait for their backoff
    return worst_excess(stamps, RATE, BURST), abs(mean_rate(steady) / RATE - 1), server.stats().max_lag


def stop(backend: str, server: Server) -> tuple[float, int]:
    """Seconds from SIGINT to the end of a process whose server never answers, and requests begun after."""
    server.reset()
    command = [sys.executable, "-c", INTERRUPTED, backend, server.url("/hang")]
    with subprocess.Popen(command) as process:
        while server.stats().in_flight < 50:
            time.sleep(0.01)
        sent_at = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait()
        took = time.monotonic() - sent_at
    return took, sum(stamp > sent_at for stamp in server.arrivals())


def overshoot(backend: str) -> float:
    """Seconds beyond the timeout of the longest of 40 attempts, heads and bodies coming byte by byte."""
    answer = response(b"x" * 1_000)
    head = answer.partition(b"x")[0]
    with ExitStack() as stack:
        urls = [
            stack.enter_context(FaultServer(script)).url()
            for script in (
                [read_request(), trickle(answer, 0.02)],
                [read_request(), send(head), trickle(b"x" * 1_000, 0.02)],
            )
        ]
        session = stack.enter_context(
            ParallelSession(backend=backend, concurrency=40, timeout=TIMEOUT, max_retries=0)
        )
        return max(result.elapsed for result in session.iter_results(urls * 20)) - TIMEOUT


def outage(backend: str, server: Server) -> int:
    """Requests made if every response is a 503, with ``max_retries=3``."""
    server.reset()
    retry = RetryPolicy(max_retries=3, backoff_factor=0.01)
    with ParallelSession(backend=backend, concurrency=50, retry=retry) as session:
        results = session.get([server.url("/status/503")] * OUTAGE_CALLS, return_none_on_failure=True)
        assert results == [None] * OUTAGE_CALLS
    return server.stats().requests


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each backend."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gates", description=__doc__)
    parser.add_argument(
        "--backend", action="append", choices=BACKEND_NAMES, help="again for more; default: all"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="to measure the rate for (default: 10)")
    options = parser.parse_args(arguments)
    print(f"{RATE}/s, burst {BURST}, one in five a 503; SIGINT with 50 in flight; timeout {TIMEOUT} s")
    print(f"{'backend':9} {' '.join(f'{title:>11}' for title in COLUMNS)}")
    with Server() as server:
        for backend in options.backend or filter(is_installed, BACKEND_NAMES):
            figures = astuple(measure(backend, server, seconds=options.seconds))
            cells = [f"{figure:>11{form}}" for figure, form in zip(figures, COLUMNS.values(), strict=True)]
            print(f"{backend:9} {' '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
