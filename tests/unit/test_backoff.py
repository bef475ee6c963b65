"""RetryPolicy and @backoff."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests import (
    BackendError,
    BodyTooLarge,
    ConfigurationError,
    ConnectError,
    DeadlineExceededError,
    DNSError,
    ParseError,
    ProtocolError,
    ProxyError,
    RedirectError,
    RequestTimeout,
    ResourceExhausted,
    Response,
    RetryPolicy,
    RunStoppedError,
    TLSError,
    TruncatedBody,
    backoff,
)
from tests.unit.clock import ManualClock
from tests.unit.driving import Answer, get

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def answered(status: int) -> Response:
    return Answer(status).to(get())


# -- the value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("max_retries", True),
        ("max_retries", "3"),
        ("max_retries", None),
        ("backoff_factor", -0.1),
        ("backoff_factor", float("nan")),
        ("backoff_factor", "1"),
        ("backoff_max", -1),
        ("backoff_max", None),
        ("retry_after_max", -1),
        ("retry_after_max", float("nan")),
        ("backoff_jitter", -0.1),
        ("backoff_factor", float("inf")),
        ("backoff_max", float("inf")),
        ("retry_after_max", True),
        ("backoff_jitter", 1.1),
        ("backoff_jitter", "a lot"),
        ("backoff_jitter", None),
        ("status_forcelist", 503),
        ("status_forcelist", ["503"]),
        ("status_forcelist", [500, "503"]),
        ("status_forcelist", None),
        ("allowed_methods", "GET"),
        ("allowed_methods", [1]),
        ("allowed_methods", None),
        ("respect_retry_after_header", 1),
        ("retry_on", 503),
        ("retry_on", (503,)),
        ("retry_on", asyncio.sleep),
        ("retry_on", int),
        ("dont_retry_on", [ValueError]),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name) as caught:
        RetryPolicy(**{name: value})
    assert caught.value.config_key == name


def test_it_is_an_immutable_value() -> None:
    policy = RetryPolicy(status_forcelist=[503], allowed_methods=["get"])
    assert policy == RetryPolicy(status_forcelist={503}, allowed_methods={"GET"})
    assert hash(policy) == hash(RetryPolicy(status_forcelist={503}, allowed_methods={"GET"}))
    with pytest.raises(AttributeError):
        policy.max_retries = 9  # type: ignore[misc]


def test_waits_double_up_to_the_cap() -> None:
    policy = RetryPolicy(backoff_jitter=0.0, backoff_max=10.0)
    assert [policy.delay(retry) for retry in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert policy.delay(100_000) == 10.0
    assert RetryPolicy(backoff_jitter=0.0).delay(7) == 60.0


@given(
    factor=st.floats(0.0, 100.0),
    cap=st.floats(0.0, 100.0),
    jitter=st.floats(0.0, 1.0),
    retry=st.integers(1, 2_000),
)
def test_delays_stay_within_the_jitter(factor: float, cap: float, jitter: float, retry: int) -> None:
    policy = RetryPolicy(backoff_factor=factor, backoff_max=cap, backoff_jitter=jitter)
    nominal = min(cap, factor * 2.0 ** min(retry - 1, 64))
    delay = policy.delay(retry)
    assert nominal * (1 - jitter) - 1e-9 <= delay <= nominal * (1 + jitter) + 1e-9
    assert delay >= 0.0
    assert policy.delay(retry, lambda low, _: low) == nominal * (1 - jitter)
    assert policy.delay(retry, lambda _, high: high) == nominal * (1 + jitter)


# -- what is tried again

YES, NO = True, False


@pytest.mark.parametrize(
    ("outcome", "for_get", "for_post"),
    [
        (answered(200), NO, NO),
        (answered(400), NO, NO),
        (answered(404), NO, NO),
        (answered(429), YES, NO),
        (answered(500), YES, NO),
        (answered(501), NO, NO),
        (answered(502), YES, NO),
        (answered(503), YES, NO),
        (answered(504), YES, NO),
        (ConnectError("refused"), YES, YES),
        (DNSError("not found"), YES, YES),
        (ResourceExhausted("no sockets"), YES, YES),
        (ProxyError("refused"), YES, YES),
        (RequestTimeout("slow"), YES, NO),
        (TruncatedBody("cut"), YES, NO),
        (BackendError("something"), YES, NO),
        (ConnectionResetError("foreign"), YES, NO),
        (TLSError("expired"), NO, NO),
        (ProtocolError("not HTTP"), NO, NO),
        (BodyTooLarge("big"), NO, NO),
        (RedirectError("loop"), NO, NO),
        (DeadlineExceededError("late"), NO, NO),
        (RunStoppedError("stopped"), NO, NO),
        (ParseError("raised"), NO, NO),
    ],
    ids=repr,
)
def test_what_is_retried(outcome: Response | Exception, for_get: bool, for_post: bool) -> None:
    policy = RetryPolicy()
    for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"):
        assert policy.wants_retry(method, outcome, 0) is for_get, method
    for method in ("POST", "PATCH"):
        assert policy.wants_retry(method, outcome, 0) is for_post, method


def test_retries_are_counted() -> None:
    policy = RetryPolicy(max_retries=2)
    verdicts = [policy.wants_retry("GET", answered(503), retries) for retries in range(4)]
    assert verdicts == [True, True, False, False]
    assert not RetryPolicy(max_retries=0).wants_retry("GET", answered(503), 0)


def test_an_unknown_name_is_retried_once() -> None:
    policy = RetryPolicy(max_retries=5)
    assert [policy.wants_retry("GET", DNSError("gone"), retries) for retries in range(3)] == [
        True,
        False,
        False,
    ]


def test_the_caller_may_allow_more() -> None:
    by_type = RetryPolicy(retry_on=TruncatedBody)
    assert by_type.wants_retry("POST", TruncatedBody("cut"), 0)
    by_types = RetryPolicy(retry_on=(TLSError, TruncatedBody))
    assert by_types.wants_retry("POST", TLSError("expired"), 0)
    by_predicate = RetryPolicy(retry_on=lambda outcome: isinstance(outcome, Response) and not outcome.json())
    assert by_predicate.wants_retry("GET", answered(200), 0), "an empty answer"
    assert RetryPolicy(allowed_methods={"POST"}).wants_retry("POST", answered(503), 0)


def test_dont_retry_on_takes_precedence() -> None:
    policy = RetryPolicy(retry_on=Exception, dont_retry_on=(RequestTimeout,))
    assert not policy.wants_retry("GET", RequestTimeout("slow"), 0)
    assert policy.wants_retry("GET", TruncatedBody("cut"), 0)


def test_a_stopped_run_is_not_resumed_by_a_wide_condition() -> None:
    policy = RetryPolicy(retry_on=Exception)
    assert not policy.wants_retry("GET", RunStoppedError(), 0)
    assert not policy.wants_retry("GET", DeadlineExceededError("late"), 0)


# -- the decorator


class Flaky:
    """Raises a number of times, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls = 0
        self._failures = failures
        self.error = error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self.error
        return "fine"


def test_arguments_and_keywords_are_passed_on() -> None:
    @backoff()
    def double(number: int, *, plus: int) -> int:
        return 2 * number + plus

    @backoff()
    async def double_async(number: int, *, plus: int) -> int:
        return 2 * number + plus

    assert double(3, plus=1) == 7
    assert asyncio.run(double_async(3, plus=1)) == 7


def test_it_waits_by_itself() -> None:
    flaky = Flaky(2, ConnectionError("gone"))
    began = time.monotonic()
    assert backoff(policy=RetryPolicy(backoff_factor=0.05, backoff_jitter=0.0))(flaky)() == "fine"
    assert time.monotonic() - began >= 0.15


def test_coroutines_wait_without_blocking_the_loop() -> None:
    flaky = Flaky(1, ConnectionError("gone"))

    @backoff(policy=RetryPolicy(backoff_factor=3600.0))
    async def call() -> str:
        return flaky()

    async def call_for_a_moment() -> None:
        await asyncio.wait_for(call(), timeout=0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(call_for_a_moment())
    assert flaky.calls == 1


def test_a_function_is_called_again_after_one_two_four_seconds() -> None:
    clock, flaky = ManualClock(), Flaky(3, ConnectionError("gone"))
    retried = backoff(ConnectionError, policy=RetryPolicy(backoff_jitter=0.0), sleep=clock.sleep)(flaky)
    assert retried() == "fine"
    assert clock.slept == [1.0, 2.0, 4.0]


def test_the_last_exception_is_its_own_with_a_note() -> None:
    clock, flaky = ManualClock(), Flaky(99, ConnectionError("gone"))

    @backoff(policy=RetryPolicy(max_retries=2), sleep=clock.sleep)
    def call() -> str:
        return flaky()

    with pytest.raises(ConnectionError, match="gone") as caught:
        call()
    assert flaky.calls == 3
    assert "attempt 3 of at most 3" in caught.value.__notes__[0]


def test_the_policys_condition_is_used() -> None:
    calls: list[Exception] = []

    @backoff(policy=RetryPolicy(max_retries=2, retry_on=ConnectionError), sleep=ManualClock().sleep)
    def fails(error: Exception) -> None:
        calls.append(error)
        raise error

    for error, times in ((ValueError("odd"), 1), (ConnectionError("gone"), 3)):
        calls.clear()
        with pytest.raises(type(error)):
            fails(error)
        assert len(calls) == times


@pytest.mark.parametrize(
    "retried",
    [
        {"retry_on": (ConnectionError, TimeoutError)},
        {"retry_on": ()},
        {"policy": RetryPolicy(retry_on=())},
    ],
)
def test_other_exceptions_are_left_alone(retried: dict[str, Any]) -> None:
    clock, flaky = ManualClock(), Flaky(9, KeyError("bug"))
    with pytest.raises(KeyError):
        backoff(sleep=clock.sleep, **retried)(flaky)()
    assert (flaky.calls, clock.slept) == (1, [])
    assert not hasattr(flaky.error, "__notes__"), "one attempt is nothing to tell of"


def is_busy(outcome: Response | Exception) -> bool:
    return isinstance(outcome, OSError) and outcome.errno == 11


def test_predicates_see_the_exception_and_dont_retry_on_takes_precedence() -> None:
    clock = ManualClock()
    flaky = Flaky(9, OSError(11, "again"))
    with pytest.raises(OSError, match="again"):
        backoff(is_busy, policy=RetryPolicy(max_retries=1), sleep=clock.sleep)(flaky)()
    assert flaky.calls == 2
    assert "attempt 2 of at most 2" in flaky.error.__notes__[0]
    with pytest.raises(OSError, match="again"):
        backoff(OSError, policy=RetryPolicy(dont_retry_on=OSError), sleep=clock.sleep)(flaky)()
    assert flaky.calls == 3
    with pytest.raises(OSError, match="again"):
        backoff(OSError, policy=RetryPolicy(dont_retry_on=TimeoutError), sleep=clock.sleep)(flaky)()
    assert flaky.calls == 7


@pytest.mark.parametrize("wrong", [503, ConnectionError("an instance"), [ConnectionError]], ids=repr)
def test_a_wrong_condition_is_refused_when_a_function_is_decorated(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="retry_on"):
        backoff(wrong)


def test_a_wrong_policy_is_refused_when_a_function_is_decorated() -> None:
    with pytest.raises(ConfigurationError, match="policy"):
        backoff(policy=3)  # type: ignore[arg-type]


def test_a_decorator_without_parentheses_is_an_error_once_the_function_is_called() -> None:
    @backoff  # type: ignore[arg-type]
    def double(number: int) -> int:
        return 2 * number

    with pytest.raises(TypeError, match=r"@backoff\(\)"):
        double(3)  # type: ignore[type-var]


def test_generators_are_refused_as_they_raise_only_once_they_are_iterated() -> None:
    def generate() -> Iterator[int]:
        yield 1

    async def generate_async() -> AsyncIterator[int]:
        yield 1

    for function in (generate, generate_async, functools.partial(generate)):
        with pytest.raises(TypeError, match=r"not generator functions such as .*generate"):
            backoff(OSError)(function)


def test_no_exception_types_are_no_retries() -> None:
    for decorator in (backoff(()), backoff(policy=RetryPolicy(retry_on=()))):
        flaky = Flaky(9, OSError(11, "again"))
        with pytest.raises(OSError, match="again"):
            decorator(flaky)()
        assert flaky.calls == 1


def test_jitter_comes_from_the_given_source() -> None:
    clock, flaky = ManualClock(), Flaky(1, ConnectionError())
    backoff(sleep=clock.sleep, uniform=lambda low, high: low)(flaky)()
    assert clock.slept == [0.75]


def test_coroutines_are_awaited_again() -> None:
    clock, flaky = ManualClock(), Flaky(2, TimeoutError("slow"))

    @backoff(TimeoutError, policy=RetryPolicy(backoff_jitter=0.0), sleep=clock.sleep_async)
    async def call() -> str:
        """Ask."""
        return flaky()

    assert asyncio.run(call()) == "fine"
    assert clock.slept == [1.0, 2.0]
    assert call.__doc__ == "Ask."
