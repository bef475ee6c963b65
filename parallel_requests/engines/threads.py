"""The engine for blocking backends: worker loops in a ``ThreadPoolExecutor``."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING

from parallel_requests.engines.base import EngineThreads, translated
from parallel_requests.engines.scheduler import Scheduler
from parallel_requests.engines.watchdog import Watchdog
from parallel_requests.exceptions import (
    ParallelRequestsError,
    RequestTimeout,
    ResourceExhausted,
    RunStoppedError,
)
from parallel_requests.exchange import Reply, Send
from parallel_requests.gates.pacing import Wait

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from parallel_requests.backends.base import BlockingBackend
    from parallel_requests.engines.run import Run, Task


class ThreadsEngine:
    """Worker loops that pull from the scheduler, one attempt at a time each.

    A loop holds its slot for as long as its exchange is on the wire; an exchange that waits is
    parked, and the loop goes on with another. Of the loops that find nothing to do one waits for
    the next timer, the others for a call.
    """

    def __init__(
        self,
        backend: BlockingBackend,
        concurrency: int,
        executor: Executor | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Set up the engine; threads start with the first batch.

        Args:
            backend: What sends.
            concurrency: Attempts in flight at most.
            executor: A caller's executor; it is never shut down. Default: one of our own.
            clock: The clock of the pacer.
        """
        self._backend = backend
        self._owns_executor = executor is None
        self._executor = (
            ThreadPoolExecutor(concurrency, "parallel-requests") if executor is None else executor
        )
        self._clock = clock
        self._watchdog = Watchdog()
        self._scheduler = Scheduler(concurrency)
        self.threads = EngineThreads()
        self._lock = threading.RLock()  # guards the scheduler and all below
        # Entered by loops alone: a Ctrl-C just as a Condition is entered would leave it locked.
        self._changed = threading.Condition(self._lock)
        self._loops = 0
        self._is_one_coming = False  # a loop that was asked for has not looked for work yet
        self._resting = 0
        self._rings_at = float("inf")
        self._closed = False

    def submit(self, run: Run) -> None:
        """Start a batch."""
        self.threads.check_caller()
        with self._lock:
            if self._closed:
                raise RunStoppedError
            self._scheduler.add(run)
        self.wake()

    def wake(self) -> None:
        """Look at the runs again: one was fed, or has room."""
        with self._lock:
            self._call_for_work()

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: nothing of it is sent any more, what is in flight is broken off."""
        run.policy.stop = reason
        with self._lock:
            self._scheduler.end_run(run)
            self._call_for_work()
        self._watchdog.cut(run)

    def close(self) -> None:
        """End everything and give back threads and sockets.

        Called on one of the engine's own threads, from a hook, it does not wait for the end.
        """
        with self._lock:
            self._closed = True
            runs = self._scheduler.unfinished()
        for run in runs:
            self.stop(run, RunStoppedError())
        self._watchdog.close()
        if self._owns_executor:
            self._executor.shutdown(wait=not self.threads.is_worker())

    def _call_for_work(self) -> None:
        """Get a loop to look at the scheduler: a resting one, or a new one."""
        if self._resting:
            self._changed.notify()
        elif self._can_have_a_loop() and self._needs_a_loop():
            self._is_one_coming = True
            try:
                self._executor.submit(self._work).add_done_callback(self._note_end)
            except BaseException:
                self._is_one_coming = False
                if not self._loops:
                    raise
                # No thread is left, or the caller's executor is shut down: the loops there are do it all.
                # A ThreadPoolExecutor may have taken it all the same, and so loops count themselves.

    def _note_end(self, loop: Future[None]) -> None:
        """End the runs where the caller's executor has cancelled a loop, and there is no other."""
        if not loop.cancelled():
            return
        with self._lock:
            self._is_one_coming = False
            runs = [] if self._loops else self._scheduler.unfinished()
        for run in runs:
            self.stop(run, RunStoppedError("The executor was shut down."))

    def _can_have_a_loop(self) -> bool:
        """Whether one may be started: one after another, or there were more of them than of requests."""
        return not self._is_one_coming and self._loops < self._scheduler.concurrency

    def _needs_a_loop(self) -> bool:
        """Whether there is something to do, or a timer that nobody waits for."""
        if self._scheduler.has_work():
            return True
        timer = None if self._scheduler.is_idle() else self._scheduler.next_timer()
        return timer is not None and timer < self._rings_at

    def _work(self) -> None:
        self.threads.enter()
        with self._changed:
            self._is_one_coming = False
            self._loops += 1
        try:
            while (task := self._next_task()) is not None:
                self._advance(task)
        finally:
            self.threads.leave()

    def _next_task(self) -> Task | None:
        with self._changed:
            while True:
                task = self._scheduler.take(self._clock())
                if task is not None:
                    if self._needs_a_loop():
                        self._call_for_work()
                    return task
                if self._scheduler.is_idle():
                    self._loops -= 1
                    self._changed.notify_all()
                    return None
                self._rest()

    def _rest(self) -> None:
        """Wait for a call or, where nobody does so yet, for the next timer."""
        timer = self._scheduler.next_timer()
        keeps_time = timer is not None and timer < self._rings_at
        if timer is not None and keeps_time:
            self._rings_at = timer
        self._resting += 1
        try:
            self._changed.wait(max(0.0, timer - self._clock()) if timer is not None and keeps_time else None)
        finally:
            self._resting -= 1
            if keeps_time and self._rings_at == timer:
                self._rings_at = float("inf")

    def _advance(self, task: Task) -> None:
        """Drive an exchange until it is parked or done."""
        reply: Reply | None = None
        origin = ""
        while True:
            effect = task.advance(reply)
            if not isinstance(effect, Send):
                break
            if origin or task.lane is not None:  # a redirect, say: whom it let through is another's to do
                with self._changed:
                    self._scheduler.left(origin)
                    self._scheduler.passed(task)
                    self._call_for_work()
            origin = effect.request.origin
            reply = self._send(effect, task.run)
        with self._changed:
            self._scheduler.left(origin)
            if isinstance(effect, Wait):
                self._scheduler.park(task, effect, self._clock())
                return
            self._scheduler.finish(task)
            self._call_for_work()
        task.run.complete(effect)

    def _send(self, send: Send, run: Run) -> Reply:
        try:
            send.flight = flight = self._watchdog.watch(run, send.timeout)
        except RuntimeError as error:  # no thread is left to watch it
            return self._backend.failure(ResourceExhausted, send.request, error)
        reply: Reply
        try:
            # Looked at only now: whoever stops the run from here on finds the flight, and cuts it.
            reply = run.policy.stop or self._backend.send(send)
        except BaseException as error:  # noqa: BLE001 - a callback's SystemExit is no reason to lose the item
            reply = translated(self._backend, error, send.request)
        finally:
            self._watchdog.release(flight)
        # Also where an answer came: to the library the end of a cut connection may be that of the body.
        return self._broken_off(send) if flight.is_cut else reply

    def _broken_off(self, send: Send) -> RequestTimeout:
        return RequestTimeout(
            f"{send.request!r} took longer than its timeout of {send.timeout:g} s."
            if send.timeout is not None
            else "The attempt was broken off.",
            self._backend.name,
            send.request.url,
        )
