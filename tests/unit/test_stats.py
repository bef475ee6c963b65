"""The statistics of a run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests import RunStats
from parallel_requests.exceptions import ConfigurationError, HTTPStatusError, TruncatedBody, ValidationError
from parallel_requests.models import Headers, Request, Response, Result


def result(
    status: int | None = 200,
    *,
    elapsed: float = 0.1,
    total: float | None = None,
    attempts: int = 1,
    body: bytes = b"",
    error: Any = None,
    retries: int = 0,
) -> Result[Any]:
    request = Request("http://api.test/")
    response = None if status is None else Response(status, Headers(), body, request, elapsed=elapsed)
    if error is None and status is not None and status >= 400:
        error = HTTPStatusError("bad", response)  # type: ignore[arg-type]
    return Result(request, None, error, response, attempts, elapsed if total is None else total, retries)


def test_everything_is_counted() -> None:
    stats = RunStats()
    stats.add([result(body=b"12345"), result(body=b"1", attempts=3, total=1.5, retries=1)])
    stats.add([result(404), result(None, error=TruncatedBody("cut"), attempts=4, total=7.0, retries=3)])
    stats.add([result(None, error=ValidationError("bad"), attempts=0, total=0.0)])
    assert (stats.total, stats.succeeded, stats.attempts, stats.retries) == (5, 2, 9, 4)
    assert stats.statuses == {200: 2, 404: 1}
    assert stats.errors == {"HTTPStatusError": 1, "TruncatedBody": 1, "ValidationError": 1}
    assert stats.bytes_received == 6
    assert stats.seconds_on_wire == pytest.approx(0.3)
    assert stats.seconds_waited == pytest.approx(8.4)
    assert "2 of 5 succeeded" in str(stats)
    assert str(stats).endswith("; failed: HTTPStatusError 1, TruncatedBody 1, ValidationError 1")


def test_an_empty_run_is_all_zeros() -> None:
    stats = RunStats()
    assert (stats.p50, stats.p95, stats.p99, stats.retries) == (0.0, 0.0, 0.0, 0)
    assert "0 of 0" in str(stats)
    assert "failed" not in str(stats)


def test_a_response_within_one_tick_of_the_clock_took_no_time() -> None:
    stats = RunStats()
    stats.add([result(elapsed=0.0)])
    assert stats.p50 == pytest.approx(0.0, abs=1e-6)


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200), st.integers(1, 100))
def test_percentiles_are_right_to_one_percent(latencies: list[float], percent: int) -> None:
    stats = RunStats()
    stats.add([result(elapsed=seconds) for seconds in latencies])
    exact = sorted(latencies)[-(-len(latencies) * percent // 100) - 1]
    assert stats.percentile(percent) == pytest.approx(exact, rel=0.006)


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan"), None, "90", True])
def test_what_is_no_percentage_has_no_percentile(percent: Any) -> None:
    stats = RunStats()
    stats.add([result(elapsed=1.0)])
    with pytest.raises(ConfigurationError, match=r"^percent must be a percentage above 0 and up to 100"):
        stats.percentile(percent)


def test_p50_p95_and_p99_are_these_percentiles() -> None:
    stats = RunStats()
    stats.add([result(elapsed=number / 100) for number in range(1, 101)])
    assert stats.p50 == pytest.approx(0.5, rel=0.006)
    assert stats.p95 == pytest.approx(0.95, rel=0.006)
    assert stats.p99 == pytest.approx(0.99, rel=0.006)
