"""One run over very many lazy URLs, and what it is judged by."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parallel_requests import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.control import Server

MIB = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        results: Results that came, each with the value of its own id.
        most_open: Items taken from the generator and not yielded yet, at most.
        growth: Bytes by which the process grew at its peak, once warm.
        seconds: How long it took.
        report: What the server counted.
    """

    results: int
    most_open: int
    growth: int
    seconds: float
    report: dict[str, int]


def fetch_ids(server: Server, count: int, *, backend: str, concurrency: int, warm_up: int) -> Outcome:
    """Fetch ids 0 to ``count`` from a generator through ``iter_results``."""
    pulled = yielded = most_open = base = 0

    def urls() -> Iterator[str]:
        nonlocal pulled, most_open
        prefix = server.url("/")
        for number in range(count):
            pulled += 1
            most_open = max(most_open, pulled - yielded)
            yield f"{prefix}{number}"

    began = time.monotonic()
    with ParallelSession(backend=backend, concurrency=concurrency) as session:
        for result in session.iter_results(urls()):
            yielded += 1
            assert result.value == result.index
            if yielded == warm_up:
                base = memory("VmRSS")
                Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        seconds = time.monotonic() - began
        growth = memory("VmHWM") - base
    with urllib.request.urlopen(server.url("/report")) as answer:
        report: dict[str, int] = json.load(answer)
    return Outcome(yielded, most_open, growth, seconds, report)


def memory(name: str) -> int:
    """Bytes of a line of ``/proc/self/status``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
