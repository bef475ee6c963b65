"""The caller's functions raise, call the session, close it or are slow: nothing hangs, no item is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from parallel_requests import (
    ConfigurationError,
    DeadlineExceededError,
    ParallelRequests,
    ParallelSession,
    Response,
    RetryPolicy,
    RunStoppedError,
)
from tests.failures import partial_failure
from tests.server.faults import read_request, repeat, response, send, wait

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.server.control import Server
    from tests.server.faults import FaultServer

CONCURRENCY = 4
COUNT = 20


class UnreadableError(Exception):
    """An error whose text cannot be read."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


@pytest.fixture
def session(open_session: Callable[..., ParallelSession]) -> ParallelSession:
    return open_session(concurrency=CONCURRENCY, retry=RetryPolicy(max_retries=1, backoff_factor=0.01))


@pytest.fixture
def urls(server: Server) -> list[str]:
    return [server.url(f"/id/{number}") for number in range(COUNT)]


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function


# -- the caller's functions raise what they like


@pytest.mark.parametrize("error", [UnreadableError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("hook", ["on_attempt", "on_result", "progress"])
def test_a_hook_that_raises_costs_nothing(
    session: ParallelSession, urls: list[str], hook: str, error: type[BaseException]
) -> None:
    options: dict[str, Any] = {hook: raising(error)}
    assert session.request(urls, **options) == [{"id": number} for number in range(COUNT)]


@pytest.mark.parametrize("error", [UnreadableError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("place", ["parse_func", "retry_on", "stream_callback", "restart"])
def test_a_callback_that_raises_costs_its_item(
    session: ParallelSession, urls: list[str], place: str, error: type[BaseException]
) -> None:
    def broken_off(chunk: bytes) -> None:
        raise OSError("the disk is full")

    broken_off.restart = raising(error)  # type: ignore[attr-defined]
    all_options: dict[str, dict[str, Any]] = {
        "parse_func": {"parse_func": raising(error)},
        "retry_on": {"retry": RetryPolicy(retry_on=raising(error))},
        "stream_callback": {"return_type": "stream", "stream_callback": raising(error)},
        "restart": {"return_type": "stream", "stream_callback": broken_off},
    }
    options = all_options[place]
    assert len(partial_failure(lambda: session.request(urls, **options)).failed) == COUNT
    assert len(session.request(urls)) == COUNT, "the engine has survived it"


@pytest.mark.parametrize("error", [UnreadableError, SystemExit, asyncio.CancelledError])
def test_an_item_that_raises_ends_the_batch(
    session: ParallelSession, urls: list[str], error: type[BaseException]
) -> None:
    class Item(dict[str, str]):
        items = raising(error)

    items: list[Any] = [*urls[:3], Item(url=urls[3])]
    with pytest.raises(error) as caught:
        session.request(items)
    raised: Any = caught.value
    assert [result.value for result in raised.results] == [{"id": number} for number in range(3)]
    assert len(session.request(urls)) == COUNT, "the engine has survived it"


def test_an_async_input_that_lets_a_cancellation_through(backend: str, urls: list[str]) -> None:
    async def inputs() -> AsyncIterator[str]:
        for url in urls:
            yield url
        raise asyncio.CancelledError

    async def fetch() -> None:
        async with ParallelRequests(backend=backend) as client:
            await client.request(inputs())

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(fetch())


# -- the caller's functions use the session


def write_over(answer: Response) -> dict[str, int]:
    answer.request.index = 0
    return cast("dict[str, int]", answer.json())


def write_over_and_decline(reply: Response | Exception) -> bool:
    if isinstance(reply, Response):
        reply.request.index = 0
    return False


PLACES: dict[str, dict[str, Any]] = {
    "on_attempt": {"on_attempt": lambda request, _: setattr(request, "index", 0)},
    "on_result": {"on_result": lambda result: setattr(result.request, "index", 0)},
    "parse_func": {"return_type": "response", "parse_func": write_over, "raise_for_status": True},
    "retry_on": {"retry": RetryPolicy(retry_on=write_over_and_decline)},
}


@pytest.mark.parametrize("place", PLACES)
def test_an_index_that_is_written_over_costs_no_result_and_no_place(
    place: str, session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    urls = [server.url("/status/404"), *(server.url(f"/id/{number}") for number in range(1, COUNT))]
    error = partial_failure(lambda: session.request(urls, **PLACES[place]))
    assert [result.value for result in error.results] == [None, *({"id": n} for n in range(1, COUNT))]
    for ordered in (False, True):
        results = list(session.iter_results(iter(urls), ordered=ordered, **PLACES[place]))
        assert sorted(result.index for result in results) == list(range(COUNT))
        assert not ordered or [result.index for result in results] == list(range(COUNT))
    if place in ("on_attempt", "on_result"):
        files = session.download(urls[1:], tmp_path, **PLACES[place])
        assert [json.loads(file.path.read_bytes()) for file in files] == [{"id": n} for n in range(1, COUNT)]
        again = session.download(urls[1:], tmp_path, **PLACES[place])
        assert [file.path for file in again] == [file.path for file in files]


@pytest.mark.parametrize("place", ["on_result", "parse_func"])
def test_a_callback_may_close_the_session(session: ParallelSession, urls: list[str], place: str) -> None:
    called: list[str] = []
    returned: list[str] = []

    def close(_: object) -> None:
        called.append(place)
        session.close()
        returned.append(place)

    options: dict[str, Any] = {place: close}
    stopped = [result.error for result in partial_failure(lambda: session.request(urls, **options)).results]
    assert called == returned, "close() raised"
    assert any(isinstance(error, RunStoppedError) for error in stopped)
    assert all(error is None or isinstance(error, RunStoppedError) for error in stopped)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_hook_that_calls_its_own_session_gets_an_error(
    processes: int, session: ParallelSession, urls: list[str]
) -> None:
    told: list[BaseException] = []

    def ask_again(_: object) -> None:
        try:
            session.request(urls[0], parse_processes=processes)
        except ConfigurationError as error:
            told.append(error)

    assert len(session.request(urls, parse_processes=processes, on_result=ask_again)) == COUNT
    assert len(told) == COUNT


def test_a_parse_func_that_calls_its_own_session_never_waits_for_itself(
    session: ParallelSession, urls: list[str]
) -> None:
    def parse(_: object) -> object:
        return session.request(urls[0], parse_func=lambda value: value)

    failed = partial_failure(lambda: session.request(urls, parse_func=parse))
    assert all(
        isinstance(result.error and result.error.__cause__, ConfigurationError) for result in failed.results
    )


# -- the end


def test_a_deadline_while_answers_are_parsed_loses_no_item(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(200)]

    def parse(value: object) -> object:
        time.sleep(0.7)  # beyond the deadline, while nothing else of the batch is under way
        return value

    session.request(urls[0])  # opens a connection
    failed = partial_failure(lambda: session.request(urls, parse_func=parse, deadline=0.5))
    assert len(failed.results) == 200
    assert 0 < failed.total - len(failed.failed) <= CONCURRENCY
    assert all(isinstance(item.error, DeadlineExceededError) for item in failed.failed)


def test_a_closed_session_with_a_deadline_still_yields_results(
    session: ParallelSession, server: Server
) -> None:
    results = session.iter_results(
        (server.url(f"/id/{number}") for number in itertools.count()), deadline=60.0
    )
    assert next(results).ok
    session.close()
    assert all(result.ok or isinstance(result.error, RunStoppedError) for result in results)


# -- many threads


def test_many_threads_break_off_at_any_point(session: ParallelSession, server: Server) -> None:
    wrong: list[object] = []

    def work(thread: int) -> None:
        for turn in range(8):
            first, count = 1000 * thread + 100 * turn, 11 * turn + 1
            urls = [server.url(f"/id/{first + number}") for number in range(count)]
            seen = []
            for result in session.iter_results(iter(urls) if turn % 2 else urls, ordered=turn % 3 == 0):
                seen.append(result.index)
                if result.value != {"id": first + result.index}:
                    wrong.append(result)
                if len(seen) == count * (thread + 1) // 4:
                    break
            if len(set(seen)) != len(seen):
                wrong.append(seen)
            if [value["id"] for value in session.request(urls)] != list(range(first, first + count)):
                wrong.append(urls)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CONCURRENCY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_cancelled_tasks_of_several_loops_leave_the_client_usable(
    backend: str, fault_server: Callable[..., FaultServer]
) -> None:
    never = threading.Event()
    stalls = fault_server([read_request(), wait(never)])
    answers = fault_server([repeat(read_request(), send(response(b"1")))])
    client = ParallelRequests(backend=backend, concurrency=CONCURRENCY, max_retries=0)

    async def fetch() -> None:
        for patience in (0.0, 0.01, 0.05):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(patience):
                    await client.request([*[answers.url()] * 3, *[stalls.url()] * 10])
        assert await client.request([answers.url()] * 5) == [1] * 5

    loops = [threading.Thread(target=asyncio.run, args=(fetch(),)) for _ in range(2)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    asyncio.run(client.close())
