"""TokenBucket: no window sees more than rate * t + burst, and everybody gets a turn."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests import ConfigurationError, TokenBucket
from tests.server.arrivals import worst_excess
from tests.unit.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable

RATES = st.floats(0.1, 1_000.0)
BURSTS = st.integers(1, 20)
GAPS = st.lists(st.floats(0.0, 3.0), min_size=1, max_size=120)
TOLERANCE = 1e-6


def new_bucket(rate: float, burst: int, settle: float = 0.0) -> tuple[TokenBucket, ManualClock]:
    clock = ManualClock()
    return TokenBucket(rate, burst, settle=settle, clock=clock, sleep=clock.sleep), clock


# -- the law


@given(rate=RATES, burst=BURSTS, gaps=GAPS, settle=st.sampled_from([0.0, 0.02, 1.0]))
def test_no_window_exceeds_the_rate_when_reserving(
    rate: float, burst: int, gaps: list[float], settle: float
) -> None:
    bucket, clock = new_bucket(rate, burst, settle)
    stamps = []
    for gap in gaps:
        clock.advance(gap)
        delay = bucket.reserve()
        assert delay >= 0.0
        stamps.append(clock.now + delay)
    assert worst_excess(stamps, rate, burst) <= TOLERANCE * rate
    assert stamps == sorted(stamps), "first come, first served"


@given(rate=RATES, burst=BURSTS, gaps=GAPS, settle=st.sampled_from([0.0, 0.02, 1.0]))
def test_no_window_exceeds_the_rate_when_trying(
    rate: float, burst: int, gaps: list[float], settle: float
) -> None:
    bucket, clock = new_bucket(rate, burst, settle)
    stamps = []
    for gap in gaps:
        clock.advance(gap)
        peeked = bucket.peek()
        delay = bucket.try_acquire()
        assert delay == peeked >= 0.0
        if delay == 0.0:
            stamps.append(clock.now)
        else:
            clock.advance(delay)
            assert bucket.peek() <= TOLERANCE, "the wait was as long as it had to be"
    if stamps:
        assert worst_excess(stamps, rate, burst) <= TOLERANCE * rate


@given(rate=RATES, burst=BURSTS, count=st.integers(1, 200))
def test_a_busy_bucket_keeps_the_mean_rate(rate: float, burst: int, count: int) -> None:
    bucket, clock = new_bucket(rate, burst)
    began = clock.now
    for _ in range(burst + count):
        bucket.acquire()
    assert clock.now - began == pytest.approx(count / rate)


@given(
    rate=RATES,
    burst=BURSTS,
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 5)), min_size=1, max_size=120),
)
def test_no_window_exceeds_the_rate_if_some_stop_waiting(
    rate: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    bucket, clock = new_bucket(rate, burst)
    waiting: list[tuple[float, Any]] = []
    stamps: list[float] = []
    for gap, leaver in steps:
        clock.advance(gap)
        for due, turn in [entry for entry in waiting if entry[0] <= clock.now]:
            turn.__exit__(None, None, None)
            stamps.append(due)
        waiting = [entry for entry in waiting if entry[0] > clock.now]
        if leaver < len(waiting):
            _, turn = waiting.pop(leaver)
            assert not turn.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        turn = bucket._reserved()
        waiting.append((clock.now + turn.__enter__(), turn))
    stamps += [due for due, _ in waiting]
    assert worst_excess(sorted(stamps), rate, burst) <= TOLERANCE * rate


def test_those_who_stop_waiting_do_not_delay_others() -> None:
    async def give_up(bucket: TokenBucket) -> None:
        task = asyncio.ensure_future(bucket.acquire_async())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> None:
        bucket, clock = new_bucket(1.0, 1)
        assert bucket.reserve() == 0.0
        for _ in range(100):
            await give_up(bucket)
        assert bucket.reserve() == pytest.approx(1.0)
        assert bucket.reserve() == pytest.approx(2.0)
        await give_up(bucket)
        clock.advance(10.0)
        assert [bucket.reserve() for _ in range(2)] == pytest.approx([0.0, 1.0])

    asyncio.run(main())


def test_what_is_not_used_is_kept_up_to_the_burst_only() -> None:
    bucket, clock = new_bucket(10.0, 3)
    for _ in range(3):
        assert bucket.reserve() == 0.0
    clock.advance(3_600.0)
    assert [bucket.reserve() for _ in range(5)] == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    bucket, clock = new_bucket(10.0, 1)
    assert bucket.try_acquire() == 0.0
    clock.advance(-5.0)
    assert bucket.try_acquire() >= 0.1


def test_without_settling_the_refill_starts_at_once() -> None:
    clock = ManualClock()
    bucket = TokenBucket(10.0, 1, clock=clock)
    assert [bucket.reserve() for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])


def test_settling_starts_the_refill_of_a_full_bucket_late() -> None:
    bucket, clock = new_bucket(10.0, 1, settle=0.02)
    assert bucket.try_acquire() == 0.0
    assert bucket.try_acquire() == pytest.approx(0.12)
    clock.advance(0.12)
    assert bucket.try_acquire() == pytest.approx(0.0)


def test_a_bucket_is_at_rest_once_it_has_been_full_for_a_second() -> None:
    bucket, clock = new_bucket(rate=2, burst=2, settle=0.25)
    assert bucket.is_at_rest()
    bucket.reserve()
    assert not bucket.is_at_rest()
    clock.advance(0.75)  # to settle, and for the token
    assert bucket.peek() == 0.0
    assert not bucket.is_at_rest()
    clock.advance(1.0)
    assert bucket.is_at_rest()


def test_settling_is_for_a_start_and_a_rest_not_for_a_stall() -> None:
    bucket, clock = new_bucket(10.0, 1, settle=0.05)
    assert bucket.try_acquire() == 0.0
    clock.advance(0.5)
    assert bucket.try_acquire() == 0.0
    assert bucket.try_acquire() == pytest.approx(0.1)
    clock.advance(1.2)
    assert bucket.try_acquire() == 0.0
    assert bucket.try_acquire() == pytest.approx(0.15)


def test_many_threads_get_one_token_each_in_turn() -> None:
    bucket, _ = new_bucket(100.0, 1)
    delays: list[float] = []
    lock = threading.Lock()

    def ask() -> None:
        for _ in range(50):
            delay = bucket.reserve()
            with lock:
                delays.append(delay)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(delays) == pytest.approx([number / 100.0 for number in range(400)])


# -- its forms


def test_acquire_sleeps_as_long_as_needed() -> None:
    bucket, clock = new_bucket(4.0, 1)
    for _ in range(3):
        bucket.acquire()
    assert clock.slept == pytest.approx([0.25, 0.25])


def test_a_with_block_takes_a_token() -> None:
    bucket, clock = new_bucket(4.0, 1)
    for _ in range(2):
        with bucket as same:
            assert same is bucket
    assert clock.slept == pytest.approx([0.25])


def test_decorator_keeps_name_arguments_and_result() -> None:
    bucket, clock = new_bucket(2.0, 1)

    @bucket
    def double(value: int) -> int:
        """Twice as much."""
        return 2 * value

    assert [double(1), double(2)] == [2, 4]
    assert double.__name__ == "double"
    assert double.__doc__ == "Twice as much."
    assert clock.slept == pytest.approx([0.5])


def test_what_is_no_function_is_not_decorated() -> None:
    bucket, _ = new_bucket(2.0, 1)
    with pytest.raises(TypeError, match="decorates functions, not 5"):
        bucket(5)  # type: ignore[type-var]


def test_coroutines_and_async_blocks_take_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, clock = new_bucket(2.0, 1)
    monkeypatch.setattr(asyncio, "sleep", clock.sleep_async)

    @bucket
    async def answer() -> int:
        return 42

    async def use() -> None:
        assert await answer() == 42
        async with bucket as same:
            assert same is bucket
        await bucket.acquire_async()

    asyncio.run(use())
    assert clock.slept == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    "rate", ["5", None, True, 0.0, -1.0, pytest.param(10**400, id="huge"), float("inf"), float("nan")]
)
def test_a_wrong_rate_is_refused(rate: Any) -> None:
    with pytest.raises(ConfigurationError, match="rate"):
        TokenBucket(rate)


@pytest.mark.parametrize("burst", ["5", 1.5, 0, -3])
def test_a_wrong_burst_is_refused(burst: Any) -> None:
    with pytest.raises(ConfigurationError, match="burst"):
        TokenBucket(1.0, burst)


def test_the_repr_shows_how_to_make_it_again() -> None:
    assert repr(TokenBucket(2.5, 4)) == "TokenBucket(rate=2.5, burst=4)"
    assert repr(TokenBucket(10)) == "TokenBucket(rate=10, burst=5)"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_bucket_is_not_copied(duplicate: Callable[[object], object]) -> None:
    """Two copies would allow twice the rate."""
    with pytest.raises(TypeError, match=r"TokenBucket cannot be copied .* share it"):
        duplicate(TokenBucket(10))
