"""As many attempts in flight as requested, by the server's count, and no more connections than that."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from parallel_requests.backends.registry import backend_class
from parallel_requests.exceptions import ConfigurationError
from tests.lateness import fits
from tests.server.control import together
from tests.server.faults import repeat, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.models import Attempt, Request
    from parallel_requests.session import ParallelSession
    from tests.server.control import Server
    from tests.server.faults import Connection, FaultServer


@pytest.mark.parametrize("concurrency", [1, 20, 150])
def test_one_host_sees_the_full_concurrency(
    open_session: Callable[..., ParallelSession], server: Server, concurrency: int
) -> None:
    session = open_session(concurrency=concurrency)
    for _ in range(2):
        session.request([server.url(together(concurrency))] * (2 * concurrency))
    stats = server.stats()
    assert stats.max_in_flight == concurrency
    assert stats.connections <= concurrency
    assert stats.requests == 4 * concurrency


def test_a_concurrency_that_no_process_reaches_delays_no_call(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    session = open_session(concurrency=2_000_000_000)
    session.request([server.url("/json")] * 2, deadline=20)
    assert server.stats().requests == 2


def test_calls_that_waited_for_the_rate_limit_are_in_flight_together(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    session = open_session(concurrency=8, rate_limit=100, rate_limit_burst=1)
    session.request([server.url(together(8))] * 8)
    assert server.stats().max_in_flight == 8


def test_one_host_with_tls_sees_the_full_concurrency(
    open_session: Callable[..., ParallelSession], tls_server: Server
) -> None:
    session = open_session(concurrency=20, verify_ssl=str(tls_server.ca_file))
    session.request([tls_server.url(together(20))] * 40)
    stats = tls_server.stats()
    assert stats.max_in_flight == 20
    assert stats.connections <= 20
    assert session.last_run.connections == stats.connections


def test_thirty_hosts_together_see_the_full_concurrency(
    open_session: Callable[..., ParallelSession], many_hosts: Server
) -> None:
    session = open_session(concurrency=100)
    path = together(100)
    session.request([f"{url}{path}" for url in (many_hosts.urls * 7)[:200]])
    stats = many_hosts.stats()
    assert stats.max_in_flight == 100
    assert stats.requests == 200


def test_row_17_twenty_workers_reuse_their_connections_to_thirty_hosts(
    open_session: Callable[..., ParallelSession], many_hosts: Server
) -> None:
    session = open_session(concurrency=20)
    session.request([f"{url}/static" for url in many_hosts.urls] * 20)
    stats = many_hosts.stats()
    assert stats.requests == 600
    assert stats.max_in_flight <= 20
    assert stats.connections < 300, "connections are reused"
    assert max(stats.connections_by_listener.values()) <= 20


def test_connections_to_more_hosts_than_there_are_attempts_in_flight_are_reused(
    open_session: Callable[..., ParallelSession], many_hosts: Server
) -> None:
    session = open_session(concurrency=1)
    for _ in range(2):
        session.request([f"{url}/static" for url in many_hosts.urls])
    assert many_hosts.stats().connections == len(many_hosts.urls)


def test_a_thousand_calls_of_100_ms_fit_into_a_second_and_a_half(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    assert fits(open_session(concurrency=100), [server.url("/static?delay=0.1")] * 1_000, within=1.5)


@pytest.mark.parametrize("surface", ["sync"], indirect=True)
def test_five_calls_of_a_second_fit_into_one_and_a_bit(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    assert fits(open_session(concurrency=5), [server.url("/delay/1")] * 5, within=1.3)


def test_batches_from_several_threads_share_the_concurrency(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    session, path = open_session(concurrency=10), together(10)
    with ThreadPoolExecutor(4) as callers:
        batches = [
            [*(server.url(f"/id/{100 * caller + n}") for n in range(20)), *[server.url(path)] * 5]
            for caller in range(4)
        ]
        answers = list(callers.map(session.request, batches))
    assert answers == [[*({"id": 100 * caller + n} for n in range(20)), *[{}] * 5] for caller in range(4)]
    assert server.stats().max_in_flight == 10


def test_a_callers_executor_limits_the_attempts_in_flight_and_lives_on(
    open_session: Callable[..., ParallelSession], server: Server, backend: str
) -> None:
    if backend_class(backend).engine != "threads":
        pytest.skip("runs on a thread of its own")
    with ThreadPoolExecutor(7) as executor:
        session = open_session(concurrency=50, executor=executor)
        session.request([server.url(together(7))] * 21)
        session.close()
        assert server.stats().max_in_flight == 7
        assert executor.submit(int, "1").result() == 1


def test_an_executor_needs_a_blocking_backend(
    open_session: Callable[..., ParallelSession], server: Server, backend: str
) -> None:
    with ThreadPoolExecutor(1) as executor:
        if backend_class(backend).engine != "threads":
            with pytest.raises(ConfigurationError, match="executor is for blocking backends") as caught:
                open_session(executor=executor)
            assert caught.value.config_key == "executor"
        session = open_session(backend="auto", executor=executor)
        assert session.request(server.url("/id/1")) == {"id": 1}


@pytest.mark.parametrize("per_host", [None, 1])
def test_a_slow_parse_func_delays_no_other_call(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    per_host: int | None,
) -> None:
    is_parsing, other_is_done = threading.Event(), threading.Event()

    def answer(connection: Connection) -> None:
        request = connection.read_request()
        if request.target == "/other":
            connection.wait(is_parsing)
        connection.send(response(b'"%s"' % request.target.encode()))

    def tell(request: Request, _attempt: Attempt) -> None:
        if request.index == 1:
            other_is_done.set()

    def parse(value: str) -> bool:
        is_parsing.set()
        return other_is_done.wait(5.0)

    server = fault_server([repeat(answer)])
    session = open_session(concurrency=2, concurrency_per_host=per_host)
    urls = [server.url("/slow"), server.url("/other")]
    assert session.request(urls, parse_func=parse, on_attempt=tell) == [True, True]


def test_whoever_waits_is_woken_and_does_not_only_look_now_and_then(
    open_session: Callable[..., ParallelSession], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parallel_requests.engines.notifier._LONGEST_SLEEP", threading.TIMEOUT_MAX)
    session = open_session(concurrency=2)
    assert session.request(server.url("/id/1")) == {"id": 1}
    urls = [server.url(f"/id/{number}") for number in range(10)]
    assert session.request(urls) == [{"id": number} for number in range(10)]
    assert sorted(result.index for result in session.iter_results(iter(urls))) == list(range(10))
