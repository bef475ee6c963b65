"""The engine for blocking backends: workers in a ``ThreadPoolExecutor``."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from time import monotonic
from typing import TYPE_CHECKING
from weakref import ref

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
from parallel_requests.locks import Lock
from parallel_requests.redaction import text_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from parallel_requests.backends.base import BlockingBackend
    from parallel_requests.engines.run import Run, Task


class ThreadsEngine:
    """Workers that take exchanges from the scheduler and make one attempt at a time each.

    A worker holds a slot while its exchange is on the wire; an exchange that has to wait is parked,
    and the worker goes on with another. Of the idle workers, one waits for the scheduler's next
    timer, the others until they are notified.
    """

    def __init__(self, backend: BlockingBackend, concurrency: int, executor: Executor | None = None) -> None:
        """Set up the engine; threads start with the first batch.

        Args:
            backend: What sends.
            concurrency: Attempts in flight at most.
            executor: A caller's executor, which is never shut down. Default: one of the engine's own.
        """
        self._backend = backend
        self._owns_executor = executor is None
        # One more than there are slots: it ends what has to end while the others are on the wire.
        self._executor = (
            ThreadPoolExecutor(concurrency + 1, "parallel-requests") if executor is None else executor
        )
        self._watchdog = Watchdog()
        self._scheduler = Scheduler(concurrency, monotonic)
        self.threads = EngineThreads()
        self._start_lock = Lock()  # guards that a worker starts; taken before _lock
        self._lock = Lock()  # guards the scheduler and all below
        # Entered by workers only: a Ctrl-C just as a Condition is entered would leave it locked.
        self._changed = threading.Condition(self._lock)
        self._workers = 0
        self._idle_workers = 0
        self._is_worker_starting = False  # one was submitted and has not begun yet
        self._watched_timer = float("inf")  # the timer that an idle worker waits for
        self._closed = False

    def submit(self, run: Run) -> None:
        """Start a batch."""
        self.threads.check_caller()
        with self._lock:
            if self._closed:
                raise RunStoppedError
            self._scheduler.add(run)
        if run.policy.deadline is not None:
            self._watch_deadline(run, run.policy.deadline)
        self.wake()

    def _watch_deadline(self, run: Run, deadline: float) -> None:
        """Have a batch end in time even if all workers are on the wire for others, or none can start."""
        reference = ref(run, lambda _: forget())

        def end() -> None:
            overdue = reference()
            if overdue is not None and overdue.policy.reason_to_stop() is not None:
                with contextlib.suppress(RuntimeError):  # no worker can start: what has not begun has ended
                    self._end(overdue)

        forget = self._watchdog.call_at(deadline, end)

    def wake(self) -> None:
        """Have a worker look at the runs: one has been fed, has room for more, or has something to do."""
        with self._lock:
            if self._idle_workers:
                self._changed.notify()
                return
            if not self._lacks_worker():
                return
        with self._start_lock:
            self._start_worker()

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: send no more of it, and abort what is in flight."""
        run.policy.end(reason)
        self._end(run)
        self._watchdog.cut(run)

    def _end(self, run: Run) -> None:
        with self._lock:
            self._scheduler.end_run(run)
        self.wake()

    def close(self) -> None:
        """End everything and release threads and sockets.

        Called on one of the engine's own threads, by a hook, it does not wait for the end.
        """
        with self._lock:
            self._closed = True
            runs = self._scheduler.unfinished()
        for run in runs:
            self.stop(run, RunStoppedError())
        self._watchdog.close()
        if self._owns_executor:
            with self._start_lock:  # a worker that is starting ends what it finds
                self._executor.shutdown(wait=False)
            self._executor.shutdown(wait=not self.threads.is_worker())

    def _start_worker(self) -> None:
        """Start a worker unless another thread has.

        Not with the lock: ``submit`` waits for a new thread, and there the garbage collector may end a batch.
        """
        is_starting = False
        try:
            with self._lock:
                if not self._lacks_worker():
                    return
                self._is_worker_starting = is_starting = True
            worker = self._executor.submit(self._work)
            if not self._owns_executor:  # or a Ctrl-C could leave the Future's Condition locked
                worker.add_done_callback(self._handle_unstarted)
        except BaseException as error:
            if not is_starting:
                raise
            self._is_worker_starting = False
            is_interruption = not (isinstance(error, RuntimeError) or self.threads.is_worker())
            if is_interruption or not self._workers:
                raise
            # No thread is left, or the caller's executor is shut down: the workers there are do it all.
            # A ThreadPoolExecutor may have queued this one before it failed: workers count themselves.

    def _handle_unstarted(self, worker: Future[None]) -> None:
        """End all runs if the caller's executor has cancelled the only worker, or could not run it."""
        if worker.cancelled():
            reason = RunStoppedError("The executor was shut down.")
        elif (error := worker.exception()) is not None:
            reason = RunStoppedError(
                f"The executor must run functions on threads of this process, and could not: {text_of(error)}"
            )
        else:
            return
        with self._lock:
            self._is_worker_starting = False
            runs = [] if self._workers else self._scheduler.unfinished()
        for run in runs:
            self.stop(run, reason)

    def _lacks_worker(self) -> bool:
        """Whether to start one: one after another, so that there are no more workers than requests."""
        most = self._scheduler.concurrency + self._scheduler.has_ending()
        return not self._is_worker_starting and self._workers < most and self._needs_worker()

    def _needs_worker(self) -> bool:
        """Whether there is something to do, or a timer that no idle worker waits for."""
        if self._scheduler.has_work():
            return True
        timer = None if self._scheduler.is_idle() else self._scheduler.next_timer()
        return timer is not None and timer < self._watched_timer

    def _work(self) -> None:
        self.threads.enter()
        with self._start_lock, self._changed:  # whoever starts it goes on first, and may have more to feed
            self._is_worker_starting = False
            self._workers += 1
        try:
            while (task := self._next_task()) is not None:
                self._advance(task)
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for a batch
            self._break_down(error)
        finally:
            self.threads.leave()

    def _break_down(self, error: BaseException) -> None:
        """End everything, as this worker has failed, and what it was doing is lost."""
        with self._changed:
            self._closed = True
            self._workers -= 1
            runs = self._scheduler.unfinished()
            self._scheduler.break_down(error)
            self._changed.notify_all()
        for run in runs:
            self._watchdog.cut(run)

    def _next_task(self) -> Task | None:
        with self._changed:
            while (task := self._scheduler.take()) is None:
                if self._scheduler.is_idle():
                    self._workers -= 1
                    self._changed.notify_all()
                    return None
                self._idle()
            needs_another = self._needs_worker()
        if needs_another:
            self.wake()
        return task

    def _idle(self) -> None:
        """Wait to be notified or, if no other worker does so, for the next timer."""
        timer = self._scheduler.next_timer()
        watches = timer is not None and timer < self._watched_timer
        if timer is not None and watches:
            self._watched_timer = timer
        self._idle_workers += 1
        try:
            self._changed.wait(max(0.0, timer - monotonic()) if timer is not None and watches else None)
        finally:
            self._idle_workers -= 1
            if watches and self._watched_timer == timer:
                self._watched_timer = float("inf")

    def _advance(self, task: Task) -> None:
        """Drive an exchange until it is parked or done."""
        reply: Reply | None = None
        authority = ""
        while True:
            effect = task.advance(reply)
            if not isinstance(effect, Send):
                break
            if authority or task.gate is not None:  # this worker goes on, so what it unblocks is another's
                with self._changed:
                    self._scheduler.slot_freed(authority)
                    self._scheduler.passed_gate(task)
                self.wake()
            authority = effect.request.authority
            reply = self._send(effect, task)
        with self._changed:
            self._scheduler.slot_freed(authority)
            if isinstance(effect, Wait):
                self._scheduler.park(task, effect)
                return
            self._scheduler.finish(task)
        self.wake()
        task.run.complete(effect)

    def _send(self, send: Send, task: Task) -> Reply:
        try:
            send.flight = flight = self._watchdog.watch(task.run, send.timeout)
        except RuntimeError as error:  # no thread is left to watch it
            return self._backend.failure(ResourceExhausted, send.request, error)
        reply: Reply
        try:
            # Checked only now: whoever stops the run after this finds the flight and cuts it.
            reply = task.run.policy.stop or task.context.run(self._backend.send, send)
        except BaseException as error:  # noqa: BLE001 - a callback's SystemExit must not lose the item
            reply = translated(self._backend, error, send.request)
        finally:
            self._watchdog.release(flight)
        # Even if a response came: the library may have taken the cut for the end of the body.
        return self._broken_off(send) if flight.is_cut else reply

    def _broken_off(self, send: Send) -> RequestTimeout:
        return RequestTimeout(
            f"{send.request!r} took longer than its timeout of {send.timeout:g} s."
            if send.timeout is not None
            else "The attempt was broken off.",
            self._backend.name,
            send.request.url,
        )
