"""One fault becomes one typed error on one item, retried or not as promised."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import ReturnType, exceptions
from parallel_requests.backends.content_codings import ACCEPT_ENCODING
from parallel_requests.gates.backoff import RetryPolicy
from tests.server.fault_cases import CREDENTIALS, FAULT_CASES, FaultCase
from tests.server.faults import (
    Connection,
    FaultServer,
    close,
    read_request,
    receive,
    refusing_port,
    repeat,
    response,
    rst,
    send,
    stall,
    vanish,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.models import Attempt, Result
    from parallel_requests.session import ParallelSession
    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.tls import Certificates

NEVER_AGAIN = RetryPolicy(max_retries=0)
_QUICK = 0.2
"""The timeout of calls that run into it."""
_PATIENCE = 0.25
"""Seconds an attempt may last beyond its timeout."""
_LONG = 10.0
"""Seconds for what happens at once, unless something is broken."""
_MORE_THAN_ONE_ATTEMPT = frozenset({18, 20, 25})
"""Rows that redirect; and whether a proxy that refuses is asked again is up to the retry policy."""
_COMPLETE_RESPONSES = frozenset({18, 21, 25})
"""Rows in which no backend fails: a redirect is not followed, or a response comes from a proxy."""


def call(session: ParallelSession, case: FaultCase, url: str, options: dict[str, Any]) -> Result[Any]:
    """The Result of one call; JSON is decoded only if the fault is in the JSON."""
    return_type = ReturnType.JSON if case.error == "DecodeError" else ReturnType.CONTENT
    data = "something" if case.method == "POST" else None
    [result] = session.iter_results([url], method=case.method, data=data, return_type=return_type, **options)
    return result


@pytest.mark.parametrize("case", FAULT_CASES, ids=str)
def test_a_fault_is_one_typed_error(
    case: FaultCase,
    backend: str,
    open_session: Callable[..., ParallelSession],
    certificates: Certificates,
    lateness: Lateness,
) -> None:
    if case.coding is not None and case.coding not in ACCEPT_ENCODING:
        pytest.skip(f"{case.coding} is not announced here")
    timeout = _QUICK if case.error == "RequestTimeout" else case.timeout
    with case.server(certificates) as server:
        options: dict[str, Any] = {
            "timeout": timeout,
            "verify_ssl": str(certificates.ca_file),
            **case.options,
        }
        if case.as_proxy:
            options["proxy"] = server.url()
        session = open_session()
        for _ in range(case.warm_up):
            session.get(server.url(), return_type="content")
        began = time.monotonic()
        result = call(session, case, case.url(server), options)
        took = time.monotonic() - began
        sent = len(server.requests) - case.warm_up
        connections = server.connections

    check_outcome(case, result, backend)
    check_attempts(case, result, sent)
    if case.error == "RequestTimeout":
        assert took <= result.attempts * (timeout + _PATIENCE) + lateness.slack()
    if case.row == 5:
        assert connections == 1, "informational answers are no reason to give a connection up"
    if case.row == 20:
        secret = {name.lower() for name in CREDENTIALS}
        assert [set(request.headers) & secret for request in server.requests] == [secret, set()]


def check_outcome(case: FaultCase, result: Result[Any], backend: str) -> None:
    """The body, or the error that was promised, which names its backend and no secret."""
    if case.error is None:
        assert result.error is None
        assert result.value == case.body
        return
    error = result.error
    if isinstance(error, exceptions.RetryExhaustedError):
        assert error.__cause__ is error.last_error
        error = error.last_error  # type: ignore[assignment]
    assert isinstance(error, getattr(exceptions, case.error)), repr(error)
    assert "secret-" not in str(error)
    if isinstance(error, exceptions.BackendError) and case.row not in _COMPLETE_RESPONSES:
        assert error.backend_name == backend


def check_attempts(case: FaultCase, result: Result[Any], sent: int) -> None:
    """As many as promised, and nothing else was sent."""
    if case.error == "RequestTimeout":
        assert sent <= result.attempts, "fewer if one timed out before a busy server had read it"
    else:
        assert sent in {0, result.attempts}, "0 if the server did not read it"
    if case.retried:
        assert result.attempts == 2
    elif case.row not in _MORE_THAN_ONE_ATTEMPT:
        assert result.attempts == 1


OUT_OF_STEP = {
    "negative length": b"Content-Length: -5\r\n\r\nabcde",
    "conflicting lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
}


@pytest.mark.parametrize("framing", OUT_OF_STEP)
def test_row_6_a_connection_out_of_step_is_never_used_again(
    framing: str, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    healthy = repeat(read_request(), send(response(b"fine")))
    bad = send(b"HTTP/1.1 200 OK\r\n" + OUT_OF_STEP[framing])
    server = fault_server([read_request(), bad, healthy], [healthy])
    with pytest.raises(exceptions.ProtocolError):
        session.get(server.url(), return_type="content")
    assert session.get(server.url(), return_type="content") == b"fine"
    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_row_10_a_response_that_has_begun_is_not_replayed(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    scheme: str,
) -> None:
    cut = send(response(b"whole")[:-1])
    server = fault_server(
        [read_request(), send(response(b"fine")), read_request(), cut, close()],
        [repeat(read_request(), send(response(b"again")))],
        tls=certificates.good.server_context() if scheme == "https" else None,
    )
    session = open_session(retry=NEVER_AGAIN, verify_ssl=str(certificates.ca_file))
    assert session.get(server.url(), return_type="content") == b"fine"
    with pytest.raises(exceptions.TruncatedBody):
        session.get(server.url(), return_type="content")
    assert [request.connection for request in server.requests] == [0, 0]


WITHOUT_END = {
    "coding": b"Transfer-Encoding: identity\r\n\r\nabc",
    "length": b"Content-Length: 9999999999999999999\r\n\r\nabc",
}


@pytest.mark.parametrize("framing", WITHOUT_END)
def test_a_head_that_no_body_can_follow_needs_no_timeout(
    framing: str, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\n" + WITHOUT_END[framing]), stall()])
    with pytest.raises(exceptions.ProtocolError):
        session.get(server.url(), timeout=None)


TOO_MUCH = {
    "behind a 204": b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nabcde",
    "chunks behind a 204": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n0\r\n\r\n",
    "behind a 304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nabcde",
    "junk behind a body": response(b"whole") + b"junk",
    "half a head behind a body": response(b"whole") + response(b"nobody asked")[:30],
    "half an answer behind a body": response(b"whole") + response(b"nobody asked")[:-5],
    "an answer behind a body": response(b"whole") + response(b"nobody asked"),
}


@pytest.mark.parametrize("answer", TOO_MUCH)
def test_row_5_bytes_after_a_response_are_not_read_as_the_next_one(
    answer: str, open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    healthy = repeat(read_request(), send(response(b"fine")))
    server = fault_server([read_request(), send(TOO_MUCH[answer]), healthy], [healthy])
    # With one slot, a connection that can neither be used nor replaced would be waited for forever.
    session = open_session(retry=NEVER_AGAIN, concurrency=1)
    [first] = session.iter_results([server.url()], return_type="content")
    # aiohttp takes such an answer for none; the others do not look beyond its end.
    assert first.value in (b"", b"whole") or isinstance(first.error, exceptions.ProtocolError)
    assert session.get(server.url(), return_type="content") == b"fine"


def test_row_5_nor_are_they_if_the_response_itself_was_not_read_to_its_end(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    healthy = repeat(read_request(), send(response(b"fine")))
    server = fault_server([read_request(), send(TOO_MUCH["an answer behind a body"]), healthy], [healthy])
    session = open_session(retry=NEVER_AGAIN, concurrency=1)
    with pytest.raises(exceptions.BodyTooLarge):
        session.get(server.url(), max_response_size=1)
    assert session.get(server.url(), return_type="content") == b"fine"


def test_row_5_data_on_an_idle_connection_is_not_taken_for_the_next_response(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    idle, sent = threading.Event(), threading.Event()

    def send_unrequested_response(connection: Connection) -> None:
        connection.wait(idle)
        connection.send(response(b"nobody asked"))
        sent.set()

    healthy = repeat(read_request(), send(response(b"fine")))
    server = fault_server(
        [read_request(), send(response(b"whole")), send_unrequested_response, healthy], [healthy]
    )
    session = open_session(retry=NEVER_AGAIN)
    assert session.get(server.url(), return_type="content") == b"whole"
    idle.set()
    assert sent.wait(_LONG)
    assert session.get(server.url(), return_type="content") == b"fine"
    assert [request.connection for request in server.requests] == [0, 1]


CUT_OR_CODED_WRONG = [case for case in FAULT_CASES if case.row in {1, 2, 3, 11} and not case.as_proxy]


@pytest.mark.parametrize("surface", ["sync"], indirect=True)
@pytest.mark.parametrize("case", CUT_OR_CODED_WRONG, ids=str)
def test_faulty_bodies_fail_alike_as_streams_and_as_files(
    case: FaultCase, open_session: Callable[..., ParallelSession], certificates: Certificates, tmp_path: Path
) -> None:
    if case.coding is not None and case.coding not in ACCEPT_ENCODING:
        pytest.skip(f"{case.coding} is not announced here")
    kind = getattr(exceptions, case.error or "")
    with case.server(certificates) as server:
        session = open_session(retry=NEVER_AGAIN, verify_ssl=str(certificates.ca_file))
        with pytest.raises(kind):
            session.get(case.url(server), return_type="stream", stream_callback=lambda chunk: None)
        with pytest.raises(kind):
            session.download(case.url(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_row_10_one_replay_on_a_fresh_connection_is_free(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    used_once = [read_request(), send(response(b"fine")), read_request(), close()]
    server = fault_server(used_once, used_once, [read_request(), close()])
    session = open_session(retry=NEVER_AGAIN)
    assert [session.get(server.url(), return_type="content") for _ in range(2)] == [b"fine"] * 2
    assert [request.connection for request in server.requests] == [0, 0, 1]
    with pytest.raises(exceptions.TruncatedBody):
        session.get(server.url(), return_type="content")
    assert [request.connection for request in server.requests] == [0, 0, 1, 1, 2], (
        "a fresh one is no stale one"
    )


def test_a_retry_after_silence_on_an_idle_connection_takes_a_new_one(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    """The other idle ones may be dead as well, as here."""
    all_are_open = threading.Barrier(3)

    def answer_beside_others(connection: Connection) -> None:
        connection.read_request()
        all_are_open.wait(_LONG)
        connection.send(response(b"fine"))

    three = [[answer_beside_others, read_request(), stall()]] * 3
    server = fault_server(*three, [read_request(), send(response(b"fine"))])
    session = open_session(retry=RetryPolicy(max_retries=1, backoff_factor=0.001), concurrency=3)
    assert session.get([server.url()] * 3, return_type="content") == [b"fine"] * 3
    assert session.get(server.url(), return_type="content", timeout=0.5) == b"fine"
    assert [request.connection for request in server.requests][4:] == [3]


def test_row_10_a_replay_while_another_connection_is_kept_counts(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    both_are_open = threading.Barrier(2)

    def answer_all_but_the_third(connection: Connection) -> None:
        connection.read_request()
        both_are_open.wait(_LONG)
        connection.send(response(b"fine"))
        while connection.read_request() is not server.requests[2]:
            connection.send(response(b"fine"))

    two = [[answer_all_but_the_third, close()]] * 2
    server = fault_server(*two, [read_request(), send(response(b"fine"))])
    session = open_session(retry=NEVER_AGAIN, concurrency=2)
    assert session.get([server.url()] * 2, return_type="content") == [b"fine"] * 2
    attempts: list[Attempt] = []
    [result] = session.iter_results(
        [server.url()], return_type="content", on_attempt=lambda _request, attempt: attempts.append(attempt)
    )
    assert result.value == b"fine"
    assert result.attempts == len(result.history) == len(server.requests[2:]) == 2
    assert tuple(attempts) == result.history


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_retry_does_not_try_one_dead_connection_after_another(
    scheme: str,
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    """As a firewall leaves them that forgets idle connections: there is no answer, not even a reset."""
    many = 4
    all_are_open = threading.Barrier(many)

    def answer_once(connection: Connection) -> None:
        connection.read_request()
        all_are_open.wait(_LONG)
        connection.send(response(b"fine"))

    server = fault_server(
        *[[answer_once, vanish()]] * many,
        [read_request(), send(response(b"fine")), stall()],
        tls=certificates.good.server_context() if scheme == "https" else None,
    )
    session = open_session(
        concurrency=many,
        retry=RetryPolicy(max_retries=1, backoff_factor=0.01),
        verify_ssl=str(certificates.ca_file),
    )
    assert session.get([server.url()] * many, return_type="content") == [b"fine"] * many
    [result] = session.iter_results([server.url()], return_type="content", timeout=1)
    assert (result.value, result.attempts) == (b"fine", 2)
    assert server.requests[-1].connection == many


def test_row_10_a_post_is_replayed_if_the_caller_allows_it(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    fine = send(response(b"fine"))
    server = fault_server([read_request(), fine, read_request(), close()], [read_request(), fine])
    session = open_session(retry=RetryPolicy(max_retries=0, allowed_methods={"GET", "POST"}))
    session.get(server.url(), return_type="content")
    assert session.post(server.url(), data="once", return_type="content") == b"fine"
    assert [(request.method, request.body) for request in server.requests[1:]] == [("POST", b"once")] * 2


@pytest.mark.parametrize("data", ["once", None])
def test_row_37_a_post_that_finds_its_connection_closed_is_sent_once(
    data: str | None, open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    fine = send(response(b"fine"))
    server = fault_server([read_request(), fine, read_request(), close()], [repeat(read_request(), fine)])
    session = open_session()
    session.get(server.url(), return_type="content")
    with contextlib.suppress(exceptions.ParallelRequestsError):  # curl opens another one if there is no body
        session.post(server.url(), data=data)
    assert [request.method for request in server.requests] == ["GET", "POST"]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_row_10_connections_closed_while_idle_are_not_used(
    scheme: str,
    method: str,
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    many = 10
    all_are_open, is_idle, closed = threading.Barrier(many), threading.Event(), threading.Semaphore(0)

    def answer_and_close(connection: Connection) -> None:
        connection.read_request()
        all_are_open.wait(_LONG)
        connection.send(response(b"fine"))
        connection.wait(is_idle)
        connection.end()
        closed.release()

    healthy = [repeat(read_request(), send(response(b"fine")))]
    tls = certificates.good.server_context() if scheme == "https" else None
    server, elsewhere = fault_server(*[[answer_and_close]] * many, healthy, tls=tls), fault_server(healthy)
    session = open_session(retry=NEVER_AGAIN, concurrency=many, verify_ssl=str(certificates.ca_file))
    assert session.get([server.url()] * many, return_type="content") == [b"fine"] * many
    is_idle.set()
    for _ in range(many):
        assert closed.acquire(timeout=_LONG)
    session.get(elsewhere.url(), return_type="content")  # an event loop has then seen the ends, too
    data = None if method == "GET" else "x"
    again = [server.url()] * many
    results = list(session.iter_results(again, method=method, data=data, return_type="content"))
    assert [(result.value, result.attempts) for result in results] == [(b"fine", 1)] * many
    assert len(server.requests) == 2 * many


def test_row_12_a_refused_connection_is_retried(session: ParallelSession) -> None:
    with refusing_port() as port:
        [result] = session.iter_results([f"http://127.0.0.1:{port}/"])
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert type(result.error.last_error) is exceptions.ConnectError
    assert result.attempts == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_message_shows_no_address_in_memory(session: ParallelSession, scheme: str) -> None:
    with refusing_port() as port:
        [result] = session.iter_results([f"{scheme}://127.0.0.1:{port}/"], max_retries=0)
    assert isinstance(result.error, exceptions.ConnectError)
    assert " at 0x" not in str(result.error)


def test_row_12_an_unknown_name_is_looked_up_once_more(
    open_session: Callable[..., ParallelSession],
) -> None:
    session = open_session(retry=RetryPolicy(max_retries=3, backoff_factor=0.01))
    [result] = session.iter_results(["http://no-such-host.invalid/"])
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert isinstance(result.error.last_error, exceptions.DNSError)
    assert result.attempts == 2


def test_an_address_of_an_unsupported_family_is_skipped(
    session: ParallelSession, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like an IPv6 address on a machine without IPv6: the next address of the name is used."""
    look_up = socket.getaddrinfo

    def with_a_strange_one_first(*arguments: Any, **options: Any) -> list[Any]:
        found = look_up(*arguments, **options)
        return [(socket.AF_APPLETALK, *found[0][1:]), *found]

    with pytest.raises(OSError, match="not supported"):
        socket.socket(socket.AF_APPLETALK, socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", with_a_strange_one_first)
    assert session.request(server.url("/id/1")) == {"id": 1}


def test_a_socket_whose_options_cannot_be_set_is_closed(
    session: ParallelSession, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def with_one_without_tcp_first(*arguments: Any, **options: Any) -> list[Any]:
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ""), *look_up(*arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", with_one_without_tcp_first)
    assert session.request(server.url("/id/1")) == {"id": 1}
    gc.collect()  # a socket left open would give a warning


def test_row_12_the_error_of_a_name_is_that_of_its_first_address(
    open_session: Callable[..., ParallelSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one may be that this machine has no IPv6, where "localhost" refuses."""
    look_up = socket.getaddrinfo

    def with_a_strange_one_last(*arguments: Any, **options: Any) -> list[Any]:
        found = look_up(*arguments, **options)
        return [*found, (socket.AF_APPLETALK, *found[0][1:])]

    monkeypatch.setattr(socket, "getaddrinfo", with_a_strange_one_last)
    with refusing_port() as port:
        [result] = open_session(retry=NEVER_AGAIN).iter_results([f"http://127.0.0.1:{port}/"])
    assert type(result.error) is exceptions.ConnectError
    assert "not supported" not in str(result.error)


def test_a_reset_after_the_handshake_is_never_a_protocol_error(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    server = fault_server([rst()], tls=certificates.good.server_context())
    session = open_session(retry=NEVER_AGAIN, verify_ssl=str(certificates.ca_file))
    results = list(session.iter_results([server.url()] * 30))
    assert {type(result.error) for result in results} <= {exceptions.ConnectError, exceptions.TruncatedBody}


@pytest.mark.parametrize(
    "record", [b"no TLS record at all", b"\x15\x03\x03\x00\x02\x02\x50"], ids=["junk", "alert"]
)
def test_tls_that_breaks_after_the_handshake_may_have_delivered_the_request(
    record: bytes,
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    def send_beneath_tls(connection: Connection) -> None:
        os.write(connection.socket.fileno(), record)

    server = fault_server([read_request(), send_beneath_tls, stall()], tls=certificates.good.server_context())
    session = open_session(verify_ssl=str(certificates.ca_file))
    [posted] = session.iter_results([server.url()], method="POST", data="x")
    assert type(posted.error) is exceptions.TruncatedBody
    [result] = session.iter_results([server.url()])
    assert result.attempts == 2
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "backend",
    ["requests", "urllib3", pytest.param("niquests", marks=pytest.mark.niquests)],
    indirect=True,  # libcurl and aiohttp do not always read on once they cannot write
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_response_that_cuts_an_upload_short_is_read(
    scheme: str,
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    refusal = response(b"too much", "Connection: close", status="413 Content Too Large")
    server = fault_server(
        [receive(), send(refusal), close()],
        tls=certificates.good.server_context() if scheme == "https" else None,
    )
    session = open_session(retry=NEVER_AGAIN, verify_ssl=str(certificates.ca_file))
    for _ in range(10):
        refused = session.post(server.url(), data=b"x" * 5_000_000, return_type="response")
        assert (refused.status_code, refused.content) == (413, b"too much")


def test_a_process_without_a_socket_left_is_resource_exhausted(
    open_session: Callable[..., ParallelSession],
) -> None:
    answers = [repeat(read_request(), send(response(b"fine")))]
    with FaultServer(answers) as known, FaultServer(answers) as other:
        session = open_session(retry=NEVER_AGAIN)
        session.get(known.url(), return_type="content")
        with every_descriptor_taken():
            [result] = session.iter_results([other.url()], return_type="content")
        assert type(result.error) is exceptions.ResourceExhausted
        assert other.connections == 0
        assert session.get(other.url(), return_type="content") == b"fine"


@contextlib.contextmanager
def every_descriptor_taken() -> Iterator[None]:
    """Take every file descriptor that this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    with contextlib.ExitStack() as taken:
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.callback(os.close, os.dup(0))
        yield
