"""Judging the moments at which a server saw requests arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def worst_excess(stamps: Sequence[float], rate: float, burst: int) -> float:
    """By how many arrivals the worst window of any length exceeds ``rate * t + burst``; else negative.

    Args:
        stamps: Sorted seconds.
        rate: Arrivals per second.
        burst: Arrivals that may come at once.
    """
    worst, earliest = float("-inf"), float("inf")
    for count, stamp in enumerate(stamps):
        # A window from one arrival to another: its count of arrivals against its seconds.
        earliest = min(earliest, count - rate * stamp)
        worst = max(worst, count - rate * stamp - earliest + 1)
    return worst - burst


def mean_rate(stamps: Sequence[float]) -> float:
    """Arrivals per second from the first stamp to the last."""
    return (len(stamps) - 1) / (stamps[-1] - stamps[0])
