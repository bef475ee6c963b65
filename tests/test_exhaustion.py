"""Exhausted resources: no more threads, and an executor that refuses work."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import ParallelRequestsError, ParallelSession, ResourceExhausted, RunStoppedError
from parallel_requests.aio import ParallelRequests
from parallel_requests.engines.scheduler import Scheduler
from parallel_requests.file_claims import is_claimed
from tests import parse_functions as functions
from tests.server.control import Server, together

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from parallel_requests import Result


@contextlib.contextmanager
def no_threads_named(prefix: str) -> Iterator[None]:
    """Refuse threads with this prefix in their name, like a system that has none left."""
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            raise RuntimeError("can't start new thread")
        start(thread)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        yield


def test_without_a_thread_to_send_on_the_call_fails_and_the_next_does_not(
    backend: str, server: Server
) -> None:
    with ParallelSession(backend=backend) as session:
        with no_threads_named("parallel-requests"), pytest.raises(ResourceExhausted, match="can't start"):
            session.request([server.url("/id/1")])
        assert session.request([server.url("/id/2")]) == [{"id": 2}]
    assert server.ids() == [2]


@contextlib.contextmanager
def few_descriptors(count: int) -> Iterator[None]:
    """Let this process open so many descriptors more, and none beyond."""
    _, most = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + count, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_without_descriptors_a_file_counts_as_being_written(tmp_path: Path) -> None:
    """Otherwise, one that another process is writing might be removed."""
    path = tmp_path / "part"
    path.touch()
    assert not is_claimed(path)
    with few_descriptors(0):
        assert is_claimed(path)


@pytest.fixture(scope="module")
def crawled() -> Iterator[Server]:
    """A server at more addresses than connections are kept."""
    with Server(
        addresses=tuple(f"127.0.{net}.{host}" for net in (2, 3) for host in range(1, 181))
    ) as running:
        yield running


def test_a_crawl_of_many_hosts_leaves_descriptors_free(backend: str, crawled: Server) -> None:
    with ParallelSession(backend=backend, concurrency=1) as session, few_descriptors(300):
        session.request([f"{url}/static" for url in crawled.urls], max_retries=0)


def test_calls_through_many_proxies_leave_descriptors_free(backend: str, crawled: Server) -> None:
    target = crawled.url("/static")
    with ParallelSession(backend=backend, concurrency=1) as session, few_descriptors(300):
        session.request([target] * len(crawled.urls), proxy=crawled.urls, max_retries=0)


def test_many_connections_to_each_of_many_hosts_leave_descriptors_free(backend: str, crawled: Server) -> None:
    urls = [url + path for url in crawled.urls[:30] for path in [together(20)] * 20]
    with ParallelSession(backend=backend, concurrency=20) as session, few_descriptors(400):
        session.request(urls, max_retries=0)


def test_without_descriptors_the_call_fails_and_the_next_does_not(backend: str, server: Server) -> None:
    for left in range(8):
        with ParallelSession(backend=backend, max_retries=0) as session:
            with few_descriptors(left), contextlib.suppress(ParallelRequestsError):
                session.request(server.url("/id/1"))
            assert session.request(server.url("/id/2")) == {"id": 2}
        gc.collect()  # a socket left open would give a warning


@pytest.mark.parametrize("backend", ["urllib3", "requests"], indirect=True)
def test_without_a_thread_to_watch_over_timeouts_nothing_is_sent(backend: str, server: Server) -> None:
    with ParallelSession(backend=backend, max_retries=0) as session:
        with (
            no_threads_named("parallel-requests-watchdog"),
            pytest.raises(ResourceExhausted, match="can't start"),
        ):
            session.request(server.url("/id/1"))
        assert session.request(server.url("/id/2")) == {"id": 2}
    assert server.ids() == [2]


@pytest.mark.parametrize("backend", ["curl", "aiohttp"], indirect=True)
def test_without_a_thread_to_parse_on_the_call_fails_and_the_next_does_not(
    backend: str, server: Server
) -> None:
    with ParallelSession(backend=backend) as session:
        with (
            no_threads_named("parallel-requests-parse"),
            pytest.raises(ResourceExhausted, match="can't start"),
        ):
            session.request([server.url("/id/1")], parse_func=functions.number)
        assert session.request([server.url("/id/2")], parse_func=functions.number) == [2]


def test_without_threads_an_asynchronous_download_fails_and_its_client_can_be_closed(
    backend: str, server: Server, tmp_path: Path
) -> None:
    async def main() -> None:
        async with ParallelRequests(backend=backend) as client:
            await client.download(server.url("/bytes/10"), tmp_path / "first")
            with no_threads_named("parallel-requests"):
                with pytest.raises(ResourceExhausted, match="can't start"):
                    await client.download(server.url("/bytes/10"), tmp_path / "second")
                assert client.last_run.total == 0
                await client.close()
                with pytest.raises(RunStoppedError):
                    await client.request(server.url("/id/1"))

    asyncio.run(main())
    assert not list((tmp_path / "second").iterdir())


class Stingy(ThreadPoolExecutor):
    """Accepts two tasks and then raises, like an executor that has been shut down."""

    taken = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.taken += 1
        if self.taken > 2:
            raise RuntimeError("can't start new thread")
        return super().submit(*args, **kwargs)


def test_an_executor_that_takes_no_more_work_costs_no_item(server: Server) -> None:
    with Stingy(4) as executor, ParallelSession(backend="urllib3", executor=executor) as session:
        answers = session.request([server.url(f"/id/{number}") for number in range(20)])
    assert answers == [{"id": number} for number in range(20)]


@contextlib.contextmanager
def no_memory_in(method: str, at: int) -> Iterator[None]:
    """Let a method of the scheduler, which all engines have, fail once for want of memory."""
    original = getattr(Scheduler, method)
    calls: list[None] = []

    def failing(self: Scheduler, *args: Any) -> Any:
        calls.append(None)
        if len(calls) == at:
            raise MemoryError
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Scheduler, method, failing)
        yield


@pytest.mark.parametrize(("method", "at"), [("take", 3), ("take", 12), ("slot_freed", 12), ("finish", 12)])
def test_an_engine_that_fails_ends_its_batches(backend: str, server: Server, method: str, at: int) -> None:
    """What is under way in it is lost, and nothing else: no batch may wait for it in vain."""
    urls = [server.url(f"/id/{number}") for number in range(40)]
    with ParallelSession(backend=backend, concurrency=4) as session:
        with no_memory_in(method, at), pytest.raises(RunStoppedError, match="MemoryError") as caught:
            session.request(urls)
        assert isinstance(caught.value.__cause__, MemoryError)
        results: list[Result[Any]] = caught.value.results  # type: ignore[attr-defined]
        finished = [result for result in results if result.ok]
        assert [result.value for result in finished] == [{"id": result.index} for result in finished]
        assert finished or at == 3
        with pytest.raises(RunStoppedError):
            session.request(urls)
    assert len(server.ids()) < 40


def test_an_engine_that_fails_ends_streams(backend: str, server: Server) -> None:
    urls = (server.url(f"/id/{number}") for number in range(40))
    with ParallelSession(backend=backend, concurrency=4) as session, no_memory_in("finish", at=12):
        seen: list[int] = []
        with pytest.raises(RunStoppedError, match="MemoryError"):
            seen.extend(result.index for result in session.iter_results(urls) if result.ok)
    assert seen


def test_an_engine_that_fails_ends_what_is_awaited(backend: str, server: Server) -> None:
    async def fetch() -> None:
        async with ParallelRequests(backend=backend, concurrency=4) as client:
            with no_memory_in("finish", at=12), pytest.raises(RunStoppedError, match="MemoryError"):
                await client.request([server.url(f"/id/{number}") for number in range(40)])

    asyncio.run(fetch())
