"""What this library promises about its speed, and whether it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.contestants import Sample

Measure = Literal["rate", "cpu_per_call", "seconds", "extra_threads"]


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        scene: Where it is measured.
        contender: Who has to keep it.
        measure: What is measured. A rate has to reach the bound, all else must not exceed it.
        bound: A ratio if there is a reference, else a value in the unit of the measure.
        reference: What it is compared with.
    """

    scene: str
    contender: str
    measure: Measure
    bound: float
    reference: str | None = None

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.measure == "rate"

    def value(self, samples: Mapping[str, Sequence[Sample]]) -> float | None:
        """What was measured: the median over the rounds.

        With a reference it is the median of the ratios within each round, so that a machine that is
        busier in some rounds favours no contender.

        Args:
            samples: The samples of the scene, by contender.

        Returns:
            The value, or None if one of the two was not measured.
        """
        own = self._measured(samples.get(self.contender, ()))
        if self.reference is None:
            return median(own) if own else None
        others = self._measured(samples.get(self.reference, ()))
        ratios = [mine / theirs for mine, theirs in zip(own, others, strict=False)]
        return median(ratios) if ratios else None

    def is_met(self, value: float) -> bool:
        """Whether the promise is kept.

        Args:
            value: What was measured.
        """
        return value >= self.bound if self.at_least else value <= self.bound

    def _measured(self, samples: Sequence[Sample]) -> list[float]:
        values = (getattr(sample, self.measure) for sample in samples)
        return [float(value) for value in values if value is not None]

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        what = "" if self.measure == "rate" else f" {self.measure}"
        against = f" x {self.reference}" if self.reference else ""
        return f"{self.scene}: {self.contender}{what} {sign} {self.bound:g}{against}"


TARGETS: Final = (
    Target("json", "ours-requests", "rate", 1.5, "requests-map"),
    Target("json", "ours-urllib3", "rate", 1.1, "urllib3-map"),
    Target("json", "ours-niquests", "rate", 1.0, "niquests-map"),
    Target("bodies", "ours-requests", "rate", 4.0, "requests-map"),
    Target("json", "ours-curl", "rate", 0.85, "curl-loop"),
    Target("json", "ours-curl", "rate", 2.5, "aiohttp-gather"),
    Target("json", "ours-curl", "rate", 1.4, "wreq-threads"),
    Target("json", "ours-curl", "rate", 15.0, "fastreq"),
    Target("json", "ours-aiohttp", "rate", 0.85, "aiohttp-gather"),
    Target("json", "ours-aiohttp-uvloop", "rate", 0.85, "aiohttp-gather-uvloop"),
    *(
        Target("async", f"ours-{backend}-async", "rate", 0.9, f"ours-{backend}")
        for backend in ("requests", "urllib3", "niquests", "aiohttp", "curl")
    ),
    *(
        Target("latency-100", f"ours-{backend}", "seconds", 1.5)
        for backend in ("requests", "urllib3", "niquests", "aiohttp", "curl")
    ),
    Target("latency", "ours-curl", "seconds", 1.35),
    Target("latency", "ours-curl", "cpu_per_call", 1.25, "curl-loop"),
    Target("latency", "ours-curl", "extra_threads", 3),
)
