"""One run over very many lazy URLs, and what it is judged by."""

from __future__ import annotations

import json
import time
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallel_requests import ParallelSession
from tests.memory import forget_peak, peak, resident

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
                base = resident()
                forget_peak()
        seconds = time.monotonic() - began
        growth = peak() - base
    with urllib.request.urlopen(server.url("/report")) as answer:
        report: dict[str, int] = json.load(answer)
    return Outcome(yielded, most_open, growth, seconds, report)
