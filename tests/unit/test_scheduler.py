"""Scheduler and Run: who gets the next free slot, driven by a simulated engine on a simulated clock."""

from __future__ import annotations

import gc
import heapq
import itertools
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.engines.run import Run, Task
from parallel_requests.engines.scheduler import Scheduler
from parallel_requests.exceptions import DeadlineExceededError, RunStoppedError
from parallel_requests.exchange import Send
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.gates.pacing import Pacer, Wait
from parallel_requests.models import Request, Response, Result
from parallel_requests.policy import Policy
from tests.server.arrivals import worst_excess
from tests.unit.clock import ManualClock
from tests.unit.driving import WALL_TIME, Answer, get

Server = Callable[[Request, int], tuple[float, Answer]]
"""Tells for a request and the number of its attempt how long it takes, and what comes."""


def take(play: Simulation, count: int) -> list[Task]:
    """Take the next tasks, to do by hand what the simulation does."""
    tasks = [play.scheduler.take() for _ in range(count)]
    return [task for task in tasks if task is not None]


def requests_to(*hosts: str) -> list[Request]:
    return [
        Request(f"http://{host}/{index}", index=index, authority=host) for index, host in enumerate(hosts)
    ]


def at_once(request: Request, attempt: int) -> tuple[float, Answer]:
    return 0.1, Answer(200)


class Simulation:
    """An engine whose attempts take simulated time."""

    def __init__(self, concurrency: int = 4, server: Server = at_once, **gates: Any) -> None:
        self.clock = ManualClock(0.0)
        self.pacer = Pacer(clock=self.clock, wall_clock=lambda: WALL_TIME, concurrency=concurrency, **gates)
        self.scheduler = Scheduler(concurrency, self.clock)
        self.server = server
        self.sent: list[tuple[float, str, int]] = []
        self.asks = 0
        self.wakes: list[float] = []
        self.most_in_flight: Counter[str] = Counter()
        self._in_flight: Counter[str] = Counter()
        self._attempts: Counter[int] = Counter()
        self._arrivals: list[tuple[float, int, Task, Response]] = []
        self._order = itertools.count()

    def new_run(self, requests: Iterable[Request] | None, *, window: int = 10_000, **options: Any) -> Run:
        """Add a batch."""
        holds_back = options.pop("holds_back", False)
        options.setdefault("retry", RetryPolicy(backoff_jitter=0.0))
        run = Run(
            Policy(pacer=self.pacer, **options),
            lambda result, deliver: deliver(result),
            wake=lambda: self.wakes.append(self.clock()),
            source=None if requests is None else iter(requests),
            window=window,
            holds_back=holds_back,
        )
        self.scheduler.add(run)
        return run

    def play(self, until: float = 1e9) -> None:
        """Simulate everything that happens up to a time."""
        while True:
            while (task := self.scheduler.take()) is not None:
                has_ended = task.run.policy.stop is not None
                assert has_ended or self.scheduler.in_flight <= self.scheduler.concurrency
                self._advance(task, None, "")
            timer = self.scheduler.next_timer()
            moments = [self._arrivals[0][0]] if self._arrivals else []
            moments += [timer] if timer is not None else []
            if not moments or min(moments) > until:
                return
            self.clock.now = max(self.clock.now, min(moments))
            while self._arrivals and self._arrivals[0][0] <= self.clock.now:
                _, _, landed, reply = heapq.heappop(self._arrivals)
                self._land(landed, reply)

    def _land(self, task: Task, reply: Response) -> None:
        authority = reply.request.authority
        self._in_flight[""] -= 1
        self._in_flight[authority] -= 1
        self._advance(task, reply, authority)

    def _advance(self, task: Task, reply: Response | None, authority: str) -> None:
        effect = task.advance(reply)
        if authority:
            self.scheduler.slot_freed(authority)
        if isinstance(effect, Wait):
            self.asks += 1
            self.scheduler.park(task, effect)
        elif isinstance(effect, Send):
            self.scheduler.passed_gate(task)
            self._send(task, effect)
        else:
            self.scheduler.finish(task)
            task.run.complete(effect)

    def _send(self, task: Task, send: Send) -> None:
        request = send.request
        self.sent.append((self.clock(), request.authority, request.index))
        for name in ("", request.authority):
            self._in_flight[name] += 1
            self.most_in_flight[name] = max(self.most_in_flight[name], self._in_flight[name])
        self._attempts[request.index] += 1
        takes, reply = self.server(request, self._attempts[request.index])
        heapq.heappush(self._arrivals, (self.clock() + takes, next(self._order), task, reply.to(request)))

    @property
    def order(self) -> list[int]:
        """The items in the order they were sent."""
        return [index for _, _, index in self.sent]

    def stamps(self, host: str | None = None) -> list[float]:
        """When attempts were sent (to one host)."""
        return [stamp for stamp, authority, _ in self.sent if host in (None, authority)]


def indices(results: Iterable[Result[Any]]) -> list[int]:
    return sorted(result.index for result in results)


# -- slots


def test_never_more_in_flight_than_concurrency() -> None:
    play = Simulation(concurrency=3)
    run = play.new_run(requests_to(*["a.test"] * 10))
    play.play()
    assert run.is_done()
    assert indices(run.results()) == list(range(10))
    assert play.most_in_flight[""] == 3
    assert play.clock.now == pytest.approx(0.4)
    assert play.order == list(range(10))
    assert play.scheduler.is_idle()


def test_a_waiting_retry_holds_no_slot() -> None:
    def server(request: Request, attempt: int) -> tuple[float, Answer]:
        return 0.1, Answer(503 if request.index == 0 and attempt == 1 else 200)

    play = Simulation(concurrency=1, server=server)
    run = play.new_run(requests_to(*["a.test"] * 6))
    play.play()
    assert play.order == [0, 1, 2, 3, 4, 5, 0]
    assert play.clock.now == pytest.approx(1.2), "one second after the first answer, and an attempt"
    assert indices(run.results()) == list(range(6))


def test_runs_take_turns() -> None:
    play = Simulation(concurrency=1)
    first = play.new_run(requests_to(*["a.test"] * 3))
    second = play.new_run(requests_to(*["b.test"] * 3))
    play.play()
    assert [authority[0] for _, authority, _ in play.sent] == ["a", "b", "a", "b", "a", "b"]
    assert first.is_done()
    assert second.is_done()


def test_a_bug_costs_one_item_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    impossible = cast("int", "no status")
    play = Simulation(server=lambda request, _: (0.1, Answer(impossible if request.index == 1 else 200)))
    requests = [Request(f"http://a.test/{n}?token=secret", index=n, authority="a.test") for n in range(3)]
    run = play.new_run(requests)
    play.play()
    results = sorted(run.results(), key=lambda result: result.index)
    assert [result.ok for result in results] == [True, False, True]
    assert "by a bug in parallel_requests" in str(results[1].error)
    assert "secret" not in str(results[1].error)
    assert "this is a bug in parallel_requests" in caplog.text
    assert play.scheduler.is_idle()


# -- queues at closed gates


def test_exchanges_at_a_closed_gate_pass_in_order() -> None:
    play = Simulation(concurrency=8, rate_limit={"a.test": 2}, burst=1)
    run = play.new_run(requests_to(*["a.test"] * 12))
    play.play()
    assert play.order == list(range(12))
    assert indices(run.results()) == list(range(12))


def test_who_is_turned_away_by_the_server_passes_before_those_that_came_later() -> None:
    play = Simulation(concurrency=20)
    asked: Counter[int] = Counter()

    def ten_a_second(request: Request, attempt: int) -> tuple[float, Answer]:
        second = int(play.clock())
        asked[second] += 1
        refusal = Answer(429, {"Retry-After": "1"})
        return 0.001 * asked[second], Answer(200) if asked[second] <= 10 else refusal

    play.server = ten_a_second
    run = play.new_run(requests_to(*["a.test"] * 1_000), window=40)
    play.play()
    assert Counter(result.ok for result in run.results()) == {True: 1_000}


def test_a_queue_at_a_gate_does_not_stampede() -> None:
    play = Simulation(concurrency=50, rate_limit={"a.test": 10}, burst=1)
    count = 300
    play.new_run(requests_to(*["a.test"] * count))
    play.play()
    assert play.order == list(range(count))
    assert play.asks <= 2 * count, "a stampede would ask some count ** 2 / 2 times"


@pytest.mark.parametrize(
    "gates",
    [
        {"rate_limit": 90, "concurrency_per_host": 2},
        {"rate_limit": {"a.test": 50, "*": 60}},
        {"rate_limit": {"a.test": 55, "*": 60}, "burst": 1, "concurrency_per_host": 3},
    ],
)
def test_a_queue_does_not_stampede_from_gate_to_gate(gates: dict[str, Any]) -> None:
    play = Simulation(concurrency=20, server=lambda *_: (0.02, Answer(200)), **gates)
    count = 400
    run = play.new_run(requests_to(*["a.test"] * count, "b.test", "b.test"))
    play.play()
    assert run.is_done()
    assert play.asks <= 4 * count, "a stampede would ask some count ** 2 times"


def test_a_host_that_may_pass_shares_the_rate_for_all_with_the_others() -> None:
    play = Simulation(concurrency=8, rate_limit={"a.test": 20, "*": 40}, burst=1)
    count = 200
    play.new_run(requests_to(*["a.test"] * count, *["b.test"] * count))
    play.play(until=5.0)
    assert len(play.stamps("a.test")) == pytest.approx(5 * 20, abs=3)
    assert len(play.stamps("b.test")) == pytest.approx(5 * 20, abs=3)


def test_who_is_turned_away_from_the_rate_for_all_keeps_its_place_at_its_host() -> None:
    play = Simulation(concurrency=8, rate_limit={"a.test": 7, "*": 10}, burst=1, concurrency_per_host=2)
    play.new_run(requests_to(*["a.test"] * 60))
    play.play()
    assert play.order == list(range(60))


def test_who_is_turned_away_by_its_host_once_more_keeps_its_place_there() -> None:
    play = Simulation()
    play.new_run(requests_to("a.test", "a.test"))
    first, second = take(play, 2)
    play.scheduler.park(first, Wait(1.0, "a.test"))
    play.scheduler.park(second, Wait(1.0, "a.test"))
    for gate in ("*", "a.test", "*", "a.test"):
        play.clock.advance(1.0)
        assert take(play, 2) == [first]
        play.scheduler.park(first, Wait(1.0, gate))
    play.clock.advance(1.0)
    assert take(play, 2) == [first]
    play.scheduler.passed_gate(first)
    assert take(play, 1) == [second]


def test_who_comes_while_another_one_tries_the_gate_is_behind_it() -> None:
    play = Simulation()
    play.new_run(requests_to("a.test", "a.test"))
    first, second = take(play, 2)
    play.scheduler.park(first, Wait(1.0, "a.test"))
    play.clock.advance(1.0)
    assert take(play, 1) == [first]
    play.scheduler.park(second, Wait(1.0, "a.test"))
    play.scheduler.park(first, Wait(1.0, "a.test"))
    play.clock.advance(1.0)
    assert take(play, 2) == [first]
    play.scheduler.passed_gate(first)
    assert take(play, 1) == [second]


def test_who_is_stopped_behind_the_one_that_tries_the_gate_does_not_cost_it_its_place() -> None:
    play = Simulation()
    _, stopped = play.new_run(requests_to("a.test", "a.test")), play.new_run(requests_to("a.test"))
    first, ended, second = take(play, 3)
    play.scheduler.park(first, Wait(1.0, "a.test"))
    play.scheduler.park(ended, Wait(1.0, "a.test"))
    play.clock.advance(1.0)
    assert take(play, 3) == [first]
    play.scheduler.end_run(stopped)
    assert take(play, 3) == [ended]
    play.scheduler.finish(ended)
    play.scheduler.park(second, Wait(1.0, "a.test"))
    play.scheduler.park(first, Wait(1.0, "a.test"))
    play.clock.advance(1.0)
    assert take(play, 3) == [first]


@pytest.mark.parametrize(
    "gates",
    [
        {"concurrency_per_host": 1},
        {"rate_limit": {"a.test": 10}, "burst": 1},
        {"rate_limit": 10, "burst": 1},
        {"rate_limit": 10, "burst": 1, "concurrency_per_host": 1},
    ],
)
def test_a_small_batch_does_not_wait_for_a_big_one(gates: dict[str, Any]) -> None:
    play = Simulation(concurrency=8, **gates)
    big = play.new_run(requests_to(*["a.test"] * 1_000))
    play.play(until=1.0)
    small = play.new_run(requests_to(*["a.test"] * 3))
    play.play(until=2.0)
    assert small.is_done()
    assert not big.is_done()


def test_of_each_batch_those_that_came_first_pass_first() -> None:
    play = Simulation(concurrency=8, rate_limit={"a.test": 2}, burst=1)
    runs = [play.new_run(requests_to(*["a.test"] * 20)) for _ in range(3)]
    play.play()
    assert play.order == [index for index in range(20) for _ in runs]


def test_responses_do_not_wake_exchanges_that_wait_for_a_rate() -> None:
    play = Simulation(
        concurrency=50, rate_limit={"a.test": 10}, burst=20, server=lambda *_: (3.05, Answer(200))
    )
    count = 200
    play.new_run(requests_to(*["a.test"] * count))
    play.play()
    assert play.order == list(range(count))
    assert play.asks <= 2 * count


def test_while_the_rate_for_all_holds_back_there_is_no_work_to_look_for() -> None:
    play = Simulation(concurrency=8, rate_limit=5, burst=1)
    run = play.new_run(requests_to(*["a.test"] * 20))
    play.play(until=0.15)  # the first is done, the second asks when the next token comes
    assert len(play.sent) == 1
    assert run.wants_more()
    assert not play.scheduler.has_work(), "an engine that asks would never sleep"


def test_there_is_work_if_any_run_has_something_to_start() -> None:
    play = Simulation()
    starved = play.new_run(None)
    assert not play.scheduler.has_work()
    play.new_run(requests_to("a.test"))
    assert play.scheduler.has_work()
    play.play()
    assert not play.scheduler.has_work()
    starved.feed(get("http://b.test/"))
    assert play.scheduler.has_work()


def test_there_is_work_if_parked_exchanges_have_to_end() -> None:
    play = Simulation(server=lambda *_: (0.1, Answer(503)))
    run = play.new_run(requests_to("a.test"))
    play.play(until=0.5)
    assert not play.scheduler.has_work(), "the retry comes after a second"
    play.scheduler.end_run(run)
    assert play.scheduler.has_work()


def test_there_is_work_if_a_parked_exchange_may_go_on() -> None:
    play = Simulation(concurrency_per_host=1)
    play.new_run(requests_to("a.test", "a.test"))
    first, second = take(play, 3)
    assert isinstance(first.advance(None), Send)
    wait = second.advance(None)
    assert isinstance(wait, Wait)
    play.scheduler.park(second, wait)
    assert not play.scheduler.has_work()
    play.scheduler.slot_freed("a.test")
    assert play.scheduler.has_work()


def test_it_is_idle_only_when_everything_is_done() -> None:
    play = Simulation()
    scheduler = play.scheduler
    assert scheduler.is_idle()
    run = play.new_run(requests_to("a.test"))
    assert not scheduler.is_idle(), "there is something to pull"
    [task] = take(play, 2)
    assert not scheduler.is_idle(), "it is in flight"
    scheduler.park(task, Wait(None, "a.test"))
    assert not scheduler.is_idle(), "it may go on, as its host has a free slot"
    assert take(play, 2) == [task]
    scheduler.park(task, Wait(1.0))
    assert not scheduler.is_idle(), "it is parked"
    scheduler.end_run(run)
    assert not scheduler.is_idle(), "it has to end"
    assert take(play, 2) == [task]
    scheduler.finish(task)
    assert scheduler.is_idle()


def test_the_rate_for_all_stops_the_pulling() -> None:
    play = Simulation(concurrency=8, rate_limit=5, burst=1)
    pulled: list[int] = []

    def source() -> Iterator[Request]:
        for request in requests_to(*["a.test"] * 100):
            pulled.append(request.index)
            yield request

    play.new_run(source())
    play.play(until=2.0)
    assert len(play.sent) <= 11
    assert len(pulled) <= len(play.sent) + 1


def test_other_hosts_go_on_while_one_is_paused() -> None:
    def server(request: Request, attempt: int) -> tuple[float, Answer]:
        return 0.1, Answer(429, {"Retry-After": "30"}) if (request.index, attempt) == (0, 1) else Answer(200)

    play = Simulation(concurrency=2, server=server)
    run = play.new_run(requests_to(*["a.test", "b.test"] * 20))
    play.play(until=5.0)
    assert len(play.stamps("b.test")) == 20
    assert max(play.stamps("a.test")) <= 0.2
    play.play()
    assert indices(run.results()) == list(range(40))
    assert [stamp for stamp in play.stamps("a.test") if 0.2 < stamp < 30.0] == []


def test_a_slot_freed_just_before_an_exchange_parks_is_not_lost() -> None:
    play = Simulation(concurrency=2, concurrency_per_host=1)
    run = play.new_run(requests_to("a.test", "a.test"))
    first, second = play.scheduler.take(), play.scheduler.take()
    assert first is not None
    assert second is not None
    sent, wait = first.advance(None), second.advance(None)
    assert isinstance(sent, Send)
    assert isinstance(wait, Wait)
    result = first.advance(Answer(200).to(sent.request))  # before the other thread has parked the second
    assert isinstance(result, Result)
    play.scheduler.slot_freed("a.test")
    play.scheduler.finish(first)
    run.complete(result)
    play.scheduler.park(second, wait)
    play.play()
    assert run.is_done()
    assert indices(run.results()) == [0, 1]


def test_no_host_exceeds_its_concurrency() -> None:
    play = Simulation(concurrency=10, concurrency_per_host=2)
    run = play.new_run(requests_to(*["a.test"] * 9, *["b.test"] * 9))
    play.play()
    assert play.most_in_flight["a.test"] == play.most_in_flight["b.test"] == 2
    assert indices(run.results()) == list(range(18))
    assert [index for _, host, index in play.sent if host == "a.test"] == list(range(9))


# -- stopping


def test_a_stopped_run_ends_now_and_sends_nothing_more() -> None:
    play = Simulation(concurrency=4, rate_limit={"a.test": 1}, burst=1)
    run = play.new_run(requests_to(*["a.test"] * 10))
    other = play.new_run(requests_to(*["b.test"] * 3))
    play.play(until=0.05)
    sent = len(play.stamps("a.test"))
    run.policy.stop = RunStoppedError("stopped")
    play.scheduler.end_run(run)
    play.play(until=0.2)
    assert run.is_done()
    assert len(play.stamps("a.test")) == sent
    results = run.results()
    assert [type(result.error) for result in results if not result.ok] == [RunStoppedError] * (
        len(results) - sent
    )
    assert other.is_done()


def test_a_stopped_run_ends_while_another_one_has_all_slots() -> None:
    play = Simulation(concurrency=1)
    stopped, busy = play.new_run(requests_to("a.test")), play.new_run(requests_to("b.test"))
    parked = play.scheduler.take()
    assert parked is not None
    play.scheduler.park(parked, Wait(60.0))
    in_flight = play.scheduler.take()
    assert in_flight is not None
    assert in_flight.run is busy
    assert not play.scheduler.has_work()
    stopped.policy.end(RunStoppedError("stopped"))
    play.scheduler.end_run(stopped)
    assert play.scheduler.has_work()
    play.play(until=0.0)
    assert stopped.is_done()
    assert not busy.is_done()


def test_a_stopped_run_ends_though_the_wait_is_over_and_no_slot_is_free() -> None:
    play = Simulation(concurrency=1)
    stopped, busy = play.new_run(requests_to("a.test")), play.new_run(requests_to("b.test", "b.test"))
    [waiting] = take(play, 1)
    play.scheduler.park(waiting, Wait(1.0))
    [in_flight] = take(play, 1)
    play.clock.advance(1.0)
    assert take(play, 1) == [], "it could go on, but there is no slot"
    stopped.policy.end(RunStoppedError("stopped"))
    play.scheduler.end_run(stopped)
    play.play(until=play.clock.now)
    assert stopped.is_done()
    assert not busy.is_done()
    play.scheduler.finish(in_flight)
    assert [task.run for task in take(play, 2)] == [busy], "and takes its slot only once"


def test_a_stopped_run_leaves_the_waits_of_others_alone() -> None:
    play = Simulation()
    stopped, _ = play.new_run(requests_to("a.test")), play.new_run(requests_to("b.test", "b.test"))
    ended, late, soon = take(play, 3)
    for task, seconds in ((ended, 1.0), (late, 5.0), (soon, 2.0)):
        play.scheduler.park(task, Wait(seconds))
    play.scheduler.end_run(stopped)
    assert take(play, 3) == [ended]
    for task, seconds in ((soon, 2.0), (late, 5.0)):
        assert play.scheduler.next_timer() == seconds
        play.clock.now = seconds
        assert take(play, 3) == [task]


def test_a_run_that_is_stopped_while_it_waits_for_the_rate_for_all_leaves_nothing_to_wait_for() -> None:
    play = Simulation(rate_limit=0.001, burst=1)
    run = play.new_run(requests_to("a.test", "a.test"))
    play.play(until=1.0)
    run.policy.end(RunStoppedError("stopped"))
    play.scheduler.end_run(run)
    play.play(until=1.0)
    assert run.is_done()
    assert play.scheduler.is_idle()


def test_of_a_run_that_was_stopped_before_it_began_nothing_is_pulled() -> None:
    play = Simulation()
    run = play.new_run(requests_to("a.test", "a.test"), stop=RunStoppedError("stopped"))
    play.play()
    assert run.is_done()
    assert run.results() == []
    assert indices(Result(request) for request in run.unstarted()) == [0, 1]


def test_what_waits_behind_a_stopped_run_is_not_forgotten() -> None:
    play = Simulation(concurrency=4, rate_limit={"a.test": 1}, burst=1)
    stopped = play.new_run(requests_to(*["a.test"] * 5))
    other = play.new_run(requests_to(*["a.test"] * 5))
    play.play(until=0.5)
    stopped.policy.stop = RunStoppedError("stopped")
    play.scheduler.end_run(stopped)
    play.play()
    assert stopped.is_done()
    assert indices(other.results()) == list(range(5))
    assert all(later - sooner > 0.99 for sooner, later in itertools.pairwise(play.stamps()))


def test_an_exchange_about_to_wait_does_not_if_the_run_is_stopped() -> None:
    play = Simulation(concurrency=1)
    run = play.new_run(requests_to("a.test"))
    task = play.scheduler.take()
    assert task is not None
    run.policy.stop = RunStoppedError("stopped")
    play.scheduler.end_run(run)
    play.scheduler.park(task, Wait(60.0))
    play.play(until=0.0)
    assert run.is_done()


def test_who_is_stopped_between_two_gates_leaves_its_place_at_both() -> None:
    play = Simulation(concurrency=2)
    stopped, other = play.new_run(requests_to("a.test")), play.new_run(requests_to("a.test"))
    first, second = play.scheduler.take(), play.scheduler.take()
    assert first is not None
    assert second is not None
    play.scheduler.park(first, Wait(1.0, "a.test"))
    play.scheduler.park(second, Wait(1.0, "a.test"))
    play.clock.now = 1.0
    assert play.scheduler.take() is first
    play.scheduler.park(first, Wait(1.0, "*"))
    play.clock.now = 2.0
    assert (
        play.scheduler.take() is first
    )  # turned away by its host again, it is stopped before it waits there
    stopped.policy.end(RunStoppedError("stopped"))
    play.scheduler.end_run(stopped)
    play.scheduler.park(first, Wait(1.0, "a.test"))
    play.play()
    assert stopped.is_done()
    assert other.is_done()


def test_a_deadline_ends_what_is_parked() -> None:
    play = Simulation(concurrency=4, server=lambda *_: (0.1, Answer(503)))
    run = play.new_run(requests_to(*["a.test"] * 3), deadline=1.5)
    play.play()
    assert play.clock.now == pytest.approx(1.5)
    assert [type(result.error) for result in run.results()] == [DeadlineExceededError] * 3


def test_a_deadline_ends_what_never_got_a_slot() -> None:
    play = Simulation(concurrency=1, server=lambda *_: (9.0, Answer(200)))
    play.new_run(requests_to("a.test"))
    late = play.new_run(requests_to("b.test"), deadline=1.0)
    play.play(until=1.0)
    assert late.is_done()
    assert isinstance(late.policy.stop, DeadlineExceededError), "the reason why its items fail"


# -- windows


def test_a_far_deadline_does_not_keep_a_run_that_is_done() -> None:
    simulation = Simulation()
    run = simulation.new_run(requests_to("a"), deadline=1e6)
    simulation.play(until=10.0)
    assert len(run.results()) == 1
    gone = weakref.ref(run)

    del run
    gc.collect()

    assert gone() is None
    assert not simulation.scheduler._runs


def test_no_more_is_open_than_the_window() -> None:
    pulled: list[int] = []

    def endless() -> Iterator[Request]:
        for index in itertools.count():
            pulled.append(index)
            yield Request(f"http://a.test/{index}", index=index, authority="a.test")

    play = Simulation(concurrency=2)
    run = play.new_run(endless(), window=4, holds_back=True)
    play.play()
    assert len(pulled) == 4
    assert len(run.results()) == 4
    play.play()
    assert len(pulled) == 4, "taken is not yet used"
    run.release(3)
    play.play()
    assert len(pulled) == 7


def test_what_is_just_being_pulled_leaves_no_room_for_one_more() -> None:
    run = Simulation().new_run(None, window=2)
    rooms: list[int] = []

    class Watched(deque[Request]):
        def popleft(self) -> Request:
            request = super().popleft()
            rooms.append(run.room())
            return request

    run._fed = Watched()
    for request in requests_to("a.test", "a.test"):
        run.feed(request)
    assert run.pull() is not None
    assert rooms == [0]


def test_what_is_fed_is_pulled_as_room_allows() -> None:
    play = Simulation(concurrency=2)
    run = play.new_run(None, window=4)
    requests = iter(requests_to(*["a.test"] * 10))
    assert run.room() == 4
    for _ in range(4):
        run.feed(next(requests))
    assert run.room() == 0
    assert not run.has_half_its_room()
    play.play()
    assert run.room() == 4
    assert run.has_half_its_room()
    for request in requests:
        run.feed(request)
    run.end_input()
    assert not run.is_done()
    play.play()
    assert run.is_done()
    assert indices(run.results()) == list(range(10))


def test_only_the_first_of_what_is_fed_has_to_wake_a_sleeping_engine() -> None:
    play = Simulation()
    run = play.new_run(None, window=10)
    first, second, third = requests_to(*["a.test"] * 3)
    play.play()
    run.feed(first)
    assert len(play.wakes) == 1
    run.feed(second)
    assert len(play.wakes) == 1
    play.play()
    run.feed(third)
    assert len(play.wakes) == 2


def test_an_input_that_raises_ends_the_run_after_what_is_in_flight() -> None:
    def source() -> Iterator[Request]:
        yield from requests_to("a.test", "a.test")
        raise LookupError("a bug of the caller's")

    play = Simulation(concurrency=4)
    run = play.new_run(source())
    play.play()
    assert run.is_done()
    assert indices(run.results()) == [0, 1]
    assert isinstance(run.error, LookupError)


def test_requests_never_pulled_are_known() -> None:
    play = Simulation(concurrency=1)
    run = play.new_run(requests_to(*["a.test"] * 5), window=1)
    play.play(until=0.15)
    run.policy.stop = RunStoppedError("stopped")
    play.scheduler.end_run(run)
    play.play()
    found = [*indices(run.results()), *(request.index for request in run.unstarted())]
    assert sorted(found) == list(range(5))


def test_the_listener_is_called_when_there_are_results() -> None:
    calls: list[bool] = []
    play = Simulation()
    run = play.new_run(None, window=4)
    run.notifier.listen(lambda: calls.append(run.has_results()))
    run.feed(requests_to("a.test")[0])
    play.play()
    assert any(calls)


# -- the law: whatever the gates, every item finishes, once

HOSTS = st.sampled_from(["a.test", "b.test", "c.test:81"])


@given(
    hosts=st.lists(HOSTS, min_size=1, max_size=40),
    concurrency=st.integers(1, 8),
    per_host=st.none() | st.integers(1, 3),
    rate=st.none()
    | st.floats(0.5, 40.0)
    | st.fixed_dictionaries({"a.test": st.floats(0.5, 9.0), "*": st.floats(1.0, 40.0)}),
    burst=st.integers(1, 4),
    adaptive=st.booleans(),
    window=st.integers(1, 50),
    script=st.lists(
        st.tuples(
            st.floats(0.0, 2.0),
            st.sampled_from([200, 200, 404, 429, 503]),
            st.sampled_from([None, "0", "1", "3"]),
        ),
        min_size=1,
        max_size=12,
    ),
    runs=st.integers(1, 3),
    stopped_at=st.none() | st.floats(0.0, 5.0),
)
def test_every_item_finishes_once(  # noqa: PLR0917 - hypothesis gives them by name
    hosts: list[str],
    concurrency: int,
    per_host: int | None,
    rate: Any,
    burst: int,
    adaptive: bool,
    window: int,
    script: list[tuple[float, int, str | None]],
    runs: int,
    stopped_at: float | None,
) -> None:
    acts = itertools.cycle(script)

    def server(request: Request, attempt: int) -> tuple[float, Answer]:
        takes, status, retry_after = next(acts)
        return takes, Answer(status, {} if retry_after is None else {"Retry-After": retry_after})

    play = Simulation(
        concurrency, server, rate_limit=rate, burst=burst, concurrency_per_host=per_host, adaptive=adaptive
    )
    batches = [play.new_run(requests_to(*hosts), window=window) for _ in range(runs)]
    if stopped_at is not None:
        play.play(until=stopped_at)
        batches[0].policy.stop = RunStoppedError("stopped")
        play.scheduler.end_run(batches[0])
    play.play()
    for run in batches:
        assert run.is_done(), "something waits for ever"
        found = [*indices(run.results()), *(request.index for request in run.unstarted())]
        assert sorted(found) == list(range(len(hosts)))
    assert play.scheduler.is_idle()
    assert play.most_in_flight[""] <= concurrency
    if per_host is not None:
        assert all(most <= per_host for host, most in play.most_in_flight.items() if host)
    overall = rate.get("*") if isinstance(rate, dict) else rate
    for limit, stamps in (
        (overall, play.stamps()),
        (rate.get("a.test") if isinstance(rate, dict) else None, play.stamps("a.test")),
    ):
        if limit is not None:
            assert worst_excess(stamps, limit, burst) <= 1e-6
