"""Threads that meet at the wrong moment, which the tests bring about."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from tqdm import tqdm

from parallel_requests import (
    ConfigurationError,
    DeadlineExceededError,
    ParallelRequests,
    ParallelSession,
    Request,
    RunStoppedError,
    aio,
    batch,
)
from parallel_requests.backends.connections import watched
from parallel_requests.backends.open_connections import OpenConnections
from parallel_requests.backends.wire import Wire
from parallel_requests.batch import Batch
from parallel_requests.engines.watchdog import Flight, Watchdog
from parallel_requests.exchange import Send
from parallel_requests.parsing.processes import ParsePool
from parallel_requests.policy import Policy
from tests import parse_functions as functions
from tests.failures import partial_failure
from tests.server.faults import close, full_port, read_request, response, send, wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from parallel_requests.models import Result
    from tests.server.control import Server
    from tests.server.faults import FaultServer

PATIENCE = 10.0


@pytest.fixture(params=[0, 1], ids=["in this process", "in another"])
def processes(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


# -- hooks, which run on whatever thread has the Result


def test_a_hook_closes_the_session_while_others_are_aborted(
    backend: str, processes: int, server: Server
) -> None:
    urls = [server.url(f"/id/{number}") for number in range(5)] + [server.url("/hang")] * 10
    with ParallelSession(backend=backend, concurrency=4, parse_processes=processes) as session:
        error = partial_failure(
            lambda: session.request(urls, parse_func=functions.number, on_result=lambda _: session.close())
        )
        assert len(error.results) == 15
    assert all(isinstance(item.error, RunStoppedError) for item in error.failed)


def test_a_hook_closes_the_session_while_others_are_parsed(
    backend: str, processes: int, server: Server
) -> None:
    urls = [server.url("/status/404" if number % 4 == 2 else f"/id/{number}") for number in range(200)]

    def close(result: Result[Any]) -> None:
        if result.error is not None:
            session.close()

    with ParallelSession(
        backend=backend, concurrency=50, parse_processes=processes, max_retries=0
    ) as session:
        error = partial_failure(lambda: session.request(urls, parse_func=functions.number, on_result=close))
        assert len(error.results) == 200
    assert all(result.value == result.index for result in error.results if result.ok)


def test_a_hook_waits_for_its_session_while_others_fail(backend: str, server: Server) -> None:
    urls = [server.url("/status/404" if number % 2 else f"/id/{number}") for number in range(100)]

    def ask_again(_: Result[Any]) -> None:
        with contextlib.suppress(ConfigurationError):
            session.request(server.url("/id/1"))

    with ParallelSession(backend=backend, concurrency=4, max_retries=0) as session:
        error = partial_failure(
            lambda: session.request(urls, parse_func=functions.number, on_result=ask_again)
        )
        assert len(error.results) == 100


def test_a_hook_of_a_skipped_file_waits_for_its_session(backend: str, server: Server, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(60)]
    for path in paths[::3]:
        path.touch()
    told: list[int] = []

    def ask_again(result: Result[Any]) -> None:
        told.append(result.index)
        with contextlib.suppress(ConfigurationError):
            session.request(server.url("/id/1"))

    with ParallelSession(backend=backend, concurrency=4) as session:
        files = session.download([server.url("/range/10")] * 60, paths, on_result=ask_again)
    assert sorted(told) == list(range(60))
    assert [file.status for file in files[:3]] == ["skipped", "downloaded", "downloaded"]


def test_a_hook_closes_the_session_once_the_deadline_has_passed(backend: str, server: Server) -> None:
    urls = [server.url(f"/hang?{number}") for number in range(3)]
    with ParallelSession(backend=backend, concurrency=3) as session:
        error = partial_failure(
            lambda: session.request(urls, deadline=0.3, on_attempt=lambda *_: session.close())
        )
    assert all(url in str(item.error) for url, item in zip(urls, error.failed, strict=True))
    assert all(isinstance(item.error, DeadlineExceededError) for item in error.failed)


def test_hooks_are_called_one_at_a_time_and_once_for_each(backend: str, server: Server) -> None:
    urls = [server.url("/status/404" if number % 2 else f"/id/{number}") for number in range(200)]
    seen: list[int] = []
    busy = threading.Lock()

    def note(result: Result[Any]) -> None:
        assert busy.acquire(blocking=False)
        seen.append(result.index)
        time.sleep(0)  # let another thread come
        busy.release()

    with ParallelSession(backend=backend, concurrency=8, max_retries=0) as session:
        error = partial_failure(lambda: session.request(urls, parse_func=functions.number, on_result=note))
        assert len(error.results) == 200
    assert sorted(seen) == list(range(200))


# -- callers on several threads


def test_cookies_set_by_two_threads_at_once_are_both_kept(server: Server) -> None:
    class Slow(dict[str, str]):
        """Cookies whose reading takes so long that another thread sets others meanwhile."""

        def items(self) -> Any:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(session.set_cookies, {"other": "2"}).result(PATIENCE)
            return super().items()

    with ParallelSession(backend="urllib3") as session:
        session.set_cookies(Slow(own="1"))
        assert session.request(server.url("/cookies"))["cookies"] == {"own": "1", "other": "2"}


# -- connections that change hands


@pytest.mark.parametrize("backend", ["urllib3", "requests"], indirect=True)
def test_a_stop_spares_a_connection_that_another_batch_has_taken_over(
    backend: str, fault_server: Callable[..., FaultServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    has_answer, is_posted, is_stopped = threading.Event(), threading.Event(), threading.Event()
    server = fault_server(
        [
            read_request(),
            send(response(b"1")),
            read_request(),
            lambda _: is_posted.set(),
            wait(is_stopped),
            send(response(b"2")),
        ]
    )
    release = Watchdog.release

    def released_late(watchdog: Watchdog, flight: Flight) -> None:
        if not has_answer.is_set():
            has_answer.set()  # and the connection is back in its pool
            assert is_stopped.wait(PATIENCE)
        release(watchdog, flight)

    monkeypatch.setattr(Watchdog, "release", released_late)
    with (
        ParallelSession(backend=backend, concurrency=2, max_retries=0) as session,
        ThreadPoolExecutor(2) as pool,
    ):
        results = session.iter_results([server.url("/")])
        first = pool.submit(next, results)
        assert has_answer.wait(PATIENCE)
        second = pool.submit(lambda: session.request(server.url("/"), method="POST", json=1))
        assert is_posted.wait(PATIENCE)
        run = next(run for run in session._runtime._engine._scheduler.unfinished() if run._holds_back)  # type: ignore[attr-defined]
        session._runtime._engine.stop(run, RunStoppedError("stopped"))
        is_stopped.set()
        assert second.result(PATIENCE) == 2
        first.result(PATIENCE)


def test_an_attempt_stopped_during_name_resolution_does_not_connect() -> None:
    with full_port() as port:
        wire, flight = Wire(), Flight(None, None)
        wire.begin(Send(Request("http://127.0.0.1/"), None, Policy(), flight=flight))
        connection_class = watched(
            urllib3.connection.HTTPConnection, wire, urllib3.exceptions, None, OpenConnections(1)
        )
        connection = connection_class("127.0.0.1", port)
        flight.cut()
        with pytest.raises(urllib3.exceptions.ConnectTimeoutError):
            connection.connect()


@pytest.mark.niquests
def test_one_connection_more_is_allowed_though_another_thread_opens_one_meanwhile() -> None:
    pools = pytest.importorskip("parallel_requests.backends.niquests_pools")

    class Bag:
        size = maxsize = 1

        def rsize(self) -> int:
            return self.size

        @property
        def bag_only_saturated(self) -> bool:
            self.size += 1  # by another thread, just after it was looked at
            return True

    class Base:
        def __init__(self, **_: object) -> None:
            self.pool = Bag()
            self.answers = iter([pools.EmptyPoolError(None, ""), None])

        def _get_conn(self, _timeout: float) -> object:
            if (error := next(self.answers)) is not None:
                raise error
            return SimpleNamespace(is_closed=False)

    class Pool(pools.OriginPool, Base):  # type: ignore[misc, name-defined]
        wire = SimpleNamespace(is_cut=lambda: False)

    pool: Any = Pool(maxsize=20)
    pool._get_conn()
    assert pool.pool.maxsize == 2


@pytest.mark.niquests
def test_a_connection_that_is_lost_while_it_is_looked_at_is_not_saturated() -> None:
    connections = pytest.importorskip("parallel_requests.backends.niquests_connections")
    library = pytest.importorskip("niquests.packages.urllib3.connection")

    class Protocol:
        multiplexed = True
        _goaway_to_honor = False

        def is_available(self) -> bool:
            connection._protocol = None  # by another thread
            return False

        def has_expired(self) -> bool:
            return True

    class Shared(connections.SharedConnection, library.HTTPSConnection):  # type: ignore[misc, name-defined]
        pass

    connection: Any = Shared("localhost")
    connection._protocol = Protocol()
    assert not connection.is_saturated


# -- a session that is closed by another thread


@pytest.mark.parametrize("backend", ["curl", "aiohttp"], indirect=True)
def test_closing_ends_the_decoding_of_a_body(
    backend: str, fault_server: Callable[..., FaultServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 100 << 20
    bomb = gzip.compress(gzip.compress(bytes(size)))
    server = fault_server([read_request(), send(response(bomb, "Content-Encoding: gzip, gzip")), close()])
    has_begun, is_joined = threading.Event(), threading.Event()
    received = 0
    join = threading.Thread.join

    def receive(chunk: bytes) -> None:
        nonlocal received
        received += len(chunk)
        has_begun.set()
        assert is_joined.wait(PATIENCE)

    def joined(thread: threading.Thread) -> None:
        is_joined.set()
        join(thread)

    def close_session() -> None:
        assert has_begun.wait(PATIENCE)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "join", joined)
            session.close()

    with (
        ParallelSession(backend=backend, timeout=None, max_retries=0) as session,
        ThreadPoolExecutor(1) as pool,
    ):
        closing = pool.submit(close_session)
        with pytest.raises(RunStoppedError):
            session.request(server.url("/"), return_type="stream", stream_callback=receive)
        closing.result(PATIENCE)
    assert received < size


# -- a consumer that goes away


def test_an_iterator_collected_on_the_engines_thread_does_not_block_it(
    backend: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cycle:
        """A reference cycle, which only the garbage collector frees."""

    monkeypatch.setattr(batch, "_STOP_PATIENCE", 3_600.0)  # it would wait for itself
    gc.disable()
    try:
        with ParallelSession(backend=backend, concurrency=4, timeout=None) as session:
            cycle: Any = Cycle()
            cycle.itself = cycle
            cycle.results = session.iter_results([server.url("/id/1"), server.url("/hang")])
            assert next(cycle.results).ok
            del cycle
            found: list[int] = []
            session.request([server.url("/id/2")], on_result=lambda _: found.append(gc.collect()))
            assert found[0] > 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        ("aiohttp", {}),
        ("curl", {"concurrency_per_host": 2}),
        ("aiohttp", {"concurrency_per_host": 2}),
        ("urllib3", {"concurrency_per_host": 2}),
        ("curl", {"progress": True}),
        ("urllib3", {"parse_processes": 1}),
    ],
    indirect=["backend"],
)
def test_an_iterator_collected_while_a_lock_is_held_does_not_wait_for_it(
    backend: str, options: dict[str, Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterators: list[Iterator[Result[Any]]] = []

    def then(function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that drops the iterator, as the garbage collector does, and calls another."""

        def called(*args: Any) -> Any:
            if is_due.is_set():
                iterators.clear()
            return function(*args)

        return called

    class Loop:
        """An event loop whose scheduling of a call takes memory, and so may run the garbage collector."""

        def __init__(self, loop: Any) -> None:
            self.call_soon_threadsafe = then(loop.call_soon_threadsafe)

    def show(bar: Any, count: int) -> None:
        bar.n += count
        if bar.n == 2:  # the second call of the iterator; the first one has been taken
            assert is_due.wait(PATIENCE)
            iterators.clear()

    is_due = threading.Event()
    with ParallelSession(backend=backend, concurrency=4, timeout=None, **options) as session:
        runtime: Any = session._runtime
        monkeypatch.setattr(tqdm, "update", show)
        second = server.url("/id/1" if "progress" in options else "/hang")
        iterators.append(session.iter_results([server.url("/id/1"), second]))
        next(iterators[0])
        if "concurrency_per_host" in options:
            monkeypatch.setattr(runtime._pacer, "clock", then(time.monotonic))
        elif "parse_processes" in options:
            monkeypatch.setattr(ParsePool, "_wake", then(ParsePool._wake))
        elif not options:
            monkeypatch.setattr(runtime._engine, "_loop", Loop(runtime._engine._loop))
        is_due.set()
        assert session.request([server.url("/id/2")] * 5) == [{"id": 2}] * 5
        assert not iterators
        monkeypatch.undo()


def test_a_download_cancelled_before_its_batch_begins(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    is_due, is_stopped = threading.Event(), threading.Event()
    start, stop = Batch.start, Batch.stop

    def start_late(batch: Batch) -> None:
        is_due.set()
        assert is_stopped.wait(PATIENCE)
        start(batch)

    def stop_and_say_so(batch: Batch) -> None:
        stop(batch)
        is_stopped.set()

    monkeypatch.setattr(Batch, "start", start_late)
    monkeypatch.setattr(Batch, "stop", stop_and_say_so)

    async def main() -> None:
        async with ParallelRequests(backend=backend) as client:
            endless = (f"http://127.0.0.1:1/{number}" for number in itertools.count())
            task = asyncio.ensure_future(client.download(endless, tmp_path))
            await asyncio.to_thread(is_due.wait, PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_a_cancellation_takes_effect_while_the_input_is_being_closed(backend: str, server: Server) -> None:
    async def main() -> None:
        is_closing, is_cancelled = asyncio.Event(), asyncio.Event()

        async def inputs() -> AsyncIterator[str]:
            try:
                yield server.url("/id/1")
                await asyncio.Event().wait()
            finally:
                is_closing.set()
                await is_cancelled.wait()

        async def take_one(client: ParallelRequests) -> None:
            async with contextlib.aclosing(client.iter_results(inputs())) as results:
                async for _ in results:
                    break
            await asyncio.Event().wait()

        async with ParallelRequests(backend=backend, concurrency=2) as client:
            task = asyncio.ensure_future(take_one(client))
            await is_closing.wait()
            task.cancel()
            is_cancelled.set()
            done, _ = await asyncio.wait([task], timeout=PATIENCE)
            assert done, "the cancellation was swallowed"
            assert task.cancelled()

    asyncio.run(main())


# -- cancellations


@contextlib.contextmanager
def thread_held_back(prefix: str) -> Iterator[threading.Event]:
    """Let the next thread with this prefix in its name begin only once the event is set; then wait for it."""
    may_begin, threads = threading.Event(), list[threading.Thread]()
    start = threading.Thread.start

    def held_back(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            run = thread.run

            def begin_late() -> None:
                may_begin.wait(PATIENCE)
                run()

            thread.run = begin_late  # type: ignore[method-assign]
            threads.append(thread)
        start(thread)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", held_back)
        yield may_begin
    may_begin.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [thread.is_alive() for thread in threads] == [False]


def test_a_cancelled_close_still_closes(backend: str) -> None:
    client = ParallelRequests(backend=backend)

    async def close() -> None:
        task = asyncio.ensure_future(client.close())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with thread_held_back("parallel-requests-close"):
        asyncio.run(close())
    with pytest.raises(RunStoppedError):
        asyncio.run(client.request("http://127.0.0.1:1/"))


@pytest.mark.parametrize("backend", ["curl"], indirect=True)
def test_a_batch_with_an_async_input_is_not_lost_to_a_cancellation_at_its_end(
    backend: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for = asyncio.wait

    def cancelled(awaitables: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return wait_for(awaitables)

    async def inputs() -> AsyncIterator[str]:
        yield server.url("/id/1")

    async def main() -> None:
        async with ParallelRequests(backend=backend) as client:
            with monkeypatch.context() as patched:
                patched.setattr(asyncio, "wait", cancelled)
                assert await client.request(inputs()) == [{"id": 1}]

    asyncio.run(main())


def test_a_download_cancelled_again_and_again_reports_nothing(backend: str, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with ParallelRequests(backend=backend) as client:
            with thread_held_back("parallel-requests-download"):
                task = asyncio.ensure_future(client.download(["http://127.0.0.1:1/"], tmp_path))
                while not task.done():
                    await asyncio.sleep(0)
                    task.cancel()
        assert task.cancelled()
        await asyncio.sleep(0)  # the loop learns of the thread's end

    asyncio.run(main())
    gc.collect()
    assert not told


def test_a_cancelled_download_does_not_wait_for_its_input(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(aio, "_STOP_PATIENCE", 0.0)

    def inputs() -> Iterator[str]:
        is_asked.set()
        may_end.wait(PATIENCE)
        has_ended.set()
        yield from ()

    async def main() -> None:
        async with ParallelRequests(backend=backend) as client:
            task = asyncio.ensure_future(client.download(inputs(), tmp_path))
            await asyncio.to_thread(is_asked.wait, PATIENCE)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not has_ended.is_set()
            may_end.set()

    asyncio.run(main())


def test_a_loop_is_closed_while_files_are_downloaded(backend: str, tmp_path: Path) -> None:
    client = ParallelRequests(backend=backend)
    loop = asyncio.new_event_loop()
    endless = (f"http://127.0.0.1:1/{number}" for number in itertools.count())
    with thread_held_back("parallel-requests-download"):
        download = client.download(endless, tmp_path)
        task = loop.create_task(download)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        download.close()  # as the garbage collector does
        del task
        gc.collect()  # now, as asyncio reports that the task was pending
    asyncio.run(client.close())


# -- event loops that end


def test_a_loop_that_ends_closes_the_iterators_that_were_left(backend: str, server: Server) -> None:
    client = ParallelRequests(backend=backend)
    urls = [server.url("/id/1")] * 2
    left, told = [], []

    async def leave_many() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
        for _ in range(20):
            left.append(client.iter_results(urls))
            assert (await anext(left[-1])).ok

    asyncio.run(leave_many())
    assert not told
    asyncio.run(client.close())


def test_a_loop_is_closed_while_a_batch_is_fed(backend: str, server: Server) -> None:
    client = ParallelRequests(backend=backend)
    loop = asyncio.new_event_loop()
    is_fed = asyncio.Event()

    async def urls() -> AsyncIterator[str]:
        yield server.url("/id/1")
        is_fed.set()
        await asyncio.Event().wait()

    request = client.request(urls())
    task = loop.create_task(request)
    loop.run_until_complete(is_fed.wait())
    loop.close()
    request.close()  # as the garbage collector does
    del task
    gc.collect()  # now, as asyncio reports that the task was pending
    assert asyncio.run(client.request(server.url("/id/2"))) == {"id": 2}
    asyncio.run(client.close())
