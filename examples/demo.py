"""The main job, for real: the same URLs one after another, then in parallel, with a rate limit, with retries.

Run it with ``make demo``. The server is a process of its own on loopback that takes 100 ms for each answer.
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
LEAST_SPEED_UP = 2


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    seconds: float
    answers: list[Any]

    @property
    def arrived(self) -> int:
        """How many answers came; a failed call gave None."""
        return sum(answer is not None for answer in self.answers)


def timed(name: str, job: Callable[[], list[Any]]) -> Row:
    """Do a job and time it."""
    began = time.perf_counter()
    answers = job()
    return Row(name, time.perf_counter() - began, answers)


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Start the server in a process of its own; gives its base URL."""
    command = [sys.executable, str(Path(__file__).with_name("demo_server.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own file
        try:
            assert process.stdout is not None  # noqa: S101 -- it is a pipe, see above
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def run(base: str, calls: int) -> Iterator[Row]:
    """Do the job in every way."""
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
    """Say what is not as it should be."""
    expected = [{"item": number} for number in range(calls)]
    not_retried = [answer if answer["item"] % 3 else None for answer in expected]
    for row, answers in zip(rows, [expected, expected, expected, not_retried, expected], strict=True):
        if row.answers != answers:
            yield f"{row.name}: the answers are not what the server gives"
    one_by_one, parallel, limited, *_ = rows
    if one_by_one.seconds < LEAST_SPEED_UP * parallel.seconds:
        yield f"{parallel.name}: less than {LEAST_SPEED_UP} times as fast as {one_by_one.name}"
    if limited.seconds < (calls - BURST) / RATE:
        yield f"{limited.name}: faster than the limit allows"


def main() -> int:
    """Run the demo, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=60, metavar="N", help="calls in each row (default: 60)")
    calls = parser.parse_args().calls

    print(f"{calls} calls to a server on this machine that takes 100 ms for each answer:\n")
    print(f"{'':46}{'seconds':>8}{'answers':>11}{'speed-up':>10}")
    rows: list[Row] = []
    with running_server() as base:
        for row in run(base, calls):
            rows.append(row)
            speed_up = f"{rows[0].seconds / row.seconds:.1f} x"
            print(f"{row.name:46}{row.seconds:8.2f}{row.arrived:5} of {calls}{speed_up:>10}", flush=True)
    print()
    wrong = list(problems(rows, calls))
    for problem in wrong:
        print(f"wrong: {problem}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
