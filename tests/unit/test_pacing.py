"""When the next attempt to a host may start."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_requests.exceptions import ConnectError, RequestTimeout
from parallel_requests.gates.pacing import ALL_HOSTS, MOST_SETTLE, Pacer, Wait
from parallel_requests.urls import check_url
from tests.unit.clock import ManualClock
from tests.unit.driving import WALL_TIME, Answer, get

HOST, OTHER = "a.test", "b.test:8080"


def wall_clock() -> float:
    return WALL_TIME


def new_pacer(**options: object) -> tuple[Pacer, ManualClock]:
    clock = ManualClock()
    return Pacer(clock=clock, wall_clock=wall_clock, **options), clock  # type: ignore[arg-type]


def outcome(status: int) -> object:
    return Answer(status).to(get())


def let_pass(pacer: Pacer, authority: str) -> None:
    assert pacer.enter(authority) is None


def held_back(pacer: Pacer, authority: str) -> Wait:
    wait = pacer.enter(authority)
    assert wait is not None
    return wait


def test_without_limits_everything_passes() -> None:
    pacer, _ = new_pacer()
    for _ in range(1_000):
        let_pass(pacer, HOST)
    assert pacer.limits() == {}


def test_a_pause_holds_back_only_its_host() -> None:
    pacer, clock = new_pacer()
    pacer.pause(HOST, 10.0)
    wait = held_back(pacer, HOST)
    assert (wait.seconds, wait.gate) == (10.0, HOST)
    let_pass(pacer, OTHER)
    clock.advance(9.0)
    assert held_back(pacer, HOST).seconds == pytest.approx(1.0)
    clock.advance(1.0)
    let_pass(pacer, HOST)


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    pacer, _ = new_pacer()
    pacer.pause(HOST, 10.0)
    pacer.pause(HOST, 1.0)
    assert held_back(pacer, HOST).seconds == 10.0


def test_all_hosts_share_one_rate() -> None:
    pacer, clock = new_pacer(rate_limit=10, burst=2)
    let_pass(pacer, HOST)
    let_pass(pacer, OTHER)
    wait = held_back(pacer, HOST)
    assert wait.gate == ALL_HOSTS
    assert wait.seconds == pytest.approx(0.1 + 0.1)  # a token, and the settling of a full bucket
    clock.advance(wait.seconds or 0.0)
    let_pass(pacer, HOST)


def test_hosts_with_rates_of_their_own_also_share_the_one_for_all() -> None:
    pacer, clock = new_pacer(rate_limit={"A.test": 1, "b.test": 2, "*": 100}, burst=1)
    let_pass(pacer, HOST)
    clock.advance(0.1)
    let_pass(pacer, OTHER)
    clock.advance(0.1)
    slow, fast = held_back(pacer, HOST), held_back(pacer, OTHER)
    assert (slow.gate, fast.gate) == (HOST, OTHER)
    assert slow.seconds == pytest.approx(0.8 + MOST_SETTLE)
    assert fast.seconds == pytest.approx(0.4 + MOST_SETTLE)
    let_pass(pacer, "c.test")
    assert held_back(pacer, "c.test").gate == ALL_HOSTS


def test_each_host_has_the_same_rate_unless_it_has_its_own() -> None:
    pacer, clock = new_pacer(rate_limit={"c.test": 4, "*": 100}, rate_limit_per_host=2, burst=1)
    for authority in (HOST, OTHER, "c.test"):
        let_pass(pacer, authority)
        clock.advance(0.1)
    ours, other, named = (held_back(pacer, authority) for authority in (HOST, OTHER, "c.test"))
    assert (ours.gate, other.gate, named.gate) == (HOST, OTHER, "c.test")
    assert ours.seconds == pytest.approx(0.2 + MOST_SETTLE)
    assert other.seconds == pytest.approx(0.3 + MOST_SETTLE)
    assert named.seconds == pytest.approx(0.15 + MOST_SETTLE)
    let_pass(pacer, "d.test")


@pytest.mark.parametrize("name", ["a.test", "a.test:443", "A.test:80"])
def test_the_port_that_a_scheme_stands_for_makes_no_other_host(name: str) -> None:
    pacer, _ = new_pacer(rate_limit={name: 1}, burst=1)
    _, authority = check_url("https://a.test:443/")
    assert pacer.enter(HOST) is None
    assert pacer.enter(authority) is not None


@pytest.mark.parametrize("name", ["bücher.test", "xn--bcher-kva.test", "[0:0::1]", "[::1]:80"])
def test_a_rate_holds_however_its_host_is_written(name: str) -> None:
    pacer, _ = new_pacer(rate_limit={name: 1}, burst=1)
    _, authority = check_url(f"http://{name}/")
    assert pacer.enter(authority) is None
    assert pacer.enter(authority) is not None


def test_no_global_token_is_spent_while_the_hosts_gate_is_closed() -> None:
    pacer, _ = new_pacer(rate_limit={HOST: 1, "*": 1}, burst=2)
    let_pass(pacer, HOST)
    let_pass(pacer, HOST)
    held_back(pacer, HOST)
    pacer, _ = new_pacer(rate_limit={HOST: 1, "*": 1}, burst=1)
    pacer.pause(HOST, 5.0)
    held_back(pacer, HOST)
    let_pass(pacer, OTHER)


def test_an_attempt_made_without_asking_costs_its_tokens() -> None:
    pacer, clock = new_pacer(rate_limit={HOST: 10, "*": 10}, burst=2)
    pacer.charge(OTHER)
    let_pass(pacer, HOST)
    assert held_back(pacer, HOST).gate == ALL_HOSTS
    clock.advance(10.0)
    let_pass(pacer, HOST)
    pacer.charge(HOST)
    assert held_back(pacer, HOST).gate == HOST
    clock.advance(10.0)
    for _ in range(2):
        let_pass(pacer, HOST)


def test_a_host_without_a_free_slot_holds_back_no_other() -> None:
    pacer, _ = new_pacer(concurrency_per_host=2)
    let_pass(pacer, HOST)
    let_pass(pacer, HOST)
    wait = held_back(pacer, HOST)
    assert (wait.seconds, wait.gate) == (None, HOST)
    assert not pacer.has_free_slot(HOST)
    let_pass(pacer, OTHER)
    pacer.leave(HOST, outcome(503), 0.1)  # type: ignore[arg-type]
    assert pacer.has_free_slot(HOST)
    let_pass(pacer, HOST)
    assert pacer.limits() == {HOST: 2, OTHER: 2}, "only adaptive limits are cut"


def test_an_adaptive_host_is_cut_once_for_all_that_was_in_flight() -> None:
    pacer, clock = new_pacer(adaptive=True, concurrency=20)
    for _ in range(20):
        let_pass(pacer, HOST)
    clock.advance(0.5)
    for _ in range(20):
        pacer.leave(HOST, outcome(503), 0.5)  # type: ignore[arg-type]
    assert pacer.limits() == {HOST: 14}


@pytest.mark.parametrize(
    "overload", [outcome(429), outcome(503), RequestTimeout("slow")], ids=["429", "503", "timeout"]
)
def test_an_adaptive_host_finds_its_level(overload: object) -> None:
    pacer, clock = new_pacer(adaptive=True, concurrency=20)
    for _ in range(40):
        let_pass(pacer, HOST)
        clock.advance(0.1)
        pacer.leave(HOST, overload, 0.05)  # type: ignore[arg-type]
    assert pacer.limits() == {HOST: 1}, "never less than one"
    for _ in range(2_000):
        let_pass(pacer, HOST)
        clock.advance(0.1)
        pacer.leave(HOST, outcome(200), 0.05)  # type: ignore[arg-type]
    assert pacer.limits() == {HOST: 20}, "never more than the concurrency"


def test_an_adaptive_host_grows_by_one_a_round() -> None:
    pacer, clock = new_pacer(adaptive=True, concurrency=20)
    for _ in range(2):
        let_pass(pacer, HOST)
        clock.advance(0.1)
        pacer.leave(HOST, outcome(503), 0.05)  # type: ignore[arg-type]
    assert pacer.limits() == {HOST: 9}
    for level in range(10, 16):
        for _ in range(level):
            let_pass(pacer, HOST)
            pacer.leave(HOST, outcome(200), 0.05)  # type: ignore[arg-type]
        assert pacer.limits() == {HOST: level}


def test_other_failures_say_nothing_about_load() -> None:
    pacer, clock = new_pacer(adaptive=True, concurrency=8)
    for reply in (ConnectError("refused"), outcome(404), outcome(200)):
        let_pass(pacer, HOST)
        clock.advance(0.1)
        pacer.leave(HOST, reply, 0.1)  # type: ignore[arg-type]
    assert pacer.limits() == {HOST: 8}
    for reply in (outcome(503), *[ConnectError("refused")] * 20):
        let_pass(pacer, HOST)
        clock.advance(0.1)
        pacer.leave(HOST, reply, 0.1)  # type: ignore[arg-type]
    assert pacer.limits() == {HOST: 5}, "nor that there is room for more"


def test_a_budget_is_opened_with_the_first_failure() -> None:
    pacer, _ = new_pacer()
    assert HOST not in pacer.budgets
    opened = pacer.open_budget(HOST)
    assert opened is not None
    assert pacer.budgets[HOST] is opened is pacer.open_budget(HOST)
    assert OTHER not in pacer.budgets


def test_budgets_can_be_switched_off() -> None:
    pacer, _ = new_pacer(retry_budget=False)
    assert pacer.open_budget(HOST) is None


# -- what is remembered of hosts

HOSTS = ["0.test", "1.test", "2.test"]
STEPS = [
    *[
        (step, authority)
        for step in ("enter", "enter", "leave", "pause", "charge", "look")
        for authority in HOSTS
    ],
    *[("overload", authority) for authority in HOSTS[:2]],
    *[("crowd", number) for number in range(6)],
    *[("turn", seconds) for seconds in (0.05, 0.5, 3.0)],
]


class Pair:
    """A pacer that forgets hosts and one that never does, which have to agree."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.forgetful = Pacer(clock=self.clock, remembered=4, **options)
        self.mindful = Pacer(clock=self.clock, remembered=10**9, **options)
        self.both = (self.forgetful, self.mindful)
        self._entered: dict[str, list[float]] = {}

    def enter(self, authority: str) -> None:
        ours, theirs = (pacer.enter(authority) for pacer in self.both)
        if ours is None or theirs is None:
            assert ours is theirs
            self._entered.setdefault(authority, []).append(self.clock())
        else:
            assert ours.gate == theirs.gate
            assert ours.seconds == pytest.approx(theirs.seconds)

    def leave(self, authority: str, status: int = 200) -> None:
        if self._entered.get(authority):
            began = self._entered[authority].pop(0)
            for pacer in self.both:
                pacer.leave(authority, outcome(status), self.clock() - began)  # type: ignore[arg-type]

    def overload(self, authority: str) -> None:
        self.leave(authority, 503)

    def pause(self, authority: str) -> None:
        for pacer in self.both:
            pacer.pause(authority, 2.0)

    def charge(self, authority: str) -> None:
        for pacer in self.both:
            pacer.charge(authority)

    def look(self, authority: str) -> None:
        ours, theirs = (pacer.has_free_slot(authority) for pacer in self.both)
        assert ours is theirs

    def crowd(self, first: int) -> None:
        """Use so many other hosts that some have to be forgotten."""
        for number in range(first, first + 8):
            self.look(f"stranger-{number}.test")

    def turn(self, seconds: float) -> None:
        self.clock.advance(seconds)


@given(
    options=st.sampled_from(
        [
            {},
            {"rate_limit": {"0.test": 2, "1.test": 1, "*": 20}, "burst": 2},
            {"rate_limit": dict.fromkeys(HOSTS, 4), "burst": 1, "concurrency_per_host": 2},
            {"concurrency_per_host": 1},
            {"rate_limit_per_host": 2, "burst": 1},
            {"adaptive": True, "concurrency": 4},
        ]
    ),
    steps=st.lists(st.sampled_from(STEPS), min_size=20, max_size=80),
)
@settings(max_examples=400)
def test_forgetting_a_host_changes_no_decision(options: dict[str, Any], steps: list[tuple[str, Any]]) -> None:
    """Two hosts at most have an adapted limit here, as many as are remembered for that alone."""
    pair = Pair(**options)
    for step, value in steps:
        getattr(pair, step)(value)
    ours, theirs = (pacer.limits().items() for pacer in pair.both)
    assert ours <= theirs
    assert {item for item in theirs if item[1] < options.get("concurrency", 0)} <= ours


@pytest.mark.parametrize(
    "options",
    [
        {"rate_limit": 1e9},
        {"rate_limit": {"*": 1e9}, "concurrency_per_host": 2},
        {"adaptive": True, "concurrency": 8},
    ],
    ids=["rate_limit", "concurrency_per_host", "adaptive"],
)
def test_only_a_limited_number_of_hosts_is_remembered(options: dict[str, Any]) -> None:
    pacer, clock = new_pacer(remembered=100, burst=10**6, **options)
    pacer.pause(HOST, 10**6)
    for number in range(5_000):
        authority = f"{number}.test"
        let_pass(pacer, authority)
        pacer.leave(authority, outcome(503 if number % 2 else 200), 0.01)  # type: ignore[arg-type]
        if number % 3 == 0:
            pacer.pause(authority, 1.0)
        budget = pacer.open_budget(authority)
        assert budget is not None
        assert budget.withdraw()
        clock.advance(0.1)
        assert len(pacer._hosts) <= 120, "half as many and those that are paused, twice"
        assert len(pacer.budgets) <= 100
    assert held_back(pacer, HOST).gate == HOST, "a pause is never forgotten"


def test_hosts_that_are_busy_are_remembered_however_many_they_are() -> None:
    pacer, clock = new_pacer(remembered=10, concurrency_per_host=1)
    for authority in (many := [f"{number}.test" for number in range(1_000)]):
        let_pass(pacer, authority)
    assert not any(pacer.has_free_slot(authority) for authority in many)
    for authority in many:
        pacer.leave(authority, ConnectError("refused"), 0.1)
    clock.advance(1.0)
    for number in range(1_000, 3_000):
        assert pacer.has_free_slot(f"{number}.test")
    assert len(pacer._hosts) <= 10


def test_room_for_more_busy_hosts_than_are_remembered_is_rarely_looked_for() -> None:
    reads = 0

    def clock() -> float:
        nonlocal reads
        reads += 1
        return 0.0

    pacer = Pacer(clock=clock, remembered=10, concurrency_per_host=1)
    for number in range(1_000):
        let_pass(pacer, f"{number}.test")
    assert reads <= 1_000 + 10, "one for each host, and one whenever all are looked through"


def test_hosts_with_a_rate_are_forgotten_once_they_are_at_rest() -> None:
    pacer, clock = new_pacer(remembered=10, rate_limit={"a.test": 10.0})
    for port in range(8_000, 8_100):
        let_pass(pacer, f"a.test:{port}")
        clock.advance(2.0)
        assert len(pacer._hosts) <= 20


def test_the_levels_that_were_cut_last_are_remembered() -> None:
    pacer, clock = new_pacer(remembered=10, adaptive=True, concurrency=10)
    for number in range(33):
        let_pass(pacer, f"{number}.test")
        clock.advance(1.0)
        pacer.leave(f"{number}.test", outcome(503), 1.0)  # type: ignore[arg-type]
    levels = pacer.limits()
    assert set(levels.values()) == {7}
    assert set(levels) == {f"{number}.test" for number in range(25, 33)}


def test_levels_of_busy_hosts_do_not_take_the_room_of_others() -> None:
    pacer, clock = new_pacer(remembered=10, adaptive=True, concurrency=10)
    for number in range(10):
        let_pass(pacer, f"{number}.test")
        clock.advance(1.0)
        pacer.leave(f"{number}.test", outcome(503), 1.0)  # type: ignore[arg-type]
        if number >= 5:
            let_pass(pacer, f"{number}.test")
    assert pacer.has_free_slot("new.test")
    assert set(pacer.limits()) == {*(f"{number}.test" for number in range(10)), "new.test"}


@given(
    st.lists(
        st.tuples(st.sampled_from([f"{number}.test" for number in range(9)]), st.booleans()), max_size=200
    )
)
def test_the_budgets_of_the_hosts_that_failed_last_are_remembered(steps: list[tuple[str, bool]]) -> None:
    """A host's budget is kept until as many others as are remembered have failed since."""
    pair = Pair()
    order: list[str] = []
    forgotten: set[str] = set()
    for authority, fails in steps:
        if fails:
            for pacer in pair.both:
                budget = pacer.open_budget(authority)
                assert budget is not None
                budget.withdraw()
            order = [name for name in order if name != authority] + [authority]
            forgotten.update(order[:-4])
        else:
            for pacer in pair.both:
                if authority in pacer.budgets:
                    pacer.budgets[authority].deposit_call()
        for name in set(order) - forgotten:
            assert pair.forgetful.budgets[name].balance == pair.mindful.budgets[name].balance
    assert list(pair.forgetful.budgets) == order[-4:]
