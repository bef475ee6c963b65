"""`timeout` limits a whole attempt and `deadline` a whole batch, whatever the servers do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import (
    ParallelRequests,
    ParallelSession,
    PartialFailureError,
    RequestTimeout,
    RetryPolicy,
)
from parallel_requests.exceptions import ConnectError, DeadlineExceededError
from tests.polling import until
from tests.server.faults import (
    FaultServer,
    TLSConnection,
    full_port,
    read_request,
    receive,
    refusing_port,
    repeat,
    response,
    send,
    stall,
    trickle,
    within_tls,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.faults import Connection, Step
    from tests.server.tls import Certificates

    OpenSession = Callable[..., ParallelSession]

OVERSHOOT = 0.25
"""Seconds an attempt or a batch may last beyond its bound, the machine's own lateness apart."""

NEVER_AGAIN = RetryPolicy(max_retries=0)
_ANSWER = response(b"x" * 1_000)
_HEAD = _ANSWER.partition(b"x")[0]
_NEVER_DONE = {
    "trickled head": [read_request(), trickle(_ANSWER, 0.02)],
    "trickled body": [read_request(), send(_HEAD), trickle(b"x" * 1_000, 0.02)],
    "stall in the body": [read_request(), send(_HEAD + b"xxx"), stall()],
    "no answer": [read_request(), stall()],
}
_NEVER_SHAKEN = {
    "silent TLS": stall(),
    "trickled TLS": trickle(b"\x16\x03\x03\x02\x00" + bytes(512), 0.02),  # a record that takes ten seconds
}
_NEVER_CONNECTED = (*_NEVER_SHAKEN, "full accept queue")

on_threads = pytest.mark.parametrize(
    "backend",
    [pytest.param("niquests", marks=pytest.mark.niquests), "requests", "urllib3"],
    indirect=True,
)


@pytest.fixture(scope="module")
def never_done() -> Iterator[dict[str, str]]:
    """URLs of servers that never finish, by what they do."""
    with contextlib.ExitStack() as running:
        urls = {
            name: running.enter_context(FaultServer(script)).url() for name, script in _NEVER_DONE.items()
        }
        for name, step in _NEVER_SHAKEN.items():
            server = running.enter_context(FaultServer([step]))
            urls[name] = f"https://127.0.0.1:{server.port}/"
        urls["full accept queue"] = f"http://127.0.0.1:{running.enter_context(full_port())}/"
        yield urls


def test_timeout_limits_a_whole_attempt(
    open_session: OpenSession, never_done: dict[str, str], lateness: Lateness
) -> None:
    session = open_session(retry=NEVER_AGAIN, timeout=0.3)
    for result in session.iter_results(never_done.values(), keys=never_done):
        assert type(result.error) is RequestTimeout, result.key
        assert 0.25 <= result.elapsed <= 0.3 + OVERSHOOT + lateness.slack(), result.key
    assert session.last_run.seconds <= 0.3 + OVERSHOOT + lateness.slack()


@pytest.mark.parametrize("concurrency", [20, 300])  # curl waits with select or epoll
def test_timeout_limits_an_attempt_while_nothing_else_happens(
    open_session: OpenSession, never_done: dict[str, str], lateness: Lateness, concurrency: int
) -> None:
    session = open_session(retry=NEVER_AGAIN, timeout=0.3, concurrency=concurrency)
    [result] = session.iter_results([never_done["no answer"]])
    assert type(result.error) is RequestTimeout
    assert 0.25 <= result.elapsed <= 0.3 + OVERSHOOT + lateness.slack()


def test_row_14_the_connect_part_covers_the_handshake(
    open_session: OpenSession, never_done: dict[str, str], lateness: Lateness
) -> None:
    # To read the system's CAs takes long on a busy machine, and here nothing is verified.
    session = open_session(retry=NEVER_AGAIN, timeout=(0.2, 30), verify_ssl=False)
    urls = [never_done[name] for name in _NEVER_CONNECTED]
    results = list(session.iter_results(urls, keys=_NEVER_CONNECTED))
    assert len(results) == len(urls)
    for result in results:
        assert type(result.error) is RequestTimeout, result.key
        assert result.elapsed <= 0.2 + OVERSHOOT + lateness.slack(), result.key


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``resolve(port, ...)`` returns a name with one address for each port of 127.0.0.1."""

    def add_name(*ports: int) -> str:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))
            for port in ports
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        return "several-addresses.test"

    return add_name


@on_threads
@pytest.mark.parametrize("timeout", [5, None])
def test_an_address_that_does_not_answer_leaves_time_for_the_others(
    open_session: OpenSession, server: Server, resolve: Callable[..., str], timeout: float | None
) -> None:
    with full_port() as silent:
        host = resolve(silent, silent, server.address[1])
        session = open_session(retry=NEVER_AGAIN, timeout=timeout)
        assert session.get([f"http://{host}/id/{n}" for n in range(3)]) == [{"id": n} for n in range(3)]


@on_threads
def test_an_address_of_a_proxy_that_does_not_answer_is_not_waited_for(
    open_session: OpenSession, fault_server: Callable[..., FaultServer], resolve: Callable[..., str]
) -> None:
    granted = b"\x05\x00\x00\x01" + bytes(6)
    script = [receive(), send(b"\x05\x00"), receive(), send(granted), read_request(), send(response(b"{}"))]
    proxy = fault_server(script)
    with full_port() as silent:
        host = resolve(silent, silent, proxy.port)
        session = open_session(proxy=f"socks5h://{host}", timeout=None)  # so that nothing else ends the wait
        assert session.get("http://target.test/") == {}


@on_threads
@pytest.mark.parametrize("others", ["silent", "refusing"])
def test_the_connect_part_covers_all_addresses_of_a_name(
    open_session: OpenSession, resolve: Callable[..., str], lateness: Lateness, others: str
) -> None:
    with full_port() as silent, refusing_port() as refusing:
        host = resolve(silent, *([silent] * 3 if others == "silent" else [refusing]))
        [result] = open_session(retry=NEVER_AGAIN, timeout=(0.4, 30)).iter_results([f"http://{host}/"])
    assert type(result.error) is RequestTimeout
    assert 0.35 <= result.elapsed <= 0.4 + OVERSHOOT + lateness.slack()


@on_threads
def test_a_deadline_holds_while_several_addresses_are_tried(
    open_session: OpenSession, resolve: Callable[..., str], lateness: Lateness
) -> None:
    with full_port() as silent:
        host = resolve(silent, silent)
        session = open_session(timeout=None)
        [result] = session.iter_results([f"http://{host}/"], deadline=0.4)
    assert type(result.error) is DeadlineExceededError
    assert session.last_run.seconds <= 0.4 + OVERSHOOT + lateness.slack()


@on_threads
def test_the_error_of_a_name_none_of_whose_addresses_answers_is_that_of_one_of_them(
    open_session: OpenSession, resolve: Callable[..., str]
) -> None:
    with refusing_port() as refusing:
        host = resolve(refusing, refusing)
        [result] = open_session(retry=NEVER_AGAIN).iter_results([f"http://{host}/"])
    assert type(result.error) is ConnectError
    assert "refused" in str(result.error)


@on_threads
@pytest.mark.parametrize(
    ("families", "problem"), [([], "no address"), ([socket.AF_APPLETALK], "not supported")]
)
def test_a_name_without_an_address_that_can_be_used_is_a_connect_error(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch, families: list[int], problem: str
) -> None:
    found = [(family, socket.SOCK_STREAM, 0, "", ()) for family in families]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    [result] = open_session(retry=NEVER_AGAIN).iter_results(["http://no-address.test/"])
    assert type(result.error) is ConnectError
    assert problem in str(result.error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_timeout_limits_an_upload_that_is_not_received(
    open_session: OpenSession,
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    lateness: Lateness,
    scheme: str,
) -> None:
    # The first answer keeps the connection, so that the upload finds one that has timeouts behind it.
    script = [read_request(), send(response(b"{}")), stall()]
    server = fault_server(script, tls=certificates.good.server_context() if scheme == "https" else None)
    url = server.url(host="localhost")
    session = open_session(retry=NEVER_AGAIN, verify_ssl=str(certificates.ca_file))
    assert session.get(url, timeout=5) == {}
    began = time.monotonic()
    [result] = session.iter_results([url], method="PUT", data=bytes(30_000_000), timeout=0.4)
    assert isinstance(result.error, RequestTimeout), result.error
    assert time.monotonic() - began <= 0.4 + OVERSHOOT + lateness.slack()
    assert server.connections == 1


@pytest.mark.parametrize("step", [stall(), trickle(response(b"x" * 1_000), 0.02)], ids=["stall", "trickle"])
def test_timeout_limits_an_attempt_over_tls_within_tls(
    open_session: OpenSession,
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    lateness: Lateness,
    step: Step,
) -> None:
    # The first answer keeps the connection, so that the timeout need not cover two handshakes.
    first = (read_request(), send(response(b"1")))
    target = within_tls(certificates.good.server_context(), *first, read_request(), step)
    tunnel = [read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), target]
    proxy = fault_server(tunnel, tls=certificates.good.server_context())
    session = open_session(
        retry=NEVER_AGAIN, verify_ssl=str(certificates.ca_file), proxy=f"https://localhost:{proxy.port}"
    )
    assert session.get("https://localhost/", timeout=20) == 1
    [result] = session.iter_results(["https://localhost/"], timeout=0.5)
    assert type(result.error) is RequestTimeout
    assert len(proxy.requests) == 3
    assert result.elapsed <= 0.5 + OVERSHOOT + lateness.slack()


def test_a_partial_tls_record_on_an_idle_connection_blocks_nobody(
    open_session: OpenSession, fault_server: Callable[..., FaultServer], certificates: Certificates
) -> None:
    context = certificates.good.server_context()

    def step(connection: Connection) -> None:
        inner = TLSConnection(connection, context)
        inner.read_request()
        first, second = inner.encrypt(response(b"1")), inner.encrypt(response(b"2"))
        connection.send(first + second[:5])
        inner.read_request()
        connection.send(second[5:])
        stall()(connection)

    anew = within_tls(context, repeat(read_request(), send(response(b"2"))))  # for who trusts it no more
    server = fault_server([step], [anew])
    session = open_session(retry=NEVER_AGAIN, verify_ssl=str(certificates.ca_file), timeout=5)
    url = f"https://localhost:{server.port}/"
    assert [session.get(url) for _ in range(2)] == [1, 2]


def test_each_attempt_has_a_timeout_of_its_own(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    session = open_session(retry=RetryPolicy(max_retries=1, backoff_factor=0.01), timeout=0.2)
    [result] = session.iter_results([server.url("/hang")])
    assert result.attempts == 2
    for attempt in result.history:
        assert isinstance(attempt.error, RequestTimeout)
        assert isinstance(attempt.error, TimeoutError)
        assert attempt.elapsed <= 0.2 + OVERSHOOT + lateness.slack()


def test_deadline_limits_a_whole_batch(
    open_session: OpenSession, never_done: dict[str, str], server: Server, lateness: Lateness
) -> None:
    session = open_session(concurrency=len(never_done) + 1, timeout=None)
    done = [server.url("/static")] * 5
    never_started = [server.url("/get")] * 5
    began = time.monotonic()
    with pytest.raises(PartialFailureError) as caught:
        session.get(
            [*done, *never_done.values(), server.url("/hang"), *never_started],
            return_type="content",
            deadline=1.0,
        )
    assert time.monotonic() - began <= 1.0 + OVERSHOOT + lateness.slack()

    results = caught.value.results
    assert [result.ok for result in results[:5]] == [True] * 5
    assert {type(result.error) for result in results[5:]} == {DeadlineExceededError}
    assert [result.attempts for result in results[-5:]] == [0] * 5
    assert server.stats().by_path == {"/static": 5, "/hang": 1}


@pytest.mark.parametrize("collection", [list, deque])
def test_deadline_leaves_a_result_for_every_item_of_a_collection(
    open_session: OpenSession, server: Server, collection: Callable[[list[str]], list[str] | deque[str]]
) -> None:
    session = open_session(concurrency=2, timeout=None)
    urls = collection([server.url("/hang")] * 30)
    with pytest.raises(PartialFailureError) as caught:
        session.get(urls, deadline=0.2)
    assert [result.index for result in caught.value.results] == list(range(30))
    assert session.last_run.total == 30


@pytest.mark.parametrize("verb", ["request", "iter_results"])
def test_the_event_loop_goes_on_while_items_that_never_started_get_their_results(
    backend: str, server: Server, verb: str
) -> None:
    taken_in_round: list[int] = []

    class Urls(deque[str]):
        def __iter__(self) -> Iterator[str]:
            for url in super().__iter__():
                taken_in_round.append(rounds)
                yield url

    rounds = 0

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def main() -> int:
        urls = Urls([server.url("/hang")] * 5_000)
        async with ParallelRequests(backend=backend, concurrency=2, timeout=None) as client:
            counting = asyncio.ensure_future(count_rounds())
            if verb == "request":
                with pytest.raises(PartialFailureError):
                    await client.request(urls, deadline=0.2)
            else:
                async for _ in client.iter_results(urls, deadline=0.2):
                    pass
            counting.cancel()
            return client.last_run.total

    assert asyncio.run(main()) == len(taken_in_round) == 5_000
    assert len(set(taken_in_round)) > 10


def test_deadline_limits_items_that_wait_for_a_gate(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    session = open_session(rate_limit=10, rate_limit_burst=1)
    with pytest.raises(PartialFailureError) as caught:
        session.get([server.url("/static")] * 1_000, deadline=0.55)
    assert session.last_run.seconds <= 0.55 + OVERSHOOT + lateness.slack()
    # The last one may be on its way when the deadline passes.
    assert 1 <= caught.value.successes <= server.stats().requests <= 6
    assert {type(error) for error in caught.value.exceptions} == {DeadlineExceededError}
    last = caught.value.exceptions[-1]
    assert isinstance(last, DeadlineExceededError)
    assert last.url == server.url("/static")
    assert f"{last.url} was not done after 0 attempts" in str(last)


def test_deadline_limits_a_batch_that_finds_all_slots_taken(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    session = open_session(concurrency=1, timeout=None)
    with ThreadPoolExecutor(1) as other:
        other.submit(session.get, server.url("/delay/4"))
        until(lambda: server.stats().requests == 1)
        with pytest.raises(DeadlineExceededError):
            session.get(server.url("/static"), deadline=0.5)
        assert session.last_run.seconds <= 0.5 + OVERSHOOT + lateness.slack()
        session.close()


def test_deadline_limits_a_batch_that_waits_while_another_one_takes_all_slots(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    session = open_session(concurrency=1, timeout=None, retry=RetryPolicy(backoff_factor=60))
    with ThreadPoolExecutor(2) as callers:
        limited: Future[object] = callers.submit(session.get, server.url("/status/503"), deadline=1.0)
        until(lambda: server.stats().requests == 1)
        callers.submit(session.get, server.url("/delay/4"))
        assert isinstance(limited.exception(), DeadlineExceededError)
        assert session.last_run.seconds <= 1.0 + OVERSHOOT + lateness.slack()
        session.close()


def test_a_body_cut_by_the_timeout_is_not_taken_as_complete(
    open_session: OpenSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), trickle(b"x" * 100, 0.05)])
    [result] = open_session(retry=NEVER_AGAIN).iter_results(
        [server.url()], timeout=0.4, return_type="content"
    )
    assert isinstance(result.error, RequestTimeout)


def test_after_a_timeout_the_connection_is_not_used_again(open_session: OpenSession, server: Server) -> None:
    session = open_session(concurrency=1, retry=NEVER_AGAIN)
    urls: list[Any] = [{"url": server.url("/id/1?delay=0.4"), "timeout": 0.2}, server.url("/id/2")]
    results = list(session.iter_results(urls, ordered=True))
    assert isinstance(results[0].error, RequestTimeout)
    assert results[1].value == {"id": 2}
