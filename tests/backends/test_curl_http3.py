"""HTTP/3 through curl: QUIC if the server answers, TCP if not, and which one is reported."""

from __future__ import annotations

import functools
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pycurl")

import pycurl

from parallel_requests import exceptions
from parallel_requests.backends.curl import CurlBackend
from parallel_requests.backends.curl_quic import QuicReach
from parallel_requests.models import Request
from parallel_requests.session import ParallelSession
from tests.lateness import fits
from tests.polling import until
from tests.server.content import content
from tests.server.control import Server, together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server.proxy import Proxy
    from tests.server.tls import Certificates

pytestmark = pytest.mark.skipif(
    not CurlBackend.capabilities.http3, reason="the libcurl of this pycurl has no HTTP/3"
)


# For servers whose UDP port has a given number. The clients' own sockets are on 127.0.0.1, where one may get
# any port, even the very one that it sends to; each test process has its own address.
_ADDRESS = f"127.0.0.{2 + os.getpid() % 63}"


@pytest.fixture
def backend() -> str:
    return "curl"


@pytest.fixture
def open_session(
    open_session: Callable[..., ParallelSession], certificates: Certificates
) -> Callable[..., ParallelSession]:
    """``open_session(**options)`` opens a session that trusts our authority."""
    return functools.partial(open_session, http3=True, max_retries=0, verify_ssl=certificates.ca_file)


@pytest.fixture
def session(open_session: Callable[..., ParallelSession]) -> ParallelSession:
    return open_session()


@pytest.fixture(scope="module")
def h2_server(certificates: Certificates) -> Iterator[Server]:
    with Server(
        "tests.server.h2",
        addresses=[_ADDRESS],
        identity=certificates.good,
        ca_file=certificates.ca_file,
    ) as running:
        yield running


@pytest.fixture
def both_server(h2_server: Server, certificates: Certificates) -> Iterator[Server]:
    """HTTP/3 on the port on which ``h2_server`` speaks TCP."""
    with Server("tests.server.h3", addresses=h2_server.listeners, identity=certificates.good) as running:
        yield running


@pytest.fixture
def silent_port(h2_server: Server) -> Iterator[None]:
    """A socket on the UDP port of ``h2_server`` that receives datagrams and never responds."""
    with _nothing_at(h2_server):
        yield


def _nothing_at(server: Server) -> socket.socket:
    deaf = socket.socket(type=socket.SOCK_DGRAM)
    deaf.bind(server.address)
    return deaf


# -- over QUIC


@pytest.mark.parametrize(("concurrency", "streams"), [(20, 20), (300, 100)], ids=["select", "epoll"])
def test_a_hundred_calls_share_a_connection_or_two(
    open_session: Callable[..., ParallelSession],
    h3_server: Server,
    concurrency: int,
    streams: int,
) -> None:
    session = open_session(concurrency=concurrency)
    responses = session.request([h3_server.url(together(streams))] * 100, return_type="response")
    assert {response.http_version for response in responses} == {"HTTP/3"}
    stats = h3_server.stats()
    assert stats.max_in_flight == streams
    # One that was not needed may end before its handshake, after which the server would count it.
    assert session.last_run.connections is not None
    assert stats.connections <= session.last_run.connections <= 2
    if concurrency == 20:
        assert fits(session, [h3_server.url("/conn?delay=0.2")] * 100, within=1.5 * 5 * 0.2)


def test_http3_is_tried_first_and_reported(
    session: ParallelSession, both_server: Server, h2_server: Server
) -> None:
    assert session.get(both_server.url("/get"), return_type="response").http_version == "HTTP/3"
    assert h2_server.stats().requests == 0


def test_it_is_off_unless_asked_for(
    open_session: Callable[..., ParallelSession], both_server: Server, h2_server: Server
) -> None:
    answer = open_session(http3=False).get(both_server.url("/get"), return_type="response")
    assert answer.http_version == "HTTP/2"
    assert both_server.stats().connections == 0


def test_bodies_do_not_get_mixed_up(session: ParallelSession, h3_server: Server) -> None:
    urls = [h3_server.url(f"/bytes/{20_000 + 1_000 * seed}?seed={seed}") for seed in range(60)]
    bodies = session.request(urls, return_type="content")
    assert bodies == [content(20_000 + 1_000 * seed, seed) for seed in range(60)]
    numbers = range(60)
    told = session.post(
        [h3_server.url(f"/id/{number}") for number in numbers], json=[{"id": number} for number in numbers]
    )
    assert told == [{"id": number} for number in numbers]
    assert session.post(h3_server.url("/echo-length"))["length"] == 0
    assert session.post(h3_server.url("/echo-length"), data=b"x" * 300_000)["length"] == 300_000
    stats = h3_server.stats()
    assert stats.mismatched_ids == 0
    assert stats.by_method == {"GET": 60, "POST": 62}


def test_a_body_is_streamed(session: ParallelSession, h3_server: Server) -> None:
    chunks: list[bytes] = []
    session.get(h3_server.url("/bytes/1000000"), return_type="stream", stream_callback=chunks.append)
    assert len(chunks) > 1
    assert b"".join(chunks) == content(1_000_000)


@pytest.mark.parametrize("path", ["/bytes/1000000", "/stream-bytes/1000000", "/bomb?mib=4"])
def test_a_body_is_bounded(session: ParallelSession, h3_server: Server, path: str) -> None:
    with pytest.raises(exceptions.BodyTooLarge):
        session.get(h3_server.url(path), max_response_size=100_000, return_type="content")
    assert session.get(h3_server.url("/id/7")) == {"id": 7}


@pytest.mark.parametrize("path", ["/hang", "/slow-body?bytes=1000&interval=0.1"])
def test_a_slow_response_delays_no_other(session: ParallelSession, h3_server: Server, path: str) -> None:
    urls = [h3_server.url(path), *[h3_server.url(f"/id/{number}?delay=0.01") for number in range(100)]]
    results = list(
        session.iter_results(urls, ordered=True, timeout=[1.0, *[None] * 100], return_type="content")
    )
    assert isinstance(results[0].error, exceptions.RequestTimeout)
    assert [result.value for result in results[1:]] == [b'{"id": %d}' % number for number in range(100)]
    assert session.get(h3_server.url("/conn"))["http_version"] == "3", "the others were answered"
    assert h3_server.stats().connections == 1, "the others' connection outlives a timeout"


# -- over TCP, where QUIC is not answered


@pytest.mark.usefixtures("silent_port")
def test_silence_is_followed_by_http2(session: ParallelSession, h2_server: Server) -> None:
    _check_fallback(session, h2_server, "2")


def test_a_closed_port_is_followed_by_http11(session: ParallelSession, tls_server: Server) -> None:
    _check_fallback(session, tls_server, "1.1")


def _check_fallback(session: ParallelSession, server: Server, version: str) -> None:
    responses = session.request([server.url(together(20))] * 40, return_type="response")
    assert {response.http_version for response in responses} == {f"HTTP/{version}"}
    stats = server.stats()
    assert (stats.requests, stats.max_in_flight) == (40, 20)
    assert stats.connections == (1 if version == "2" else 20)
    assert session.last_run.attempts == 40
    assert session.last_run.connections == stats.connections, "what was never answered is no connection"
    numbers = range(40)
    told = session.post(
        [server.url(f"/id/{number}") for number in numbers], json=[{"id": number} for number in numbers]
    )
    assert told == [{"id": number} for number in numbers]
    stats = server.stats()
    assert (stats.by_method["POST"], stats.mismatched_ids) == (40, 0)


def test_plain_http_is_not_affected(session: ParallelSession, server: Server) -> None:
    assert session.get(server.url("/conn"))["http_version"] == "1.1"
    assert "upgrade" not in server.log()[0].headers


def test_a_proxy_is_used(
    session: ParallelSession, both_server: Server, h2_server: Server, proxy: Callable[..., Proxy]
) -> None:
    way = proxy()
    urls = [h2_server.url(f"/id/{number}") for number in range(40)]
    answers = session.request(urls, proxy=f"http://127.0.0.1:{way.port}")
    assert answers == [{"id": number} for number in range(40)]
    assert {request.method for request in way.requests} == {"CONNECT"}
    assert both_server.stats().connections == 0


def test_a_host_that_vanished_is_reached_over_tcp(
    session: ParallelSession, h2_server: Server, certificates: Certificates
) -> None:
    with Server("tests.server.h3", addresses=h2_server.listeners, identity=certificates.good) as before:
        assert session.get(before.url("/conn"))["http_version"] == "3"
        os.kill(before.pid, signal.SIGKILL)
    with Server("tests.server.h3", addresses=h2_server.listeners, identity=certificates.good) as after:
        # It does not know the connection, which to libcurl looks alive.
        with pytest.raises(exceptions.RequestTimeout):
            session.get(after.url("/conn"), timeout=0.5)
        assert session.get(after.url("/conn"))["http_version"] == "2"


def test_a_silent_host_is_reached_over_tcp_for_two_minutes() -> None:
    now = 0.0
    reach = QuicReach(clock=lambda: now)
    request = Request("https://a.test/", authority="a.test:443")
    proxied = Request("https://a.test/", authority="a.test:443", proxy="http://p.test:3128")
    quic, tcp = pycurl.CURL_HTTP_VERSION_3, pycurl.CURL_HTTP_VERSION_2TLS
    assert (reach.version_for(request), reach.version_for(proxied)) == (quic, tcp)
    now = 10.0
    reach.note_response(request.authority)
    reach.note_silence(request.authority, began=9.0)
    assert reach.version_for(request) == quic, "one was slow, another has been answered"
    reach.note_silence(request.authority, began=11.0)
    assert reach.version_for(request) == tcp
    assert reach.version_for(Request("https://b.test/", authority="b.test:443")) == quic
    now = 130.0
    assert reach.version_for(request) == quic


# -- what goes wrong


@pytest.mark.parametrize("path", ["/hang", "/slow-body?bytes=1000&interval=0.01"])
def test_responses_on_a_closed_connection_are_truncated(
    session: ParallelSession, certificates: Certificates, path: str
) -> None:
    with Server("tests.server.h3", identity=certificates.good) as server:

        def stop_once_asked() -> None:
            until(lambda: server.stats().in_flight)
            server.stop()

        stopping = threading.Thread(target=stop_once_asked)
        stopping.start()
        with pytest.raises(exceptions.TruncatedBody):
            session.get(server.url(path), return_type="content")
        stopping.join()


def test_a_reset_stream_is_truncated(session: ParallelSession, h3_server: Server) -> None:
    with pytest.raises(exceptions.TruncatedBody):
        session.post(h3_server.url("/trickle-header"), json={})  # what only HTTP/1.1 can do is reset there
    assert session.get(h3_server.url("/conn"))["request"] == 2, "the others on the connection do not suffer"


def test_a_host_that_is_not_there_is_a_connect_error(open_session: Callable[..., ParallelSession]) -> None:
    with socket.socket() as taken:
        taken.bind((_ADDRESS, 0))
        url = f"https://{_ADDRESS}:{taken.getsockname()[1]}/"
        results = list(open_session().iter_results([url] * 40))
    assert {type(result.error) for result in results} == {exceptions.ConnectError}


BAD = pytest.mark.parametrize("bad", ["unknown_ca", "wrong_host", "expired"])


@BAD
@pytest.mark.parametrize("has_tcp", [True, False], ids=["with TCP", "alone"])
def test_a_bad_certificate_over_quic_is_refused(
    open_session: Callable[..., ParallelSession], certificates: Certificates, bad: str, has_tcp: bool
) -> None:
    identity = getattr(certificates, bad)
    with Server(addresses=[_ADDRESS], identity=identity) as tcp:
        addresses = tcp.listeners if has_tcp else [_ADDRESS]
        with Server("tests.server.h3", addresses=addresses, identity=identity) as quic:
            _check_refused(open_session(max_retries=3), quic)
            assert (quic.stats().requests, tcp.stats().requests) == (0, 0)


@BAD
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "closed"])
def test_a_bad_certificate_over_tcp_is_refused(
    open_session: Callable[..., ParallelSession], certificates: Certificates, bad: str, is_silent: bool
) -> None:
    with Server(addresses=[_ADDRESS], identity=getattr(certificates, bad)) as tcp:
        deaf = _nothing_at(tcp) if is_silent else None
        _check_refused(open_session(max_retries=3, timeout=(0.5, 2)), tcp)
        assert tcp.stats().requests == 0
        if deaf is not None:
            deaf.close()


def _check_refused(session: ParallelSession, server: Server) -> None:
    with pytest.raises(exceptions.TLSError):
        session.post(server.url("/id/1"), json={"id": 1})
    assert session.last_run.attempts == 1, "never retried"


def test_a_bad_certificate_over_quic_leaves_tcp_to_show_a_good_one(
    session: ParallelSession, h2_server: Server, certificates: Certificates
) -> None:
    with Server(
        "tests.server.h3", addresses=h2_server.listeners, identity=certificates.unknown_ca
    ) as impostor:
        assert session.get(h2_server.url("/conn"))["http_version"] == "2"
        assert impostor.stats().requests == 0


def test_connections_with_different_verification_are_not_shared(
    open_session: Callable[..., ParallelSession], h3_server: Server
) -> None:
    session, url = open_session(verify_ssl=True), h3_server.url("/id/1")
    assert session.get(url, verify_ssl=False) == {"id": 1}
    with pytest.raises(exceptions.TLSError):
        session.get(url)
    assert session.get(url, verify_ssl=str(h3_server.ca_file)) == {"id": 1}
    with pytest.raises(exceptions.TLSError):
        session.get(url)
    assert h3_server.stats().requests == 2


def test_a_backend_without_http3_gives_a_warning(server: Server) -> None:
    with (
        pytest.warns(UserWarning, match="http3=True has no effect: the backend 'urllib3'") as warned,
        ParallelSession(backend="urllib3", http3=True) as session,
    ):
        assert session.get([server.url("/id/1")] * 3) == [{"id": 1}] * 3
    assert len(warned) == 1
