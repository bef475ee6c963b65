"""How late this process runs because the machine is busy, which no limiter can compensate."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.leaks import children

if TYPE_CHECKING:
    from types import TracebackType

    from parallel_requests.session import ParallelSession

_TICK_SECONDS = 0.005
_NOTABLE_SECONDS = 0.01


class Lateness:
    """Measures, for as long as the block lasts, the lateness of a timer and the wait for a processor.

    Attributes:
        worst: Seconds by which it came late at most.
        stalls: How often it came late by more than 10 ms.
        total: Seconds these stalls lasted altogether.
    """

    def __init__(self) -> None:
        self.worst = self.total = 0.0
        self.stalls = 0
        self._waited_before = _waits_for_a_processor()
        self._stolen_before = _stolen()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="lateness")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def slack(self) -> float:
        """Return the seconds by which anything may have taken longer, so far, as the machine was busy.

        A busy thread is delayed far more than a timer: by all the time that it, or what it waits for, was
        ready to run and had no processor, or only seemed to have one, as another virtual machine had it.
        """
        before = self._waited_before
        waited = sum(seconds - before.get(key, 0.0) for key, seconds in _waits_for_a_processor().items())
        return self.worst + waited + _stolen() - self._stolen_before

    def _measure(self) -> None:
        due = time.monotonic() + _TICK_SECONDS
        while not self._ended.wait(_TICK_SECONDS):
            late = time.monotonic() - due
            self.worst = max(self.worst, late)
            if late > _NOTABLE_SECONDS:
                self.stalls += 1
                self.total += late
            due = time.monotonic() + _TICK_SECONDS


def fits(session: ParallelSession, urls: list[str], within: float) -> bool:
    """Whether calls are made within so many seconds, the machine's own lateness apart."""
    with Lateness() as lateness:
        began = time.monotonic()
        session.request(urls)
        return time.monotonic() - began <= within + lateness.slack()


def _stolen() -> float:
    """Return the seconds for which the processors were given to other virtual machines (on Linux)."""
    try:
        _, *ticks = Path("/proc/stat").read_text().partition("\n")[0].split()
    except OSError:
        return 0.0
    return int(ticks[7]) / os.sysconf("SC_CLK_TCK")


def _waits_for_a_processor() -> dict[str, float]:
    """Return, by thread, the seconds for which it was ready to run but not running.

    Those of this process and its children are in it; none if there is no ``schedstat`` (Linux has it).
    """
    waits = {}
    for pid in (os.getpid(), *children(os.getpid())):
        for file in Path("/proc").glob(f"{pid}/task/*/schedstat"):
            try:
                _, nanoseconds, _ = file.read_text().split()
            except OSError:
                continue  # that thread has just ended
            waits[str(file)] = int(nanoseconds) / 1e9
    return waits
