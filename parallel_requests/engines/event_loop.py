"""The engine for async backends: one event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Any

from parallel_requests.engines.base import EngineThreads, translated
from parallel_requests.engines.scheduler import Scheduler
from parallel_requests.exceptions import ParallelRequestsError, RunStoppedError
from parallel_requests.exchange import Reply, Send
from parallel_requests.gates.pacing import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.backends.base import AsyncBackend
    from parallel_requests.engines.run import Run, Task

_NEVER = float("inf")


class EventLoopEngine:
    """Worker coroutines that take from the scheduler, one attempt at a time each.

    A worker lives for as long as it finds something to do, so a busy engine creates no task per
    call. Everything but the four public methods runs on the loop's thread, and so needs no lock.
    """

    def __init__(
        self, backend: AsyncBackend, concurrency: int, clock: Callable[[], float] = monotonic
    ) -> None:
        """Set up the engine; its thread starts with the first batch.

        Args:
            backend: What sends.
            concurrency: Attempts in flight at most.
            clock: The clock of the pacer.
        """
        self._backend = backend
        self._clock = clock
        self._scheduler = Scheduler(concurrency)
        self.threads = EngineThreads()
        self._workers: set[_Worker] = set()
        self._scheduler_alarm = _Alarm(clock, self._look)
        self._timeout_alarm = _Alarm(clock, self._cut_overdue)
        self._is_called = False
        self._closing = asyncio.Event()
        self._lock = threading.Lock()  # guards all below
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, run: Run) -> None:
        """Start a batch."""
        self.threads.check_caller()
        with self._lock:
            if self._closed:
                raise RunStoppedError
            loop = self._loop or self._start()
            loop.call_soon_threadsafe(self._add, run)

    def wake(self) -> None:
        """Look at the runs again: one was fed, or has room."""
        if not self._is_called:  # the look that is due already will see it
            self._is_called = True
            self._call(self._look)

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: nothing of it is sent any more, what is in flight is broken off."""
        run.policy.stop = reason
        self._call(self._stop, run)

    def close(self) -> None:
        """End everything and give back thread and sockets.

        Called on the engine's own thread, from a hook, it does not wait for the end.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        self._call(self._end)
        if thread is not None and not self.threads.is_worker():
            thread.join()

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        """Have something done on the loop's thread; nothing, where that is not there (any more)."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *args)

    def _start(self) -> asyncio.AbstractEventLoop:
        bound: Future[None] = Future()
        loop = _new_event_loop()
        thread = threading.Thread(target=self._serve, args=(loop, bound), name="parallel-requests-loop")
        try:
            thread.start()
        except RuntimeError:  # no thread is left
            loop.close()
            raise
        bound.result()
        return loop

    # On the loop's thread.

    def _serve(self, loop: asyncio.AbstractEventLoop, bound: Future[None]) -> None:
        self.threads.enter()
        # Noted here: a Ctrl-C may keep who started the thread from doing so.
        self._loop, self._thread = loop, threading.current_thread()
        try:
            loop.run_until_complete(self._live(loop, bound))
        finally:
            self.threads.leave()
            with self._lock:
                if self._loop is loop:
                    self._loop = None
            loop.close()

    async def _live(self, loop: asyncio.AbstractEventLoop, bound: Future[None]) -> None:
        try:
            self._backend.bind(loop)
        except BaseException as error:  # noqa: BLE001 - raised where the batch is submitted
            self._loop = None  # before the next batch can come: who starts this one holds the lock
            bound.set_exception(error)
            return
        bound.set_result(None)
        await self._closing.wait()
        while self._workers:
            await asyncio.wait([worker.task for worker in self._workers])
        await self._backend.aclose()

    def _add(self, run: Run) -> None:
        self._scheduler.add(run)
        self._look()

    def _stop(self, run: Run) -> None:
        self._scheduler.end_run(run)
        for worker in self._workers:
            if worker.sends_for is run:
                worker.cut()
        self._look()

    def _end(self) -> None:
        for run in self._scheduler.unfinished():
            run.policy.stop = RunStoppedError()
            self._stop(run)
        self._closing.set()

    def _look(self) -> None:
        """Start a worker for every free slot that has something to do, and set the alarm."""
        self._is_called = False
        while (task := self._scheduler.take(self._clock())) is not None:
            worker = _Worker()
            self._workers.add(worker)
            worker.task = asyncio.create_task(self._work(worker, task))
        self._set_alarm()

    def _set_alarm(self) -> None:
        if (when := self._scheduler.next_timer()) is not None:
            self._scheduler_alarm.set(when)

    def _cut_overdue(self) -> None:
        now = self._clock()
        for worker in self._workers:
            if worker.deadline <= now:
                worker.cut()
            else:
                self._timeout_alarm.set(worker.deadline)

    async def _work(self, worker: _Worker, task: Task | None) -> None:
        try:
            while task is not None:
                was_sent = await self._advance(worker, task)
                if not was_sent:
                    await asyncio.sleep(0)  # a long row of items that end at once must not hold up the loop
                # A cancelled task may have a second cancellation coming: it sends nothing more.
                task = None if worker.is_cut else self._scheduler.take(self._clock())
                if self._scheduler.has_work():
                    self._look()
        finally:
            self._workers.discard(worker)
            self._look()

    async def _advance(self, worker: _Worker, task: Task) -> bool:
        """Drive an exchange until it is parked or done; True where it was on the wire."""
        reply: Reply | None = None
        origin = ""
        while True:
            effect = task.advance(reply)
            if origin:
                self._scheduler.left(origin)
                if isinstance(effect, Send):  # a redirect, say: whom it let through is another's to do
                    self._look()
            if not isinstance(effect, Send):
                break
            if task.lane is not None:
                self._scheduler.passed(task)
                self._look()
            origin = effect.request.origin
            reply = await self._send(worker, effect, task.run)
        if isinstance(effect, Wait):
            self._scheduler.park(task, effect, self._clock())
            self._set_alarm()
        else:
            self._scheduler.finish(task)
            task.run.complete(effect)
        return bool(origin)

    async def _send(self, worker: _Worker, send: Send, run: Run) -> Reply:
        worker.sends_for = run
        if send.timeout is not None:
            worker.deadline = self._clock() + send.timeout
            self._timeout_alarm.set(worker.deadline)
        try:
            return await self._backend.send(send)
        except BaseException as error:  # noqa: BLE001 - a callback's SystemExit is no reason to lose the item
            if worker.is_cut and isinstance(error, asyncio.CancelledError):
                error = TimeoutError("it was broken off" if send.timeout is None else f"{send.timeout:g} s")
            return translated(self._backend, error, send.request)
        finally:
            worker.sends_for = None
            worker.deadline = _NEVER


class _Worker:
    """A coroutine under way, whose attempt it is making, and until when."""

    __slots__ = ("deadline", "is_cut", "sends_for", "task")

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.sends_for: Run | None = None
        self.deadline = _NEVER
        self.is_cut = False

    def cut(self) -> None:
        """End its attempt now."""
        self.deadline = _NEVER
        self.is_cut = True
        self.task.cancel()


class _Alarm:
    """One timer of the loop for many deadlines, as a timer for each attempt would cost a tenth of it."""

    def __init__(self, clock: Callable[[], float], call: Callable[[], None]) -> None:
        self._clock = clock
        self._call = call
        self._handle: asyncio.TimerHandle | None = None
        self._rings_at = _NEVER

    def set(self, when: float) -> None:
        """Ring then, unless it rings earlier already; who is called sets it again."""
        if when >= self._rings_at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._rings_at = when
        self._handle = asyncio.get_running_loop().call_later(max(0.0, when - self._clock()), self._ring)

    def _ring(self) -> None:
        self._handle = None
        self._rings_at = _NEVER
        self._call()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
