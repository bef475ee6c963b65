"""What is particular to aiohttp: headers it adds, requests it resends and faults it hides on its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp")

import aiohttp

from parallel_requests.exceptions import ProtocolError, RequestTimeout, TruncatedBody, ValidationError
from parallel_requests.session import ParallelSession
from tests.server.faults import close, full_port, read_request, repeat, response, rst, send, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.models import Attempt, Request
    from parallel_requests.planning import RequestItem
    from tests.lateness import Lateness
    from tests.server.faults import Connection, FaultServer, Step

_HEAD = b"HTTP/1.1 200 OK\r\n"
_ANSWER = response(b'{"ok": true}')


@pytest.fixture
def session() -> Iterator[ParallelSession]:
    with ParallelSession(backend="aiohttp", max_retries=0, timeout=5) as opened:
        yield opened


def test_header_values_go_out_byte_for_byte_or_not_at_all(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(_ANSWER))])
    session.get(server.url(), headers={"X-Own": "café".encode().decode("latin-1")})
    [request] = server.requests
    assert b"X-Own: caf\xc3\xa9\r\n" in request.raw
    with pytest.raises(ValidationError):
        session.get(server.url(), headers={"X-Own": "café"})
    assert len(server.requests) == 1


@pytest.mark.parametrize("host", ["127.1", "2130706433"])
def test_an_address_that_aiohttp_does_not_take_is_an_error_of_the_item(
    host: str, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(_ANSWER))])
    url = f"http://{host}:{server.port}/"
    with pytest.raises(ValidationError, match=r"^url has an IPv4 address"):
        session.get(url)
    with pytest.raises(ValidationError, match=r"^proxy has an IPv4 address"):
        session.get(server.url(), proxy=url)
    assert session.get(url, proxy=server.url()) == {"ok": True}, "the proxy decides what it takes"
    assert len(server.requests) == 1


def test_a_response_of_a_mock_has_no_version(
    session: ParallelSession, fault_server: Callable[..., FaultServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vcrpy and aioresponses make them up, in place of this method."""
    request = aiohttp.ClientSession._request

    async def mocked(*args: Any, **options: Any) -> aiohttp.ClientResponse:
        played = await request(*args, **options)
        played.version = None
        return played

    monkeypatch.setattr(aiohttp.ClientSession, "_request", mocked)
    server = fault_server([read_request(), send(_ANSWER)])
    answer = session.get(server.url(), return_type="response")
    assert (answer.json(), answer.http_version) == ({"ok": True}, "HTTP/1.1")


@pytest.mark.parametrize("is_found", [True, False], ids=["no address answers", "the look-up hangs"])
def test_the_connect_part_of_the_timeout_covers_look_up_and_all_addresses(
    session: ParallelSession, monkeypatch: pytest.MonkeyPatch, lateness: Lateness, is_found: bool
) -> None:
    with contextlib.ExitStack() as open_ports:
        ports = [open_ports.enter_context(full_port()) for _ in range(4)]

        async def resolve(_self: Any, host: str, *_: Any, **__: Any) -> list[dict[str, Any]]:
            if not is_found:
                await asyncio.Event().wait()
            address = {
                "hostname": host,
                "host": "127.0.0.1",
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
            return [{**address, "port": port} for port in ports]

        monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
        [result] = session.iter_results(["http://several-addresses.test/"], timeout=(0.4, 30))
    assert type(result.error) is RequestTimeout
    assert 0.35 <= result.elapsed <= 0.65 + lateness.slack()


def test_an_idempotent_request_is_not_sent_again_behind_our_back(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), close()])
    with pytest.raises(TruncatedBody):
        session.get(server.url())
    assert len(server.requests) == 1


@pytest.mark.usefixtures("loop_kind")
def test_a_connection_that_has_ended_while_the_loop_was_busy_is_not_used(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    other_is_idle, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def end(connection: Connection) -> None:
        connection.end()
        has_ended.set()

    def keep_the_loop_busy(_request: Request, _attempt: Attempt) -> None:
        may_end.set()
        has_ended.wait()

    redirect = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    server = fault_server(
        [read_request(), wait(other_is_idle), send(_ANSWER), wait(may_end), end],
        [read_request(), send(_ANSWER), read_request(), send(redirect), read_request(), send(_ANSWER)],
    )
    for _ in session.iter_results([server.url()] * 2):
        other_is_idle.set()
    assert session.post(server.url(), data="x", on_attempt=keep_the_loop_busy) == {"ok": True}
    assert session.last_run.attempts == 2
    assert [request.connection for request in server.requests[2:]] == [1, 1]


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="aiohttp sends as soon as it has taken a connection; nothing comes between",
)
@pytest.mark.usefixtures("loop_kind")
def test_a_connection_that_ends_before_anything_is_sent_costs_no_post(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    may_end, has_ended = threading.Event(), threading.Event()

    def end(connection: Connection) -> None:
        connection.end()
        has_ended.set()

    def keep_the_loop_busy(request: Request, _attempt: Attempt) -> None:
        if request.index == 1:
            may_end.set()
            has_ended.wait()

    server = fault_server(
        [read_request(), send(_ANSWER), wait(may_end), end], [read_request(), send(_ANSWER)]
    )
    session.get(server.url())
    posts: list[RequestItem] = [
        {"url": server.url()},
        {"url": server.url(), "headers": {"X-Bytes": b"\xff"}},  # fails as soon as the other one begins
    ]
    posted, _ = session.iter_results(
        posts, method="POST", data="x", on_attempt=keep_the_loop_busy, ordered=True
    )
    assert posted.unwrap() == {"ok": True}
    assert [request.connection for request in server.requests] == [0, 1]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("begin", "then", "error"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n", send(b"zz\r\n"), ProtocolError),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\nab", close(), TruncatedBody),
        (b"Content-Length: 10\r\n\r\nabc", rst(), TruncatedBody),
        (b"\r\nabc", rst(), TruncatedBody),
    ],
    ids=["malformed", "cut", "reset", "reset without a length"],
)
def test_faults_after_the_head_are_reported(  # noqa: PLR0917 - a table
    session: ParallelSession,
    fault_server: Callable[..., FaultServer],
    begin: bytes,
    then: Step,
    error: type[Exception],
    streamed: bool,
) -> None:
    has_begun = threading.Event()
    steps = [read_request(), send(_HEAD + begin), then]
    options: dict[str, Any] = {"return_type": "content"}
    if streamed:
        steps.insert(2, wait(has_begun))
        options = {"return_type": "stream", "stream_callback": lambda _chunk: has_begun.set()}
    server = fault_server(steps)
    with pytest.raises(error):
        session.get(server.url(), **options)


def test_no_byte_of_a_malformed_response_is_quoted(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(_HEAD + b"Set-Cookie: session=hush\x00\r\n\r\n")])
    with pytest.raises(ProtocolError) as caught:
        session.get(server.url())
    assert "hush" not in str(caught.value)
