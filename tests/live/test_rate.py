"""The rate limit by the server's time stamps: no window of any length exceeds it."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from parallel_requests import ParallelSession, RetryPolicy, TokenBucket
from parallel_requests.gates.pacing import LEAST_SETTLE
from tests.server.arrivals import mean_rate, worst_excess
from tests.server.control import together
from tests.server.faults import read_request, response, send, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.faults import FaultServer

# With one answer in five a 503, one call in 625 would meet four of them in a row.
UNTIL_IT_IS_DONE = RetryPolicy(max_retries=20, backoff_factor=0.01, backoff_max=0.05)


def assert_within(
    server: Server, stamps: Sequence[float], lateness: Lateness, *, rate: float, burst: int
) -> None:
    """No window exceeds the rate, allowing for the lateness of both processes."""
    lag = server.stats().max_lag + lateness.worst
    assert worst_excess(stamps, rate, burst) <= rate * lag, f"up to {lag * 1000:.1f} ms were the machine's"


def test_no_window_exceeds_the_rate(
    open_session: Callable[..., ParallelSession], server: Server, lateness: Lateness
) -> None:
    rate, burst, calls = 200, 5, 400
    session = open_session(rate_limit=rate, rate_limit_burst=burst, concurrency=50, retry=UNTIL_IT_IS_DONE)
    session.request([server.url("/ratio?percent=20")] * calls)

    stamps = server.arrivals(route="ratio")
    assert server.stats().by_status == {"200": calls, "503": len(stamps) - calls}
    assert len(stamps) == pytest.approx(1.25 * calls, abs=2)
    assert_within(server, stamps, lateness, rate=rate, burst=burst)
    # Without the first burst, and the last attempts, some of which wait for their backoff.
    steady = stamps[burst:-20]
    # A stall fills the bucket, which then takes its time to settle.
    lost = lateness.total + lateness.stalls * LEAST_SETTLE + server.stats().max_lag
    tolerance = 0.01 + lost / (steady[-1] - steady[0])
    assert mean_rate(steady) == pytest.approx(rate, rel=tolerance)


def test_a_redirect_pays_for_each_hop(
    open_session: Callable[..., ParallelSession], server: Server, lateness: Lateness
) -> None:
    session = open_session(rate_limit=100, rate_limit_burst=2)
    session.get([server.url("/redirect/1")] * 15)
    stamps = server.arrivals()
    assert len(stamps) == 30
    assert_within(server, stamps, lateness, rate=100, burst=2)


def test_hosts_have_rates_of_their_own(
    open_session: Callable[..., ParallelSession], many_hosts: Server, lateness: Lateness
) -> None:
    slow, *others = many_hosts.listeners[:3]
    rates = {slow.partition(":")[0]: 30, "*": 200}
    session = open_session(rate_limit=rates, rate_limit_burst=3, concurrency=20)
    numbers = itertools.cycle([0, 1, 2])
    session.get([many_hosts.url("/static", listener=next(numbers)) for _ in range(42)])

    assert_within(many_hosts, many_hosts.arrivals(host=slow), lateness, rate=30, burst=3)
    assert_within(many_hosts, many_hosts.arrivals(), lateness, rate=200, burst=3)
    last_of_others = max(many_hosts.arrivals(host=other)[-1] for other in others)
    assert last_of_others < many_hosts.arrivals(host=slow)[-1], "who waits for one host holds up no other"


def test_each_host_has_the_same_rate(
    open_session: Callable[..., ParallelSession], many_hosts: Server, lateness: Lateness
) -> None:
    session = open_session(rate_limit_per_host=50, rate_limit_burst=3, concurrency=20)
    numbers = itertools.cycle([0, 1, 2])
    session.get([many_hosts.url("/static", listener=next(numbers)) for _ in range(60)])
    for host in many_hosts.listeners[:3]:
        stamps = many_hosts.arrivals(host=host)
        assert len(stamps) == 20
        assert_within(many_hosts, stamps, lateness, rate=50, burst=3)


def test_no_host_exceeds_its_concurrency(
    open_session: Callable[..., ParallelSession], many_hosts: Server
) -> None:
    session = open_session(concurrency=20, concurrency_per_host=3)
    path = together(6)
    session.get([many_hosts.url(path, listener=number) for number in (0, 1)] * 12)
    stats = many_hosts.stats()
    assert [stats.max_in_flight_by_listener[listener] for listener in many_hosts.listeners[:2]] == [3, 3]
    assert stats.max_in_flight == 6


def test_a_redirect_lets_the_next_one_to_its_first_host_pass(
    backend: str, server: Server, fault_server: Callable[..., FaultServer]
) -> None:
    has_passed = threading.Event()
    elsewhere = fault_server([read_request(), wait(has_passed), send(response(b"1"))])
    urls = [server.url(f"/redirect-to?url={elsewhere.url()}"), server.url("/static")]
    with ParallelSession(backend=backend, concurrency_per_host=1, timeout=10.0, max_retries=0) as session:
        results = session.request(
            urls, on_result=lambda result: has_passed.set() if result.index == 1 else None
        )
    assert results[0] == 1


def by_hand(bucket: TokenBucket, get: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        bucket.acquire()
        return get()

    return call


def in_a_block(bucket: TokenBucket, get: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        with bucket:
            return get()

    return call


def decorated(bucket: TokenBucket, get: Callable[[], object]) -> Callable[[], object]:
    return bucket(get)


def decorated_coroutine(bucket: TokenBucket, get: Callable[[], object]) -> Callable[[], object]:
    @bucket
    async def call() -> object:
        return get()

    return lambda: asyncio.run(call())


@pytest.mark.parametrize("limited", [by_hand, in_a_block, decorated, decorated_coroutine])
def test_one_bucket_for_the_threads_of_several_sessions(
    limited: Callable[[TokenBucket, Callable[[], object]], Callable[[], object]],
    server: Server,
    lateness: Lateness,
) -> None:
    bucket = TokenBucket(rate=100, burst=4)
    with ThreadPoolExecutor(6) as executor, ParallelSession() as one, ParallelSession() as other:
        gets = [functools.partial(session.get, server.url("/static")) for session in (one, other)]
        calls = [limited(bucket, get) for get in gets]
        for done in [executor.submit(call) for call in calls * 20]:
            done.result()
    stamps = server.arrivals()
    assert len(stamps) == 40
    # The bucket knows nothing of the wire, on which a first burst may be late by a connection, nor how long a
    # thread that has its token waits for a processor.
    lag = server.stats().max_lag + lateness.slack() + 0.02
    assert worst_excess(stamps, 100, 4) <= 100 * lag
