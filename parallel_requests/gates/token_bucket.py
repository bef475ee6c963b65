"""A thread-safe token bucket."""

from __future__ import annotations

import contextlib
import functools
import heapq
import inspect
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from parallel_requests.locks import Lock
from parallel_requests.values import AT_LEAST_1, Check, is_rate

if TYPE_CHECKING:
    from types import TracebackType

F = TypeVar("F", bound=Callable[..., Any])

_RATE = Check(is_rate, "a number of tokens per second above 0")
_ROUNDING = 1e-9
_AT_REST = 1.0
"""Seconds after which a full bucket counts as new, as its users' connections may have gone cold."""


class TokenBucket:
    """Lets ``rate`` calls per second through, and up to ``burst`` at once after a pause.

    In any ``t`` seconds it hands out at most ``rate * t + burst`` tokens: the token bucket of RFC 2215,
    3.6. It serves any number of threads and coroutines, in the order they ask, and wakes each of them once.
    The place of one that stops waiting (cancelled, or out of time) goes to the next that asks::

        bucket = TokenBucket(rate=10, burst=5)

        bucket.acquire()                 # waits for a token

        with bucket:                     # the same, as a context manager
            call()

        @bucket                          # the same, before every call; coroutines too
        def call(): ...
    """

    def __init__(
        self,
        rate: float,
        burst: int = 5,
        *,
        settle: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Make a full bucket.

        Args:
            rate: Tokens per second, above 0.
            burst: Tokens the full bucket holds, at least 1.
            settle: Seconds by which the refill is delayed at the start, and after the bucket was full for a
                second. The burst that follows goes over cold connections: if it arrived late, together
                with the calls of tokens refilled meanwhile, the server would see more than the burst.
            clock: Monotonic seconds.
            sleep: How `acquire` waits.

        Raises:
            ConfigurationError: ``rate`` or ``burst`` is out of range.
        """
        _RATE.enforce("rate", rate)
        AT_LEAST_1.enforce("burst", burst)
        self.rate: float = float(rate)
        self.burst = burst
        self._settle = settle
        self._clock = clock
        self._sleep = sleep
        self._lock = Lock()  # guards all below
        self._tokens = float(burst)
        self._full_for = _AT_REST  # seconds for which it was full before the latest refill
        self._filled_at = clock()  # the latest refill; in the future while the next one is delayed
        self._given_up: list[float] = []  # a heap: when the tokens come for which nobody waits any more

    def try_acquire(self) -> float:
        """Take a token if one is available.

        Returns:
            0.0 if a token was taken, else the seconds until one may be available.
        """
        with self._lock:
            delay = self._delay()
            if delay == 0.0:
                self._take()
            return delay

    def peek(self) -> float:
        """Return the seconds until a token may be available, without taking one."""
        with self._lock:
            return self._delay()

    def reserve(self) -> float:
        """Take the next token, now or in the future.

        Returns:
            The seconds to wait before acting on it; 0.0 for at once.
        """
        with self._lock:
            delay = self._delay()
            while delay > 0.0 and self._given_up:
                left = heapq.heappop(self._given_up) - self._clock()
                if left >= 0.0:
                    return left
            self._take()
            return delay

    @contextlib.contextmanager
    def _reserved(self) -> Iterator[float]:
        """Take the next token, and give the seconds to wait for it; if the wait is broken off, give it up."""
        delay = self.reserve()
        due = self._clock() + delay
        try:
            yield delay
        except BaseException:
            with self._lock:
                heapq.heappush(self._given_up, due)
            raise

    def is_at_rest(self) -> bool:
        """Whether it is in the state of a new bucket."""
        with self._lock:
            self._refill()
            return self._tokens >= self.burst and self._full_for >= _AT_REST

    def acquire(self) -> None:
        """Wait for a token and take it; first come, first served."""
        with self._reserved() as delay:
            if delay > 0.0:
                self._sleep(delay)

    async def acquire_async(self) -> None:
        """Wait for a token without blocking the event loop, and take it."""
        import asyncio

        with self._reserved() as delay:
            if delay > 0.0:
                await asyncio.sleep(delay)

    def _delay(self) -> float:
        """Refill, and return the seconds until there is a token."""
        self._refill()
        if self._tokens >= 1.0 - _ROUNDING:
            return 0.0
        return max(0.0, self._filled_at - self._clock()) + (1.0 - self._tokens) / self.rate

    def _refill(self) -> None:
        now = self._clock()
        if now > self._filled_at:
            tokens = self._tokens + (now - self._filled_at) * self.rate
            if tokens > self.burst:
                self._full_for += (tokens - self.burst) / self.rate
            self._tokens = min(float(self.burst), tokens)
            self._filled_at = now

    def _take(self) -> None:
        if self._full_for >= _AT_REST:
            self._filled_at += self._settle
        self._full_for = 0.0
        self._tokens -= 1.0

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back: a token is spent when it is taken."""

    async def __aenter__(self) -> Self:
        await self.acquire_async()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to give back: a token is spent when it is taken."""

    def __call__(self, function: F) -> F:
        """Decorate a function or a coroutine function: each call first waits for a token.

        Raises:
            TypeError: It is neither.
        """
        if not callable(function):
            raise TypeError(f"a TokenBucket decorates functions, not {function!r}.")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def limited_async(*args: Any, **kwargs: Any) -> Any:
                await self.acquire_async()
                return await function(*args, **kwargs)

            return limited_async  # type: ignore[return-value]

        @functools.wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.acquire()
            return function(*args, **kwargs)

        return limited  # type: ignore[return-value]

    def __reduce__(self) -> NoReturn:
        """Refuse: a copy would let calls through in addition, at twice the rate."""
        raise TypeError("A TokenBucket cannot be copied or pickled: share it, or create another.")

    def __repr__(self) -> str:
        return f"TokenBucket(rate={self.rate:g}, burst={self.burst})"
