"""Parsing in processes: the pool that hands out the work and collects the outcomes.

::

    engine ── add ─► waiting ── a chunk ─► worker       one chunk at a time for each
                        ▲                     │
                        └── of one that died ─┤
                  deliver ◄──── outcomes ─────┘

One thread does all of this. While a worker is idle, an item is sent to it at once, on its own; only
while all are busy do items form larger chunks, so that the cost of the pipe does not dominate. Waiting
items count as open in their run, so its window bounds them.

A process that dies affects at most one chunk: its items are retried one by one, and the one that kills
another process fails. Context variables are not passed on to processes.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from functools import partial
from multiprocessing.connection import wait
from time import monotonic
from typing import TYPE_CHECKING, Any

from parallel_requests.exceptions import ConfigurationError, RunStoppedError, starting
from parallel_requests.locks import Lock
from parallel_requests.parsing.items import Item, Job
from parallel_requests.parsing.workers import PATIENCE, Child, Slot, check_can_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import ProcessPoolExecutor

    from parallel_requests.models import Result
    from parallel_requests.parsing.in_place import Deliver
    from parallel_requests.parsing.work import Work
    from parallel_requests.parsing.workers import Worker
    from parallel_requests.policy import Policy

_CHUNK_BYTES = 1 << 20
"""Bytes of bodies that are sent together; a larger body is sent on its own."""


class ParsePool:
    """Processes that decode and parse for all batches of a session."""

    def __init__(self, processes: int | ProcessPoolExecutor) -> None:
        """Set up the pool; its thread, which starts the processes, starts with the first batch.

        Args:
            processes: How many to start, or a caller's pool, which is never shut down.
        """
        self._executor = None if isinstance(processes, int) else processes
        self._start: Callable[[], Worker]
        if isinstance(processes, int):
            self._start, self._count = Child, processes
        else:
            count = getattr(processes, "_max_workers", None) or os.cpu_count() or 1
            self._start, self._count = partial(Slot, processes), count
        self._workers: list[Worker] = []
        self._problem: str | None = None  # why no more workers are started
        self._is_wanted = False  # a batch has begun: start the processes for it
        self._lock = Lock()  # guards all below
        self._waiting: deque[Item] = deque()
        self._jobs: set[Job] = set()
        self._is_starved = self._is_wake_sent = self._is_closed = self._is_over = False
        self._wake_reader, self._wake_writer = multiprocessing.Pipe(duplex=False)
        self._thread: threading.Thread | None = None

    def prepare(self) -> None:
        """Get ready for a batch.

        Raises:
            ConfigurationError: The caller's pool is broken, processes cannot be started from here, or this
                is the pool's own thread, which would wait for itself.
            ResourceExhausted: The pool's thread cannot be started.
        """
        if threading.current_thread() is self._thread:
            raise ConfigurationError(
                "A hook cannot wait for what is parsed by the pool that runs it: use another session.",
                "parse_processes",
            )
        if self._executor is not None:
            try:
                self._executor.submit(int)
            except RuntimeError as error:
                raise ConfigurationError(
                    f"The pool given as parse_processes is broken ({type(error).__name__}: {error}).",
                    "parse_processes",
                ) from error
        else:
            check_can_start()
        self._problem = None
        self._is_wanted = True
        with self._lock:
            if self._thread is None and not self._is_closed:
                thread = threading.Thread(target=self._work, name="parallel-requests-parse")
                with starting("The thread of parse_processes"):
                    thread.start()
                self._thread = thread
            self._wake()

    def add(self, item: Item) -> None:
        """Queue an item; its Result will be delivered, whatever happens."""
        with self._lock:
            is_over = self._is_over
            if not is_over:
                job = item.job
                self._waiting.append(item)
                job.open += 1
                self._jobs.add(job)
                if self._is_starved or job.policy.stop is not None:
                    self._wake()
        if is_over:
            item.stop(RunStoppedError())

    def wake(self) -> None:
        """Make the pool's thread look around: a batch has been stopped, or its deadline has passed."""
        with self._lock:
            self._wake()

    def close(self) -> None:
        """End the pool's own processes and fail unfinished items; takes at most a second."""
        with self._lock:
            self._is_closed = True
            self._wake()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return  # called from a hook: the thread goes on to end itself
        thread.join(PATIENCE)
        if thread.is_alive():
            for worker in list(self._workers):
                worker.kill()
            thread.join()

    def _wake(self) -> None:
        self._is_starved = False
        if not (self._is_wake_sent or self._is_over):
            # In this order: a Ctrl-C in between must not prevent all further wake-ups.
            self._wake_writer.send_bytes(b"")
            self._is_wake_sent = True

    # On the pool's thread.

    def _work(self) -> None:
        self._thread = threading.current_thread()  # a Ctrl-C may have interrupted `prepare` before it could
        try:
            while not self._is_closed:
                self._end_stopped_jobs()
                self._start_workers()
                self._hand_out()
                self._collect(wait(self._waitables(), self._seconds_to_sleep()))
        finally:
            self._shut_down()

    def _start_workers(self) -> None:
        """Start missing workers, if there is something for them to do."""
        if not (self._waiting or self._is_wanted):
            return
        self._is_wanted = False
        while len(self._workers) < self._count and self._problem is None:
            try:
                self._workers.append(self._start())
            except Exception as error:  # noqa: BLE001 - no processes left, a main module that cannot be imported
                self._problem = f"No parse process could be started ({type(error).__name__}: {error})."
        if not self._workers:
            for item in self._take_waiting(lambda _: True):
                self._finish(item, partial(item.fail, self._problem or ""))

    def _hand_out(self) -> None:
        """Give every idle worker a chunk."""
        for worker in list(self._workers):
            if worker.is_idle and self._waiting:
                chunk = self._next_chunk()
                try:
                    worker.give(chunk)
                except (OSError, MemoryError):
                    self._remove_dead(worker, was_at_work=False)

    def _next_chunk(self) -> list[Item]:
        """Take a chunk from the front of the queue."""
        waiting = self._waiting
        share = -(-len(waiting) // self._count)
        chunk = [waiting.popleft()]
        first = chunk[0]
        limit = 1 if first.is_suspect else min(share, first.job.items_per_chunk())
        size = len(first.response.content)
        while len(chunk) < limit:
            item = waiting[0]
            size += len(item.response.content)
            if item.job is not first.job or item.is_suspect or size > _CHUNK_BYTES:
                break
            chunk.append(waiting.popleft())
        return chunk

    def _waitables(self) -> list[Any]:
        return [
            self._wake_reader,
            *(waitable for worker in self._workers for waitable in worker.waitables()),
        ]

    def _seconds_to_sleep(self) -> float | None:
        """Return 0 if there is something to hand out; None if there is not, until the thread is woken."""
        with self._lock:
            can_start = len(self._workers) < self._count and self._problem is None
            has_capacity = can_start or not self._workers or any(worker.is_idle for worker in self._workers)
            if has_capacity and self._waiting:
                return 0.0
            self._is_starved = has_capacity
        return None

    def _collect(self, ready: list[Any]) -> None:
        """Receive what the workers have done, give them more to do, and then deliver it."""
        if self._wake_reader in ready:
            with self._lock:
                self._wake_reader.recv_bytes()
                self._is_wake_sent = False
        done: list[tuple[Item, bytes]] = []
        for worker in list(self._workers):
            if not any(waitable in ready for waitable in worker.waitables()):
                continue
            try:
                seconds, outcomes = worker.receive()
            except (EOFError, OSError, MemoryError):
                self._remove_dead(worker, was_at_work=True)
                continue
            if outcomes and worker.items:
                worker.items[0].job.learn(seconds, len(outcomes))
                done += [(worker.items.popleft(), outcome) for outcome in outcomes]
        self._hand_out()
        for item, outcome in done:
            self._finish(item, partial(item.settle, outcome))

    def _remove_dead(self, worker: Worker, *, was_at_work: bool) -> None:
        """Remove a dead worker, and requeue or fail the items it had."""
        self._workers.remove(worker)
        items = list(worker.items)
        is_replaceable = worker.is_replaceable
        cause = worker.cause_of_end()
        if not is_replaceable:
            self._problem = cause
        is_culprit_known = (was_at_work and len(items) == 1) or any(item.is_suspect for item in items)
        if is_culprit_known or not is_replaceable:
            for item in items:
                self._finish(item, partial(item.fail, cause))
            return
        for item in items:
            item.is_suspect = True
        with self._lock:
            self._waiting.extendleft(reversed(items))

    def _end_stopped_jobs(self) -> None:
        """Fail the items of batches that have to end, and free the workers that are at them."""
        for job in list(self._jobs):
            reason = job.policy.reason_to_stop()
            if reason is None:
                continue
            items = self._take_waiting(lambda item, job=job: item.job is job)  # type: ignore[misc]
            for worker in list(self._workers):
                if worker.items and worker.items[0].job is job:
                    items += worker.items
                    worker.items.clear()
                    if not worker.abandon():
                        self._workers.remove(worker)
                        worker.reap(monotonic() + PATIENCE)
            for item in items:
                self._finish(item, partial(item.stop, reason))

    def _take_waiting(self, matches: Callable[[Item], bool]) -> list[Item]:
        with self._lock:
            taken = [item for item in self._waiting if matches(item)]
            kept = [item for item in self._waiting if not matches(item)]
            self._waiting.clear()
            self._waiting.extend(kept)
        return taken

    def _finish(self, item: Item, deliver: Callable[[], None]) -> None:
        with self._lock:
            item.job.open -= 1
            if not item.job.open:
                self._jobs.discard(item.job)
        deliver()

    def _shut_down(self) -> None:
        with self._lock:
            self._is_over = True
            self._wake_reader.close()
            self._wake_writer.close()
        for worker in self._workers:
            worker.disconnect()
        until = monotonic() + PATIENCE
        for worker in self._workers:
            worker.reap(until)
        in_hand: Iterable[Item] = (item for worker in self._workers for item in worker.items)
        for item in [*in_hand, *self._take_waiting(lambda _: True)]:
            self._finish(item, partial(item.stop, RunStoppedError()))


class ProcessParser:
    """Parses the responses of one batch in a pool."""

    def __init__(self, pool: ParsePool, work: Work, policy: Policy) -> None:
        """Set up the parser.

        Args:
            pool: Where the work is done.
            work: What is done.
            policy: The policy of the batch, whose end also ends the parsing.
        """
        self._pool = pool
        self._job = Job(work, policy)
        policy.on_stop = pool.wake

    def __call__(self, result: Result[Any], deliver: Deliver) -> None:
        """Hand the response of a Result over to the pool."""
        self._pool.add(Item(self._job, result, deliver))
