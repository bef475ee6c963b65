"""What is particular to niquests: how threads share the pools of urllib3-future."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("niquests")

from h2.errors import ErrorCodes

from parallel_requests import exceptions
from parallel_requests.backends import niquests_connections, niquests_pools
from parallel_requests.backends.niquests_pools import OriginPool
from parallel_requests.session import ParallelSession
from tests.polling import until
from tests.server.faults import repeat, response
from tests.server.h2_faults import (
    Pause,
    allow_one_stream,
    go_away,
    good_answer,
    h2_context,
    speak_h2,
    take_any_amount,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.connection import H2Connection

    from tests.server.faults import Connection, FaultServer
    from tests.server.tls import Certificates

pytestmark = pytest.mark.niquests


def test_a_pool_may_shrink_while_a_connection_is_being_opened(
    fault_server: Callable[..., FaultServer], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/late":
            is_asked.set()
            raise Pause(may_answer, lambda: good_answer(protocol, stream))
        good_answer(protocol, stream)

    open_connection = OriginPool._new_conn

    def open_after_shrinking(pool: Any, **options: Any) -> Any:
        monkeypatch.undo()
        pool.pool.maxsize = 1  # as if another thread had just connected, and may have many streams
        return open_connection(pool, **options)

    server = fault_server([speak_h2(answer, begin=allow_one_stream)], tls=h2_context(certificates.good))
    with (
        ParallelSession(backend="niquests", max_retries=0, verify_ssl=str(certificates.ca_file)) as session,
        ThreadPoolExecutor(1) as caller,
    ):
        late = caller.submit(lambda: session.get(server.url("/late"), return_type="content"))
        assert is_asked.wait(5)
        monkeypatch.setattr(OriginPool, "_new_conn", open_after_shrinking)
        assert session.get(server.url("/"), return_type="content") == b"ok"
        may_answer.set()
        assert late.result() == b"ok"


def test_calls_over_http11_do_not_wait_for_the_responses_of_others(
    fault_server: Callable[..., FaultServer], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(niquests_pools, "POLL_INTERVAL", 30.0)  # nor do they have to look for a connection
    number, pairs = itertools.count(), [threading.Event(), threading.Event()]

    def answer_both_at_once(connection: Connection) -> None:
        connection.read_request()
        pair, is_second = divmod(next(number), 2)
        if is_second:
            pairs[pair].set()
        connection.wait(pairs[pair])
        connection.send(response(b"ok"))

    server = fault_server([repeat(answer_both_at_once)], tls=certificates.good.server_context())
    with ParallelSession(backend="niquests", max_retries=0, verify_ssl=str(certificates.ca_file)) as session:
        for _ in pairs:
            assert session.get([server.url()] * 2, timeout=10, return_type="content") == [b"ok"] * 2
    assert server.connections == 2


def test_a_connection_on_which_nothing_is_read_any_more_is_not_used_again(
    fault_server: Callable[..., FaultServer], certificates: Certificates
) -> None:
    may_read = threading.Event()

    def stop_reading(_protocol: H2Connection, _stream: int, path: str) -> None:
        if path == "/up":
            may_read.wait(10)

    server = fault_server(
        [speak_h2(good_answer, at_once=stop_reading, begin=take_any_amount)],
        [speak_h2(good_answer)],
        tls=h2_context(certificates.good),
    )
    with ParallelSession(backend="niquests", max_retries=0, verify_ssl=str(certificates.ca_file)) as session:
        assert session.get(server.url("/"), return_type="content") == b"ok"
        with pytest.raises(exceptions.RequestTimeout):
            session.post(server.url("/up"), data=b"x" * 30_000_000, timeout=1.0)
        assert session.get(server.url("/"), timeout=5, return_type="content") == b"ok"
    may_read.set()
    assert server.connections == 2


def test_a_body_is_sent_as_soon_as_the_server_takes_it(
    fault_server: Callable[..., FaultServer], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only whenever a waiting thread checks whether its attempt was cut."""
    monkeypatch.setattr(niquests_connections, "POLL_INTERVAL", 30.0)
    server = fault_server([speak_h2(good_answer, begin=take_any_amount)], tls=h2_context(certificates.good))
    with ParallelSession(backend="niquests", verify_ssl=str(certificates.ca_file)) as session:
        body = b"x" * 10_000_000  # more than the system buffers
        assert session.post(server.url("/"), data=body, timeout=20, return_type="content") == b"ok"


def test_a_call_that_is_cut_costs_none_on_the_connection_that_comes_next(
    fault_server: Callable[..., FaultServer], certificates: Certificates
) -> None:
    """Their streams have the same number."""
    has_begun, may_go_on, has_ended = threading.Event(), threading.Event(), threading.Event()

    def begin_and_leave(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", "200")])
        protocol.send_data(stream, b"begun")
        go_away(protocol, last_stream=stream, code=ErrorCodes.INTERNAL_ERROR)

    def answer_later(protocol: H2Connection, stream: int, _path: str) -> None:
        raise Pause(has_ended, lambda: good_answer(protocol, stream))

    def receive(_chunk: bytes) -> None:
        has_begun.set()
        may_go_on.wait(10)

    context = h2_context(certificates.good)
    server = fault_server([speak_h2(begin_and_leave)], [speak_h2(answer_later)], tls=context)
    with (
        ParallelSession(backend="niquests", max_retries=0, verify_ssl=str(certificates.ca_file)) as session,
        ThreadPoolExecutor(2) as callers,
    ):
        cut = callers.submit(
            lambda: session.get(server.url("/"), return_type="stream", stream_callback=receive)
        )
        assert has_begun.wait(5)
        late = callers.submit(
            lambda: session.post(server.url("/"), data="x", timeout=5, return_type="content")
        )
        until(lambda: len(server.requests) == 2)
        may_go_on.set()
        assert isinstance(cut.exception(), exceptions.TruncatedBody)
        has_ended.set()
        assert late.result() == b"ok"
