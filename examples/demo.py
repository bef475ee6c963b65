"""The main job on a real server: URLs one after another, in parallel, with a rate limit, with retries.

Run it with ``make demo``. The server is a process of its own on loopback that takes 100 ms for each response.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from parallel_requests import RetryPolicy, parallel_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONCURRENCY = 20
RATE, BURST = 50, 5


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    values: list[Any]

    @property
    def succeeded(self) -> int:
        """How many calls succeeded; a failed one gave None."""
        return sum(value is not None for value in self.values)


def timed(name: str, job: Callable[[], list[Any]]) -> Row:
    """Do a job and time it."""
    began = time.perf_counter()
    values = job()
    return Row(name, time.perf_counter() - began, values)


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Run the server in a process of its own; yields its base URL."""
    command = [sys.executable, str(Path(__file__).with_name("demo_server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own file
        try:
            assert process.stdout is not None  # noqa: S101 -- it is a pipe, see above
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def run(base: str, calls: int) -> Iterator[Row]:
    """Do the job in each way."""
    urls = [f"{base}/item/{number}" for number in range(calls)]
    yield timed(
        "requests, one after another",
        lambda: [requests.get(url, timeout=10).json() for url in urls],
    )
    yield timed(
        f"parallel_requests, {CONCURRENCY} at once",
        lambda: parallel_requests(urls, concurrency=CONCURRENCY),
    )
    yield timed(
        f"the same, at most {RATE} a second",
        lambda: parallel_requests(urls, concurrency=CONCURRENCY, rate_limit=RATE, rate_limit_burst=BURST),
    )
    yield timed(
        "every third call a 503 at first, not retried",
        lambda: parallel_requests(
            [f"{base}/flaky/once/{number}" for number in range(calls)],
            concurrency=CONCURRENCY,
            max_retries=0,
            return_none_on_failure=True,
        ),
    )
    yield timed(
        "every third call a 503 at first, retried",
        lambda: parallel_requests(
            [f"{base}/flaky/again/{number}" for number in range(calls)],
            concurrency=CONCURRENCY,
            retry=RetryPolicy(max_retries=3, backoff_factor=0.1),
        ),
    )


def problems(rows: list[Row], calls: int) -> Iterator[str]:
    """Yield a message for each result that is not as expected."""
    expected = [{"item": number} for number in range(calls)]
    not_retried = [value if value["item"] % 3 else None for value in expected]
    for row, values in zip(rows, [expected, expected, expected, not_retried, expected], strict=True):
        if row.values != values:
            yield f"{row.name}: the values are not what the server sends"
    limited = rows[2]
    if limited.seconds < (calls - BURST) / RATE:
        yield f"{limited.name}: faster than the limit allows"


def main() -> int:
    """Run the demo, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=60, metavar="N", help="calls in each row (default: 60)")
    calls = parser.parse_args().calls

    print(f"{calls} calls to a server on this machine that takes 100 ms for each response:\n")
    print(f"{'':46}{'seconds':>8}{'responses':>11}{'speed-up':>10}")
    rows: list[Row] = []
    with running_server() as base:
        for row in run(base, calls):
            rows.append(row)
            speed_up = f"{rows[0].seconds / row.seconds:.1f} x"
            print(f"{row.name:46}{row.seconds:8.2f}{row.succeeded:5} of {calls}{speed_up:>10}", flush=True)
    print()
    wrong = list(problems(rows, calls))
    for problem in wrong:
        print(f"wrong: {problem}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
