"""The type of every combination of arguments of the asynchronous verbs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, assert_type

from parallel_requests import (
    Download,
    FastRequests,
    ParallelRequests,
    ParallelSession,
    Response,
    Result,
    ReturnType,
    fastreq_async,
    parallel_requests_async,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from parallel_requests.signatures import AsyncHeadVerb, AsyncOneCallVerb, AsyncRequestVerb

URL = "http://host/"
URLS = [URL, URL]


def parsed_json(answer: dict[str, int]) -> set[int]:
    return set(answer.values())


def parsed_text(answer: str) -> int:
    return len(answer)


def parsed_content(answer: bytes) -> float:
    return float(answer)


def parsed_response(answer: Response) -> bool:
    return answer.ok


async def one_url(client: ParallelRequests) -> None:
    call = client.request
    assert_type(await call(URL), Any)
    assert_type(await call(URL, return_type="json"), Any)
    assert_type(await call(URL, return_type="text"), str)
    assert_type(await call(URL, return_type="content"), bytes)
    assert_type(await call(URL, return_type="response"), Response)
    assert_type(await call(URL, return_type="stream", stream_callback=print), Response)

    assert_type(await call(URL, parse_func=parsed_json), set[int])
    assert_type(await call(URL, return_type="json", parse_func=parsed_json), set[int])
    assert_type(await call(URL, return_type="text", parse_func=parsed_text), int)
    assert_type(await call(URL, return_type="content", parse_func=parsed_content), float)
    assert_type(await call(URL, return_type="response", parse_func=parsed_response), bool)
    assert_type(await call(URL, return_type="stream", parse_func=parsed_response), bool)

    assert_type(await call(URL, keys=["a"], return_type="text"), str)

    assert_type(await call(URL, return_none_on_failure=True), Any | None)
    assert_type(await call(URL, return_type="text", return_none_on_failure=True), str | None)
    assert_type(await call(URL, return_type="content", return_none_on_failure=True), bytes | None)
    assert_type(await call(URL, return_type="response", return_none_on_failure=True), Response | None)
    assert_type(await call(URL, return_type="stream", return_none_on_failure=True), Response | None)

    assert_type(await call(URL, parse_func=parsed_json, return_none_on_failure=True), set[int] | None)
    assert_type(
        await call(URL, return_type="text", parse_func=parsed_text, return_none_on_failure=True), int | None
    )
    assert_type(
        await call(URL, return_type="content", parse_func=parsed_content, return_none_on_failure=True),
        float | None,
    )
    assert_type(
        await call(URL, return_type="response", parse_func=parsed_response, return_none_on_failure=True),
        bool | None,
    )


async def several_urls(client: ParallelRequests) -> None:
    call = client.request
    assert_type(await call(URLS), list[Any])
    assert_type(await call(URLS, return_type="text"), list[str])
    assert_type(await call(URLS, return_type="content"), list[bytes])
    assert_type(await call(URLS, return_type="response"), list[Response])
    assert_type(await call(URLS, return_type="stream"), list[Response])

    assert_type(await call(URLS, parse_func=parsed_json), list[set[int]])
    assert_type(await call(URLS, return_type="text", parse_func=parsed_text), list[int])
    assert_type(await call(URLS, return_type="content", parse_func=parsed_content), list[float])
    assert_type(await call(URLS, return_type="response", parse_func=parsed_response), list[bool])

    assert_type(await call(URLS, return_none_on_failure=True), list[Any | None])
    assert_type(await call(URLS, return_type="text", return_none_on_failure=True), list[str | None])
    assert_type(await call(URLS, return_type="content", return_none_on_failure=True), list[bytes | None])
    assert_type(await call(URLS, return_type="response", return_none_on_failure=True), list[Response | None])

    assert_type(await call(URLS, parse_func=parsed_json, return_none_on_failure=True), list[set[int] | None])
    assert_type(
        await call(URLS, return_type="text", parse_func=parsed_text, return_none_on_failure=True),
        list[int | None],
    )
    assert_type(
        await call(URLS, return_type="content", parse_func=parsed_content, return_none_on_failure=True),
        list[float | None],
    )
    assert_type(
        await call(URLS, return_type="response", parse_func=parsed_response, return_none_on_failure=True),
        list[bool | None],
    )


async def several_urls_with_keys(client: ParallelRequests) -> None:
    call = client.request
    keys = [1, 2]
    assert_type(await call(URLS, keys=keys), dict[int, Any])
    assert_type(await call(URLS, keys=keys, return_type="text"), dict[int, str])
    assert_type(await call(URLS, keys=keys, return_type="content"), dict[int, bytes])
    assert_type(await call(URLS, keys=keys, return_type="response"), dict[int, Response])
    assert_type(await call(URLS, keys=keys, return_type="stream"), dict[int, Response])
    assert_type(await call(URLS, keys=("a", "b"), return_type="text"), dict[str, str])
    assert_type(await call(URLS, keys=None, return_type="text"), list[str])

    assert_type(await call(URLS, keys=keys, parse_func=parsed_json), dict[int, set[int]])
    assert_type(await call(URLS, keys=keys, return_type="text", parse_func=parsed_text), dict[int, int])
    assert_type(
        await call(URLS, keys=keys, return_type="content", parse_func=parsed_content), dict[int, float]
    )
    assert_type(
        await call(URLS, keys=keys, return_type="response", parse_func=parsed_response), dict[int, bool]
    )

    assert_type(await call(URLS, keys=keys, return_none_on_failure=True), dict[int, Any | None])
    assert_type(
        await call(URLS, keys=keys, return_type="text", return_none_on_failure=True), dict[int, str | None]
    )
    assert_type(
        await call(URLS, keys=keys, return_type="content", return_none_on_failure=True),
        dict[int, bytes | None],
    )
    assert_type(
        await call(URLS, keys=keys, return_type="response", return_none_on_failure=True),
        dict[int, Response | None],
    )

    assert_type(
        await call(URLS, keys=keys, parse_func=parsed_json, return_none_on_failure=True),
        dict[int, set[int] | None],
    )
    assert_type(
        await call(URLS, keys=keys, return_type="text", parse_func=parsed_text, return_none_on_failure=True),
        dict[int, int | None],
    )
    assert_type(
        await call(
            URLS, keys=keys, return_type="content", parse_func=parsed_content, return_none_on_failure=True
        ),
        dict[int, float | None],
    )
    assert_type(
        await call(
            URLS, keys=keys, return_type="response", parse_func=parsed_response, return_none_on_failure=True
        ),
        dict[int, bool | None],
    )


async def one_call() -> None:
    """The same table, with the options of a session."""
    call = parallel_requests_async
    keys = ["a", "b"]
    assert_type(await fastreq_async(URL, return_type="text", concurrency=5), str)

    assert_type(await call(URL, rate_limit=5), Any)
    assert_type(await call(URL, return_type="text", parse_func=parsed_text), int)
    assert_type(await call(URL, return_type="content", return_none_on_failure=True), bytes | None)
    assert_type(await call(URL, return_type="stream", stream_callback=print, backend="curl"), Response)

    assert_type(await call(URLS, http2=True, http3=True), list[Any])
    assert_type(await call(URLS, return_type="text"), list[str])
    assert_type(await call(URLS, return_type="content", parse_func=parsed_content), list[float])
    assert_type(await call(URLS, return_type="response", return_none_on_failure=True), list[Response | None])

    assert_type(await call(URLS, keys=keys), dict[str, Any])
    assert_type(await call(URLS, keys=keys, return_type="content"), dict[str, bytes])
    assert_type(
        await call(URLS, keys=keys, return_type="response", parse_func=parsed_response), dict[str, bool]
    )
    assert_type(
        await call(URLS, keys=keys, return_type="text", return_none_on_failure=True), dict[str, str | None]
    )


async def what_urls_may_be(
    client: ParallelRequests, lazy: AsyncIterator[str], known_later: ReturnType
) -> None:
    assert_type(await client.get(lazy, return_type="text"), list[str])
    assert_type(await client.get(lazy, return_type="text", return_none_on_failure=True), list[str | None])
    assert_type(await client.get(URLS, return_type=ReturnType.CONTENT), list[bytes])
    assert_type(await client.get(URLS, return_type=known_later), Any)
    assert_type(await client.get(URL, return_type="text", parse_func=lambda text: text.split()), list[str])


async def every_verb(client: FastRequests) -> None:
    verbs: list[AsyncRequestVerb] = [client.get, client.post, client.put, client.patch, client.delete]
    bodiless: list[AsyncHeadVerb] = [client.head, client.options]
    one_calls: list[AsyncOneCallVerb] = [parallel_requests_async, fastreq_async]
    for verb in verbs:
        assert_type(await verb(URLS, return_type="text", json={"a": 1}, timeout=(1, None)), list[str])
    for head in bodiless:
        assert_type(await head(URL), Response)
        assert_type(await head(URLS), list[Response])
        assert_type(await head(URLS, keys=["a", "b"]), dict[str, Response])
        assert_type(await head(URL, return_none_on_failure=True), Response | None)
        assert_type(await head(URLS, return_none_on_failure=True), list[Response | None])
        assert_type(await head(URLS, keys=[1, 2], return_none_on_failure=True), dict[int, Response | None])
        assert_type(await head(URL, parse_func=parsed_response, return_none_on_failure=True), bool | None)
    for one in one_calls:
        assert_type(await one(URL, return_type="text"), str)
    with client as session:
        assert_type(session, ParallelSession)


async def several_calls_at_once(client: ParallelRequests) -> None:
    assert_type(
        await asyncio.gather(
            client.get(URLS, return_type="text"), client.head(URL), client.download(URL, "f")
        ),
        tuple[list[str], Response, Download],
    )
    first, second = await asyncio.gather(
        parallel_requests_async(URL, return_type="content"), client.get(URL, parse_func=parsed_json)
    )
    assert_type(first, bytes)
    assert_type(second, set[int])
    async with asyncio.TaskGroup() as group:
        assert_type(group.create_task(client.get(URL, return_type="text")), asyncio.Task[str])


async def results_one_by_one(client: ParallelRequests, lazy: AsyncIterator[str]) -> None:
    async with aclosing(client.iter_results(lazy)) as results:
        async for result in results:
            assert_type(result, Result[Any])


async def what_is_no_batch(client: ParallelRequests) -> None:
    async for _ in client.iter_results(URL):  # type: ignore[attr-defined]
        pass


async def answers_taken_for_others(client: ParallelRequests) -> None:
    one: list[str] = await client.get(URL, return_type="text")  # type: ignore[assignment]
    several: str = await client.get(URLS, return_type="text")  # type: ignore[assignment]
    print(one, several)


async def tasks_of(client: ParallelRequests) -> None:
    assert_type(await asyncio.create_task(client.get(URL, return_type="text")), str)
    assert_type(await client.download(URLS, "folder"), list[Download])


async def what_is_refused(client: ParallelRequests) -> None:
    """Each line is an error; mypy tells when one no longer is (``warn_unused_ignores``)."""
    await parallel_requests_async(URL, concurency=5)  # type: ignore[call-overload]
    await client.get(URL, hedaers={})  # type: ignore[call-overload]
    await client.get(URL, concurrency=5)  # type: ignore[call-overload]
    await client.get(URL, return_type="txt")  # type: ignore[call-overload]
    await client.get(URL, return_type="content", parse_func=parsed_text)  # type: ignore[call-overload]
    client.get(URL)  # type: ignore[unused-coroutine]


async def results_of(client: ParallelRequests) -> None:
    async for result in client.iter_results(URLS, return_type="text"):
        assert_type(result, Result[str])
    async for parsed in client.iter_results(URLS, parse_func=parsed_json):
        assert_type(parsed, Result[set[int]])
