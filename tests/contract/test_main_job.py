"""URLs in, values out: in order or by key, failures among them."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import Request, exceptions
from tests.failures import urls_that_raise
from tests.server.content import content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parallel_requests.models import Result
    from parallel_requests.session import ParallelSession
    from tests.server.control import Server


def test_a_list_keeps_its_order(session: ParallelSession, server: Server) -> None:
    numbers = list(range(200))
    answers = session.request([server.url(f"/id/{number}") for number in numbers])
    assert answers == [{"id": number} for number in numbers]
    assert sorted(server.ids()) == numbers


def test_one_url_gives_one_value(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/id/7")) == {"id": 7}


def test_one_url_that_may_fail_gives_none(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/id/7"), return_none_on_failure=True) == {"id": 7}
    assert session.request(server.url("/status/404"), return_none_on_failure=True) is None


def test_a_wrong_return_type_is_refused_before_anything_is_sent(
    session: ParallelSession, server: Server
) -> None:
    return_type: Any = "xml"
    with pytest.raises(exceptions.ConfigurationError, match="json, text, content, response, stream") as wrong:
        session.request([server.url("/id/7")], return_type=return_type)
    assert wrong.value.config_key == "return_type"
    assert server.stats().requests == 0


def test_keys_give_a_dict(session: ParallelSession, server: Server) -> None:
    urls = [server.url("/id/1"), server.url("/id/2")]
    for keys in (["one", "two"], iter(["one", "two"])):
        assert session.request(urls, keys=keys) == {"one": {"id": 1}, "two": {"id": 2}}


@pytest.mark.parametrize("keys", [["one", "one"], ["one", []]], ids=["twice the same", "not hashable"])
def test_wrong_keys_are_refused_before_anything_is_sent(
    keys: list[Any], session: ParallelSession, server: Server
) -> None:
    with pytest.raises(exceptions.ConfigurationError, match="keys") as wrong:
        session.request([server.url("/id/1"), server.url("/id/2")], keys=keys)
    assert wrong.value.config_key == "keys"
    assert server.stats().requests == 0


def test_progress_is_reported_call_by_call(session: ParallelSession, server: Server) -> None:
    seen: list[tuple[int, int | None]] = []
    urls = [server.url("/id/1"), "no url", server.url("/status/404")]
    for given in (urls, iter(urls)):
        session.request(
            given, return_none_on_failure=True, progress=lambda done, total: seen.append((done, total))
        )
    assert seen == [(1, 3), (2, 3), (3, 3), (1, None), (2, None), (3, None)]


def test_keys_that_repeat_or_run_out_fail_their_items_only(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(4)]
    with pytest.raises(exceptions.PartialFailureError) as failed:
        session.request(urls, keys=iter("aab"))
    assert [(result.key, result.value) for result in failed.value.results] == [
        ("a", {"id": 0}),
        (None, None),
        ("b", {"id": 2}),
        (None, None),
    ]
    repeated, missing = failed.value.exceptions
    assert "another URL has the key 'a'" in str(repeated)
    assert "keys ended before urls did" in str(missing)
    assert sorted(server.ids()) == [0, 2]


def test_keys_are_iterated_over_in_the_thread_of_the_caller(session: ParallelSession, server: Server) -> None:
    threads = set()

    def names() -> Iterator[int]:
        for number in itertools.count():  # more than there are URLs
            threads.add(threading.current_thread())
            yield number

    urls = [server.url(f"/id/{number}") for number in range(5)]
    for given in (urls, iter(urls)):
        assert session.request(given, keys=names()) == {number: {"id": number} for number in range(5)}
    assert len(threads) == 1, "that of the caller, which advances the lazy input, too"


def test_keys_that_items_bring_must_differ_too(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(6)]
    items: list[Any] = [
        {"url": urls[0], "key": "own"},
        {"url": urls[1], "key": "own"},
        {"url": urls[2], "key": ["not hashable"]},
        Request(urls[3], key="own"),
        {"url": urls[4], "key": "f"},
        urls[5],
    ]
    with pytest.raises(exceptions.PartialFailureError) as failed:
        session.request(items, keys=list("abcdef"))
    assert [(result.key, result.value) for result in failed.value.results] == [
        ("own", {"id": 0}),
        (None, None),
        (None, None),
        (None, None),
        ("f", {"id": 4}),
        (None, None),
    ]
    assert sorted(server.ids()) == [0, 4]
    assert [result.key for result in session.iter_results(items[:2])] == ["own"] * 2  # labels may repeat


def test_an_input_that_raises_hands_over_what_was_fetched(session: ParallelSession, server: Server) -> None:
    with pytest.raises(KeyError, match="the table is gone") as raised:
        session.request(urls_that_raise(server, 30))
    fetched: list[Result[Any]] = raised.value.results  # type: ignore[attr-defined]
    assert [result.value for result in fetched] == [{"id": number} for number in range(30)]
    assert session.last_run.results == tuple(fetched)
    assert session.last_run.total == 30


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Takes no attributes."""

    row: int


def test_an_exception_that_takes_no_results_is_raised_as_it_is(
    session: ParallelSession, server: Server
) -> None:
    def urls() -> Iterator[str]:
        yield server.url("/id/1")
        raise Frozen(2)

    with pytest.raises(Frozen):
        session.request(urls())
    assert [result.value for result in session.last_run.results] == [{"id": 1}]


def test_parse_func_takes_the_decoded_response(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(3)]
    assert session.request(urls, parse_func=lambda answer: answer["id"] * 10) == [0, 10, 20]


def test_each_return_type_gives_its_own_kind_of_value(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/id/1"), return_type="json") == {"id": 1}
    assert "Grüße" in session.request(server.url("/encoding/utf8"), return_type="text")
    assert session.request(server.url("/bytes/1000?seed=3"), return_type="content") == content(1000, 3)
    response = session.request(server.url("/status/418"), return_type="response")
    assert response.status_code == 418
    assert not response.ok
    assert response.http_version == "HTTP/1.1"


def test_a_response_tells_everything(session: ParallelSession, server: Server) -> None:
    url = server.url("/response-headers?X-Thing=one&X-Thing=two")
    response = session.request(url, return_type="response")
    assert response.status_code == 200
    assert response.url == url
    assert response.headers.get_all("x-thing") == ["one", "two"]
    assert response.headers["X-THING"] == "one, two"
    assert response.reason == "OK"
    assert response.is_json
    assert response.elapsed > 0


def test_failures_lose_nothing(session: ParallelSession, server: Server) -> None:
    urls = [server.url("/id/1"), server.url("/status/404"), "no url", server.url("/id/2")]
    with pytest.raises(exceptions.PartialFailureError) as failed:
        session.request(urls)
    results = failed.value.results
    assert [result.value for result in results] == [{"id": 1}, None, None, {"id": 2}]
    assert [type(result.error).__name__ for result in results] == [
        "NoneType",
        "HTTPStatusError",
        "ValidationError",
        "NoneType",
    ]
    assert session.request(urls, return_none_on_failure=True) == [{"id": 1}, None, None, {"id": 2}]


def test_hundreds_of_items_that_cannot_be_sent_hold_up_nothing(
    session: ParallelSession, server: Server
) -> None:
    urls = ["ftp://files.test/"] * 600 + [server.url("/id/1")]
    assert session.request(urls, return_none_on_failure=True) == [None] * 600 + [{"id": 1}]


def test_a_flaky_response_is_retried(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/flaky/once")) == {"key": "once", "count": 2}
    with pytest.raises(exceptions.RetryExhaustedError) as spent:
        session.request(server.url("/flaky/ever?fail=9"))
    assert spent.value.attempts == 2
    with pytest.raises(exceptions.HTTPStatusError):
        session.post(server.url("/flaky/post"))
    assert server.stats().by_path == {"/flaky/once": 2, "/flaky/ever": 2, "/flaky/post": 1}


def test_failed_items_are_retried_in_their_places(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/flaky/{number}?fail={2 * (number % 2)}") for number in range(4)]
    with pytest.raises(exceptions.PartialFailureError) as caught:
        session.request(urls, keys=list("abcd"), parse_func=lambda value: value["key"])
    assert caught.value.successes == 2
    assert session.retry_failed(caught.value) == {"a": "0", "b": "1", "c": "2", "d": "3"}
    assert server.stats().requests == 2 + 2 * 2 + 2
