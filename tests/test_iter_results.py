"""Results one by one: lazily, within bounds, and until the caller has seen enough."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import (
    DeadlineExceededError,
    HTTPStatusError,
    ParallelRequests,
    ParallelSession,
    Request,
    RunStoppedError,
    ValidationError,
    iter_results,
)
from tests.failures import urls_that_raise
from tests.polling import until
from tests.server.control import Server
from tests.server.faults import read_request, repeat, response, send, wait
from tests.soak.many_ids import MIB, fetch_ids

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from parallel_requests import Result
    from tests.server.faults import Connection, FaultServer

CONCURRENCY = 4


@pytest.fixture
def session(open_session: Callable[..., ParallelSession]) -> ParallelSession:
    """A session that does not retry."""
    return open_session(concurrency=CONCURRENCY, max_retries=0)


def endless(server: Server | FaultServer, taken: list[int]) -> Iterator[str]:
    """Endless URLs, each one noted when it is pulled."""
    for number in itertools.count():
        taken.append(number)
        yield server.url(f"/id/{number}")


# -- lazy


def test_an_endless_input_is_taken_as_slots_come_free(session: ParallelSession, server: Server) -> None:
    taken: list[int] = []
    results = session.iter_results(endless(server, taken))
    assert taken == [], "nothing happens before the first step"
    for count, result in enumerate(results, 1):
        assert result.value == {"id": result.index}
        assert len(taken) <= count - 1 + 2 * CONCURRENCY
        if count == 200:
            break
    results.close()
    assert len(server.ids()) <= 200 + 2 * CONCURRENCY
    assert len(set(server.ids())) == len(server.ids())


def test_the_input_is_advanced_in_the_thread_of_the_caller(session: ParallelSession, server: Server) -> None:
    threads = set()

    def urls() -> Iterator[str]:
        for number in range(50):
            threads.add(threading.current_thread())
            yield server.url(f"/id/{number}")

    assert len(list(session.iter_results(urls()))) == 50
    assert threads == {threading.current_thread()}


def test_a_slow_consumer_slows_the_input_down(session: ParallelSession, server: Server) -> None:
    taken: list[int] = []
    results = session.iter_results(endless(server, taken))
    next(results)
    seen = len(taken)
    # While nobody asks for more, the open ones finish, and not one is added.
    with ParallelSession() as other:
        for number in range(50):
            other.request(server.url(f"/static?{number}"))
    assert len(taken) == seen <= 1 + 2 * CONCURRENCY
    results.close()


def test_an_item_is_sent_as_soon_as_the_input_gives_it(session: ParallelSession, server: Server) -> None:
    def urls() -> Iterator[str]:
        for number in range(3):
            yield server.url(f"/id/{number}")
            until(lambda: number in server.ids())  # noqa: B023 - asked before the next number comes

    # In any order: one that was sent later may be done earlier.
    assert sorted([result.index for result in session.iter_results(urls())]) == [0, 1, 2]


# -- order


def test_results_come_in_the_order_of_the_input_if_asked_for(
    session: ParallelSession, server: Server
) -> None:
    delays = [0.2, 0.0, 0.1, 0.0, 0.0, 0.05] * 5
    urls = [server.url(f"/id/{number}?delay={delay}") for number, delay in enumerate(delays)]
    indices = [result.index for result in session.iter_results(iter(urls), ordered=True)]
    assert indices == list(range(len(urls)))


def test_the_first_to_finish_comes_first(
    session: ParallelSession, server: Server, fault_server: Callable[..., FaultServer]
) -> None:
    go = threading.Event()
    slow = fault_server([read_request(), wait(go), send(response(b"0"))])
    results = session.iter_results([slow.url(), server.url("/static")])
    assert next(results).index == 1
    go.set()
    assert [result.index for result in results] == [0]


def test_early_results_are_held_back_within_a_window(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    go = threading.Event()
    slow = [read_request(), wait(go), send(response(b"0"))]
    quick = [repeat(read_request(), send(response(b"1")))]
    held, rest = fault_server(slow), fault_server(quick)
    taken: list[int] = []

    def urls() -> Iterator[str]:
        for number in range(100):
            taken.append(number)
            if number == 2 * CONCURRENCY - 1:
                go.set()  # the window is full: only now may the first one end
            yield rest.url() if number else held.url()

    indices = []
    for result in session.iter_results(urls(), ordered=True):
        indices.append(result.index)
        assert len(taken) <= len(indices) + 2 * CONCURRENCY
    assert indices == list(range(100))


# -- the end


def test_breaking_out_ends_the_run(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    never = threading.Event()
    first = [read_request(), send(response(b"1")), read_request(), wait(never)]
    server = fault_server(first, [read_request(), wait(never)])
    taken: list[int] = []
    for result in session.iter_results(endless(server, taken)):
        assert result.ok
        break
    begun = len(taken)
    assert begun <= 2 * CONCURRENCY + 1
    healthy = fault_server([repeat(read_request(), send(response(b"2")))])
    assert session.request([healthy.url()] * 20, timeout=5.0) == [2] * 20, "no slot is held any more"
    assert len(taken) == begun
    assert len(server.requests) <= begun


@pytest.mark.parametrize("number", [2 * CONCURRENCY, 2 * CONCURRENCY + 3])
def test_a_run_that_is_stopped_while_its_consumer_is_busy_does_not_look_complete(
    session: ParallelSession, server: Server, number: int
) -> None:
    taken: list[int] = []
    results = session.iter_results(itertools.islice(endless(server, taken), number))
    got = [next(results)]
    until(lambda: len(server.ids()) == 2 * CONCURRENCY)
    session.close()
    got += results
    assert len(got) == len(taken)
    errors = [result.error for result in got if not result.ok]
    assert all(isinstance(error, RunStoppedError) for error in errors)
    assert len(taken) <= 2 * CONCURRENCY + 2
    assert errors or number == len(taken)


@pytest.mark.parametrize("takes", ["results", "values"])
def test_an_async_input_that_a_deadline_cuts_off_does_not_look_complete(
    backend: str, server: Server, takes: str
) -> None:
    async def urls() -> AsyncIterator[str]:
        for number in range(CONCURRENCY):
            yield server.url(f"/id/{number}")
        await asyncio.Event().wait()

    async def take() -> list[object]:
        async with ParallelRequests(backend=backend, concurrency=CONCURRENCY) as client:
            if takes == "values":
                return await client.request(urls(), deadline=1)
            return [result.value async for result in client.iter_results(urls(), deadline=1)]

    with pytest.raises(DeadlineExceededError) as caught:
        asyncio.run(take())
    if takes == "values":
        assert len(caught.value.results) == CONCURRENCY  # type: ignore[attr-defined]


def test_items_before_the_input_raises_are_yielded_first(session: ParallelSession, server: Server) -> None:
    results = session.iter_results(urls_that_raise(server, 30))
    assert sorted(next(results).index for _ in range(30)) == sorted(server.ids()) == list(range(30))
    with pytest.raises(KeyError, match="the table is gone"):
        next(results)


def test_failures_are_results(session: ParallelSession, server: Server) -> None:
    urls = [server.url("/static"), server.url("/status/500"), "ftp://nowhere", server.url("/static")]
    results = list(session.iter_results(iter(urls), ordered=True))
    assert [result.ok for result in results] == [True, False, False, True]
    assert isinstance(results[1].error, HTTPStatusError)
    assert isinstance(results[2].error, ValidationError)


def test_no_input_gives_no_results(session: ParallelSession) -> None:
    assert list(session.iter_results(iter([]))) == []


# -- items


def test_items_of_every_kind_are_sent_as_they_say(session: ParallelSession, server: Server) -> None:
    items: list[Any] = [
        server.url("/anything/plain"),
        Request(server.url("/anything/request"), "POST", content=b"body", key="r", meta=("any", "thing")),
        {"url": server.url("/anything/dict"), "method": "PUT", "json": {"a": 1}, "key": "d", "meta": 7},
        {"url": server.url("/anything/params"), "params": {"q": "x y"}, "headers": {"X-Own": "yes"}},
        {"url": server.url("/anything/odd"), "metod": "GET"},
    ]
    results = list(session.iter_results((item for item in items), ordered=True, headers={"X-All": "1"}))
    plain, request, by_dict, params, odd = results
    assert plain.unwrap()["method"] == "GET"
    assert (request.unwrap()["method"], request.unwrap()["data"]) == ("POST", "body")
    assert (request.key, request.meta) == ("r", ("any", "thing"))
    assert (by_dict.unwrap()["method"], by_dict.unwrap()["json"]) == ("PUT", {"a": 1})
    assert (by_dict.key, by_dict.meta) == ("d", 7)
    assert params.unwrap()["args"] == {"q": "x y"}
    assert params.unwrap()["headers"]["X-Own"] == "yes"
    assert isinstance(odd.error, ValidationError)


def test_keys_go_with_their_items(session: ParallelSession, server: Server) -> None:
    urls = (server.url(f"/id/{number}") for number in range(3))
    results = session.iter_results(urls, keys=iter("abc"))
    assert {result.key: result.unwrap()["id"] for result in results} == {"a": 0, "b": 1, "c": 2}


def test_the_function_does_what_the_method_does(backend: str, server: Server) -> None:
    results = iter_results((server.url(f"/id/{n}") for n in range(20)), backend=backend, ordered=True)
    assert [result.unwrap()["id"] for result in results] == list(range(20))


# -- asynchronous


def test_an_async_generator_with_back_pressure(backend: str, server: Server) -> None:
    taken: list[int] = []

    async def urls() -> AsyncIterator[str]:
        for url in endless(server, taken):
            yield url

    async def take() -> None:
        async with ParallelRequests(backend=backend, concurrency=CONCURRENCY) as client:
            count = 0
            async with contextlib.aclosing(client.iter_results(urls())) as results:
                async for result in results:
                    count += 1
                    assert result.unwrap() == {"id": result.index}
                    assert len(taken) <= count + 2 * CONCURRENCY
                    if count == 100:
                        break

    asyncio.run(take())
    assert len(server.ids()) <= 100 + 2 * CONCURRENCY


def test_an_async_input_goes_on_when_its_slow_consumer_does(
    backend: str, fault_server: Callable[..., FaultServer]
) -> None:
    """Once all that was taken is done, nothing but the consumer can wake the input."""
    is_first_taken = threading.Event()

    def answer(connection: Connection) -> None:
        if connection.read_request().target == "/1":
            connection.wait(is_first_taken)
        connection.send(response(b"{}"))

    server = fault_server([repeat(answer)])

    async def urls() -> AsyncIterator[str]:
        for number in range(10):
            yield server.url(f"/{number}")

    async def take() -> list[int]:
        loop, is_all_done = asyncio.get_running_loop(), asyncio.Event()

        def tell(result: Result[Any]) -> None:
            if result.index == 2:
                loop.call_soon_threadsafe(is_all_done.set)

        seen: list[int] = []
        async with ParallelRequests(backend=backend, concurrency=1) as client:
            async for result in client.iter_results(urls(), on_result=tell):
                seen.append(result.index)
                if result.index == 0:  # with room for two more
                    is_first_taken.set()
                    await is_all_done.wait()
                    await client.request(server.url("/other"))
        return seen

    assert asyncio.run(asyncio.wait_for(take(), 30)) == list(range(10))


def test_an_async_input_has_ended_when_its_loop_is_left(backend: str, server: Server) -> None:
    has_ended = False

    async def urls() -> AsyncIterator[str]:
        nonlocal has_ended
        yield server.url("/id/1")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            has_ended = True

    async def take() -> bool:
        async with ParallelRequests(backend=backend) as client:
            async with contextlib.aclosing(client.iter_results(urls())) as results:
                assert (await anext(results)).unwrap() == {"id": 1}
            return has_ended

    assert asyncio.run(take())


def test_an_async_input_that_raises_does_so_after_the_last_result(
    backend: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def urls() -> AsyncIterator[str]:
        for number in range(30):
            yield server.url(f"/id/{number}?delay={0.02 * (number % 3)}")
        raise KeyError("the table is gone")

    async def take() -> list[int]:
        seen: list[int] = []
        async with ParallelRequests(backend=backend, concurrency=CONCURRENCY) as client:
            results = client.iter_results(urls(), ordered=True)
            while len(seen) < 30:
                seen.append((await anext(results)).index)
            with pytest.raises(KeyError):
                await anext(results)
        return seen

    assert asyncio.run(take()) == list(range(30))
    gc.collect()
    assert not caplog.records, "the loop does not report it, too"


def test_an_endless_async_input_ends_with_its_run(backend: str, server: Server) -> None:
    taken: list[int] = []

    async def urls() -> AsyncIterator[str]:
        for url in endless(server, taken):
            yield url

    async def take() -> None:
        async with ParallelRequests(backend=backend, concurrency=CONCURRENCY) as client:
            async for _ in client.iter_results(urls()):
                await client.close()  # the input alone hears of it: its consumer is busy here

    with contextlib.suppress(RunStoppedError):  # raised if all that was taken is done by then
        asyncio.run(take())
    assert len(taken) <= 1 + 2 * CONCURRENCY


# -- many


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", ["curl", "aiohttp"], indirect=True)
def test_fifty_thousand_urls_give_one_result_each_in_little_memory(backend: str) -> None:
    with Server("tests.server.ids") as server:
        outcome = fetch_ids(server, 50_000, backend=backend, concurrency=20, warm_up=10_000)
    assert outcome.results == outcome.report["known"] == 50_000
    assert outcome.report["missing"] == outcome.report["doubled"] == 0
    assert outcome.most_open <= 40
    assert outcome.report["most_open"] <= 20
    assert outcome.growth <= 20 * MIB
