"""The statistics of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence  # noqa: TC003 - typing.get_type_hints() needs them
from dataclasses import dataclass, field
from typing import Any

from parallel_requests.models import Result  # noqa: TC001 - likewise
from parallel_requests.values import Check, is_rate

_PERCENTAGE = Check(lambda value: is_rate(value) and value <= 100, "a percentage above 0 and up to 100")
_BUCKETS_PER_E = 100
"""Latencies are counted in buckets one percent wide, so that memory is bounded for any run."""


@dataclass(slots=True)
class RunStats:
    """The statistics of one run; `ParallelSession.last_run` holds those of the latest.

    Attributes:
        statuses: Final responses by status.
        errors: Failed items by the name of their error's class.
        total: Finished items.
        succeeded: Items that succeeded.
        attempts: Attempts made.
        retries: Attempts made because one before had failed; those that follow redirects do not count.
        bytes_received: Bytes of the decoded bodies, streams and files included.
        seconds_on_wire: Seconds of all final attempts together.
        seconds_waited: Seconds that all items together spent before their final attempts: in earlier
            attempts, backoff and gates.
        seconds: Seconds the run took.
        connections: Connections opened while it ran; None if the backend does not count them.
        concurrency_levels: The limit of attempts in flight at the end, by host, if there is one.
        results: The finished Results if the run was interrupted; empty otherwise.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    total: int = 0
    succeeded: int = 0
    attempts: int = 0
    retries: int = 0
    bytes_received: int = 0
    seconds_on_wire: float = 0.0
    seconds_waited: float = 0.0
    seconds: float = 0.0
    connections: int | None = None
    concurrency_levels: Mapping[str, int] = field(default_factory=dict)
    results: Sequence[Result[Any]] = ()
    _latencies: Counter[int] = field(default_factory=Counter)

    def add(self, results: Sequence[Result[Any]]) -> None:
        """Add finished Results."""
        responses = [result.response for result in results if result.response is not None]
        failures = [type(result.error).__name__ for result in results if result.error is not None]
        latencies = [response.elapsed for response in responses]
        self.total += len(results)
        self.succeeded += len(results) - len(failures)
        self.statuses.update([response.status_code for response in responses])
        self.errors.update(failures)
        self.attempts += sum([result.attempts for result in results])
        self.retries += sum([result.retries for result in results])
        self.bytes_received += sum([response.size for response in responses])
        on_wire = sum(latencies)
        self.seconds_on_wire += on_wire
        self.seconds_waited += max(0.0, sum([result.elapsed for result in results]) - on_wire)
        log, floor = math.log, math.floor
        self._latencies.update([floor(log(seconds + 1e-9) * _BUCKETS_PER_E) for seconds in latencies])

    def percentile(self, percent: float) -> float:
        """Return the seconds within which a percentage of the responses arrived, accurate to 1 %.

        Args:
            percent: The percentage, above 0 and up to 100.

        Raises:
            ConfigurationError: It is no such number.
        """
        _PERCENTAGE.enforce("percent", percent)
        rank = math.ceil(self._latencies.total() * percent / 100)
        for bucket in sorted(self._latencies):
            rank -= self._latencies[bucket]
            if rank <= 0:
                return math.exp((bucket + 0.5) / _BUCKETS_PER_E)
        return 0.0

    @property
    def p50(self) -> float:
        """Seconds within which half of the responses arrived."""
        return self.percentile(50)

    @property
    def p95(self) -> float:
        """Seconds within which 95 % of the responses arrived."""
        return self.percentile(95)

    @property
    def p99(self) -> float:
        """Seconds within which 99 % of the responses arrived."""
        return self.percentile(99)

    def __str__(self) -> str:
        failed = ", ".join(f"{name} {count}" for name, count in self.errors.most_common())
        return (
            f"{self.succeeded} of {self.total} succeeded in {self.seconds:.2f} s, "
            f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}, "
            f"{self.bytes_received:,} bytes; p50 {self.p50:.3f} s, p95 {self.p95:.3f} s, p99 {self.p99:.3f} s"
            + (f"; failed: {failed}" if failed else "")
        )
