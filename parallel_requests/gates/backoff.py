"""What to retry, and after how long: `RetryPolicy` and the `@backoff` decorator."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from parallel_requests.exceptions import (
    BackendError,
    BodyTooLarge,
    ConnectError,
    DeadlineExceededError,
    DNSError,
    HTTPStatusError,
    ParallelRequestsError,
    ProtocolError,
    ProxyError,
    RedirectError,
    ResourceExhausted,
    RunStoppedError,
    TLSError,
)
from parallel_requests.models import Response
from parallel_requests.values import AT_LEAST_0, BOOLEAN, Check, is_seconds

F = TypeVar("F", bound=Callable[..., Any])
Condition: TypeAlias = (
    type[BaseException] | tuple[type[BaseException], ...] | Callable[[Response | Exception], bool]
)

_NEVER_RETRIED = (TLSError, ProtocolError, BodyTooLarge, RedirectError)
_NEVER_RECEIVED = (ConnectError, ResourceExhausted, ProxyError)


def meets(condition: Condition, outcome: Response | Exception) -> bool:
    """Whether an outcome matches a condition: exception types, or a predicate.

    A response with a status of 400 or above counts as an HTTPStatusError.
    """
    if not isinstance(condition, tuple | type):
        return bool(condition(outcome))
    if isinstance(outcome, Response):
        return not outcome.ok and issubclass(HTTPStatusError, condition)
    return isinstance(outcome, condition)


def _is_condition_or_none(value: object) -> bool:
    """Whether a value is a Condition, or None; what a coroutine function returns would always be true."""
    if isinstance(value, tuple | type):
        kinds = value if isinstance(value, tuple) else (value,)
        return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)
    return value is None or (callable(value) and not inspect.iscoroutinefunction(value))


def _are_all(kind: type, values: object) -> bool:
    if not isinstance(values, Collection) or isinstance(values, str | bytes):
        return False
    return all(isinstance(value, kind) for value in values)


_SECONDS_OR_0 = Check(lambda value: is_seconds(value, or_zero=True), "seconds of at least 0")
CONDITION = Check(_is_condition_or_none, "an exception type, a tuple of them, a predicate or None")
POLICY = Check(lambda value: value is None or isinstance(value, RetryPolicy), "a RetryPolicy or None")
_CHECKS = {
    "max_retries": AT_LEAST_0,
    "backoff_factor": _SECONDS_OR_0,
    "backoff_max": _SECONDS_OR_0,
    "backoff_jitter": Check(
        lambda value: is_seconds(value, or_zero=True) and value <= 1, "a number between 0 and 1"
    ),
    "status_forcelist": Check(lambda value: _are_all(int, value), "a collection of int"),
    "allowed_methods": Check(lambda value: _are_all(str, value), "a collection of str"),
    "respect_retry_after_header": BOOLEAN,
    "retry_after_max": _SECONDS_OR_0,
    "retry_on": CONDITION,
    "dont_retry_on": CONDITION,
}
"""What the fields of a RetryPolicy must be."""


def _is_of_the_wire(error: Exception) -> bool:
    return isinstance(error, BackendError) or not isinstance(error, ParallelRequestsError)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What is retried, and after how long; an immutable value.

    The fields have the names of those of ``urllib3.util.Retry`` that correspond to them, but for
    ``max_retries``, which is ``total`` there; and ``backoff_jitter``, in seconds there, is a fraction here.

    Attributes:
        max_retries: Attempts after the first one.
        backoff_factor: Seconds before the first retry; each further wait is twice as long.
        backoff_max: Maximum seconds of a wait, before jitter.
        backoff_jitter: Fraction of the wait, 0 to 1, by which it is randomly shortened or lengthened.
        status_forcelist: The statuses that are retried.
        allowed_methods: The methods that may be sent twice (RFC 9110, 9.2.2). Others are retried only
            if the request cannot have been received.
        respect_retry_after_header: Wait as long as the server asks, in ``Retry-After`` or in the headers
            of a rate limit.
        retry_after_max: Maximum seconds that a server may ask for; an item that would have to wait
            longer for its retry fails at once.
        retry_on: What else to retry: exception types, or a predicate that is given the Response or the
            error. For types, a response with a status of 400 or above is an HTTPStatusError.
        dont_retry_on: What never to retry; takes precedence over everything else.

    Raises:
        ConfigurationError: A field has the wrong type or is out of range.
    """

    max_retries: int = 3
    backoff_factor: float = 1.0
    backoff_max: float = 60.0
    backoff_jitter: float = 0.25
    status_forcelist: Collection[int] = frozenset({429, 500, 502, 503, 504})
    allowed_methods: Collection[str] = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
    respect_retry_after_header: bool = True
    retry_after_max: float = 120.0
    retry_on: Condition | None = None
    dont_retry_on: Condition | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            check.enforce(name, getattr(self, name))
        methods = frozenset(method.upper() for method in self.allowed_methods)
        object.__setattr__(self, "status_forcelist", frozenset(self.status_forcelist))
        object.__setattr__(self, "allowed_methods", methods)

    def delay(self, retry: int, uniform: Callable[[float, float], float] = random.uniform) -> float:
        """Return the seconds to wait before the n-th retry, counted from 1.

        The wait is ``backoff_factor * 2 ** (retry - 1)``, capped, then varied by the jitter.
        """
        exponent = min(retry - 1, 64)
        wait = min(self.backoff_max, self.backoff_factor * 2.0**exponent)
        return wait * uniform(1.0 - self.backoff_jitter, 1.0 + self.backoff_jitter)

    def wants_retry(self, method: str, outcome: Response | Exception, retries: int) -> bool:
        """Whether to retry after an outcome, given the number of retries so far."""
        if retries >= self.max_retries or isinstance(outcome, DeadlineExceededError | RunStoppedError):
            return False
        if self.dont_retry_on is not None and meets(self.dont_retry_on, outcome):
            return False
        if self.retry_on is not None and meets(self.retry_on, outcome):
            return True
        if isinstance(outcome, Response):
            return outcome.status_code in self.status_forcelist and method in self.allowed_methods
        is_hopeless = isinstance(outcome, _NEVER_RETRIED) or (isinstance(outcome, DNSError) and retries > 0)
        if is_hopeless or not _is_of_the_wire(outcome):
            return False
        return isinstance(outcome, _NEVER_RECEIVED) or method in self.allowed_methods


def backoff(
    retry_on: Condition | None = None,
    *,
    policy: RetryPolicy | None = None,
    sleep: Callable[[float], Any] | None = None,
    uniform: Callable[[float, float], float] = random.uniform,
) -> Callable[[F], F]:
    """Decorate any function, sync or async, so that it is called again when it raises.

    ::

        @backoff(ConnectionError, policy=RetryPolicy(max_retries=5, backoff_factor=0.1))
        def read_sensor() -> float: ...

    Args:
        retry_on: Exception types to retry on, or a predicate that is given the exception; default: those
            of the policy or, if it has none, every Exception.
        policy: Waits, number of retries and ``dont_retry_on``; default ``RetryPolicy()``: 3 retries
            after 1, 2, 4 s.
        sleep: How to wait; default ``time.sleep``, or ``asyncio.sleep`` for coroutines.
        uniform: Source of the jitter.

    Raises:
        ConfigurationError: ``retry_on`` is neither exception types nor a predicate, or ``policy`` no policy.
        TypeError: It was written without parentheses, so that the function was taken for a predicate; or it
            decorates a generator function, which raises only when it is iterated.
        Exception: The function's own last exception, with a note of how many attempts were made.
    """
    POLICY.enforce("policy", policy)
    waits = policy or RetryPolicy()
    if retry_on is not None:
        waits = dataclasses.replace(waits, retry_on=retry_on)
    condition = Exception if waits.retry_on is None else waits.retry_on

    def next_wait(error: Exception, attempts: int) -> float:
        refused = waits.dont_retry_on is not None and meets(waits.dont_retry_on, error)
        if refused or attempts > waits.max_retries or not meets(condition, error):
            if attempts > 1:
                error.add_note(f"raised by attempt {attempts} of at most {waits.max_retries + 1}")
            raise error
        return waits.delay(attempts, uniform)

    def decorate(function: F) -> F:
        if not callable(function):
            raise TypeError(
                f"backoff decorates functions, not {function!r}; its decorator needs parentheses: @backoff()."
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                "backoff decorates functions that raise when they are called, not generator functions "
                f"such as {function!r}."
            )
        retried = _retried_async if inspect.iscoroutinefunction(function) else _retried
        return retried(function, next_wait, sleep)  # type: ignore[return-value]

    return decorate


_NextWait: TypeAlias = Callable[[Exception, int], float]
"""Returns the seconds to wait after so many failed attempts, or raises the exception of the last one."""
_Sleep: TypeAlias = Callable[[float], Any]


def _retried(function: Callable[..., Any], next_wait: _NextWait, sleep: _Sleep | None) -> Callable[..., Any]:
    @functools.wraps(function)
    def retried(*args: Any, **kwargs: Any) -> Any:
        attempts = 0
        while True:
            try:
                return function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - next_wait raises what it does not retry
                attempts += 1
                wait = next_wait(error, attempts)
            (sleep or time.sleep)(wait)

    return retried


def _retried_async(
    function: Callable[..., Any], next_wait: _NextWait, sleep: _Sleep | None
) -> Callable[..., Any]:
    @functools.wraps(function)
    async def retried(*args: Any, **kwargs: Any) -> Any:
        import asyncio

        attempts = 0
        while True:
            try:
                return await function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - next_wait raises what it does not retry
                attempts += 1
                wait = next_wait(error, attempts)
            await (sleep or asyncio.sleep)(wait)

    return retried
