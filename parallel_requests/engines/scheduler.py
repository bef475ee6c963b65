"""The `Scheduler`, which decides which exchange of which run goes next; every engine has one."""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

from parallel_requests.engines.run import Run, Task
from parallel_requests.exceptions import RunStoppedError
from parallel_requests.gates.pacing import ALL_HOSTS, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

logger = logging.getLogger("parallel_requests")

_LONGEST_WAIT = 1_000_000.0
"""Seconds; longer waits are split, as clocks and locks overflow beyond some 292 years."""


class _GateQueue:
    """The tasks queued at a closed gate; their runs take turns, the tasks of one pass in the order they came.

    So a task that comes here again, to be retried, passes before those that came later. Otherwise, a server
    with a limit below the concurrency could turn it away with every retry, in favour of newer ones.

    Attributes:
        probe: The one task that is trying the gate now, if any; the others wait for its outcome.
        probe_at: When the first in the queue may try; None if it waits for a slot of the host instead.
    """

    __slots__ = ("_waiting", "probe", "probe_at")

    def __init__(self) -> None:
        self._waiting: OrderedDict[Run, list[tuple[int, Task]]] = OrderedDict()  # heaps, by number
        self.probe: Task | None = None
        self.probe_at: float | None = None

    def __bool__(self) -> bool:
        """Whether tasks are queued."""
        return bool(self._waiting)

    def add(self, task: Task) -> None:
        """Add a task."""
        heapq.heappush(self._waiting.setdefault(task.run, []), (task.number, task))

    def put_back(self, task: Task) -> None:
        """Add a task, and let its run be the next whose turn it is."""
        self.add(task)
        self._waiting.move_to_end(task.run, last=False)

    def popleft(self) -> Task:
        """Remove and return the first task; the next one is another run's, if there is any."""
        run, tasks = next(iter(self._waiting.items()))
        _, task = heapq.heappop(tasks)
        if tasks:
            self._waiting.move_to_end(run)
        else:
            del self._waiting[run]
        return task

    def remove(self, run: Run) -> Iterable[Task]:
        """Remove and return the tasks of a run."""
        return [task for _, task in sorted(self._waiting.pop(run, ()))]


class Scheduler:
    """Decides which exchange gets the next free slot.

    It is not thread-safe: an engine with many threads guards it with a lock. Exchanges that wait hold
    no slot. Those that wait for the same gate form a queue: when the gate may have opened, only the
    first of them, the probe, tries it. The runs take turns there as they do elsewhere.

    Attributes:
        concurrency: How many slots there are.
        in_flight: How many of them are taken; tasks whose runs have ended may be on top of that.
    """

    def __init__(self, concurrency: int, clock: Callable[[], float]) -> None:
        """Set up an empty scheduler.

        Args:
            concurrency: How many slots there are.
            clock: Seconds, by the clock that the policies' deadlines refer to.
        """
        self.concurrency = concurrency
        self._clock = clock
        self.in_flight = 0
        self._ready: deque[Task] = deque()
        self._ending: deque[Task] = deque()  # of runs that have ended: they send nothing, and need no slot
        self._timers: list[tuple[float, int, Task | str | ReferenceType[Run]]] = []
        self._order = itertools.count()
        self._queues: dict[str, _GateQueue] = {}  # by gate
        self._held: dict[Task, str] = {}  # the gate of its host, by task queued at the one for all hosts
        self._parked = 0
        self._pullable: deque[Run] = deque()
        self._runs: set[ReferenceType[Run]] = set()
        self._is_broken = False

    def add(self, run: Run) -> None:
        """Add a run."""
        self._runs.add(ref(run, self._runs.discard))
        self._pullable.append(run)
        if run.policy.deadline is not None:
            self._set_timer(run.policy.deadline, ref(run))  # weak: the timer must not keep a finished run
        if run.policy.stop is not None:  # stopped before it was submitted
            run.stop_pulling()

    def take(self) -> Task | None:
        """Return a task to advance, with a slot of its own unless its run has ended, or None."""
        if self._timers:
            self._fire_timers(self._clock())
        if self._ending:
            self.in_flight += 1
            return self._ending.popleft()
        if self.in_flight >= self.concurrency:
            return None
        task = self._ready.popleft() if self._ready else self._pull()
        if task is not None:
            self.in_flight += 1
        return task

    def has_work(self) -> bool:
        """Whether `take` would likely return a task."""
        if self._ending:
            return True
        if self.in_flight >= self.concurrency:
            return False
        if self._ready:
            return True
        return ALL_HOSTS not in self._queues and any(run.wants_more() for run in self._pullable)

    def next_timer(self) -> float | None:
        """Return when `take` has to be called again, even if nothing else happens."""
        return self._timers[0][0] if self._timers else None

    def has_ending(self) -> bool:
        """Whether `take` would return a task that needs no slot."""
        return bool(self._ending)

    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        is_busy = self.in_flight or self._ready or self._ending or self._parked or self._pullable
        return self._is_broken or not is_busy

    def unfinished(self) -> list[Run]:
        """Return the runs that are not done; this alone may be called on any thread."""
        runs = [reference() for reference in list(self._runs)]
        return [run for run in runs if run is not None and not run.is_done()]

    def passed_gate(self, task: Task) -> None:
        """Note that a task passed its gates: the next in each queue may try."""
        gates = task.gate, self._held.pop(task, None)
        task.gate = None
        for gate in gates:
            if gate is None or (queue := self._queues.get(gate)) is None:
                continue
            if queue.probe is task:
                queue.probe = None
                self._send_probe(gate)

    def slot_freed(self, host: str) -> None:
        """Note that one of a host's slots came free."""
        queue = self._queues.get(host)
        if queue is not None and queue.probe_at is None:
            self._send_probe(host)

    def park(self, task: Task, wait: Wait) -> None:
        """Take the task's slot back until its wait is over."""
        self.in_flight -= 1
        if task.run.policy.reason_to_stop() is not None:
            self._ending.append(task)  # its run was ended while the task was on its way here
            return
        now = self._clock()
        self._parked += 1
        if wait.gate != task.gate:
            self._change_gate(task, wait.gate)
        seconds = None if wait.seconds is None else min(wait.seconds, _LONGEST_WAIT)
        if wait.gate is None:
            self._set_timer(now + (seconds or 0.0), task)
        else:
            self._enqueue(task, wait.gate, None if seconds is None else now + seconds)

    def _change_gate(self, task: Task, gate: str | None) -> None:
        """Note that a task is going to wait elsewhere than before.

        The probe of a host that the gate for all hosts turns away remains the probe until it is sent, or the
        whole queue would follow it there, only to be turned away by the host once it is sent.
        """
        if gate == ALL_HOSTS and task.gate is not None:
            self._held[task] = task.gate
            return
        if gate is not None and self._held.get(task) == gate:
            del self._held[task]  # the host has turned it away again: it keeps its place there
        self.passed_gate(task)

    def _enqueue(self, task: Task, gate: str, probe_at: float | None) -> None:
        """Queue a task at a gate; for a probe that was turned away, it is still the turn of its run."""
        task.gate = gate
        queue = self._queues.setdefault(gate, _GateQueue())
        if queue.probe is not task and (queue.probe is not None or queue):
            queue.add(task)
            return
        queue.put_back(task)
        queue.probe, queue.probe_at = None, probe_at
        if probe_at is not None:
            self._set_timer(probe_at, gate)
        elif task.run.policy.pacer.has_free_slot(gate):
            self._send_probe(gate)  # the slot came free while the task was on its way here

    def finish(self, task: Task) -> None:
        """Take the slot of a finished task back."""
        self.in_flight -= 1
        if task.gate is not None:
            self.passed_gate(task)

    def break_down(self, error: BaseException) -> None:
        """End every run, as the engine has failed, by a bug or for want of memory."""
        logger.error("an engine has failed, and its session is closed", exc_info=error)
        self._is_broken = True
        for run in self.unfinished():
            reason = RunStoppedError(f"The engine has failed ({type(error).__name__}); open a new session.")
            reason.__cause__ = error
            run.break_off(reason)
            if run.policy.on_stop is not None:
                run.policy.on_stop()

    def end_run(self, run: Run) -> None:
        """Resume every waiting task of a run at once, so that each finds out that its batch has to end."""
        run.policy.reason_to_stop()  # records an expired deadline, which also fails what was never pulled
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
        for gate, queue in list(self._queues.items()):
            parked += queue.remove(run)
            if not queue and queue.probe is None:
                del self._queues[gate]
        self._parked -= len(parked)
        self._ending += parked
        self._ending += [task for task in self._ready if task.run is run]
        self._ready = deque(task for task in self._ready if task.run is not run)

    def _pull(self) -> Task | None:
        if ALL_HOSTS in self._queues:
            return None
        for _ in range(len(self._pullable)):
            run = self._pullable[0]
            self._pullable.rotate(-1)
            request = run.pull()
            if request is not None:
                return Task(run, request, next(self._order))
            if run.is_exhausted():
                self._pullable.pop()
        return None

    def _fire_timers(self, now: float) -> None:
        """Resume what has waited long enough."""
        while self._timers and self._timers[0][0] <= now:
            when, _, waiter = heapq.heappop(self._timers)
            if isinstance(waiter, Task):
                self._make_ready(waiter)
            elif isinstance(waiter, ReferenceType):
                run = waiter()
                if run is not None and not run.is_done():
                    self.end_run(run)
            elif (queue := self._queues.get(waiter)) is not None and queue.probe_at == when:
                self._send_probe(waiter)

    def _send_probe(self, gate: str) -> None:
        """Let the first in a gate's queue try the gate, unless another task is trying it already."""
        queue = self._queues[gate]
        if queue.probe is not None:
            return
        queue.probe_at = None
        if queue:
            queue.probe = queue.popleft()
            self._make_ready(queue.probe)
        else:
            del self._queues[gate]

    def _make_ready(self, task: Task) -> None:
        self._parked -= 1
        self._ready.append(task)

    def _set_timer(self, when: float, waiter: Task | str | ReferenceType[Run]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), waiter))
