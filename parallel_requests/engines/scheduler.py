"""The `Scheduler` that says which exchange of which run is next; all engines have one."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from weakref import ReferenceType, WeakSet, ref

from parallel_requests.engines.run import Run, Task
from parallel_requests.gates.pacing import ALL_HOSTS, Wait

_LONGEST_WAIT = 1_000_000.0
"""Seconds; who waits longer is asked again by then. Beyond some 292 years, clocks and locks overflow."""


class _Lane:
    """The queue before a gate that is shut.

    Attributes:
        waiting: The tasks that wait, the one that asks next first.
        asker: The task that is out to ask whether the gate has opened, if one is.
        rings_at: When the first is to ask; None where it waits for a slot of the host instead.
    """

    __slots__ = ("asker", "rings_at", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Task] = deque()
        self.asker: Task | None = None
        self.rings_at: float | None = None


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
        """Note that a slot of a host came free."""
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
        elif task.run.policy.pacer.has_free_slot(name):
            self._let_ask(name)  # the slot came free while this one was on its way here

    def finish(self, task: Task) -> None:
        """Take the slot back for good."""
        self.in_flight -= 1
        if task.lane is not None:
            self.passed(task)

    def end_run(self, run: Run) -> None:
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
                    self.end_run(run)
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
