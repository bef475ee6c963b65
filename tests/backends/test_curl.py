"""What is particular to curl: pools of hundreds, descriptors beyond ``select``, libcurl's form of heads."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("pycurl")

import pycurl
import trustme

from parallel_requests import exceptions
from parallel_requests.backends.base import TransportSettings
from parallel_requests.backends.curl import CurlBackend
from parallel_requests.backends.curl_idle_connections import IdleConnections
from parallel_requests.engines.curl_drivers import _EpollDriver, _SelectDriver
from parallel_requests.engines.curl_multi import CurlMultiEngine
from parallel_requests.session import ParallelSession
from tests.polling import until
from tests.server.control import Server, together
from tests.server.faults import FaultServer, close, read_request, send
from tests.server.h2_faults import h2_context, speak_h2
from tests.server.tls import Identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.connection import H2Connection

    from parallel_requests.models import Result
    from tests.server.tls import Certificates

HUNDREDS = 300


def test_too_many_http2_headers_are_a_protocol_error(
    fault_server: Callable[..., FaultServer], certificates: Certificates
) -> None:
    def answer(protocol: H2Connection, stream: int, _path: str) -> None:
        for _ in range(6_000):
            protocol.send_headers(stream, [(":status", "103")])

    server = fault_server([speak_h2(answer)], tls=h2_context(certificates.good))
    with ParallelSession(backend="curl", verify_ssl=certificates.ca_file) as session:
        [result] = session.iter_results([server.url()])
    assert isinstance(result.error, exceptions.ProtocolError)
    assert result.attempts == len(server.requests) == 1


@pytest.mark.timeout(30)
def test_a_crawl_of_many_hosts_keeps_a_hundred_connections() -> None:
    addresses = tuple(f"127.0.1.{number}" for number in range(1, 121))
    with Server(addresses=addresses) as server, ParallelSession(backend="curl", concurrency=1) as session:
        session.request([f"{url}/static" for url in server.urls])
        assert server.stats().connections == 120
        until(lambda: server.stats().open_connections == 100)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_hundreds_are_in_flight_over_several_pools(server: Server, tls_server: Server, scheme: str) -> None:
    answering = tls_server if scheme == "https" else server
    with ParallelSession(backend="curl", concurrency=HUNDREDS, verify_ssl=str(tls_server.ca_file)) as session:
        for _ in range(2):
            answers = session.request([answering.url(together(HUNDREDS))] * (2 * HUNDREDS))
            assert len(answers) == 2 * HUNDREDS
        stats = answering.stats()
        assert stats.max_in_flight == HUNDREDS
        assert stats.connections <= HUNDREDS, "connections are used again"
        assert session.backend.connections_opened == stats.connections
    until(lambda: answering.stats().open_connections == 0)  # the server has yet to see it


def test_hundreds_share_few_connections_over_http2(h2_server: Server) -> None:
    with ParallelSession(backend="curl", concurrency=HUNDREDS, verify_ssl=str(h2_server.ca_file)) as session:
        session.request([h2_server.url(together(HUNDREDS))] * (2 * HUNDREDS))
        stats = h2_server.stats()
        assert stats.max_in_flight == HUNDREDS
        assert stats.connections <= 6, "each of three pools has at most 128 in flight, 100 on a connection"


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize(
    "rest", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"], ids=["none", "a line", "a part"]
)
def test_a_head_truncated_after_an_interim_one_is_an_error(rest: bytes) -> None:
    script = [read_request(), send(EARLY_HINTS + rest), close()]
    with FaultServer(script) as server, ParallelSession(backend="curl", max_retries=0) as session:
        [result] = session.iter_results([server.url("/")], return_type="content")
        assert isinstance(result.error, exceptions.TruncatedBody)


def test_an_error_for_which_libcurl_has_no_words_is_named_by_its_number() -> None:
    script = [read_request(), send(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000), close()]
    with FaultServer(script) as server, ParallelSession(backend="curl", max_retries=0) as session:
        [result] = session.iter_results([server.url("/")])
    assert isinstance(result.error, exceptions.ProtocolError)
    assert "libcurl's error 100" in str(result.error)


def test_a_head_may_end_in_a_bare_newline() -> None:
    script = [read_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nhi"), close()]
    with FaultServer(script) as server, ParallelSession(backend="curl", max_retries=0) as session:
        assert session.get(server.url("/"), return_type="content") == b"hi"


def test_trailers_are_not_headers() -> None:
    trailers = b"Set-Cookie: t=1\r\nContent-Encoding: gzip\r\nLocation: /elsewhere\r\n\r\n"
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" + trailers
    script = [read_request(), send(b"HTTP/1.1 200 OK\r\nX-Real: 1\r\n" + body), close()]
    with FaultServer(script) as server, ParallelSession(backend="curl", max_retries=0) as session:
        response = session.get(server.url("/"), return_type="response")
    assert response.content == b"hi"
    assert set(response.headers) == {"x-real", "transfer-encoding"}


def test_a_timeout_over_http2_is_one_even_if_the_response_to_another_call_is_malformed(
    certificates: Certificates,
) -> None:
    """The transfer that happens to read for the whole connection gets the message about the other one."""

    def contradict(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/malformed":
            lengths = [("content-length", "5"), ("content-length", "6")]
            protocol.send_headers(stream, [(":status", "200"), *lengths])

    server = FaultServer([speak_h2(contradict)], tls=h2_context(certificates.good))
    urls = [server.url(path) for path in ("/mute", "/malformed", "/mute")]
    with server, ParallelSession(backend="curl", verify_ssl=str(certificates.ca_file)) as session:
        results = list(session.iter_results(urls, timeout=1.0, max_retries=0, ordered=True))
    timeout, malformed = exceptions.RequestTimeout, exceptions.ProtocolError
    assert [type(result.error) for result in results] == [timeout, malformed, timeout]


def test_a_malformed_head_over_http2_is_not_cut(certificates: Certificates) -> None:
    def contradict(protocol: H2Connection, stream: int, _path: str) -> None:
        lengths = [("content-length", "5"), ("content-length", "6")]
        protocol.send_headers(stream, [(":status", "200"), *lengths], end_stream=False)

    server = FaultServer([speak_h2(contradict)], tls=h2_context(certificates.good))
    with server, ParallelSession(backend="curl", verify_ssl=str(certificates.ca_file)) as session:
        [result] = session.iter_results([server.url("/")], return_type="content")
    assert isinstance(result.error, exceptions.ProtocolError)
    assert len(server.requests) == 1, "never retried"


def result_from_server_named(names: list[str], folder: Path, **options: Any) -> tuple[Result[Any], int]:
    """Return the Result of a call to a server that hangs up, and how many requests it has seen.

    Args:
        names: Hosts its certificate is for.
        folder: Where certificates are written.
        options: What else ``issue_cert`` takes, such as an organization.
    """
    authority, pem, ca_file = trustme.CA(), folder / "server.pem", folder / "ca.pem"
    authority.issue_cert(*names, **options).private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(ca_file)
    server = FaultServer([read_request(), close()], tls=Identity(pem, pem).server_context())
    with server, ParallelSession(backend="curl", verify_ssl=str(ca_file)) as session:
        [result] = session.iter_results([server.url()], method="POST", data="x")
    return result, len(server.requests)


def test_a_certificate_cannot_pass_for_a_refusal(tmp_path: Path) -> None:
    organization = "HTTP/2 stream 1 refused by server"
    result, seen = result_from_server_named(["127.0.0.1"], tmp_path, organization_name=organization)
    assert isinstance(result.error, exceptions.TruncatedBody)
    assert (result.attempts, seen) == (1, 1)


def test_a_certificate_cannot_pass_for_a_goaway(tmp_path: Path) -> None:
    name = "HTTP/2 stream 1 reset by curl (error 0xff unknown)"
    result, seen = result_from_server_named([], tmp_path, common_name=name)
    assert isinstance(result.error, exceptions.TLSError)
    assert (result.attempts, seen) == (1, 0)


def test_calls_are_made_on_descriptors_beyond_what_select_can_take(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [Path("/dev/null").open() for _ in range(1100)]  # noqa: SIM115 - closed below
    try:
        with ParallelSession(backend="curl") as session:
            answers = session.request([server.url(f"/id/{number}") for number in range(20)])
            assert answers == [{"id": number} for number in range(20)]
    finally:
        for file in files:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_takes_paths_and_proxies_in_any_script(tls_server: Server, tmp_path: Path) -> None:
    assert tls_server.ca_file is not None
    ca_file = tmp_path / "zertifikäte.pem"
    shutil.copy(tls_server.ca_file, ca_file)
    with ParallelSession(backend="curl", verify_ssl=str(ca_file), max_retries=0) as session:
        assert session.request(tls_server.url("/id/7")) == {"id": 7}
        with pytest.raises(exceptions.ProxyError):
            session.request(tls_server.url("/id/7"), proxy="http://ü:pä@127.0.0.1:1")


def test_an_http_proxy_that_names_no_port_is_at_port_80() -> None:
    with (
        ParallelSession(backend="curl", max_retries=0) as session,
        pytest.raises(exceptions.ProxyError, match=r"127\.80\.80\.80:80\b"),
    ):
        session.get("http://target.example/", proxy="http://127.80.80.80")


@pytest.mark.timeout(30)
def test_waking_an_engine_that_does_not_get_round_to_it_never_blocks() -> None:
    backend = CurlBackend()
    backend.open(TransportSettings(concurrency=1))
    engine = CurlMultiEngine(backend, 1)
    engine._open()
    engine._is_sleeping = True
    try:
        for _ in range(10_000):  # more than a socket buffers
            engine.wake()
    finally:
        engine._release_resources()


def test_a_time_limit_that_strikes_during_a_wake_up_is_not_lost() -> None:
    """What a signal handler raises is often a TimeoutError, and so an OSError."""

    class Struck(socket.socket):
        def send(self, *args: Any) -> int:
            sent = super().send(*args)
            signal.raise_signal(signal.SIGALRM)
            return sent

    def strike(*_: object) -> None:
        raise TimeoutError("the caller's time is over")

    backend = CurlBackend()
    backend.open(TransportSettings(concurrency=1))
    engine = CurlMultiEngine(backend, 1)
    engine._open()
    engine._is_sleeping = True
    handler = signal.signal(signal.SIGALRM, strike)
    try:
        with (
            Struck(fileno=engine._wake_writer.detach()) as engine._wake_writer,
            pytest.raises(TimeoutError, match="caller's time"),
        ):
            engine.wake()
    finally:
        signal.signal(signal.SIGALRM, handler)
        engine._release_resources()
    engine.wake()  # closed


@pytest.mark.parametrize("driver_class", [_SelectDriver, _EpollDriver])
def test_a_driver_is_woken_once(driver_class: type[_SelectDriver | _EpollDriver]) -> None:
    wake_reader, wake_writer = socket.socketpair()
    wake_reader.setblocking(False)
    driver = driver_class(pycurl.CurlMulti(), wake_reader)
    wake_writer.send(b"\0\0")
    driver.wait(0.0, 0)
    with pytest.raises(BlockingIOError):
        wake_reader.recv(1)
    driver.close()
    for end in (wake_reader, wake_writer):
        end.close()


def test_epoll_watches_a_new_socket_with_the_number_of_a_closed_one() -> None:
    wake_reader, wake_writer = socket.socketpair()
    closed, other_end = socket.socketpair()
    new, server = socket.socketpair()
    driver = _EpollDriver(pycurl.CurlMulti(), wake_reader)
    driver._watch(pycurl.POLL_IN, closed.fileno())
    driver._watch(pycurl.POLL_REMOVE, closed.fileno())
    os.dup2(new.fileno(), closed.fileno())  # closes the old one
    driver._watch(pycurl.POLL_IN, closed.fileno())
    server.send(b"news")
    assert driver._epoll.poll(1) == [(closed.fileno(), select.EPOLLIN)]
    driver.close()
    for end in (closed, other_end, new, server, wake_reader, wake_writer):
        end.close()


def test_epoll_forgets_sockets_that_a_child_process_holds_open() -> None:
    wake_reader, wake_writer = socket.socketpair()
    idle, server = socket.socketpair()
    driver = _EpollDriver(pycurl.CurlMulti(), wake_reader)
    driver._watch(pycurl.POLL_IN, idle.fileno())
    driver._watch(pycurl.POLL_REMOVE, idle.fileno())
    copy = idle.dup()  # as a forked child has it: epoll then keeps what is closed here
    idle.close()
    server.close()
    driver.wait(0.0, 0)
    assert driver._epoll.poll(0) == []
    wake_writer.send(b"\0")
    assert [events for _, events in driver._epoll.poll(1)] == [select.EPOLLIN]
    driver.close()
    for end in (copy, wake_reader, wake_writer):
        end.close()


def test_idle_connections_are_still_watched_after_a_child_process_has_held_one_open() -> None:
    connections = IdleConnections()
    first, first_server = socket.socketpair()
    connections.add(first.fileno(), is_plain=True)
    copy = first.dup()  # as a forked child has it: epoll then keeps what is closed here
    first.close()
    first_server.close()
    connections.retire()
    second, second_server = socket.socketpair()
    connections.add(second.fileno(), is_plain=True)
    connections.retire()
    second.send(b"in use")
    second_server.send(b"nobody asked")
    connections.retire()
    with pytest.raises(BrokenPipeError):
        second.send(b"in use")
    connections.close()
    for end in (copy, second, second_server):
        end.close()
