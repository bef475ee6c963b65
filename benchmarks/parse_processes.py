"""Gains and costs of `parse_processes`: `python -m benchmarks.parse_processes`.

Three questions, answered by rounds in which the two sides take turns:

- burn: a parse_func that burns 20 ms of CPU on 500 answers, in processes against in place, and against
  two bare processes that burn the same and do nothing else: what the machine gives at that moment;
- transfers: the seconds to the last byte of answers that take 50 ms each, with that parse_func in
  processes against without any;
- trivial: a parse_func that does next to nothing with JSON of 10 KiB, in processes against in place.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.environments import ROOT
from benchmarks.servers import nginx
from parallel_requests import ParallelSession
from tests.server.control import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONCURRENCY = 20
BURN_SECONDS = 0.02
TRIVIAL_CALLS = 3_000
MEDIUM_SIZE = 10 * 1024


def burn(_: Any) -> None:
    """Use 20 ms of CPU, however busy the machine is."""
    end = time.process_time() + BURN_SECONDS
    while time.process_time() < end:
        pass


def thread_burn(_: Any) -> None:
    """Use 20 ms of CPU of this thread alone."""
    end = time.thread_time() + BURN_SECONDS
    while time.thread_time() < end:
        pass


def count(rows: list[Any]) -> int:
    return len(rows)


def identity(rows: list[Any]) -> list[Any]:
    return rows


@dataclass(frozen=True)
class Question:
    """A comparison.

    Attributes:
        name: What it is called.
        ours: Seconds with processes.
        theirs: Seconds without.
        bound: What their ratio has to come to.
        more_is_better: Whether the ratio is a gain (theirs / ours) or a cost (ours / theirs).
    """

    name: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    bound: float
    more_is_better: bool = False

    def answer(self, rounds: int) -> None:
        """Measure, the two sides taking turns, and print."""
        pairs = []
        for number in range(rounds):
            first, second = (self.ours, self.theirs) if number % 2 else (self.theirs, self.ours)
            seconds = {first: first(), second: second()}
            pairs.append((seconds[self.ours], seconds[self.theirs]))
        ratios = [their / our if self.more_is_better else our / their for our, their in pairs]
        ratio = median(ratios)
        is_met = ratio >= self.bound if self.more_is_better else ratio <= self.bound
        sign = ">=" if self.more_is_better else "<="
        ours, theirs = (median(side) for side in zip(*pairs, strict=True))
        print(
            f"{self.name:22} {ours:7.3f} s  {theirs:7.3f} s  "
            f"{ratio:5.2f} x ({min(ratios):.2f}-{max(ratios):.2f})  {sign} {self.bound:g}  "
            f"{'met' if is_met else 'MISSED'}",
            flush=True,
        )


def seconds_of(session: ParallelSession, urls: Sequence[str], parse_func: Callable[[Any], Any]) -> float:
    began = time.perf_counter()
    session.request(list(urls), parse_func=parse_func)
    return time.perf_counter() - began


def seconds_to_last_answer(
    session: ParallelSession, urls: Sequence[str], parse_func: Callable[[Any], Any] | None
) -> float:
    last = began = time.perf_counter()

    def note(*_: object) -> None:
        nonlocal last
        last = time.perf_counter()

    session.request(list(urls), parse_func=parse_func, on_attempt=note)
    return last - began


def cold(backend: str, processes: int, urls: Sequence[str], parse_func: Callable[[Any], Any]) -> float:
    """Measure with a session of its own: the start of the processes and their end are in it."""
    began = time.perf_counter()
    with ParallelSession(backend=backend, concurrency=CONCURRENCY, parse_processes=processes) as session:
        session.request(list(urls), parse_func=parse_func)
    return time.perf_counter() - began


def bare(calls: int) -> float:
    """Measure two processes that share the burning, without fetching anything."""
    code = f"from benchmarks.parse_processes import burn\nfor _ in range({calls // 2}): burn(None)"
    began = time.perf_counter()
    burning = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    for process in burning:
        process.wait()
    return time.perf_counter() - began


def medium_json() -> bytes:
    """10 KiB of JSON, as an API answers: a list of flat records."""
    rows: list[dict[str, object]] = []
    while len(body := json.dumps(rows).encode()) < MEDIUM_SIZE:
        number = len(rows)
        rows.append(
            {"id": number, "name": f"item {number}", "price": number * 1.25, "ok": True, "tags": ["a", "b"]}
        )
    return body


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=500, help="answers to burn CPU on")
    parser.add_argument("--backend", default="curl")
    parser.add_argument("--only", default="", help="questions whose name contains this")
    arguments = parser.parse_args()
    backend = arguments.backend
    print(f"{os.cpu_count()} CPUs, backend {backend}, load {os.getloadavg()[0]:.1f}")
    print(f"{'':22} {'processes':>9}  {'without':>9}  ratio (range)")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-parse-")))
        (folder / "10KiB.json").write_bytes(medium_json())
        url = stack.enter_context(nginx(files=[folder / "10KiB.json"]))
        slow = stack.enter_context(Server()).url("/static?delay=0.05")
        options: dict[str, Any] = {"backend": backend, "concurrency": CONCURRENCY}
        plain = stack.enter_context(ParallelSession(**options))
        pooled = stack.enter_context(ParallelSession(**options, parse_processes=2))
        small, medium = [f"{url}/json"] * arguments.calls, [f"{url}/10KiB.json"] * TRIVIAL_CALLS
        seconds_of(pooled, medium, count)
        seconds_of(plain, medium, count)
        questions = [
            Question(
                "burn, from cold",
                lambda: cold(backend, 2, small, burn),
                lambda: cold(backend, 0, small, thread_burn),
                1.8,
                more_is_better=True,
            ),
            Question(
                "burn, of what is there",
                lambda: cold(backend, 2, small, burn),
                lambda: bare(arguments.calls),
                0.9,
                more_is_better=True,
            ),
            Question(
                "transfers",
                lambda: seconds_to_last_answer(pooled, [slow] * arguments.calls, burn),
                lambda: seconds_to_last_answer(plain, [slow] * arguments.calls, None),
                1.1,
            ),
            Question(
                "trivial, a number",
                lambda: seconds_of(pooled, medium, count),
                lambda: seconds_of(plain, medium, count),
                2.0,
            ),
            Question(
                "trivial, the whole",
                lambda: seconds_of(pooled, medium, identity),
                lambda: seconds_of(plain, medium, identity),
                2.0,
            ),
        ]
        for question in questions:
            if arguments.only in question.name:
                question.answer(arguments.rounds)


if __name__ == "__main__":
    main()
