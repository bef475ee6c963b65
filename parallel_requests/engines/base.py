"""What all engines share: the `Run` of a batch, and the `Scheduler` that says what is next."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from weakref import ReferenceType, WeakSet, ref

from parallel_requests.exceptions import (
    BackendError,
    ConfigurationError,
    ParallelRequestsError,
    RunStoppedError,
)
from parallel_requests.exchange import Exchange, Policy, Reply, Send, exchange
from parallel_requests.gates.pacing import ALL_HOSTS, Wait
from parallel_requests.models import Request, Result
from parallel_requests.redaction import text_of

if TYPE_CHECKING:
    from parallel_requests.backends.base import Backend

_LONGEST_WAIT = 1_000_000.0
"""Seconds; what waits longer asks again then. Beyond some 292 years, clocks and locks overflow."""

logger = logging.getLogger("parallel_requests")

Deliver: TypeAlias = Callable[[Result[Any]], None]
Parse: TypeAlias = Callable[[Result[Any], Deliver], None]
"""Decodes a Result's answer and hands it on, at once or later, from this thread or another."""


class Run:
    """One batch on its way through an engine.

    Its consumer feeds it, takes Results from it and sleeps in between; the engine pulls Requests
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
        self._observe = observe
        self._fed: deque[Request] = deque()
        self._results: deque[Result[Any]] = deque()
        self._lock = threading.Lock()  # guards what more than one thread writes below
        # Free where there is news. Unlike a Condition, it is not left locked by a Ctrl-C at the wrong moment.
        self._news = threading.Lock()
        self._unobserved: deque[Result[Any]] = deque()
        self._is_observing = False
        self._pulled = self._finished = self._released = 0
        self._is_fed_up = source is not None
        self._is_hungry = True
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
            was_hungry, self._is_hungry = self._is_hungry, False
            return was_hungry

    def end_input(self, error: BaseException | None = None) -> None:
        """Say that nothing more will be fed, and why, if the input raised; the engine has to be woken after.

        It is the engine that finds the input exhausted: it may be about to count what it has pulled.
        """
        with self._lock:
            self.input_error = error
            self._is_fed_up = True

    def room(self) -> int:
        """Return how many Requests may be fed now."""
        with self._lock:
            return 0 if self._exhausted else max(0, self._window - self._open() - len(self._fed))

    def take(self) -> list[Result[Any]]:
        """Return the Results that are there, in the order they came."""
        with self._lock:
            results = list(self._results)
            self._results.clear()
            return results

    def release(self, count: int) -> None:
        """Say that Results have been used; where the run holds back, this makes room."""
        with self._lock:
            self._released += count

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Block until a condition holds; it is looked at whenever something has changed.

        One thread at a time may do so.
        """
        end = None if timeout is None else monotonic() + timeout
        while not until():
            left = -1.0 if end is None else end - monotonic()
            if end is not None and left <= 0:
                return False
            self._news.acquire(timeout=left)
        return True

    def listen(self, listener: Callable[[], None]) -> None:
        """Call back, from whatever thread, when something has changed."""
        with self._lock:
            self._listener = listener

    def has_results(self) -> bool:
        """Whether there are Results to take."""
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
            self._is_hungry = not (self._fed or self._is_fed_up)
            return not self._is_hungry

    def pull(self) -> Request | None:
        """Return the next Request, or None where there is none (now)."""
        if not self.wants_more():
            return None
        try:
            request = next(self._source, None) if self._source is not None else self._next_fed()
        except Exception as error:  # noqa: BLE001 - raised again by the consumer, once the rest is done
            self.input_error = error
            request = None
        if request is None:
            self.stop_pulling()
        else:
            self._pulled += 1
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
        """Hand a finished Result to the consumer.

        Where another thread is observing, it sees to this one too: that may take long, or end the session
        and wait for this very thread.
        """
        if self._observe is None:
            self._hand_over(result)
            return
        with self._lock:
            self._unobserved.append(result)
            if self._is_observing:
                return
            self._is_observing = True
        while (due := self._next_unobserved()) is not None:
            self._observe(due)
            self._hand_over(due)

    def _next_unobserved(self) -> Result[Any] | None:
        with self._lock:
            self._is_observing = bool(self._unobserved)
            return self._unobserved.popleft() if self._unobserved else None

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


def translated(backend: Backend, error: BaseException, request: Request) -> ParallelRequestsError:
    """Return what a backend says an error means; a bug in that costs this one item, not the run."""
    try:
        return backend.translate(error, request)
    except Exception as bug:
        logger.exception("the backend %r failed to translate an error", backend.name)
        return BackendError(
            f"{request!r} failed, and so did its backend's translation: {type(bug).__name__}.",
            backend.name,
            request.url,
        )


class Home:
    """Where an engine lives: the process it was started in, and the threads it works on.

    A batch that is begun elsewhere could never end: threads do not survive a fork, and one that
    waits for the engine must not be one the engine needs.
    """

    def __init__(self) -> None:
        self._process: int | None = None
        self._threads: set[int] = set()

    def check_guest(self) -> None:
        """Do nothing where the caller may wait for the engine.

        Raises:
            RunStoppedError: The session was used before a fork, and this is the child.
            ConfigurationError: This is one of the engine's own threads.
        """
        if self._process is None:
            self._process = os.getpid()
        elif self.is_abroad():
            raise RunStoppedError(
                "The session was used by the parent of this process, and cannot be used here: open one "
                "in each process."
            )
        if self.is_worker():
            raise ConfigurationError(
                "A hook or parse_func cannot wait for a call on the session that runs it: use another one."
            )

    def move_in(self) -> None:
        """Note that the calling thread works for the engine."""
        self._threads.add(threading.get_ident())

    def move_out(self) -> None:
        """Note that it no longer does."""
        self._threads.discard(threading.get_ident())

    def is_worker(self) -> bool:
        """Whether the calling thread works for the engine."""
        return threading.get_ident() in self._threads

    def is_abroad(self) -> bool:
        """Whether this is another process than the engine was started in."""
        return self._process not in (None, os.getpid())


class _Lane:
    """The queue before a gate that is shut.

    Attributes:
        waiting: The tasks that wait, the one that asks next first.
        asker: The task that is out to ask whether the gate has opened, if one is.
        rings_at: When the first is to ask; None where it waits for a place in flight instead.
    """

    __slots__ = ("asker", "rings_at", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Task] = deque()
        self.asker: Task | None = None
        self.rings_at: float | None = None


class Engine(Protocol):
    """What a session needs of an engine.

    Attributes:
        home: Where it lives.
    """

    home: Home

    def submit(self, run: Run) -> None:
        """Start a batch.

        Raises:
            RunStoppedError: The engine is closed, or was started in another process.
            ConfigurationError: The caller is one of the engine's own threads, and so cannot wait for it.
        """

    def wake(self) -> None:
        """Look at the runs again: one was fed, or has room."""

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: nothing of it is sent any more, what is in flight is broken off."""

    def close(self) -> None:
        """End everything and give back threads and sockets."""


class Scheduler:
    """Says which exchange gets the next free slot.

    It is not thread-safe: an engine with many threads guards it with a lock. Exchanges that wait
    hold no slot. Those that wait for a gate queue behind one another in its lane, so that one alone
    asks when the gate may open, and they pass in the order they came.
    """

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.in_flight = 0
        self._ready: deque[Task] = deque()
        self._timers: list[tuple[float, int, Task | str | ReferenceType[Run]]] = []
        self._order = itertools.count()
        self._lanes: dict[str, _Lane] = {}
        self._parked = 0
        self._pullable: deque[Run] = deque()
        self._runs: WeakSet[Run] = WeakSet()

    def add(self, run: Run) -> None:
        """Take a run in."""
        self._runs.add(run)
        self._pullable.append(run)
        if run.policy.deadline is not None:
            self._set_timer(run.policy.deadline, ref(run))  # a far deadline must not keep a run that is done
        if run.policy.stop is not None:  # before it came here
            run.stop_pulling()

    def take(self, now: float) -> Task | None:
        """Return a task to advance, with a slot of its own, or None."""
        if self._timers:
            self._ring(now)
        if self.in_flight >= self.concurrency:
            return None
        task = self._ready.popleft() if self._ready else self._pull()
        if task is not None:
            self.in_flight += 1
        return task

    def has_work(self) -> bool:
        """Whether `take` would likely return a task."""
        if self.in_flight >= self.concurrency:
            return False
        if self._ready:
            return True
        return ALL_HOSTS not in self._lanes and any(run.wants_more() for run in self._pullable)

    def next_timer(self) -> float | None:
        """Return when to look again, if nothing happens before."""
        return self._timers[0][0] if self._timers else None

    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not (self.in_flight or self._ready or self._parked or self._pullable)

    def unfinished(self) -> list[Run]:
        """Return the runs that are not done."""
        return [run for run in self._runs if not run.is_done()]

    def passed(self, task: Task) -> None:
        """Note that a task came through its gate: the one behind it may ask."""
        name, task.lane = task.lane, None
        lane = self._lanes.get(name) if name is not None else None
        if name is not None and lane is not None and lane.asker is task:
            lane.asker = None
            self._let_ask(name)

    def left(self, origin: str) -> None:
        """Note that a place in flight to a host came free."""
        lane = self._lanes.get(origin)
        if lane is not None and lane.rings_at is None:
            self._let_ask(origin)

    def park(self, task: Task, wait: Wait, now: float) -> None:
        """Take the slot back until the wait is over."""
        self.in_flight -= 1
        self._parked += 1
        if wait.lane != task.lane:
            self.passed(task)
        seconds = None if wait.seconds is None else min(wait.seconds, _LONGEST_WAIT)
        if task.run.policy.reason_to_stop() is not None:
            self._make_ready(task)  # its run was hurried while it was on its way here
        elif wait.lane is None:
            self._set_timer(now + (seconds or 0.0), task)
        else:
            self._queue(task, wait.lane, None if seconds is None else now + seconds)

    def _queue(self, task: Task, name: str, rings_at: float | None) -> None:
        """Put a task into its lane: in front where it has just asked, else behind the others."""
        task.lane = name
        lane = self._lanes.setdefault(name, _Lane())
        if lane.asker is not task and (lane.asker is not None or lane.waiting):
            lane.waiting.append(task)
            return
        lane.waiting.appendleft(task)
        lane.asker, lane.rings_at = None, rings_at
        if rings_at is not None:
            self._set_timer(rings_at, name)
        elif task.run.policy.pacer.has_place(name):
            self._let_ask(name)  # the place came free while this one was on its way here

    def finish(self, task: Task) -> None:
        """Take the slot back for good."""
        self.in_flight -= 1
        if task.lane is not None:
            self.passed(task)

    def hurry(self, run: Run) -> None:
        """Let every parked task of a run ask again now: its batch has to end."""
        run.policy.reason_to_stop()  # noted, where it is the deadline: what was never pulled dies of it, too
        run.stop_pulling()
        if run.policy.on_stop is not None:
            run.policy.on_stop()
        parked: list[Task] = []
        timers = self._timers
        self._timers = []
        for entry in timers:
            if isinstance(entry[2], Task) and entry[2].run is run:
                parked.append(entry[2])
            else:
                self._timers.append(entry)
        heapq.heapify(self._timers)
        for name, lane in list(self._lanes.items()):
            parked += [task for task in lane.waiting if task.run is run]
            lane.waiting = deque(task for task in lane.waiting if task.run is not run)
            if not lane.waiting and lane.asker is None:
                del self._lanes[name]
        for task in parked:
            self._make_ready(task)

    def _pull(self) -> Task | None:
        if ALL_HOSTS in self._lanes:
            return None
        for _ in range(len(self._pullable)):
            run = self._pullable[0]
            request = run.pull()
            if request is not None:
                if len(self._pullable) > 1:
                    self._pullable.rotate(-1)
                return Task(run, request)
            if run.is_exhausted():
                self._pullable.popleft()
            else:
                self._pullable.rotate(-1)
        return None

    def _ring(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            when, _, waiter = heapq.heappop(self._timers)
            if isinstance(waiter, Task):
                self._make_ready(waiter)
            elif isinstance(waiter, ReferenceType):
                run = waiter()
                if run is not None and not run.is_done():
                    self.hurry(run)
            elif (lane := self._lanes.get(waiter)) is not None and lane.rings_at == when:
                self._let_ask(waiter)

    def _let_ask(self, name: str) -> None:
        """Send the first of a lane to ask whether its gate has opened, unless one is out already."""
        lane = self._lanes[name]
        if lane.asker is not None:
            return
        lane.rings_at = None
        if lane.waiting:
            lane.asker = lane.waiting.popleft()
            self._make_ready(lane.asker)
        else:
            del self._lanes[name]

    def _make_ready(self, task: Task) -> None:
        self._parked -= 1
        self._ready.append(task)

    def _set_timer(self, when: float, waiter: Task | str | ReferenceType[Run]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), waiter))
