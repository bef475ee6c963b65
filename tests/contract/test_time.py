"""Timeouts hold, and a stop stops, whatever the server does."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import exceptions
from tests.server.faults import read_request, response, send, stall, trickle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.session import ParallelSession
    from tests.server.control import Server
    from tests.server.faults import FaultServer, Step
    from tests.server.tls import Certificates

_CUT_WITHIN = 0.25
_STOPPED_WITHIN = 1.0


def test_each_attempt_has_its_own_timeout(session: ParallelSession, server: Server) -> None:
    urls = [server.url("/hang"), server.url("/id/1"), server.url("/slow-body?bytes=100&interval=0.05")]
    began = time.monotonic()
    results = sorted(session.iter_results(urls, timeout=0.3), key=lambda result: result.index)
    assert time.monotonic() - began <= 2 * (0.3 + _CUT_WITHIN)
    assert results[1].value == {"id": 1}
    for result in (results[0], results[2]):
        assert isinstance(result.error, exceptions.RetryExhaustedError)
        assert isinstance(result.error.last_error, exceptions.RequestTimeout)
        assert isinstance(result.error.last_error, TimeoutError)


@pytest.mark.parametrize(
    "scripted",
    [stall(), trickle(b"\x16\x03\x03" + b"\x00" * 100, 0.05)],
    ids=["says_nothing", "trickles"],
)
def test_the_handshake_is_in_the_timeout(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer], scripted: Step
) -> None:
    server = fault_server([scripted])
    session = open_session(max_retries=0, retry=None)
    url = server.url().replace("http:", "https:")
    for timeout, limit in ((0.3, 0.3), ((0.2, 5.0), 0.2)):
        began = time.monotonic()
        [result] = session.iter_results([url], timeout=timeout)
        assert isinstance(result.error, exceptions.RequestTimeout), result.error
        assert time.monotonic() - began <= limit + _CUT_WITHIN


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upload_nobody_takes_is_in_the_timeout(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    scheme: str,
) -> None:
    # The first answer keeps the connection, so that the upload finds one that has timeouts behind it.
    script = [read_request(), send(response(b"{}")), stall()]
    server = fault_server(script, tls=certificates.good.server_context() if scheme == "https" else None)
    url = server.url(host="localhost")
    session = open_session(max_retries=0, retry=None, verify_ssl=str(certificates.ca_file))
    assert session.get(url, timeout=5) == {}
    began = time.monotonic()
    [result] = session.iter_results([url], method="PUT", data=bytes(30_000_000), timeout=0.4)
    assert isinstance(result.error, exceptions.RequestTimeout), result.error
    assert time.monotonic() - began <= 0.4 + _CUT_WITHIN
    assert server.connections == 1


def test_a_body_that_ends_with_its_connection_is_not_taken_for_whole(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), trickle(b"x" * 100, 0.05)])
    [result] = open_session(max_retries=0, retry=None).iter_results(
        [server.url()], timeout=0.4, return_type="content"
    )
    assert isinstance(result.error, exceptions.RequestTimeout)


def test_after_a_timeout_the_connection_is_not_used_again(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    session = open_session(concurrency=1, max_retries=0, retry=None)
    urls = [server.url("/id/1?delay=0.4"), server.url("/id/2")]
    results = list(session.iter_results(urls, timeout=0.2, ordered=True))
    assert isinstance(results[0].error, exceptions.RequestTimeout)
    assert results[1].value == {"id": 2}


def test_the_deadline_of_a_batch(session: ParallelSession, server: Server) -> None:
    began = time.monotonic()
    results = sorted(
        session.iter_results([server.url("/id/1"), server.url("/hang")], deadline=0.5), key=lambda r: r.index
    )
    assert time.monotonic() - began <= 0.5 + _CUT_WITHIN
    assert results[0].ok
    assert isinstance(results[1].error, exceptions.DeadlineExceededError)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closing_from_another_thread_stops_within_a_second(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    scheme: str,
) -> None:
    everyone_waits = threading.Barrier(6)

    def arrived(_connection: Any) -> None:
        everyone_waits.wait(5)

    tls = certificates.good.server_context() if scheme == "https" else None
    server = fault_server([read_request(), arrived, stall()], tls=tls)
    session = open_session(concurrency=5, verify_ssl=str(certificates.ca_file))
    outcome: list[Any] = []

    def run() -> None:
        outcome.extend(session.iter_results([server.url()] * 20, timeout=None))

    caller = threading.Thread(target=run)
    caller.start()
    everyone_waits.wait(5)
    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began < _STOPPED_WITHIN
    assert len(outcome) == 20
    assert all(isinstance(result.error, exceptions.RunStoppedError) for result in outcome)
    assert len(server.requests) == 5


def test_leaving_the_loop_stops_the_run(open_session: Callable[..., ParallelSession], server: Server) -> None:
    session = open_session(concurrency=5)
    urls = [server.url("/id/0"), *[server.url("/hang")] * 50]
    results = session.iter_results(urls)
    assert next(results).value == {"id": 0}
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < _STOPPED_WITHIN
    assert session.request(server.url("/id/1")) == {"id": 1}


@pytest.mark.parametrize("verb", ["request", "iter_results"])
def test_an_interrupt_stops_the_run_and_comes_through(
    session: ParallelSession, server: Server, verb: str
) -> None:
    def urls() -> Iterator[str]:
        yield server.url("/hang")
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(getattr(session, verb)(urls()))
    assert time.monotonic() - began < _STOPPED_WITHIN
    assert session.request(server.url("/id/1")) == {"id": 1}
