"""Certificates, and proxies."""

from __future__ import annotations

import base64
import contextlib
import pickle
import re
import shutil
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from parallel_requests import exceptions
from parallel_requests.backends.registry import backend_class
from parallel_requests.gates.backoff import RetryPolicy
from tests.server.faults import (
    ConnectionEnded,
    FaultServer,
    close,
    notify_end,
    read_request,
    receive,
    redirect,
    refusing_port,
    repeat,
    response,
    send,
    stall,
    within_tls,
)
from tests.server.h2_faults import h2_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parallel_requests.session import ParallelSession
    from tests.server.control import Server
    from tests.server.faults import Connection, Step
    from tests.server.proxy import Proxy
    from tests.server.tls import Certificates


def test_a_ca_file_is_trusted(session: ParallelSession, tls_server: Server) -> None:
    urls = [tls_server.url(f"/id/{number}") for number in range(20)]
    answers = session.request(urls, verify_ssl=str(tls_server.ca_file))
    assert answers == [{"id": number} for number in range(20)]


@pytest.mark.parametrize("given", ["intermediate", "leaf"])
def test_a_given_certificate_is_trusted_though_its_issuer_is_not(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path, given: str
) -> None:
    intermediate = trustme.CA().create_child_ca()
    leaf = intermediate.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    trusted = intermediate.cert_pem if given == "intermediate" else leaf.cert_chain_pems[0]
    trusted.write_to_path(tmp_path / "trusted.pem")
    server = fault_server([read_request(), send(response(b"1"))], tls=context)
    assert session.request(server.url(), verify_ssl=str(tmp_path / "trusted.pem")) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="it says how a certificate in a folder is called")
def test_a_folder_of_cas_is_trusted(session: ParallelSession, tls_server: Server, tmp_path: Path) -> None:
    ca_file = str(tls_server.ca_file)
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", ca_file]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    with pytest.raises(exceptions.TLSError):
        session.request(tls_server.url("/id/1"), verify_ssl=str(tmp_path))
    shutil.copy(ca_file, tmp_path / f"{name}.0")
    assert session.request(tls_server.url("/id/2"), verify_ssl=f"{tmp_path}/") == {"id": 2}
    assert tls_server.ids() == [2]


def test_only_the_given_folder_is_trusted(
    session: ParallelSession, tls_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.ca_file))
    with pytest.raises(exceptions.TLSError):
        session.request(tls_server.url("/id/1"), verify_ssl=str(tmp_path))
    assert tls_server.ids() == []


def test_a_body_cut_off_is_truncated_even_if_another_librarys_contexts_are_used(
    session: ParallelSession,
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as those of truststore, which create sockets of a class of their own."""

    class Injected(ssl.SSLContext):
        @property
        def sslsocket_class(self) -> type[ssl.SSLSocket]:
            return ssl.SSLSocket

        @sslsocket_class.setter
        def sslsocket_class(self, ours: type[ssl.SSLSocket]) -> None:
            pass

    def injected(*, cafile: str, **_: object) -> ssl.SSLContext:
        context = Injected(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile)
        return context

    monkeypatch.setattr(ssl, "create_default_context", injected)
    cut_off = [read_request(), send(b"HTTP/1.1 200 OK\r\n\r\nhalf of i"), close()]
    server = fault_server(cut_off, tls=certificates.good.server_context())
    with pytest.raises(exceptions.RetryExhaustedError) as caught:
        session.get(server.url(), verify_ssl=str(certificates.ca_file), return_type="content")
    assert isinstance(caught.value.last_error, exceptions.TruncatedBody)


def test_http2_is_spoken_if_the_backend_supports_it(
    open_session: Callable[..., ParallelSession], h2_server: Server, backend: str
) -> None:
    session = open_session(verify_ssl=str(h2_server.ca_file))
    version = session.request(h2_server.url("/get"), return_type="response").http_version
    assert version == ("HTTP/2" if backend_class(backend).capabilities.http2 else "HTTP/1.1")


def test_an_unknown_ca_is_not_trusted(session: ParallelSession, tls_server: Server) -> None:
    with pytest.raises(exceptions.TLSError):
        session.request(tls_server.url("/get"))
    assert tls_server.stats().requests == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_that_wants_a_certificate_of_the_client_is_a_tls_error(
    session: ParallelSession,
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    version: ssl.TLSVersion,
    method: str,
) -> None:
    """In TLS 1.3 it says so only after the handshake, when the request may be on its way."""
    context = certificates.good.server_context()
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse(connection: Connection) -> None:
        with contextlib.suppress(ConnectionEnded):
            within_tls(context, read_request())(connection)

    server = fault_server([refuse, stall()])
    [result] = session.iter_results([f"https://127.0.0.1:{server.port}/"], method=method, verify_ssl=False)
    assert type(result.error) is exceptions.TLSError
    assert result.attempts == 1
    assert server.requests == []


def test_a_server_that_wants_a_certificate_at_once_is_a_tls_error(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    """An alert while it connects has a code of its own in libcurl."""
    server = fault_server([receive(), send(b"\x15\x03\x03\x00\x02\x02\x74"), stall()])
    [result] = session.iter_results([f"https://127.0.0.1:{server.port}/"])
    assert type(result.error) is exceptions.TLSError
    assert result.attempts == 1


def test_row_24_connections_with_different_verification_are_not_shared(
    session: ParallelSession, tls_server: Server
) -> None:
    url = tls_server.url("/id/1")
    assert session.request(url, verify_ssl=False) == {"id": 1}
    with pytest.raises(exceptions.TLSError):
        session.request(url, verify_ssl=True)
    assert session.request(url, verify_ssl=str(tls_server.ca_file)) == {"id": 1}
    with pytest.raises(exceptions.TLSError):
        session.request(url, verify_ssl=True)
    assert session.request(url, verify_ssl=False) == {"id": 1}
    assert tls_server.stats().requests == 3


def test_row_22_explicit_verification_beats_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    open_session: Callable[..., ParallelSession],
    tls_server: Server,
    server: Server,
) -> None:
    url = tls_server.url("/id/1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls_server.ca_file))
    assert open_session().request(url) == {"id": 1}
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.ca_file))
    with pytest.raises(exceptions.TLSError):
        open_session(trust_env=False).request(url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")
    assert open_session().request(url, verify_ssl=False) == {"id": 1}


def test_a_proxy_forwards_and_tunnels(
    session: ParallelSession, server: Server, tls_server: Server, proxy: Callable[..., Proxy]
) -> None:
    running = proxy(resolve={"httpbin.org": server.address, "api.github.com": tls_server.address})
    told = session.request("http://httpbin.org/get", proxy=running.url)
    assert told["url"] == "http://httpbin.org/get"
    told = session.request(
        "https://api.github.com/repos/python/cpython", proxy=running.url, verify_ssl=str(tls_server.ca_file)
    )
    assert told["name"] == "cpython"
    assert [request.method for request in running.requests] == ["GET", "CONNECT"]


def test_a_call_through_a_proxy_is_not_counted_as_replayed(session: ParallelSession) -> None:
    with FaultServer([repeat(read_request(), send(response(b"fine")))]) as proxy:
        [result] = session.iter_results(
            ["http://target.example/?q=1"], return_type="content", proxy=proxy.url().rstrip("/")
        )
        [request] = proxy.requests
    assert result.unwrap() == b"fine"
    assert result.attempts == 1
    assert request.target == "http://target.example/?q=1"
    assert request.headers["host"] == "target.example"
    assert "proxy-connection" not in request.headers


def test_headers_through_a_proxy_are_the_callers(session: ParallelSession) -> None:
    with FaultServer([repeat(read_request(), send(response(b"fine")))]) as proxy:
        answer = session.get(
            "http://target.example/",
            return_type="content",
            proxy=proxy.url(),
            headers={"host": "other.example", "Accept": None},
        )
        [request] = proxy.requests
    assert answer == b"fine"
    assert request.headers["host"] == "other.example"
    assert "accept" not in request.headers


def test_proxy_credentials_go_to_the_proxy_alone(
    session: ParallelSession, server: Server, tls_server: Server, proxy: Callable[..., Proxy]
) -> None:
    running = proxy(credentials=("user", "p@ss:w"))
    url = running.url_with("user", "p%40ss%3Aw")
    assert session.request(server.url("/id/1"), proxy=url) == {"id": 1}
    assert session.request(tls_server.url("/id/2"), proxy=url, verify_ssl=str(tls_server.ca_file)) == {
        "id": 2
    }
    expected = "Basic " + base64.b64encode(b"user:p@ss:w").decode()
    assert [request.headers.get("proxy-authorization") for request in running.requests] == [expected] * 2
    for entry in [*server.log(), *tls_server.log()]:
        assert "proxy-authorization" not in entry.headers


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_wrong_proxy_credentials_are_never_shown(
    session: ParallelSession, server: Server, tls_server: Server, proxy: Callable[..., Proxy], scheme: str
) -> None:
    running = proxy(credentials=("user", "right"))
    target = server if scheme == "http" else tls_server
    options: Any = {"proxy": running.url_with("user", "wrong-secret"), "verify_ssl": str(tls_server.ca_file)}
    [result] = session.iter_results([target.url("/get?token=hidden")], **options)
    error = result.error
    assert error is not None
    cause = error.last_error if isinstance(error, exceptions.RetryExhaustedError) else error
    assert isinstance(cause, exceptions.ProxyError)
    assert cause.proxy_url == f"http://***@127.0.0.1:{running.port}"
    for text in (
        str(error),
        repr(result),
        repr(error),
        repr(pickle.dumps(error)),
        repr(pickle.dumps(result)),
    ):
        assert "wrong-secret" not in text
        assert "hidden" not in text
    assert target.stats().requests == 0


def test_row_25_a_missing_proxy_is_never_bypassed(
    session: ParallelSession, server: Server, tls_server: Server
) -> None:
    with refusing_port() as port:
        results = list(
            session.iter_results(
                [server.url("/get"), tls_server.url("/get")],
                proxy=f"http://127.0.0.1:{port}",
                verify_ssl=str(tls_server.ca_file),
            )
        )
    for result in results:
        assert isinstance(result.error, exceptions.RetryExhaustedError)
        assert isinstance(result.error.last_error, exceptions.ProxyError), result.error
    assert server.stats().requests == tls_server.stats().requests == 0, "never a silent direct connection"


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
def test_a_fault_of_the_target_is_not_a_proxy_error(  # noqa: PLR0917 - a table
    steps: tuple[Step, ...],
    timeout: float,
    kind: type[exceptions.BackendError],
    session: ParallelSession,
    certificates: Certificates,
    proxy: Callable[..., Proxy],
) -> None:
    with FaultServer([read_request(), *steps], tls=certificates.good.server_context()) as target:
        [result] = session.iter_results(
            [target.url()],
            method="POST",
            data="something",
            proxy=proxy().url,
            verify_ssl=str(certificates.ca_file),
            timeout=timeout,
        )
        assert len(target.requests) == 1, "it may have been received"
    assert type(result.error) is kind


def test_a_bad_certificate_of_the_target_is_not_a_proxy_error(
    session: ParallelSession, tls_server: Server, proxy: Callable[..., Proxy]
) -> None:
    with pytest.raises(exceptions.TLSError):
        session.get(tls_server.url("/get"), proxy=proxy().url)
    assert tls_server.stats().requests == 0


def test_row_25_the_next_proxy_is_tried(
    open_session: Callable[..., ParallelSession], server: Server, proxy: Callable[..., Proxy]
) -> None:
    running = proxy()
    with refusing_port() as port:
        session = open_session(proxies=[f"http://127.0.0.1:{port}", running.url])
        assert session.request(server.url("/id/1")) == {"id": 1}
        assert session.request([server.url("/id/1")] * 2) == [{"id": 1}] * 2
    assert len(running.requests) == 3


def test_proxies_take_turns_across_the_batches_of_a_session(
    open_session: Callable[..., ParallelSession], server: Server, proxy: Callable[..., Proxy]
) -> None:
    first, second, other = proxy(), proxy(), proxy()
    session = open_session(proxies=[first.url, second.url])
    for number in range(4):
        assert session.request(server.url(f"/id/{number}")) == {"id": number}
        assert session.request(server.url("/id/9"), proxies=[other.url]) == {"id": 9}
    assert [request.target for request in first.requests] == [server.url("/id/0"), server.url("/id/2")]
    assert [request.target for request in second.requests] == [server.url("/id/1"), server.url("/id/3")]
    assert len(other.requests) == 4


def test_row_22_proxies_of_the_environment_are_used_by_default(
    monkeypatch: pytest.MonkeyPatch,
    open_session: Callable[..., ParallelSession],
    server: Server,
    proxy: Callable[..., Proxy],
) -> None:
    running = proxy()
    monkeypatch.setenv("HTTP_PROXY", running.url)
    assert open_session().request(server.url("/id/1")) == {"id": 1}
    assert len(running.requests) == 1
    assert open_session().request(server.url("/id/2"), proxy=False) == {"id": 2}
    assert open_session(trust_env=False).request(server.url("/id/3")) == {"id": 3}
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert open_session().request(server.url("/id/4")) == {"id": 4}
    assert len(running.requests) == 1


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_row_25_no_variable_bypasses_a_given_proxy(
    monkeypatch: pytest.MonkeyPatch,
    open_session: Callable[..., ParallelSession],
    server: Server,
    proxy: Callable[..., Proxy],
    name: str,
) -> None:
    monkeypatch.setenv(name, "127.0.0.1")
    running = proxy()
    for session in (open_session(), open_session(trust_env=False)):
        assert session.request(server.url("/id/1"), proxy=running.url) == {"id": 1}
    assert len(running.requests) == 2


MINE = {"Proxy-Authorization": "Bearer mine"}


@pytest.mark.parametrize("has_credentials", [False, True], ids=["bare", "beside_credentials_in_the_url"])
def test_the_callers_own_proxy_authorization_wins_and_goes_to_the_proxy_alone(
    session: ParallelSession,
    server: Server,
    tls_server: Server,
    proxy: Callable[..., Proxy],
    has_credentials: bool,
) -> None:
    running = proxy()
    options: dict[str, Any] = {
        "proxy": running.url_with("user", "hush") if has_credentials else running.url,
        "verify_ssl": str(tls_server.ca_file),
    }
    lower = {name.lower(): value for name, value in MINE.items()}
    for target in (server, tls_server):
        assert session.request(target.url("/id/1"), headers=MINE, **options) == {"id": 1}
        assert session.request(target.url("/id/2"), headers=lower, **options) == {"id": 2}
        assert not any("proxy-authorization" in entry.headers for entry in target.log())
    told = [request.headers.get("proxy-authorization") for request in running.requests]
    assert set(told) == set(MINE.values())
    assert {request.method for request in running.requests} == {"GET", "CONNECT"}


def test_calls_with_other_proxy_credentials_do_not_share_a_tunnel(
    session: ParallelSession, tls_server: Server, proxy: Callable[..., Proxy]
) -> None:
    running = proxy()
    for told in ("Bearer one", "Bearer two", "Bearer two"):
        session.request(
            tls_server.url("/get"),
            headers={"Proxy-Authorization": told},
            proxy=running.url,
            verify_ssl=str(tls_server.ca_file),
        )
    assert [request.headers["proxy-authorization"] for request in running.requests] == [
        "Bearer one",
        "Bearer two",
    ]


def test_proxy_credentials_are_not_sent_without_a_proxy(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/id/1"), headers=MINE) == {"id": 1}
    assert session.request(server.url("/redirect/1"), headers=MINE)
    assert not any("proxy-authorization" in entry.headers for entry in server.log())


def test_a_redirect_through_the_same_proxy_keeps_its_credentials(
    session: ParallelSession, proxy: Callable[..., Proxy], fault_server: Callable[..., FaultServer]
) -> None:
    there = fault_server([repeat(read_request(), send(response(b"there")))])
    here = fault_server([read_request(), redirect(there.url())])
    running = proxy()
    assert session.get(here.url(), headers=MINE, proxy=running.url, return_type="content") == b"there"
    assert [request.headers["proxy-authorization"] for request in running.requests] == ["Bearer mine"] * 2
    assert all("proxy-authorization" not in request.headers for request in here.requests + there.requests)


def test_the_certificate_of_an_https_proxy_is_checked_like_the_targets(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    target = within_tls(certificates.good.server_context(), read_request(), send(response(b"{}")))
    context = h2_context(certificates.good)  # which a client must not ask a proxy for
    proxy = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), target], tls=context)
    forwarding = fault_server([read_request(), send(response(b"{}"))], tls=context)
    for verify in (str(certificates.ca_file), False):
        session = open_session(verify_ssl=verify)
        assert session.get("https://localhost/", proxy=f"https://localhost:{proxy.port}") == {}
        assert session.get("http://target.example/", proxy=f"https://localhost:{forwarding.port}") == {}
    for url in ("https://localhost/", "http://target.example/"):
        [result] = open_session().iter_results([url], proxy=f"https://localhost:{proxy.port}", max_retries=0)
        assert isinstance(result.error, exceptions.ProxyError), result.error
    assert len(proxy.requests) == 4
    assert len(forwarding.requests) == 2


def test_a_body_cut_off_beneath_an_https_proxy_is_truncated(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    """The proxy ends its own TLS in good order, as it should; the target has not."""
    context = certificates.good.server_context()
    target = within_tls(context, read_request(), send(b"HTTP/1.1 200 OK\r\n\r\nhalf of i"))
    tunnel = [read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), target, notify_end()]
    proxy = fault_server([within_tls(context, *tunnel), close()])
    session = open_session(verify_ssl=str(certificates.ca_file), retry=RetryPolicy(max_retries=0))
    [result] = session.iter_results(["https://localhost/"], proxy=f"https://localhost:{proxy.port}")
    assert type(result.error) is exceptions.TruncatedBody
    assert len(proxy.requests) == 2


def test_a_body_without_a_length_is_complete_if_tls_ends_in_good_order(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    answer = send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    target = within_tls(certificates.good.server_context(), read_request(), answer, notify_end())
    server = fault_server([target, close()])
    session = open_session(verify_ssl=str(certificates.ca_file))
    assert session.get(f"https://localhost:{server.port}/", return_type="content") == b"all of it"
    assert server.connections == 1


def test_what_is_not_http_beneath_an_https_proxy_is_a_protocol_error(
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    context = certificates.good.server_context()
    target = within_tls(context, read_request(), send(b"SSH-2.0-OpenSSH_9.2\r\n"), notify_end())
    proxy = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), target, close()], tls=context)
    session = open_session(verify_ssl=str(certificates.ca_file))
    [result] = session.iter_results(["https://localhost/"], proxy=f"https://localhost:{proxy.port}")
    assert type(result.error) is exceptions.ProtocolError
    assert result.attempts == 1


@pytest.mark.parametrize("url", ["http://target.example/", "https://127.0.0.1/"], ids=["http", "https"])
@pytest.mark.parametrize("bad", [None, "wrong_host"], ids=["no_tls", "wrong_host"])
def test_the_next_proxy_is_tried_after_one_that_fails_in_tls(  # noqa: PLR0917 - fixtures
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    proxy: Callable[..., Proxy],
    tls_server: Server,
    server: Server,
    url: str,
    bad: str | None,
) -> None:
    broken = fault_server(
        [receive(), send(b"HTTP/1.1 400 Bad Request\r\n\r\n")],
        tls=getattr(certificates, bad).server_context() if bad else None,
    )
    working = proxy(resolve={"target.example": server.address, "127.0.0.1:443": tls_server.address})
    proxies, retry = [f"https://127.0.0.1:{broken.port}", working.url], RetryPolicy(backoff_factor=0.01)
    session = open_session(proxies=proxies, retry=retry)
    [result] = session.iter_results([f"{url}id/1"], verify_ssl=str(certificates.ca_file))
    assert result.unwrap() == {"id": 1}
    assert result.attempts == 2
    assert broken.requests == []


def test_an_unusable_socks_proxy_is_reported_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
    open_session: Callable[..., ParallelSession],
    backend: str,
    fault_server: Callable[..., FaultServer],
) -> None:
    """The error says what to do, and is not retried."""
    monkeypatch.setitem(sys.modules, "socks", None)
    if backend == "curl":
        pytest.skip("it speaks SOCKS by itself")
    remedy = "another backend" if backend == "aiohttp" else r"pip install 'parallel-requests\[socks\]'"
    socks = fault_server([stall()])
    proxy = f"socks5h://user:hush@127.0.0.1:{socks.port}"
    session = open_session()
    for options in ({"proxy": proxy}, {"proxies": [proxy]}):
        with pytest.raises(exceptions.ConfigurationError, match=remedy) as refused:
            session.request("http://target.example/", **options)
        assert refused.value.config_key in options
        assert "hush" not in str(refused.value)
    [result] = session.iter_results([{"url": "http://target.example/", "proxy": proxy}])
    assert isinstance(result.error, exceptions.ValidationError)
    assert re.search(remedy, str(result.error))
    monkeypatch.setenv("ALL_PROXY", proxy)
    [result] = open_session().iter_results(["http://target.example/"])
    assert isinstance(result.error, exceptions.ValidationError)
    assert re.search(remedy, str(result.error))
    assert (result.attempts, socks.connections) == (0, 0)


def test_a_redirect_that_needs_an_unusable_proxy_is_not_followed(
    monkeypatch: pytest.MonkeyPatch,
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
) -> None:
    server = fault_server([read_request(), redirect("https://target.example/")])
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hush@127.0.0.1:no-port")
    [result] = open_session().iter_results([server.url()])
    assert isinstance(result.error, exceptions.RedirectError)
    assert "proxy" in str(result.error)
    assert "hush" not in str(result.error)
    assert result.attempts == 1


@pytest.mark.parametrize("answer", ["302 Found", "502 Bad Gateway"])
def test_a_proxy_that_opens_no_tunnel_is_a_proxy_error(
    session: ParallelSession, fault_server: Callable[..., FaultServer], answer: str
) -> None:
    proxy = fault_server([read_request(), send(response(b"", "Location: http://a.test/", status=answer))])
    [result] = session.iter_results(["https://target.example/"], proxy=proxy.url().rstrip("/"))
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert isinstance(result.error.last_error, exceptions.ProxyError)


def test_a_proxy_whose_name_does_not_exist_is_a_proxy_error(session: ParallelSession) -> None:
    [result] = session.iter_results(["http://target.example/"], proxy="http://no-such-proxy.invalid:1")
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert isinstance(result.error.last_error, exceptions.ProxyError)


def test_credentials_for_a_proxy_may_be_in_any_script(
    session: ParallelSession, server: Server, proxy: Callable[..., Proxy]
) -> None:
    running = proxy(credentials=("jürgen", "pässwört €"))
    url = running.url_with("j%C3%BCrgen", "p%C3%A4ssw%C3%B6rt%20%E2%82%AC")
    assert session.request(server.url("/id/1"), proxy=url) == {"id": 1}


def test_an_at_sign_in_a_proxys_password_is_taken_as_it_is_meant(
    session: ParallelSession, server: Server, proxy: Callable[..., Proxy]
) -> None:
    running = proxy(credentials=("user", "p@ss"))
    assert session.request(server.url("/id/1"), proxy=running.url_with("user", "p@ss")) == {"id": 1}


@pytest.mark.parametrize("name", ["missing.pem", "."], ids=["no_file", "empty_folder"])
def test_an_invalid_ca_bundle_of_the_environment_is_a_tls_error(
    monkeypatch: pytest.MonkeyPatch,
    open_session: Callable[..., ParallelSession],
    tls_server: Server,
    tmp_path: Path,
    name: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
    [result] = open_session().iter_results([tls_server.url("/get")])
    assert isinstance(result.error, exceptions.TLSError)
    assert result.attempts == 1
    assert tls_server.stats().requests == 0


def test_an_invalid_ca_bundle_does_not_matter_without_tls(
    monkeypatch: pytest.MonkeyPatch,
    open_session: Callable[..., ParallelSession],
    server: Server,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    assert open_session().get(server.url("/id/1")) == {"id": 1}
