"""A stop stops, whatever the server does; tests/live/test_stop.py has the stops of a whole process."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import exceptions
from parallel_requests.gates.backoff import RetryPolicy
from tests.polling import until
from tests.server.faults import read_request, receive, stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.session import ParallelSession
    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.faults import FaultServer
    from tests.server.tls import Certificates

_STOPPED_WITHIN = 1.0
"""Seconds, the machine's own lateness apart."""
_PATIENCE = 20.0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closing_from_another_thread_stops_within_a_second(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    lateness: Lateness,
    scheme: str,
) -> None:
    everyone_waits = threading.Barrier(6)

    def arrived(_connection: Any) -> None:
        everyone_waits.wait(20)

    tls = certificates.good.server_context() if scheme == "https" else None
    server = fault_server([read_request(), arrived, stall()], tls=tls)
    session = open_session(concurrency=5, verify_ssl=str(certificates.ca_file))
    outcome: list[Any] = []

    def run() -> None:
        outcome.extend(session.iter_results([server.url()] * 20, timeout=None))

    caller = threading.Thread(target=run)
    caller.start()
    everyone_waits.wait(20)
    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began <= _STOPPED_WITHIN + lateness.slack()
    assert len(outcome) == 20
    assert all(isinstance(result.error, exceptions.RunStoppedError) for result in outcome)
    assert len(server.requests) == 5


def test_closing_ends_a_tls_handshake_that_hangs(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer], lateness: Lateness
) -> None:
    has_begun = threading.Event()
    server = fault_server([receive(), lambda _connection: has_begun.set(), stall()])
    session = open_session(verify_ssl=False)
    outcome: list[Any] = []
    urls = [f"https://127.0.0.1:{server.port}/"] * 3
    caller = threading.Thread(target=lambda: outcome.extend(session.iter_results(urls, timeout=None)))
    caller.start()
    assert has_begun.wait(_PATIENCE)
    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began <= _STOPPED_WITHIN + lateness.slack()
    assert [type(result.error) for result in outcome] == [exceptions.RunStoppedError] * 3


def test_closing_ends_a_call_that_waits_for_its_retry(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    session = open_session(concurrency=1, retry=RetryPolicy(backoff_factor=600.0))
    with ThreadPoolExecutor(1) as caller:
        urls = [server.url("/status/503"), server.url("/hang")]
        outcome = caller.submit(list, session.iter_results(urls, timeout=None))
        until(lambda: "/hang" in server.stats().by_path)  # so the first one has given its slot back
        session.close()
        errors = [result.error for result in outcome.result(_PATIENCE)]
    assert [type(error) for error in errors] == [exceptions.RunStoppedError] * 2


def test_leaving_the_loop_stops_the_run(
    open_session: Callable[..., ParallelSession], server: Server, lateness: Lateness
) -> None:
    session = open_session(concurrency=5)
    urls = [server.url("/id/0"), *[server.url("/hang")] * 50]
    results = session.iter_results(urls)
    assert next(results).value == {"id": 0}
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began <= _STOPPED_WITHIN + lateness.slack()
    assert session.request(server.url("/id/1")) == {"id": 1}


@pytest.mark.parametrize(
    "backend",
    [pytest.param("niquests", marks=pytest.mark.niquests), "requests", "urllib3"],
    indirect=True,
)
def test_leaving_the_loop_does_not_wait_for_the_look_up_of_a_name(
    open_session: Callable[..., ParallelSession], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up, has_begun, may_end = socket.getaddrinfo, threading.Event(), threading.Event()

    def hesitate(host: str, *rest: Any, **options: Any) -> Any:
        if host == "slow.test":
            has_begun.set()
            may_end.wait(2 * _PATIENCE)
        return look_up(*server.address, *rest[1:], **options)

    monkeypatch.setattr(socket, "getaddrinfo", hesitate)
    session = open_session()

    def take_one() -> Any:
        results = session.iter_results([server.url("/id/0"), "http://slow.test/"])
        value = next(results).value
        has_begun.wait(_PATIENCE)
        results.close()
        return value

    with ThreadPoolExecutor(1) as consumer:
        try:
            assert consumer.submit(take_one).result(_PATIENCE) == {"id": 0}
        finally:
            may_end.set()


@pytest.mark.parametrize("verb", ["request", "iter_results"])
def test_an_interrupt_stops_the_run_and_is_raised(
    session: ParallelSession, server: Server, lateness: Lateness, verb: str
) -> None:
    def urls() -> Iterator[str]:
        yield server.url("/hang")
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(getattr(session, verb)(urls()))
    assert time.monotonic() - began <= _STOPPED_WITHIN + lateness.slack()
    assert session.request(server.url("/id/1")) == {"id": 1}
