"""A batch on its way through an engine, and one exchange of it."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from parallel_requests.exceptions import ParallelRequestsError
from parallel_requests.exchange import Exchange, Policy, Reply, Send, exchange
from parallel_requests.models import Request, Result
from parallel_requests.redaction import text_of
from parallel_requests.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.gates.pacing import Wait
    from parallel_requests.parsing.in_place import Parse

logger = logging.getLogger("parallel_requests")

_LONGEST_SLEEP = 0.25
"""Seconds. A Ctrl-C that comes just before its thread falls asleep is not heard until that wakes."""


class Run:
    """One batch on its way through an engine.

    Its consumer feeds it, collects Results from it and sleeps in between; the engine pulls Requests
    from it and delivers Results to it. Requests of a list are pulled straight from the plan; those
    of an input that may block or never end are fed by the consumer, in the consumer's own thread.
    """

    def __init__(
        self,
        policy: Policy,
        parse: Parse,
        *,
        source: Iterator[Request] | None = None,
        window: int,
        holds_back: bool = False,
        observe: Callable[[Result[Any]], None] | None = None,
    ) -> None:
        """Set up a batch.

        Args:
            policy: The terms it is carried out on.
            parse: Decodes answers.
            source: The planned Requests; None where the consumer feeds them.
            window: Requests open at most.
            holds_back: A Request stays open until its Result is released, not only until it is
                done: a slow consumer then slows the engine down.
            observe: Called with each Result before it is delivered, one at a time; must not raise.

        Attributes:
            on_room: Called, from whatever thread, when there is room to pull again after there was none:
                where parsing lags, the engine has gone to sleep over it.
        """
        self.policy = policy
        self._parse = parse
        self._source = source
        self._window = window
        self._holds_back = holds_back
        self._fed: deque[Request] = deque()
        self._results: list[Result[Any]] = []
        # Guards what more than one thread writes below. Entered again where the garbage collector, in the
        # midst of it, closes a coroutine of this batch whose loop is gone.
        self._lock = threading.RLock()
        # Free where there is news. Unlike a Condition, it is not left locked by a Ctrl-C at the wrong moment.
        self._news = threading.Lock()
        self._turns = None if observe is None else Turns(partial(self._hand_over_after, observe))
        self._pulled = self._finished = self._released = 0
        self._input_ended = source is not None
        self._is_starved = True
        self._exhausted = False
        self._is_full = False
        self._listener: Callable[[], None] | None = None
        self.on_room: Callable[[], None] | None = None
        self.input_error: BaseException | None = None

    # The consumer's side.

    def feed(self, request: Request) -> bool:
        """Hand in a Request; True where the engine had found nothing, and has to be woken."""
        with self._lock:
            self._fed.append(request)
            was_starved, self._is_starved = self._is_starved, False
            return was_starved

    def end_input(self, error: BaseException | None = None) -> None:
        """Say that nothing more will be fed, and why, if the input raised; the engine has to be woken after.

        It is the engine that finds the input exhausted: it may be about to count what it has pulled.
        """
        with self._lock:
            self.input_error = error
            self._input_ended = True

    def room(self) -> int:
        """Return how many Requests may be fed now."""
        with self._lock:
            return 0 if self._exhausted else max(0, self._window - self._open() - len(self._fed))

    def results(self) -> list[Result[Any]]:
        """Return the Results that are there, in the order they came; they stay until they are dropped."""
        with self._lock:
            return self._results.copy()

    def drop(self, count: int) -> None:
        """Let go of so many Results, the oldest first: the consumer holds them by now."""
        with self._lock:
            del self._results[:count]

    def release(self, count: int) -> None:
        """Say that Results have been used; where the run holds back, this makes room."""
        with self._lock:
            self._released += count

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Block until a condition holds; it is looked at whenever something has changed.

        One thread at a time may do so.
        """
        end = math.inf if timeout is None else monotonic() + timeout
        while not until():
            left = end - monotonic()
            if left <= 0:
                return False
            self._news.acquire(timeout=min(left, _LONGEST_SLEEP))
        return True

    def listen(self, listener: Callable[[], None]) -> None:
        """Call back, from whatever thread, when something has changed."""
        with self._lock:
            self._listener = listener

    def has_results(self) -> bool:
        """Whether there are Results."""
        return bool(self._results)

    def has_half_its_room(self) -> bool:
        """Whether it is time to feed again."""
        return not self._exhausted and self._open() + len(self._fed) <= self._window // 2

    def is_done(self) -> bool:
        """Whether every Request that was pulled has its Result."""
        return self._exhausted and self._finished == self._pulled

    def unstarted(self) -> Iterator[Request]:
        """Return what the engine never pulled; only once it has let go of the run."""
        yield from self._fed
        if self._source is not None:
            yield from self._source

    # The engine's side.

    def wants_more(self) -> bool:
        """Whether a Request may be pulled."""
        if self._exhausted:
            return False
        if self._open() >= self._window:
            self._is_full = True  # noted first, then looked at again: a parser may deliver in between
            if self._open() >= self._window:
                return False
        if self._source is not None:
            return True
        with self._lock:
            self._is_starved = not (self._fed or self._input_ended)
            return not self._is_starved

    def pull(self) -> Request | None:
        """Return the next Request, or None where there is none (now)."""
        if not self.wants_more():
            return None
        self._pulled += 1  # before it is taken, or there would seem to be room for one more
        try:
            request = next(self._source, None) if self._source is not None else self._next_fed()
        except Exception as error:  # noqa: BLE001 - raised again by the consumer, once the rest is done
            self.input_error = error
            request = None
        if request is None:
            self._pulled -= 1
            self.stop_pulling()
        return request

    def _next_fed(self) -> Request | None:
        return self._fed.popleft() if self._fed else None

    def stop_pulling(self) -> None:
        """Let what is left of the input be."""
        with self._lock:
            self._exhausted = True
            self._notify()

    def is_exhausted(self) -> bool:
        """Whether nothing more will be pulled."""
        return self._exhausted

    def complete(self, result: Result[Any]) -> None:
        """Take an exchange's Result: an answer goes on to be parsed, a failure is delivered."""
        if result.error is None:
            self._parse(result, self.deliver)
        else:
            self.deliver(result)

    def deliver(self, result: Result[Any]) -> None:
        """Hand a finished Result to the consumer, once it has been observed."""
        if self._turns is None:
            self._hand_over(result)
        else:
            self._turns.bring(result)

    def _hand_over_after(self, observe: Callable[[Result[Any]], None], result: Result[Any]) -> None:
        observe(result)
        self._hand_over(result)

    def _hand_over(self, result: Result[Any]) -> None:
        with self._lock:
            self._results.append(result)
            self._finished += 1
            if self._holds_back or self._source is None or self.is_done():
                self._notify()
            has_room_again = self._is_full and self._open() <= self._window // 2
            if has_room_again:
                self._is_full = False
        if has_room_again and self.on_room is not None:
            self.on_room()

    def _open(self) -> int:
        return self._pulled - (self._released if self._holds_back else self._finished)

    def _notify(self) -> None:
        if self._news.locked():
            self._news.release()
        if self._listener is not None:
            self._listener()


class Task:
    """One exchange on its way, and the run it belongs to."""

    __slots__ = ("_exchange", "_request", "lane", "run")

    def __init__(self, run: Run, request: Request) -> None:
        self.run = run
        self._request = request
        self._exchange: Exchange = exchange(request, run.policy)
        self.lane: str | None = None

    def advance(self, reply: Reply | None) -> Wait | Send | Result[Any]:
        """Give the exchange what came of its last effect, and return its next one or its Result.

        A bug of ours costs this one item, not the run.
        """
        try:
            return self._exchange.send(reply)
        except StopIteration as end:
            result: Result[Any] = end.value
            return result
        except BaseException as error:
            logger.exception("an exchange failed; this is a bug in parallel_requests")
            failure = ParallelRequestsError(
                f"{self._request!r} failed by a bug in parallel_requests: "
                f"{type(error).__name__}: {text_of(error)}"
            )
            return Result(self._request, error=failure)
