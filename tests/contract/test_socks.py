"""Through a SOCKS proxy, for every backend that speaks it."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import exceptions
from parallel_requests.backends.registry import BACKEND_NAMES, is_installed
from parallel_requests.gates.backoff import RetryPolicy
from tests.server.faults import (
    close,
    full_port,
    read_request,
    receive,
    redirect,
    refusing_port,
    repeat,
    response,
    rst,
    send,
    stall,
    trickle,
)
from tests.server.socks import NOT_ALLOWED, REFUSED

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from parallel_requests.session import ParallelSession
    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.faults import FaultServer, Step
    from tests.server.socks import SocksProxy
    from tests.server.tls import Certificates

    OpenSession = Callable[..., ParallelSession]
    StartProxy = Callable[..., SocksProxy]
    StartFaults = Callable[..., FaultServer]

SPEAKING = [name for name in BACKEND_NAMES if name != "aiohttp" and is_installed(name)]


pytestmark = pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=pytest.mark.niquests if name == "niquests" else ()) for name in SPEAKING],
    indirect=True,
)
NEVER_AGAIN = RetryPolicy(max_retries=0)
OVERSHOOT = 0.25
"""Seconds an attempt may last beyond its timeout, the machine's own lateness apart."""
STOPPED_WITHIN = 1.0


def cause_of(error: BaseException | None) -> BaseException | None:
    """The error of the last attempt."""
    return error.last_error if isinstance(error, exceptions.RetryExhaustedError) else error


# -- where it leads


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_plain_and_tls_targets_are_reached_and_connections_reused(
    open_session: OpenSession, server: Server, tls_server: Server, socks_proxy: StartProxy, scheme: str
) -> None:
    target, running = (server if scheme == "http" else tls_server), socks_proxy()
    session = open_session(proxy=running.url(), verify_ssl=str(tls_server.ca_file), concurrency=1)
    answers = session.request([target.url(f"/id/{number}") for number in range(10)])
    assert answers == [{"id": number} for number in range(10)]
    assert target.ids() == list(range(10))
    assert running.connections == len(running.greetings) == 1
    assert session.last_run.connections == 1


@pytest.mark.parametrize(
    ("scheme", "version", "is_name"),
    [("socks5h", 5, True), ("socks5", 5, False), ("socks4a", 4, True), ("socks4", 4, False)],
)
def test_the_scheme_decides_who_resolves_names(
    *,
    session: ParallelSession,
    server: Server,
    socks_proxy: StartProxy,
    scheme: str,
    version: int,
    is_name: bool,
) -> None:
    _, port = server.address
    name = "known-to-the-proxy.test" if is_name else "localhost"
    running = socks_proxy(resolve={name: server.address, "::1": server.address})
    url = f"http://{name}:{port}/id/1"
    assert session.request(url, proxy=running.url(scheme)) == {"id": 1}
    [greeting] = running.greetings
    assert (greeting.version, greeting.port, greeting.is_name) == (version, port, is_name)
    assert greeting.host == name if is_name else greeting.host in ("127.0.0.1", "::1")
    [entry] = server.log()
    assert entry.headers["host"] == f"{name}:{port}"


def test_an_ip_address_is_sent_as_an_address(
    session: ParallelSession, server: Server, socks_proxy: StartProxy
) -> None:
    running = socks_proxy()
    assert session.request(server.url("/id/1"), proxy=running.url()) == {"id": 1}
    [greeting] = running.greetings
    assert (greeting.host, greeting.port) == server.address


@pytest.mark.parametrize(
    ("url", "target"), [("http://a", "/"), ("http://a/b?c=/", "/b?c=/"), ("http://a?b=/c", "/?b=/c")]
)
def test_the_shortest_host_name_is_told_apart_from_the_path(
    session: ParallelSession, fault_server: StartFaults, socks_proxy: StartProxy, url: str, target: str
) -> None:
    there = fault_server([read_request(), send(response(b"there"))])
    running = socks_proxy(resolve={"a": ("127.0.0.1", there.port)})
    assert session.get(url, proxy=running.url(), return_type="content") == b"there"
    [request] = there.requests
    assert (request.target, request.headers["host"]) == (target, "a")


def test_many_calls_at_once_need_no_more_connections_than_slots(
    session: ParallelSession, server: Server, socks_proxy: StartProxy
) -> None:
    running = socks_proxy()
    answers = session.request([server.url(f"/id/{number}") for number in range(100)], proxy=running.url())
    assert answers == [{"id": number} for number in range(100)]
    assert 1 <= running.connections <= 20
    assert sorted(server.ids()) == list(range(100))


def test_redirects_go_through_it_as_well(
    session: ParallelSession,
    certificates: Certificates,
    socks_proxy: StartProxy,
    fault_server: StartFaults,
) -> None:
    there = fault_server(
        [repeat(read_request(), send(response(b"there")))], tls=certificates.good.server_context()
    )
    here = fault_server([read_request(), redirect("https://there.test/")])
    running = socks_proxy(
        resolve={"here.test": ("127.0.0.1", here.port), "there.test": ("127.0.0.1", there.port)}
    )
    answer = session.get(
        "http://here.test/",
        proxy=running.url(),
        headers={"Proxy-Authorization": "Bearer mine"},
        verify_ssl=False,
        return_type="content",
    )
    assert answer == b"there"
    assert [(greeting.host, greeting.port) for greeting in running.greetings] == [
        ("here.test", 80),
        ("there.test", 443),
    ]
    assert all("proxy-authorization" not in request.headers for request in here.requests + there.requests)


def test_the_next_proxy_is_tried(open_session: OpenSession, server: Server, socks_proxy: StartProxy) -> None:
    running, refusing = socks_proxy(), socks_proxy(refusal=NOT_ALLOWED)
    with refusing_port() as port:
        proxies = [f"socks5h://127.0.0.1:{port}", running.url(), refusing.url(), running.url("socks4a")]
        session = open_session(proxies=proxies)
        urls = [server.url(f"/id/{number}") for number in range(4)]
        assert session.request(urls) == [{"id": number} for number in range(4)]
    assert {greeting.version for greeting in running.greetings} == {4, 5}
    assert refusing.greetings


def test_a_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, open_session: OpenSession, server: Server, socks_proxy: StartProxy
) -> None:
    running = socks_proxy()
    monkeypatch.setenv("ALL_PROXY", running.url())
    assert open_session().request(server.url("/id/1")) == {"id": 1}
    assert running.connections == 1


# -- who may pass


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("user_info", "credentials"),
    [
        ("user:hush@", ("user", "hush")),
        ("user:p%40ss%3Aw%25@", ("user", "p@ss:w%")),
        ("j%C3%BCrgen:p%C3%A4ssw%C3%B6rt%20%E2%82%AC@", ("jürgen", "pässwört €")),
    ],
    ids=["plain", "percent-encoded", "any_script"],
)
def test_credentials_go_to_the_proxy_alone(
    *,
    session: ParallelSession,
    server: Server,
    tls_server: Server,
    socks_proxy: StartProxy,
    scheme: str,
    user_info: str,
    credentials: tuple[str, str],
) -> None:
    running = socks_proxy(credentials=credentials)
    target = server if scheme == "http" else tls_server
    options: Any = {"proxy": running.url(user_info=user_info), "verify_ssl": str(tls_server.ca_file)}
    assert session.request(target.url("/id/1"), **options) == {"id": 1}
    assert [greeting.credentials for greeting in running.greetings] == [credentials]
    for entry in target.log():
        assert not {"authorization", "proxy-authorization"} & set(entry.headers)


def test_version_4_gets_the_user(session: ParallelSession, server: Server, socks_proxy: StartProxy) -> None:
    running = socks_proxy(credentials=("joe", ""))
    assert session.request(server.url("/id/1"), proxy=running.url("socks4", "joe@")) == {"id": 1}
    with pytest.raises(exceptions.RetryExhaustedError) as refused:
        session.request(server.url("/id/2"), proxy=running.url("socks4", "jim@"))
    assert isinstance(refused.value.last_error, exceptions.ProxyError)
    assert server.ids() == [1]


def test_connections_with_other_credentials_are_not_shared(
    session: ParallelSession, server: Server, tls_server: Server, socks_proxy: StartProxy
) -> None:
    """Proxies identify their customers, and Tor its circuits, by the credentials."""
    running = socks_proxy(credentials=("user", "hush"))
    open_to_all = socks_proxy()
    ca_file = str(tls_server.ca_file)
    for target in (server, tls_server):
        for user_info in ("user:hush@", "user:wrong@", ""):
            url = running.url(user_info=user_info)
            [result] = session.iter_results([target.url("/id/1")], proxy=url, verify_ssl=ca_file)
            assert (result.error is None) is (user_info == "user:hush@")
        session.request([target.url("/id/1")] * 2, proxy=open_to_all.url(), verify_ssl=ca_file)
        assert target.stats().requests == 3


@pytest.mark.parametrize(("user_info", "methods"), [("", {0}), ("user:secret@", {0, 2})])
def test_no_authentication_but_a_password_is_offered(
    user_info: str, methods: set[int], session: ParallelSession, fault_server: StartFaults
) -> None:
    greetings: list[bytes] = []
    server = fault_server([lambda connection: greetings.append(connection.receive())])
    with pytest.raises(exceptions.ParallelRequestsError):
        session.get("http://target.example/", proxy=f"socks5h://{user_info}127.0.0.1:{server.port}")
    assert {frozenset(greeting[2:]) for greeting in greetings} == {frozenset(methods)}


@pytest.mark.parametrize("user_info", ["user:wrong-secret@", ""], ids=["wrong", "none"])
def test_wrong_credentials_are_never_shown_and_cost_one_connection_per_attempt(
    session: ParallelSession, server: Server, socks_proxy: StartProxy, user_info: str
) -> None:
    running = socks_proxy(credentials=("user", "right"))
    [result] = session.iter_results([server.url("/get?token=hidden")], proxy=running.url(user_info=user_info))
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert isinstance(result.error.last_error, exceptions.ProxyError)
    assert result.attempts == running.connections == 2
    assert server.stats().requests == 0
    shown = [str(result.error), repr(result.error), repr(result), repr(result.error.__cause__)]
    for text in [*shown, repr(pickle.dumps(result.error)), repr(pickle.dumps(result))]:
        assert "wrong-secret" not in text
        assert "hidden" not in text


# -- what goes wrong


@pytest.mark.parametrize("refusal", [NOT_ALLOWED, REFUSED], ids=["not_allowed", "refused"])
@pytest.mark.parametrize("proxy_scheme", ["socks5h", "socks4a"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_target_that_the_proxy_does_not_reach_is_a_proxy_error(
    session: ParallelSession, socks_proxy: StartProxy, refusal: int, proxy_scheme: str, scheme: str
) -> None:
    running = socks_proxy(refusal=refusal)
    [result] = session.iter_results(
        [f"{scheme}://target.test/"], method="POST", data="something", proxy=running.url(proxy_scheme)
    )
    assert isinstance(cause_of(result.error), exceptions.ProxyError)
    assert result.attempts == running.connections == 2, "it cannot have been received"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_missing_proxy_is_never_bypassed(
    session: ParallelSession, server: Server, tls_server: Server, host: str
) -> None:
    with refusing_port() as port:
        results = list(
            session.iter_results(
                [server.url("/get"), tls_server.url("/get")],
                proxy=f"socks5h://{host}:{port}",
                verify_ssl=str(tls_server.ca_file),
            )
        )
    for result in results:
        assert isinstance(cause_of(result.error), exceptions.ProxyError), result.error
    assert server.stats().requests == tls_server.stats().requests == 0, "never a silent direct connection"


@pytest.mark.parametrize("dead_port", [refusing_port, full_port])
def test_the_next_address_of_a_proxy_is_tried(
    open_session: OpenSession,
    server: Server,
    socks_proxy: StartProxy,
    monkeypatch: pytest.MonkeyPatch,
    dead_port: Callable[[], AbstractContextManager[int]],
) -> None:
    running = socks_proxy()
    session = open_session(retry=NEVER_AGAIN, timeout=(2, 30))
    look_up = socket.getaddrinfo
    with dead_port() as port:
        dead = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))

        def with_a_dead_one_first(*asked: Any) -> list[Any]:  # the proxy looks up its target with it, too
            return [dead, *look_up(*asked)] if asked[1] == running.port else look_up(*asked)

        monkeypatch.setattr(socket, "getaddrinfo", with_a_dead_one_first)
        assert session.get(server.url("/id/1"), proxy=running.url()) == {"id": 1}
    assert len(running.greetings) == 1


def test_a_proxy_that_names_no_port_is_at_port_1080(session: ParallelSession) -> None:
    address = f"127.80.{os.getpid() // 256 % 256}.{os.getpid() % 256}"  # nobody else's
    with socket.create_server((address, 1080)) as listener, ThreadPoolExecutor(1) as proxies:
        listener.settimeout(20)

        def hang_up() -> None:
            visitor, _ = listener.accept()
            visitor.close()

        visited = proxies.submit(hang_up)
        with pytest.raises(exceptions.ProxyError):
            session.get("http://target.test/", proxy=f"socks5h://{address}", max_retries=0)
        visited.result()


def test_a_proxy_whose_name_cannot_be_resolved_is_a_proxy_error(session: ParallelSession) -> None:
    [result] = session.iter_results(["http://target.test/"], proxy="socks5h://no-such-proxy.invalid:1")
    assert isinstance(cause_of(result.error), exceptions.ProxyError)


@pytest.mark.parametrize(
    "steps",
    [
        (receive(), send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), stall()),
        (receive(), close()),
        (receive(), send(b"\x05"), close()),
        (receive(), rst()),
        (receive(), send(b"\x05\x01"), stall()),
    ],
    ids=["http", "closed", "cut", "reset", "a_method_nobody_offered"],
)
def test_a_proxy_that_does_not_speak_socks_is_a_proxy_error(
    session: ParallelSession, fault_server: StartFaults, steps: tuple[Step, ...]
) -> None:
    proxy = fault_server([*steps])
    [result] = session.iter_results(
        ["http://target.test/"], proxy=f"socks5h://127.0.0.1:{proxy.port}", timeout=5
    )
    assert isinstance(cause_of(result.error), exceptions.ProxyError)
    assert proxy.connections == 2


@pytest.mark.parametrize(
    "steps",
    [
        (stall(),),
        (receive(), send(b"\x05\x00"), receive(), stall()),
        (receive(), send(b"\x05\x00"), receive(), trickle(b"\x05\x00\x00\x03\xff" + bytes(257), 0.05)),
    ],
    ids=["silent", "silent_about_the_target", "trickled"],
)
def test_timeout_ends_an_attempt_at_a_proxy_that_hangs(
    open_session: OpenSession, fault_server: StartFaults, lateness: Lateness, steps: tuple[Step, ...]
) -> None:
    proxy = fault_server([*steps])
    session = open_session(retry=NEVER_AGAIN, timeout=0.4, proxy=f"socks5h://127.0.0.1:{proxy.port}")
    for url in ("http://target.test/", "https://target.test/"):
        [result] = session.iter_results([url])
        assert type(result.error) is exceptions.RequestTimeout
        assert 0.35 <= result.elapsed <= 0.4 + OVERSHOOT + lateness.slack()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_stop_does_not_wait_for_a_proxy_that_hangs(
    open_session: OpenSession, fault_server: StartFaults, lateness: Lateness, scheme: str
) -> None:
    everyone_waits = threading.Barrier(6)

    def arrived(_connection: Any) -> None:
        everyone_waits.wait(20)

    proxy = fault_server([receive(), arrived, stall()])
    session = open_session(concurrency=5, proxy=f"socks5h://127.0.0.1:{proxy.port}")
    outcome: list[Any] = []
    urls = [f"{scheme}://target-{number}.test/" for number in range(20)]
    caller = threading.Thread(target=lambda: outcome.extend(session.iter_results(urls, timeout=None)))
    caller.start()
    everyone_waits.wait(20)
    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began <= STOPPED_WITHIN + lateness.slack()
    assert len(outcome) == 20
    assert all(isinstance(result.error, exceptions.RunStoppedError) for result in outcome)
    assert proxy.connections == 5


@pytest.mark.parametrize(
    ("steps", "timeout", "kind"),
    [
        (
            (send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), close()),
            5.0,
            exceptions.TruncatedBody,
        ),
        ((stall(),), 1.0, exceptions.RequestTimeout),
    ],
    ids=["cut", "silent"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_fault_of_the_target_is_no_proxy_error(
    *,
    session: ParallelSession,
    certificates: Certificates,
    socks_proxy: StartProxy,
    fault_server: StartFaults,
    steps: tuple[Step, ...],
    timeout: float,
    kind: type[exceptions.BackendError],
    scheme: str,
) -> None:
    tls = certificates.good.server_context() if scheme == "https" else None
    target = fault_server([read_request(), *steps], tls=tls)
    [result] = session.iter_results(
        [target.url()],
        method="POST",
        data="something",
        proxy=socks_proxy().url(),
        verify_ssl=str(certificates.ca_file),
        timeout=timeout,
    )
    assert type(result.error) is kind
    assert len(target.requests) == 1, "it may have been received"


def test_a_bad_certificate_of_the_target_is_a_tls_error(
    session: ParallelSession, tls_server: Server, socks_proxy: StartProxy
) -> None:
    with pytest.raises(exceptions.TLSError):
        session.get(tls_server.url("/get"), proxy=socks_proxy().url())
    assert tls_server.stats().requests == 0


def test_a_locally_resolved_name_that_does_not_exist_is_a_dns_error(
    session: ParallelSession, socks_proxy: StartProxy
) -> None:
    [result] = session.iter_results(["http://no-such-host.invalid/"], proxy=socks_proxy().url("socks5"))
    assert isinstance(cause_of(result.error), exceptions.DNSError), result.error
