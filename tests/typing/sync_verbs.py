"""The type of every combination of arguments of the synchronous verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, assert_type

from parallel_requests import (
    Download,
    ParallelSession,
    Request,
    RequestItem,
    Response,
    Result,
    ReturnType,
    download,
    fastreq,
    iter_results,
    parallel_requests,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from parallel_requests.signatures import HeadVerb, OneCallVerb, RequestVerb

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


def one_url(session: ParallelSession) -> None:
    call = session.request
    assert_type(call(URL), Any)
    assert_type(call(URL, return_type="json"), Any)
    assert_type(call(URL, return_type="text"), str)
    assert_type(call(URL, return_type="content"), bytes)
    assert_type(call(URL, return_type="response"), Response)
    assert_type(call(URL, return_type="stream", stream_callback=print), Response)

    assert_type(call(URL, parse_func=parsed_json), set[int])
    assert_type(call(URL, return_type="json", parse_func=parsed_json), set[int])
    assert_type(call(URL, return_type="text", parse_func=parsed_text), int)
    assert_type(call(URL, return_type="content", parse_func=parsed_content), float)
    assert_type(call(URL, return_type="response", parse_func=parsed_response), bool)
    assert_type(call(URL, return_type="stream", parse_func=parsed_response), bool)

    assert_type(call(URL, keys=["a"], return_type="text"), str)

    assert_type(call(URL, return_none_on_failure=True), Any | None)
    assert_type(call(URL, return_type="text", return_none_on_failure=True), str | None)
    assert_type(call(URL, return_type="content", return_none_on_failure=True), bytes | None)
    assert_type(call(URL, return_type="response", return_none_on_failure=True), Response | None)
    assert_type(call(URL, return_type="stream", return_none_on_failure=True), Response | None)

    assert_type(call(URL, parse_func=parsed_json, return_none_on_failure=True), set[int] | None)
    assert_type(
        call(URL, return_type="text", parse_func=parsed_text, return_none_on_failure=True), int | None
    )
    assert_type(
        call(URL, return_type="content", parse_func=parsed_content, return_none_on_failure=True),
        float | None,
    )
    assert_type(
        call(URL, return_type="response", parse_func=parsed_response, return_none_on_failure=True),
        bool | None,
    )


def several_urls(session: ParallelSession) -> None:
    call = session.request
    assert_type(call(URLS), list[Any])
    assert_type(call(URLS, return_type="text"), list[str])
    assert_type(call(URLS, return_type="content"), list[bytes])
    assert_type(call(URLS, return_type="response"), list[Response])
    assert_type(call(URLS, return_type="stream"), list[Response])

    assert_type(call(URLS, parse_func=parsed_json), list[set[int]])
    assert_type(call(URLS, return_type="text", parse_func=parsed_text), list[int])
    assert_type(call(URLS, return_type="content", parse_func=parsed_content), list[float])
    assert_type(call(URLS, return_type="response", parse_func=parsed_response), list[bool])

    assert_type(call(URLS, return_none_on_failure=True), list[Any | None])
    assert_type(call(URLS, return_type="text", return_none_on_failure=True), list[str | None])
    assert_type(call(URLS, return_type="content", return_none_on_failure=True), list[bytes | None])
    assert_type(call(URLS, return_type="response", return_none_on_failure=True), list[Response | None])

    assert_type(call(URLS, parse_func=parsed_json, return_none_on_failure=True), list[set[int] | None])
    assert_type(
        call(URLS, return_type="text", parse_func=parsed_text, return_none_on_failure=True), list[int | None]
    )
    assert_type(
        call(URLS, return_type="content", parse_func=parsed_content, return_none_on_failure=True),
        list[float | None],
    )
    assert_type(
        call(URLS, return_type="response", parse_func=parsed_response, return_none_on_failure=True),
        list[bool | None],
    )


def several_urls_with_keys(session: ParallelSession) -> None:
    call = session.request
    keys = [1, 2]
    assert_type(call(URLS, keys=keys), dict[int, Any])
    assert_type(call(URLS, keys=keys, return_type="text"), dict[int, str])
    assert_type(call(URLS, keys=keys, return_type="content"), dict[int, bytes])
    assert_type(call(URLS, keys=keys, return_type="response"), dict[int, Response])
    assert_type(call(URLS, keys=keys, return_type="stream"), dict[int, Response])
    assert_type(call(URLS, keys=("a", "b"), return_type="text"), dict[str, str])
    assert_type(call(URLS, keys=None, return_type="text"), list[str])

    assert_type(call(URLS, keys=keys, parse_func=parsed_json), dict[int, set[int]])
    assert_type(call(URLS, keys=keys, return_type="text", parse_func=parsed_text), dict[int, int])
    assert_type(call(URLS, keys=keys, return_type="content", parse_func=parsed_content), dict[int, float])
    assert_type(call(URLS, keys=keys, return_type="response", parse_func=parsed_response), dict[int, bool])

    assert_type(call(URLS, keys=keys, return_none_on_failure=True), dict[int, Any | None])
    assert_type(call(URLS, keys=keys, return_type="text", return_none_on_failure=True), dict[int, str | None])
    assert_type(
        call(URLS, keys=keys, return_type="content", return_none_on_failure=True), dict[int, bytes | None]
    )
    assert_type(
        call(URLS, keys=keys, return_type="response", return_none_on_failure=True), dict[int, Response | None]
    )

    assert_type(
        call(URLS, keys=keys, parse_func=parsed_json, return_none_on_failure=True), dict[int, set[int] | None]
    )
    assert_type(
        call(URLS, keys=keys, return_type="text", parse_func=parsed_text, return_none_on_failure=True),
        dict[int, int | None],
    )
    assert_type(
        call(URLS, keys=keys, return_type="content", parse_func=parsed_content, return_none_on_failure=True),
        dict[int, float | None],
    )
    assert_type(
        call(
            URLS, keys=keys, return_type="response", parse_func=parsed_response, return_none_on_failure=True
        ),
        dict[int, bool | None],
    )


def one_call() -> None:
    """The same table, with the options of a session."""
    call = parallel_requests
    keys = ["a", "b"]
    assert_type(fastreq(URL, return_type="text", concurrency=5), str)

    assert_type(call(URL, rate_limit=5), Any)
    assert_type(call(URL, return_type="text", parse_func=parsed_text), int)
    assert_type(call(URL, return_type="content", return_none_on_failure=True), bytes | None)
    assert_type(call(URL, return_type="stream", stream_callback=print, backend="curl"), Response)

    assert_type(call(URLS, http2=True, http3=True), list[Any])
    assert_type(call(URLS, return_type="text"), list[str])
    assert_type(call(URLS, return_type="content", parse_func=parsed_content), list[float])
    assert_type(call(URLS, return_type="response", return_none_on_failure=True), list[Response | None])

    assert_type(call(URLS, keys=keys), dict[str, Any])
    assert_type(call(URLS, keys=keys, return_type="content"), dict[str, bytes])
    assert_type(call(URLS, keys=keys, return_type="response", parse_func=parsed_response), dict[str, bool])
    assert_type(call(URLS, keys=keys, return_type="text", return_none_on_failure=True), dict[str, str | None])


def return_types_as_members(session: ParallelSession, known_later: ReturnType) -> None:
    assert_type(session.get(URL, return_type=ReturnType.JSON), Any)
    assert_type(session.get(URL, return_type=ReturnType.TEXT), str)
    assert_type(session.get(URLS, return_type=ReturnType.CONTENT), list[bytes])
    assert_type(session.get(URL, return_type=ReturnType.RESPONSE), Response)
    assert_type(session.get(URL, return_type=ReturnType.STREAM, stream_callback=print), Response)
    assert_type(session.get(URLS, return_type=known_later), Any)
    assert_type(session.get(URLS, return_type=known_later, parse_func=parsed_text), Any)


def what_urls_may_be(session: ParallelSession, lazy: Iterator[str]) -> None:
    assert_type(session.get((URL, URL), return_type="text"), list[str])
    assert_type(session.get({URL}, return_type="text"), list[str])
    assert_type(session.get(lazy, return_type="text"), list[str])
    assert_type(session.get([Request(URL)], return_type="text"), list[str])
    assert_type(session.get([{"url": URL, "params": {"q": 1}, "key": 1}], return_type="text"), list[str])


def what_parse_func_may_be(session: ParallelSession) -> None:
    assert_type(session.get(URL, return_type="text", parse_func=lambda text: text.split()), list[str])
    assert_type(session.get(URL, return_type="response", parse_func=lambda answer: answer.ok), bool)
    assert_type(session.get(URLS, return_type="text", parse_func=None), list[str])
    assert_type(session.get(URLS, parse_func=dict[str, int]), list[dict[str, int]])


def a_parse_func_that_may_be_none(session: ParallelSession, parse: Callable[[str], int] | None) -> None:
    assert_type(session.get(URLS, return_type="text", parse_func=parse), list[str] | list[int])


def what_json_gives_is_unknown(session: ParallelSession, rows: Any, urls: list[Any]) -> None:
    """Any in an argument does not make Any of what is known all the same."""
    assert_type(session.get(urls, return_type="text"), list[str])
    assert_type(session.post(URL, json=rows, params=rows, return_type="text"), str)
    assert_type(next(session.iter_results(urls, return_type="text")), Result[str])


def what_is_known_at_run_time_only(
    session: ParallelSession, kind: Literal["text", "content"], keys: list[int] | None
) -> None:
    assert_type(session.get(URLS, return_type=kind), list[str] | list[bytes])
    assert_type(session.get(URLS, keys=keys, return_type="text"), list[str] | dict[int, str])


def lists_of_one_kind(session: ParallelSession, seconds: list[float], pairs: list[tuple[int, int]]) -> None:
    """A list need not be annotated with all that its entries may be."""
    assert_type(session.get(URLS, timeout=seconds, return_type="text"), list[str])
    assert_type(parallel_requests(URLS, timeout=pairs, return_type="text"), list[str])


def a_url_or_several(session: ParallelSession, urls: str | list[str]) -> None:
    """A str is an iterable of str, too: only ``isinstance`` tells a checker which one it is."""
    if isinstance(urls, str):
        assert_type(session.get(urls, return_type="text"), str)
    else:
        assert_type(session.get(urls, return_type="text"), list[str])


def files(session: ParallelSession, items: list[RequestItem]) -> None:
    assert_type(session.download(URL, Path("folder")), Download)
    assert_type(session.download(URL, "folder", return_none_on_failure=True), Download | None)
    assert_type(session.download(items, ["one", Path("two")], sha256=[None, "0"]), list[Download])
    assert_type(session.download(iter(URLS), "folder", sha256={URL: "0"}), list[Download])
    assert_type(session.download(URLS, "folder", keys=["a", "b"]), dict[str, Download])
    assert_type(download(URLS, to="folder", existing="keep", concurrency=5), list[Download])


def a_flag_known_at_run_time(session: ParallelSession, none_on_failure: bool) -> None:
    assert_type(session.get(URL, return_type="text", return_none_on_failure=none_on_failure), str | None)
    assert_type(session.get(URL, return_type="text", return_none_on_failure=False), str)


def options_given_as_a_dict(session: ParallelSession, options: dict[str, Any]) -> None:
    session.get(URL, **options)
    parallel_requests(URLS, **options)


def every_verb(session: ParallelSession) -> None:
    verbs: list[RequestVerb] = [session.get, session.post, session.put, session.patch, session.delete]
    bodiless: list[HeadVerb] = [session.head, session.options]
    one_calls: list[OneCallVerb] = [parallel_requests, fastreq]
    for verb in verbs:
        assert_type(verb(URLS, return_type="text", json={"a": 1}, timeout=(1, None)), list[str])
    for head in bodiless:
        assert_type(head(URL), Response)
        assert_type(head(URLS), list[Response])
        assert_type(head(URLS, keys=["a", "b"]), dict[str, Response])
        assert_type(head(URL, return_none_on_failure=True), Response | None)
        assert_type(head(URLS, return_none_on_failure=True), list[Response | None])
        assert_type(head(URLS, keys=[1, 2], return_none_on_failure=True), dict[int, Response | None])
        assert_type(head(URLS, parse_func=parsed_response), list[bool])
        assert_type(head(URL, parse_func=parsed_response, return_none_on_failure=True), bool | None)
    for one in one_calls:
        assert_type(one(URL, return_type="text"), str)


def what_is_refused(session: ParallelSession) -> None:
    """Each line is an error; mypy tells when one no longer is (``warn_unused_ignores``)."""
    parallel_requests(URL, concurency=5)  # type: ignore[call-overload]
    parallel_requests(URL, retrun_type="text")  # type: ignore[call-overload]
    session.get(URL, hedaers={})  # type: ignore[call-overload]
    session.head(URL, timout=1)  # type: ignore[call-overload]
    ParallelSession(concurency=5)  # type: ignore[call-arg]
    session.get(URL, concurrency=5)  # type: ignore[call-overload]
    session.get(URL, timeout="5")  # type: ignore[arg-type]
    session.get(URL, return_type="txt")  # type: ignore[call-overload]
    session.get(URL, return_type="content", parse_func=parsed_text)  # type: ignore[call-overload]
    session.get([1, 2])  # type: ignore[list-item]
    session.get([{"headers": {}}])  # type: ignore[list-item]
    session.head(URL, return_type="text")  # type: ignore[call-overload]
    session.get(URL, {"q": 1})  # type: ignore[call-overload]
    session.get(3)  # type: ignore[call-overload]
    session.get(b"http://host/")  # type: ignore[arg-type]
    session.get(URLS, keys=3)  # type: ignore[call-overload]
    session.get(URLS, parse_func=lambda: 1)  # type: ignore[misc, arg-type]
    session.get(URLS, auth="Bearer token")  # type: ignore[call-overload]
    session.get(URLS, headers={"X-One": 1})  # type: ignore[dict-item]
    session.get(URLS, retry=3)  # type: ignore[call-overload]
    session.get(URLS, on_result=lambda: None)  # type: ignore[misc, arg-type]
    session.get(URLS, ordered=True)  # type: ignore[call-overload]
    session.get(URLS, sha256=True)  # type: ignore[call-overload]
    session.get([{"url": URL, "hedaers": {}}])  # type: ignore[list-item]
    session.iter_results(URLS, return_none_on_failure=True)  # type: ignore[call-overload]
    session.download(URLS)  # type: ignore[call-overload]
    session.download(URLS, "folder", return_type="text")  # type: ignore[call-overload]
    session.download(URLS, "folder", existing="ask")  # type: ignore[call-overload]


def what_is_no_batch(session: ParallelSession) -> None:
    for _ in session.iter_results(URL):  # type: ignore[attr-defined]
        pass
    for _ in iter_results(URL, concurrency=5):  # type: ignore[attr-defined]
        pass


def answers_taken_for_others(session: ParallelSession) -> None:
    one: list[str] = session.get(URL, return_type="text")  # type: ignore[assignment]
    several: str = session.get(URLS, return_type="text")  # type: ignore[assignment]
    number: int = session.get(URL, return_type="content")  # type: ignore[assignment]
    perhaps: str = session.get(URL, return_type="text", return_none_on_failure=True)  # type: ignore[assignment]
    heads: list[str] = session.head(URLS)  # type: ignore[assignment]
    results: Iterator[Result[int]] = session.iter_results(URLS, return_type="text")  # type: ignore[assignment]
    print(one, several, number, perhaps, heads, results)


def results(session: ParallelSession) -> None:
    call = session.iter_results
    assert_type(next(call(URLS)), Result[Any])
    assert_type(next(call(URLS, return_type="text")), Result[str])
    assert_type(next(call(URLS, return_type="content", ordered=True)), Result[bytes])
    assert_type(next(call(URLS, return_type="response")), Result[Response])
    assert_type(next(call(URLS, parse_func=parsed_json)), Result[set[int]])
    assert_type(next(call(URLS, return_type="text", parse_func=parsed_text)).unwrap(), int)
    assert_type(next(iter_results(URLS, concurrency=5, return_type="text")), Result[str])
    assert_type(next(iter_results(URLS, parse_func=parsed_json)).value, set[int] | None)


def items(session: ParallelSession) -> None:
    listed: list[RequestItem] = [{"url": URL, "headers": {"X-One": None}}, {"url": URL, "proxy": False}]
    assert_type(session.get(listed, return_type="text"), list[str])
    assert_type(session.get(URLS, headers={"User-Agent": None}, return_type="text"), list[str])
    of_requests: Mapping[str, str | bytes] = {"X-One": b"1"}  # the type of the headers of its sessions
    assert_type(session.get(URLS, headers=of_requests, return_type="text"), list[str])
    assert_type(session.put(URLS, data=bytearray(b"a"), return_type="text"), list[str])
