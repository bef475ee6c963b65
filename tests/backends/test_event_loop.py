"""The event-loop engine: stop, close, several runs at once, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp.client_proto import ResponseHandler

from parallel_requests.aio import ParallelRequests
from parallel_requests.backends.aiohttp import AiohttpBackend
from parallel_requests.engines import event_loop
from parallel_requests.engines.base import EngineThreads
from parallel_requests.engines.event_loop import EventLoopEngine
from parallel_requests.engines.run import Run
from parallel_requests.exceptions import (
    ConnectError,
    ParallelRequestsError,
    PartialFailureError,
    RequestTimeout,
    ResourceExhausted,
    RunStoppedError,
    ValidationError,
)
from parallel_requests.models import Request, Result
from parallel_requests.policy import Policy
from parallel_requests.session import ParallelSession
from tests.leaks import open_sockets
from tests.polling import until
from tests.server.content import content
from tests.server.faults import close, notify_end, read_request, receive, send, stall, wait, within_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.faults import FaultServer, Step
    from tests.server.tls import Certificates

LOOP_THREAD = "parallel-requests-loop"
_STOP_SECONDS = 1.0
_LONG = 10.0


@pytest.fixture
def session() -> Iterator[ParallelSession]:
    with ParallelSession(backend="aiohttp", concurrency=10, max_retries=0, timeout=30) as opened:
        yield opened


@pytest.fixture
def engine() -> Iterator[EventLoopEngine]:
    opened = EventLoopEngine(AiohttpBackend(), 10)
    yield opened
    opened.close()


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == LOOP_THREAD]


def in_the_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    """Start a call, which will fail, on a thread of its own."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except (PartialFailureError, RunStoppedError) as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def run_of(urls: list[str], deliver: Callable[[Result[Any], Callable[[Result[Any]], None]], None]) -> Run:
    requests = (Request(url, index=index, timeout=30.0) for index, url in enumerate(urls))
    return Run(Policy(), deliver, source=requests, wake=lambda: None, window=100)


def hand_on(result: Result[Any], deliver: Callable[[Result[Any]], None]) -> None:
    deliver(result)


# -- the thread


def test_one_thread_starts_with_the_first_batch_and_ends_with_the_session(server: Server) -> None:
    with ParallelSession(backend="aiohttp") as session:
        assert not loop_threads()
        session.request([server.url("/static")] * 50)
        session.request([server.url("/static")] * 50)
        [thread] = loop_threads()
        assert not thread.daemon
    assert not thread.is_alive()


def test_the_loop_is_of_the_kind_that_is_installed(
    loop_kind: str, engine: EventLoopEngine, server: Server
) -> None:
    are_of_uvloop: list[bool] = []

    def note_loop(result: Result[Any], deliver: Callable[[Result[Any]], None]) -> None:
        kinds = type(asyncio.get_running_loop()).__mro__
        are_of_uvloop.append(any(kind.__module__ == "uvloop" for kind in kinds))
        deliver(result)

    run = run_of([server.url("/static")], note_loop)
    engine.submit(run)
    assert run.notifier.wait(run.is_done, 10)
    assert are_of_uvloop == [loop_kind == "uvloop"]


def test_calls_from_other_threads_are_harmless_before_the_first_batch_and_after_the_end(
    engine: EventLoopEngine, server: Server
) -> None:
    run = run_of([server.url("/static")], hand_on)
    engine.wake()
    engine.stop(run, RunStoppedError("no more"))
    engine.close()
    engine.wake()
    engine.stop(run, RunStoppedError("no more"))
    engine.close()
    with pytest.raises(RunStoppedError):
        engine.submit(run)
    assert server.stats().requests == 0


def test_an_exception_of_a_backend_at_its_start_is_raised_by_the_call() -> None:
    class Broken(AiohttpBackend):
        def bind(self, loop: asyncio.AbstractEventLoop) -> None:
            raise OSError("no event queue")

    with (
        ParallelSession(backend=Broken()) as session,
        pytest.raises(ResourceExhausted, match="no event queue"),
    ):
        session.request(["http://127.0.0.1/"])


def test_a_loop_that_cannot_run_fails_the_call_and_not_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under gevent, say, all threads are one, in which only one loop at a time can run."""
    closed = asyncio.new_event_loop()
    closed.close()
    with ParallelSession(backend="aiohttp") as session, ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "uvloop", None)
            patched.setattr(asyncio, "new_event_loop", lambda: closed)
            first = pool.submit(lambda: session.request(server.url("/id/1")))
            with pytest.raises(ResourceExhausted, match="Event loop is closed"):
                first.result(_LONG)
        assert session.request(server.url("/id/2")) == {"id": 2}


def test_a_batch_submitted_while_a_failed_start_is_cleaned_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BrokenAtFirst(AiohttpBackend):
        is_broken = True

        def bind(self, loop: asyncio.AbstractEventLoop) -> None:
            if self.is_broken:
                self.is_broken = False
                raise OSError("no event queue")
            super().bind(loop)

    has_come = threading.Event()
    leave = EngineThreads.leave

    def late(home: EngineThreads) -> None:
        assert has_come.wait(_LONG)
        leave(home)

    monkeypatch.setattr(EngineThreads, "leave", late)
    with ParallelSession(backend=BrokenAtFirst()) as session, ThreadPoolExecutor(1) as pool:
        with pytest.raises(ResourceExhausted, match="no event queue"):
            session.request(server.url("/id/1"))
        second = pool.submit(lambda: session.request(server.url("/id/2")))
        try:
            assert second.result(_LONG / 2) == {"id": 2}
        finally:
            has_come.set()


# -- several runs at once


def test_runs_side_by_side_share_the_slots_and_keep_their_own_order(
    session: ParallelSession, server: Server
) -> None:
    def fetch(part: int) -> list[int]:
        numbers = range(part * 100, part * 100 + 100)
        return [body["id"] for body in session.request([server.url(f"/id/{n}?delay=0.001") for n in numbers])]

    with ThreadPoolExecutor(8) as callers:
        parts = list(callers.map(fetch, range(8)))

    assert parts == [list(range(part * 100, part * 100 + 100)) for part in range(8)]
    stats = server.stats()
    assert stats.requests == 800
    assert stats.max_in_flight <= 10
    assert stats.connections <= 10


def test_stopping_one_run_leaves_the_others_alone(
    session: ParallelSession, server: Server, lateness: Lateness
) -> None:
    with ThreadPoolExecutor(1) as caller:
        steady = caller.submit(lambda: session.request([server.url("/static?delay=0.2")] * 20))
        quick = session.iter_results([server.url("/static"), server.url("/hang")])
        assert next(quick).ok
        began = time.monotonic()
        quick.close()
        assert time.monotonic() - began < _STOP_SECONDS + lateness.slack()
        assert len(steady.result()) == 20


# -- stop and close


def test_a_stopped_run_ends_at_once_and_sends_nothing_more(engine: EventLoopEngine, server: Server) -> None:
    run = run_of([server.url("/hang")] * 50, hand_on)
    reason = RunStoppedError("enough")
    engine.submit(run)
    until(lambda: server.stats().in_flight == 10)
    engine.stop(run, reason)

    assert run.notifier.wait(run.is_done, _STOP_SECONDS)
    assert [type(result.error) for result in run.results()] == [RunStoppedError] * 10
    after = run_of([server.url("/static")] * 10, hand_on)
    engine.submit(after)
    assert after.notifier.wait(after.is_done, 10)
    assert all(result.ok for result in after.results())
    assert server.stats().by_path == {"/hang": 10, "/static": 10}


def test_close_ends_calls_that_servers_never_answer(
    loop_kind: str, server: Server, lateness: Lateness
) -> None:
    sockets = open_sockets()
    session = ParallelSession(backend="aiohttp", concurrency=20)
    caller, raised = in_the_background(lambda: session.request([server.url("/hang")] * 100))
    until(lambda: server.stats().in_flight == 20)

    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began < _STOP_SECONDS + lateness.slack()

    [error] = raised
    assert isinstance(error, PartialFailureError)
    assert len(error.results) == 100
    assert all(isinstance(result.error, RunStoppedError) for result in error.results)
    assert server.stats().requests == 20
    assert not loop_threads()
    assert open_sockets() == sockets


def test_close_does_not_wait_for_what_is_parked(server: Server) -> None:
    session = ParallelSession(backend="aiohttp", rate_limit=0.1, rate_limit_burst=1)
    caller, raised = in_the_background(lambda: session.request([server.url("/static")] * 10))
    until(lambda: server.stats().requests)
    session.close()
    caller.join(_STOP_SECONDS)
    assert not caller.is_alive()
    assert raised
    assert server.stats().requests == 1


def test_a_hook_may_close_the_session_from_the_engines_own_thread(server: Server) -> None:
    closing = ParallelSession(backend="aiohttp", concurrency=2, on_result=lambda _: closing.close())
    with pytest.raises(PartialFailureError) as caught:
        closing.request([server.url("/static"), *[server.url("/hang")] * 20])
    assert len(caught.value.results) == 21
    assert server.stats().requests <= 3


# -- timeouts


def test_only_the_attempt_that_times_out_is_aborted(session: ParallelSession, server: Server) -> None:
    urls = [server.url("/hang"), *[server.url("/static?delay=0.1")] * 30]
    results = list(session.iter_results(urls, timeout=[0.3, *[None] * 30], ordered=True))
    assert isinstance(results[0].error, RequestTimeout)
    assert all(result.ok for result in results[1:])


def test_the_earlier_deadline_is_kept_when_a_later_one_was_set_first(
    session: ParallelSession, server: Server
) -> None:
    late = session.iter_results([server.url("/hang")] * 2, timeout=20)
    with ThreadPoolExecutor(1) as caller:
        caller.submit(next, late).add_done_callback(lambda _: None)
        until(lambda: server.stats().in_flight == 2)
        began = time.monotonic()
        with pytest.raises(RequestTimeout):
            session.get(server.url("/hang"), timeout=0.3)
        assert time.monotonic() - began < 5
        session.close()


@pytest.mark.parametrize("agrees", [True, False], ids=["after the handshake", "from the start"])
def test_a_silent_tls_server_leaves_no_socket_behind(
    loop_kind: str, agrees: bool, fault_server: Callable[..., FaultServer], certificates: Certificates
) -> None:
    mute = fault_server([stall()], tls=certificates.good.server_context() if agrees else None)
    before = open_sockets()
    with ParallelSession(
        backend="aiohttp", max_retries=0, timeout=1.0, verify_ssl=str(certificates.ca_file)
    ) as session:
        results = list(session.iter_results([f"https://127.0.0.1:{mute.port}/"] * 10))
    assert [type(result.error) for result in results] == [RequestTimeout] * 10
    until(lambda: mute.connections == 10)
    until(lambda: open_sockets() == before)  # those of the server, too
    assert not loop_threads()


def test_a_call_that_is_cancelled_just_as_tls_is_ready_leaves_no_connection_behind(
    loop_kind: str,
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its connection belongs to no call yet, and would wait for the server to end TLS."""
    is_ready, is_stopped = threading.Event(), threading.Event()
    make, stop = ResponseHandler.connection_made, EventLoopEngine.stop

    def make_and_wait(protocol: ResponseHandler, transport: asyncio.BaseTransport) -> None:
        make(protocol, transport)
        is_ready.set()
        is_stopped.wait(_LONG)

    def stop_and_say_so(engine: EventLoopEngine, run: Run, reason: ParallelRequestsError) -> None:
        stop(engine, run, reason)
        is_stopped.set()

    async def cancel() -> None:
        async with ParallelRequests(backend="aiohttp", verify_ssl=str(certificates.ca_file)) as client:
            call = asyncio.create_task(client.request(mute.url()))
            await asyncio.to_thread(is_ready.wait, _LONG)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    monkeypatch.setattr(ResponseHandler, "connection_made", make_and_wait)
    monkeypatch.setattr(EventLoopEngine, "stop", stop_and_say_so)
    mute = fault_server([wait(threading.Event())], tls=certificates.good.server_context())
    before = open_sockets()
    asyncio.run(cancel())
    gc.collect()  # warns of a connection that was not closed
    assert open_sockets() == before + 1, "that of the server"


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "at the hello"])
def test_an_https_proxy_that_leaves_once_there_is_a_tunnel(
    loop_kind: str, waits: bool, fault_server: Callable[..., FaultServer], certificates: Certificates
) -> None:
    tunnel = [read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), *[receive()] * waits]
    proxy = fault_server([*tunnel, close()], tls=certificates.good.server_context())
    before = open_sockets()
    with ParallelSession(
        backend="aiohttp",
        max_retries=0,
        verify_ssl=str(certificates.ca_file),
        proxy=f"https://127.0.0.1:{proxy.port}",
    ) as session:
        results = list(session.iter_results(["https://target.example/"] * 10))
    assert {type(result.error) for result in results} == {ConnectError}
    until(lambda: open_sockets() == before)  # those of the proxy, too
    assert not loop_threads()


def test_a_descriptor_that_the_loop_has_closed_belongs_to_no_socket_any_more(
    session: ParallelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the socket would close what has been given the same number since: any file of the process."""
    loop_class = pytest.importorskip("uvloop").Loop
    connect = loop_class.sock_connect
    connected: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        async def connect_and_lose(loop: Any, sock: socket.socket, address: Any) -> None:
            await connect(loop, sock, address)
            connected.append(sock)
            listener.close()  # resets what it has not accepted, before TLS begins

        monkeypatch.setattr(loop_class, "sock_connect", connect_and_lose)
        with pytest.raises(ConnectError, match="reset"):
            session.request(f"https://127.0.0.1:{port}/")
    assert [sock.fileno() for sock in connected] == [-1]


# -- what connections share


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_bodies_that_arrive_together_come_whole_through_one_small_buffer(
    loop_kind: str,
    scheme: str,
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("parallel_requests.backends.aiohttp_connections.READ_SIZE", 1_000)
    bodies = [content(400_000, seed) for seed in range(6)]
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    scripts: list[list[Step]] = [[read_request(), send(head + body)] for body in bodies]
    if scheme == "https":
        context = certificates.good.server_context()
        scripts = [[within_tls(context, *steps, notify_end())] for steps in scripts]
    url = f"{scheme}://127.0.0.1:{fault_server(*scripts).port}/"
    with ParallelSession(
        backend="aiohttp", max_retries=0, timeout=30, verify_ssl=str(certificates.ca_file)
    ) as session:
        received = session.request([url] * 6, return_type="content")
    assert sorted(received) == sorted(bodies)


# -- fairness


def test_many_bad_urls_do_not_delay_another_run(session: ParallelSession, server: Server) -> None:
    with ThreadPoolExecutor(1) as caller:
        bad = caller.submit(lambda: list(session.iter_results(["ftp://x"] * 20_000)))
        bad_was_done = [bad.done() for _ in range(5) if session.get(server.url("/static"))]
        results = bad.result()
    assert not all(bad_was_done)
    assert len(results) == 20_000
    assert all(isinstance(result.error, ValidationError) for result in results)


def test_an_event_loop_that_calls_is_given_its_turns(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over: list[str] = []
    monkeypatch.setattr(event_loop, "_LONGEST_TURN", 0.0)
    monkeypatch.setattr(event_loop, "sleep", lambda _: handed_over.append(threading.current_thread().name))
    urls = [server.url("/static")] * 10
    with ParallelSession(backend="aiohttp") as session:
        session.request(urls)
    assert not handed_over, "nobody's loop was waiting"

    async def request() -> None:
        async with ParallelRequests(backend="aiohttp") as client:
            await client.request(urls)

    asyncio.run(request())
    assert handed_over == [LOOP_THREAD] * 10


def test_a_turn_is_not_ended_before_its_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over: list[float] = []
    monkeypatch.setattr(event_loop, "_LONGEST_TURN", 60.0)
    monkeypatch.setattr(event_loop, "sleep", handed_over.append)

    async def request() -> None:
        async with ParallelRequests(backend="aiohttp") as client:
            await client.request([server.url("/static")] * 10)

    asyncio.run(request())
    assert not handed_over
