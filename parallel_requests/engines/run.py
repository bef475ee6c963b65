"""A batch under way in an engine, and one of its exchanges."""

from __future__ import annotations

import contextlib
import contextvars
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from parallel_requests.engines.notifier import Notifier
from parallel_requests.exceptions import ParallelRequestsError
from parallel_requests.exchange import Exchange, Reply, Send, exchange
from parallel_requests.locks import Lock
from parallel_requests.models import Request, Result
from parallel_requests.redaction import text_of
from parallel_requests.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.gates.pacing import Wait
    from parallel_requests.parsing.in_place import Parse
    from parallel_requests.policy import Policy

logger = logging.getLogger("parallel_requests")


class Run:
    """One batch under way in an engine.

    Its consumer feeds it, collects Results from it, and waits in between until something has changed; the
    engine pulls Requests from it and delivers Results to it. If the input is a list, the engine pulls
    straight from the planner; an input that may block or never end is fed by the consumer, in its own thread.

    Attributes:
        policy: The rules by which it is carried out.
        context: The context variables of its caller; entered by copies only, as many threads do so.
        notifier: Tells the consumer when something has changed.
        error: Why it has to raise at its end: what the input raised, or how the engine failed; or None.
    """

    def __init__(
        self,
        policy: Policy,
        parse: Parse,
        *,
        wake: Callable[[], object],
        source: Iterator[Request] | None = None,
        window: int,
        holds_back: bool = False,
        observe: Callable[[Result[Any]], None] | None = None,
    ) -> None:
        """Set up a batch.

        Args:
            policy: The rules by which it is carried out.
            parse: Decodes responses.
            wake: Wakes the engine, which sleeps while there is nothing to pull, or no room for it. Called
                on any thread.
            source: The planned Requests; None if the consumer feeds them.
            window: How many Requests may be open at once.
            holds_back: Keep a Request open until its Result is released, not just until it is done, so
                that a slow consumer slows the engine down.
            observe: Called with each Result before it is delivered, one at a time; must not raise.
        """
        self.policy = policy
        self.context = contextvars.copy_context()
        self._parse = parse
        self._wake = wake
        self._source = source
        self._window = window
        self._holds_back = holds_back
        self._fed: deque[Request] = deque()
        self._results: list[Result[Any]] = []
        self._lock = Lock()  # guards what more than one thread writes below
        self._turns = None if observe is None else Turns(partial(self._hand_over_after, observe))
        self._pulled = self._finished = self._released = 0
        self._input_ended = source is not None
        self._is_starved = True
        self._exhausted = False
        self._is_full = False
        self.notifier = Notifier()
        self.error: BaseException | None = None

    # The consumer's side.

    def feed(self, request: Request) -> None:
        """Add a Request, and wake the engine if it had run out of them."""
        with self._lock:
            self._fed.append(request)
            was_starved, self._is_starved = self._is_starved, False
        if was_starved:
            self._wake()

    def end_input(self, error: BaseException | None = None) -> None:
        """Note that nothing more will be fed, and the error if the input raised.

        Only the engine marks the run as exhausted, as it may be about to count a Request it has pulled.
        """
        with self._lock:
            if self.error is None:
                self.error = error
            self._input_ended = True
        self._wake()

    def has_input_ended(self) -> bool:
        """Whether nothing more will be fed."""
        return self._input_ended

    def room(self) -> int:
        """Return how many Requests may be fed now."""
        with self._lock:
            return 0 if self._exhausted else max(0, self._window - self._open() - len(self._fed))

    def results(self) -> list[Result[Any]]:
        """Return the Results so far, in the order in which they came; they stay until they are dropped."""
        with self._lock:
            return self._results.copy()

    def drop(self, count: int) -> None:
        """Drop the oldest Results, which the consumer has taken over."""
        with self._lock:
            del self._results[:count]

    def release(self, count: int) -> None:
        """Note that the consumer is done with some Results; if the run holds back, this makes room."""
        with self._lock:
            self._released += count

    def has_results(self) -> bool:
        """Whether there are Results."""
        return bool(self._results)

    def has_half_its_room(self) -> bool:
        """Whether at most half of the window is in use, so that feeding again is worth it."""
        return not self._exhausted and self._open() + len(self._fed) <= self._window // 2

    def is_done(self) -> bool:
        """Whether every Request that was pulled has its Result, or never will."""
        return self._exhausted and self._finished >= self._pulled

    def unstarted(self) -> Iterator[Request]:
        """Yield what the engine never pulled; call only when the run is done."""
        yield from self._fed
        if self._source is not None:
            yield from self._source

    # The engine's side.

    def wants_more(self) -> bool:
        """Whether a Request may be pulled."""
        if self._exhausted:
            return False
        if self._open() >= self._window:
            self._is_full = True  # set first, then checked again: a parser may deliver in between
            if self._open() >= self._window:
                return False
        if self._source is not None:
            return True
        with self._lock:
            self._is_starved = not (self._fed or self._input_ended)
            return not self._is_starved

    def pull(self) -> Request | None:
        """Return the next Request, or None if there is none, or none yet."""
        if not self.wants_more():
            return None
        self._pulled += 1  # first, or another thread would see room for one more
        try:
            request = next(self._source, None) if self._source is not None else self._next_fed()
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer, once the rest is done
            self.error = error
            request = None
        if request is None:
            self._pulled -= 1
            self.stop_pulling()
        return request

    def _next_fed(self) -> Request | None:
        return self._fed.popleft() if self._fed else None

    def stop_pulling(self) -> None:
        """Mark the run as exhausted: what is left of the input is not pulled."""
        with self._lock:
            self._exhausted = True
            self.notifier.notify()

    def break_off(self, error: ParallelRequestsError) -> None:
        """End at once, without Results of what is under way: the engine cannot go on."""
        self.policy.end(error)
        with self._lock:
            self.error = error
            self._finished = self._pulled
        self.stop_pulling()

    def is_exhausted(self) -> bool:
        """Whether nothing more will be pulled."""
        return self._exhausted

    def complete(self, result: Result[Any]) -> None:
        """Accept the Result of an exchange: a response is parsed first, a failure delivered at once."""
        deliver = self._hand_over if self._turns is None else self._turns.bring
        if result.error is None:
            self._parse(result, deliver)
        else:
            deliver(result)

    def _hand_over_after(self, observe: Callable[[Result[Any]], None], result: Result[Any]) -> None:
        observe(result)
        self._hand_over(result)

    def _hand_over(self, result: Result[Any]) -> None:
        with self._lock:
            self._results.append(result)
            self._finished += 1
            if self._holds_back or self._source is None or self.is_done():
                self.notifier.notify()
            has_room_again = self._is_full and self._open() <= self._window // 2
            if has_room_again:
                self._is_full = False
        if has_room_again:  # the engine may have gone to sleep while parsing lagged behind
            self._wake()

    def _open(self) -> int:
        return self._pulled - (self._released if self._holds_back else self._finished)


class Task:
    """One exchange under way, the run it belongs to, and the context that it and its attempts see."""

    __slots__ = ("_exchange", "_request", "context", "gate", "number", "run")

    def __init__(self, run: Run, request: Request, number: int) -> None:
        self.run = run
        self.number = number  # the order in which the tasks of all runs came
        self.context = run.context.copy()
        self._request = request
        self._exchange: Exchange = exchange(request, run.policy)
        self.gate: str | None = None  # the closed gate it is queued at

    def advance(self, reply: Reply | None) -> Wait | Send | Result[Any]:
        """Send the exchange the outcome of its last effect, and return its next effect or its Result.

        A bug in the library fails this one item, not the run.
        """
        try:
            return self.context.run(self._exchange.send, reply)
        except StopIteration as end:
            result: Result[Any] = end.value
            return result
        except BaseException as error:
            with contextlib.suppress(Exception):  # it may have been the log that failed
                logger.exception("an exchange failed; this is a bug in parallel_requests")
            failure = ParallelRequestsError(
                f"{self._request!r} failed by a bug in parallel_requests: "
                f"{type(error).__name__}: {text_of(error)}"
            )
            return Result(self._request, error=failure)
