"""How late this process runs because the machine is busy, which no limiter can compensate."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_TICK_SECONDS = 0.005
_NOTABLE_SECONDS = 0.01


class Lateness:
    """Measures the lateness of a timer for as long as the block lasts.

    Attributes:
        worst: Seconds by which it came late at most.
        stalls: How often it came late by more than 10 ms.
        total: Seconds these stalls lasted altogether.
    """

    def __init__(self) -> None:
        self.worst = self.total = 0.0
        self.stalls = 0
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

    def _measure(self) -> None:
        due = time.monotonic() + _TICK_SECONDS
        while not self._ended.wait(_TICK_SECONDS):
            late = time.monotonic() - due
            self.worst = max(self.worst, late)
            if late > _NOTABLE_SECONDS:
                self.stalls += 1
                self.total += late
            due = time.monotonic() + _TICK_SECONDS
