"""The engine for async backends: one event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from parallel_requests.engines.base import EngineThreads, translated
from parallel_requests.engines.opening import Opening
from parallel_requests.engines.scheduler import Scheduler
from parallel_requests.exceptions import ParallelRequestsError, RunStoppedError
from parallel_requests.exchange import Reply, Send
from parallel_requests.gates.pacing import Wait
from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.backends.base import AsyncBackend
    from parallel_requests.engines.run import Run, Task

_NEVER = float("inf")
_LONGEST_TURN = 0.004
"""Seconds for which the loop's thread may keep a caller's event loop from running."""
_SHORTEST_SLEEP = 1e-6
"""Seconds; the system makes some 50 microseconds of it."""


class EventLoopEngine:
    """Worker coroutines that take exchanges from the scheduler and make one attempt at a time each.

    A worker lives for as long as it finds something to do, so a busy engine creates no task per
    call. Everything but the four public methods runs on the loop's thread, and so needs no lock.
    """

    def __init__(self, backend: AsyncBackend, concurrency: int) -> None:
        """Set up the engine; its thread starts with the first batch.

        Args:
            backend: What sends.
            concurrency: Attempts in flight at most.
        """
        self._backend = backend
        self._scheduler = Scheduler(concurrency, monotonic)
        self.threads = EngineThreads()
        self._workers: set[_Worker] = set()
        self._scheduler_timer = _SharedTimer(self._dispatch)
        self._timeout_timer = _SharedTimer(self._cut_overdue)
        self._is_dispatch_due = False
        self._serves_event_loop = False  # a caller runs on an event loop, which must not be late
        self._turn_began = monotonic()
        self._closing = asyncio.Event()
        self._lock = Lock()  # guards all below
        self._loop: asyncio.AbstractEventLoop | None = None  # once it has been bound to the backend
        self._opening = Opening()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, run: Run) -> None:
        """Start a batch."""
        self.threads.check_caller()
        self._serves_event_loop |= _is_on_event_loop()
        with self._lock:
            if self._closed:
                raise RunStoppedError
            if self._loop is None:
                self._start()
            self._call(self._add, run)

    def wake(self) -> None:
        """Look at the runs again: one has been fed, or has room for more."""
        if not self._is_dispatch_due:
            self._is_dispatch_due = True
            self._call(self._dispatch)

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: send no more of it, and abort what is in flight."""
        run.policy.end(reason)
        self._call(self._stop, run)

    def close(self) -> None:
        """End everything and release threads and sockets.

        Called on the engine's own thread, by a hook, it does not wait for the end.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        for run in self._scheduler.unfinished():
            run.policy.end(RunStoppedError())  # at once, as it also ends the decoding of a body
        self._call(self._end)
        if thread is not None and not self.threads.is_worker():
            thread.join()

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        """Schedule a call on the loop's thread; do nothing if the loop has not started, or has ended."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(function, *args)

    def _start(self) -> None:
        """Start the thread, and wait for its loop."""
        if self._opening.is_over:  # and has failed
            self._opening = Opening()
        self._opening.make(self._serve, "parallel-requests-loop")

    # On the loop's thread.

    def _serve(self, opening: Opening) -> None:
        self._thread = threading.current_thread()  # here, as a Ctrl-C may interrupt `_start`
        try:
            loop = _new_event_loop()
        except BaseException as error:  # noqa: BLE001 - raised again when a batch is submitted
            opening.end(error)
            return
        self.threads.enter()
        living = self._live(loop, opening)
        try:
            loop.run_until_complete(living)
        except BaseException as error:
            if opening.is_over:
                raise
            opening.end(error)  # raised again when a batch is submitted
        finally:
            living.close()  # if the loop could not run, it has not begun
            self.threads.leave()
            with self._lock:
                if self._loop is loop:
                    self._loop = None
            loop.close()

    async def _live(self, loop: asyncio.AbstractEventLoop, opening: Opening) -> None:
        self._backend.bind(loop)
        self._loop = loop  # unlocked, as whoever started this thread holds the lock
        opening.end()
        if self._closed:
            self._end()
        await self._closing.wait()
        while self._workers:
            await asyncio.wait([worker.task for worker in self._workers])
        await self._backend.aclose()

    def _add(self, run: Run) -> None:
        self._scheduler.add(run)
        self._dispatch()

    def _stop(self, run: Run) -> None:
        self._scheduler.end_run(run)
        for worker in self._workers:
            if worker.sends_for is run:
                worker.cut()
        self._dispatch()

    def _end(self) -> None:
        for run in self._scheduler.unfinished():
            run.policy.end(RunStoppedError())
            self._stop(run)
        self._closing.set()

    def _dispatch(self) -> None:
        """Start a worker for every exchange that may go on, and set the timer for those that may not yet."""
        self._is_dispatch_due = False
        try:
            while (task := self._scheduler.take()) is not None:
                self._start_worker(task)
            self._set_timer()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for a batch
            self._break_down(error)

    def _start_worker(self, task: Task) -> None:
        worker = _Worker()
        # A copy, as no context can be entered twice: the worker itself enters that of each exchange.
        worker.task = asyncio.create_task(self._work(worker, task), context=task.run.context.copy())
        self._workers.add(worker)

    def _set_timer(self) -> None:
        if (when := self._scheduler.next_timer()) is not None:
            self._scheduler_timer.set(when)

    def _cut_overdue(self) -> None:
        now = monotonic()
        for worker in self._workers:
            if worker.deadline <= now:
                worker.cut()
            else:
                self._timeout_timer.set(worker.deadline)

    async def _work(self, worker: _Worker, first: Task) -> None:
        task: Task | None = first
        try:
            while task is not None:
                if task.run is not first.run:  # its caller has other context variables
                    self._start_worker(task)
                    return
                was_sent = await self._advance(worker, task)
                if not was_sent:
                    await asyncio.sleep(0)  # a long run of items that fail unsent must not block the loop
                # A second cancellation may be pending for a cancelled task, so it must not send again.
                task = None if worker.is_cut else self._scheduler.take()
                if self._scheduler.has_work():
                    self._dispatch()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for a batch
            self._break_down(error)
        finally:
            self._workers.discard(worker)
            self._dispatch()

    def _break_down(self, error: Exception) -> None:
        """End everything, as the engine has failed, and what it was doing is lost."""
        with self._lock:
            self._closed = True
        self._scheduler.break_down(error)
        for worker in self._workers:
            if worker.sends_for is not None:
                worker.cut()
        self._closing.set()

    async def _advance(self, worker: _Worker, task: Task) -> bool:
        """Drive an exchange until it is parked or done; return True if it made an attempt."""
        reply: Reply | None = None
        authority = ""
        while True:
            effect = task.advance(reply)
            if authority:
                self._scheduler.slot_freed(authority)
            if type(effect) is not Send:
                break
            if authority:
                self._dispatch()  # this worker goes on, so what it unblocks is another's
            if task.gate is not None:
                self._scheduler.passed_gate(task)
                self._dispatch()
            authority = effect.request.authority
            reply = await self._send(worker, effect, task.run)
        if type(effect) is Wait:
            self._scheduler.park(task, effect)
            self._set_timer()
        else:
            # Its worker goes on at once. If others could read first, a call would cost less, but the calls in
            # flight would be freed and made anew together, and the garbage collector run far more often.
            self._scheduler.finish(task)
            task.run.complete(effect)
            if self._serves_event_loop:
                self._let_others_run()
        return bool(authority)

    def _let_others_run(self) -> None:
        """Hand the interpreter lock over to a thread that waits for it, if this one's turn has been long.

        Sending and reading release it, too, but not for as long as that thread takes to wake up; and each
        time its switch interval, after which it would be given the lock, begins anew.
        """
        if monotonic() - self._turn_began > _LONGEST_TURN:
            sleep(_SHORTEST_SLEEP)
            self._turn_began = monotonic()

    async def _send(self, worker: _Worker, send: Send, run: Run) -> Reply:
        worker.sends_for = run
        if send.timeout is not None:
            worker.deadline = send.began_at + send.timeout
            self._timeout_timer.set(worker.deadline)
        try:
            return await self._backend.send(send)
        except BaseException as error:  # noqa: BLE001 - a callback's SystemExit must not lose the item
            if worker.is_cut and isinstance(error, asyncio.CancelledError):
                error = TimeoutError("it was broken off" if send.timeout is None else f"{send.timeout:g} s")
            return translated(self._backend, error, send.request)
        finally:
            worker.sends_for = None
            worker.deadline = _NEVER


class _Worker:
    """A running coroutine, the run it makes an attempt for, and the deadline of that attempt."""

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


class _SharedTimer:
    """One timer of the loop for many deadlines: a timer per attempt would cost a tenth of the attempt."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._fires_at = _NEVER

    def set(self, when: float) -> None:
        """Fire at a time, unless it will fire earlier already; the callback sets it for what is left."""
        if when >= self._fires_at:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._fires_at = when
        self._handle = asyncio.get_running_loop().call_later(max(0.0, when - monotonic()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._fires_at = _NEVER
        self._callback()


def _is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = _loop_class(uvloop.Loop)()
    return loop


@functools.cache
def _loop_class(base: Any) -> Any:
    """Return a class of event loops, derived from uvloop's, that close no file descriptor twice."""

    class Loop(base):  # type: ignore[misc]
        async def create_connection(self, *args: Any, sock: Any = None, **options: Any) -> Any:
            """Connect; if that fails, take the descriptor from the caller's socket.

            The transport closes it. If the server has reset the connection before TLS begins, the socket does
            not learn of that, and would close the number again, which may be that of another file by then.
            """
            try:
                return await super().create_connection(*args, sock=sock, **options)
            except BaseException:
                if sock is not None:
                    sock.detach()
                raise

    return Loop
