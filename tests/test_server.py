"""The test servers themselves: they count, respond and misbehave as they should."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from hypothesis import given
from hypothesis import strategies as st

from tests.leaks import Census
from tests.polling import until
from tests.server.arrivals import mean_rate, worst_excess
from tests.server.content import content, content_sha256
from tests.server.control import Server, together
from tests.server.fault_cases import FAULT_CASES, FaultCase
from tests.server.faults import (
    FaultServer,
    close,
    read_request,
    refusing_port,
    repeat,
    response,
    rst,
    send,
    stall,
    wait,
)
from tests.server.scenarios import STATIC_BODY

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioquic.quic.events import QuicEvent

    from tests.server.proxy import Proxy
    from tests.server.tls import Certificates

_SECONDS = 10


def fetch(url: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of one GET on a connection of its own."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def raw_exchange(address: tuple[str, int], data: bytes) -> bytes:
    """Everything received in response to these bytes, up to the end of the connection."""
    with socket.create_connection(address, _SECONDS) as connection:
        connection.sendall(data)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


# -- the HTTP/1.1 server


def test_counts_requests_connections_and_arrivals(server: Server) -> None:
    before = time.monotonic()
    kept = http.client.HTTPConnection(*server.address, timeout=_SECONDS)
    for _ in range(3):
        kept.request("GET", "/static")
        assert kept.getresponse().read() == STATIC_BODY
    kept.close()
    fetch(server.url("/get"))
    stats = server.stats()
    assert stats.requests == 4
    assert stats.connections == 2
    assert stats.by_path == {"/static": 3, "/get": 1}
    assert stats.by_status == {"200": 4}
    assert stats.in_flight == 0
    assert stats.max_in_flight == 1
    arrivals = server.arrivals()
    assert len(arrivals) == 4
    assert before < arrivals[0] <= arrivals[-1] < time.monotonic()
    assert len(server.arrivals(route="static")) == 3
    assert [entry.request_on_connection for entry in server.log()] == [1, 2, 3, 1]


def test_control_calls_and_resets_leave_no_trace(server: Server) -> None:
    fetch(server.url("/get"))
    server.reset()
    stats = server.stats()
    assert (stats.requests, stats.connections, stats.max_in_flight) == (0, 0, 0)
    assert server.arrivals() == []
    assert server.log() == []


def test_concurrency_is_seen(server: Server) -> None:
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(fetch, [server.url(together(10))] * 10))
    assert server.stats().max_in_flight == 10


def test_ids_are_logged_with_duplicates_and_mismatches(server: Server) -> None:
    for number in (3, 1, 3):
        assert fetch(server.url(f"/id/{number}"))[1] == b'{"id": %d}' % number
    request = urllib.request.Request(server.url("/id/4"), data=b'{"id": 5}', method="POST")
    urllib.request.urlopen(request, timeout=_SECONDS).close()
    assert server.ids() == [3, 1, 3, 4]
    assert server.stats().mismatched_ids == 1


def test_a_client_that_leaves_is_counted_as_abandoned(server: Server) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=_SECONDS)
    connection.request("GET", "/hang")
    until(lambda: server.stats().in_flight)
    connection.close()
    until(lambda: not server.stats().in_flight)
    assert server.stats().abandoned == 1


def test_failures_come_as_planned(server: Server) -> None:
    assert [fetch(server.url("/flaky/a?fail=2"))[0] for _ in range(4)] == [503, 503, 200, 200]
    assert [fetch(server.url("/status-seq/a?seq=503,429,200"))[0] for _ in range(4)] == [
        503,
        429,
        200,
        200,
    ]
    assert [fetch(server.url("/ratio?percent=20"))[0] for _ in range(10)].count(503) == 2
    assert [fetch(server.url("/retry-after?times=1"))[0] for _ in range(2)] == [429, 200]
    assert [fetch(server.url("/ratelimit?limit=2&window=60"))[0] for _ in range(3)] == [
        200,
        200,
        429,
    ]


def test_ranges_are_served_if_nothing_has_changed(server: Server) -> None:
    url = server.url("/range/300000?seed=7")
    whole = content(300_000, seed=7)
    assert fetch(url) == (200, whole)
    assert fetch(url, Range="bytes=100000-") == (206, whole[100_000:])
    assert fetch(url, Range="bytes=10-19") == (206, whole[10:20])
    assert fetch(url, Range="bytes=10-19", **{"If-Range": '"other"'}) == (200, whole)
    assert fetch(url, Range="bytes=300000-")[0] == 416
    assert content_sha256(300_000, seed=7) != content_sha256(300_000, seed=8)


def test_hosts_are_played_by_their_name(server: Server) -> None:
    _, body = fetch(server.url("/repos/python/cpython"), Host="api.github.com")
    assert b'"full_name": "python/cpython"' in body
    assert fetch(server.url("/repos/python/cpython"))[0] == 404
    unstable = [fetch(server.url("/unstable"), Host="api.example.com")[0] for _ in range(2)]
    assert unstable == [503, 200]


def test_pipelined_requests_and_an_upgrade_offer_are_answered_in_order(server: Server) -> None:
    offer = b"GET /conn HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    slow = b"GET /delay/0.1 HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /static HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = raw_exchange(server.address, offer + slow + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.endswith(STATIC_BODY)


def test_many_addresses_are_counted_apart(many_hosts: Server) -> None:
    assert len(many_hosts.urls) == 30
    for url in many_hosts.urls:
        fetch(f"{url}/static")
    stats = many_hosts.stats()
    assert stats.connections_by_listener == dict.fromkeys(many_hosts.listeners, 1)
    assert len(stats.by_host) == 30


def test_tls_is_served_with_our_certificate(tls_server: Server) -> None:
    context = ssl.create_default_context(cafile=str(tls_server.ca_file))
    with urllib.request.urlopen(tls_server.url("/get"), timeout=_SECONDS, context=context) as answer:
        assert answer.status == 200


def test_the_process_ends_with_its_stdin() -> None:
    running = Server().start()
    try:
        assert running._process.poll() is None
    finally:
        running.stop()
    assert running._process.returncode == 0


# -- the HTTP/2 server


def test_http2_streams_share_one_connection(h2_server: Server) -> None:
    context = ssl.create_default_context(cafile=str(h2_server.ca_file))
    context.set_alpn_protocols(["h2"])
    streams = 20
    with (
        socket.create_connection(h2_server.address, _SECONDS) as tcp,
        context.wrap_socket(tcp, server_hostname="127.0.0.1") as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"
        client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        client.initiate_connection()
        request = [(":method", "GET"), (":path", "/delay/0.3"), (":scheme", "https")]
        for number in range(streams):
            headers = [*request, (":authority", h2_server.listeners[0])]
            client.send_headers(2 * number + 1, headers, end_stream=True)
        tls.sendall(client.data_to_send())
        ended = 0
        while ended < streams:
            events = client.receive_data(tls.recv(65_536))
            ended += sum(isinstance(event, h2.events.StreamEnded) for event in events)
            tls.sendall(client.data_to_send())
    stats = h2_server.stats()
    assert (stats.connections, stats.requests, stats.max_in_flight) == (1, streams, streams)


def test_http11_on_the_http2_server(h2_server: Server) -> None:
    context = ssl.create_default_context(cafile=str(h2_server.ca_file))
    connection = http.client.HTTPSConnection(*h2_server.address, timeout=_SECONDS, context=context)
    for _ in range(2):
        connection.request("GET", "/conn")
        assert b'"http_version": "1.1"' in connection.getresponse().read()
    connection.close()
    stats = h2_server.stats()
    assert (stats.connections, stats.requests) == (1, 2)


# -- the HTTP/3 server


class _Http3Client(QuicConnectionProtocol):
    """Counts the responses that are complete."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self.answers = 0
        self.news = asyncio.Event()

    def get(self, authority: str, path: str) -> None:
        pseudo = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
        headers = [(name.encode(), value.encode()) for name, value in pseudo.items()]
        self._http.send_headers(self._quic.get_next_available_stream_id(), headers, end_stream=True)

    def quic_event_received(self, event: QuicEvent) -> None:
        for message in self._http.handle_event(event):
            if isinstance(message, HeadersReceived | DataReceived) and message.stream_ended:
                self.answers += 1
                self.news.set()


def test_http3_streams_share_one_connection(h3_server: Server) -> None:
    streams = 20
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, cafile=str(h3_server.ca_file))

    async def ask() -> None:
        async with connect(
            *h3_server.address, configuration=configuration, create_protocol=_Http3Client
        ) as client:
            assert isinstance(client, _Http3Client)
            for _ in range(streams):
                client.get(h3_server.listeners[0], "/delay/0.3")
            client.transmit()
            while client.answers < streams:
                client.news.clear()
                await asyncio.wait_for(client.news.wait(), _SECONDS)

    asyncio.run(ask())
    stats = h3_server.stats()
    assert (stats.connections, stats.requests, stats.max_in_flight) == (1, streams, streams)
    assert stats.by_status == {"200": streams}


# -- the fault server


def test_fault_server_counts_connections_and_requests(
    fault_server: Callable[..., FaultServer],
) -> None:
    server = fault_server([read_request(), rst()], [repeat(read_request(), send(response(b"good")))])
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        fetch(server.url("/first"))
    assert fetch(server.url("/second"), Cookie="a=b") == (200, b"good")
    assert server.connections == 2
    assert [request.target for request in server.requests] == ["/first", "/second"]
    assert server.requests[1].headers["cookie"] == "a=b"


def test_a_script_waits_for_the_test(fault_server: Callable[..., FaultServer]) -> None:
    go = threading.Event()
    server = fault_server([read_request(), wait(go), send(response(b"late")), close()])
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(fetch, server.url())
        go.set()
        assert pending.result() == (200, b"late")


def test_a_stalling_server_closes_at_once() -> None:
    before = Census.take()
    server = FaultServer([stall()])
    with socket.create_connection(("127.0.0.1", server.port)):
        server.close()
    assert before.leftovers() == []


def test_a_mistake_in_a_script_is_reported() -> None:
    def mistake(_connection: Any) -> None:
        raise LookupError("a mistake")

    server = FaultServer([mistake])
    assert raw_exchange(("127.0.0.1", server.port), b"") == b""
    with pytest.raises(LookupError, match="a mistake"):
        server.close()


def test_a_refusing_port_refuses() -> None:
    with refusing_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@pytest.mark.parametrize("case", FAULT_CASES, ids=str)
def test_every_fault_can_be_played(case: FaultCase, certificates: Certificates) -> None:
    with (
        case.server(certificates) as server,
        socket.create_connection(("127.0.0.1", server.port), _SECONDS) as connection,
    ):
        if case.error == "RequestTimeout":
            connection.settimeout(0.1)
        first = first_byte(connection, case)
        until(lambda: server.connections)
        says_nothing = case.error in {"BackendError", "ConnectError", "RequestTimeout"}
        assert first or says_nothing or case.name.startswith("proxy_hangs_up")
        assert server.connections == 1


def first_byte(tcp: socket.socket, case: FaultCase) -> bytes:
    """The first byte that a simple client receives from a faulty server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tunnel = case.as_proxy and case.scheme == "https"
    start = "CONNECT x:443" if tunnel else f"{case.method} /"
    with context.wrap_socket(tcp) if case.identity else tcp as connection:
        connection.sendall(f"{start} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            return connection.recv(1)
        except (ConnectionResetError, TimeoutError):
            return b""


def test_fault_names_are_unique() -> None:
    names = [str(case) for case in FAULT_CASES]
    assert len(names) == len(set(names))


# -- the judge of rates


def test_the_worst_window_is_found() -> None:
    assert worst_excess([0, 0, 0, 0.1, 0.2], rate=10, burst=3) == pytest.approx(0)
    assert worst_excess([0, 0, 0, 0.1, 0.1], rate=10, burst=3) == pytest.approx(1)
    assert worst_excess([0, 1, 2], rate=10, burst=3) == pytest.approx(-2)
    assert mean_rate([0, 0.1, 0.2]) == pytest.approx(10)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.floats(0.1, 1_000), st.integers(1, 20))
def test_no_window_is_worse_than_the_worst(times: list[float], rate: float, burst: int) -> None:
    stamps = sorted(times)
    excesses = [
        last - first + 1 - rate * (stamps[last] - stamps[first]) - burst
        for first in range(len(stamps))
        for last in range(first, len(stamps))
    ]
    assert worst_excess(stamps, rate, burst) == pytest.approx(max(excesses), abs=1e-6)


# -- the proxy


def fetch_through(proxy_url: str, url: str, context: ssl.SSLContext | None = None) -> bytes:
    """A GET through a proxy."""
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler({"http": proxy_url, "https": proxy_url})
    ]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    with urllib.request.build_opener(*handlers).open(url, timeout=_SECONDS) as answer:
        body: bytes = answer.read()
        return body


def test_proxy_forwards_and_tunnels(server: Server, tls_server: Server, proxy: Callable[..., Proxy]) -> None:
    running = proxy(resolve={"httpbin.org:80": server.address, "api.github.com:443": tls_server.address})
    context = ssl.create_default_context(cafile=str(tls_server.ca_file))
    assert b'"url": "http://httpbin.org/get"' in fetch_through(running.url, "http://httpbin.org/get")
    repository = "https://api.github.com/repos/python/cpython"
    assert b'"name": "cpython"' in fetch_through(running.url, repository, context)
    assert [request.method for request in running.requests] == ["GET", "CONNECT"]
    assert (running.tunnels, running.connections) == (1, 2)


def test_proxy_asks_for_credentials(server: Server, proxy: Callable[..., Proxy]) -> None:
    running = proxy(credentials=("user", "secret"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch_through(running.url, server.url("/static"))
    with refused.value as answer:
        assert answer.code == 407
    assert server.stats().requests == 0
    url = running.url_with("user", "secret")
    assert fetch_through(url, server.url("/static")) == STATIC_BODY
    assert [request.authorized for request in running.requests] == [False, True]


# -- the leak check


def test_the_leak_check_sees_threads_and_processes() -> None:
    before = Census.take()
    go = threading.Event()
    thread = threading.Thread(target=go.wait, args=(_SECONDS,), name="forgotten")
    thread.start()
    child = subprocess.Popen(["sleep", str(_SECONDS)])
    try:
        leftovers = before.leftovers()
    finally:
        go.set()
        thread.join()
        child.kill()
        child.wait()
    assert "thread 'forgotten'" in leftovers
    assert any("sleep" in leftover for leftover in leftovers)
    assert before.leftovers() == []
