"""Headers, Request, Response, Result: what they say, how they pickle, what they hide."""

from __future__ import annotations

import copy
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.exceptions import (
    DecodeError,
    HTTPStatusError,
    ParallelRequestsError,
    ParseError,
    PartialFailureError,
    RequestTimeout,
    RetryExhaustedError,
    TruncatedBody,
)
from parallel_requests.models import Attempt, Headers, Request, Response, Result, ReturnType
from parallel_requests.parsing.in_place import parse_failure
from parallel_requests.redaction import is_secret_header, redact, redact_headers
from tests.unit.driving import Answer, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2"
SOMETHING_ELSE: Any = 5
FULL_OF_SECRETS = (
    f"http://joe:{SECRET}@api.test/a?token={SECRET}&page=2&api_key={SECRET}&X-Amz-Signature={SECRET}"
)


def response(
    body: bytes = b"",
    content_type: str = "application/json",
    status: int = 200,
    url: str = "http://api.test/",
) -> Response:
    return Response(status, Headers({"Content-Type": content_type}), body, Request(url))


# -- headers


def test_headers_are_never_seen_half_parsed() -> None:
    class Interrupted(bytes):
        """Lets another thread read while this one parses."""

        is_parsed = False
        seen = ""

        def decode(self, *_: object) -> str:
            if not self.is_parsed:
                self.is_parsed = True
                self.seen = headers["x-last"]
            return bytes(self).decode("latin-1")

    block = Interrupted(b"HTTP/1.1 200 OK\r\nX-First: 1\r\nX-Last: 2\r\n\r\n")
    headers = Headers(block)
    assert headers["x-first"] == "1"
    assert block.seen == "2"


def test_headers_are_case_insensitive_with_lower_case_keys_in_order() -> None:
    headers = Headers([("Content-Type", "a"), ("X-B", "1"), ("x-b", "2")])
    assert list(headers) == ["content-type", "x-b"]
    assert headers["CONTENT-TYPE"] == "a"
    assert headers["x-B"] == "1, 2"
    assert headers.get_all("X-b") == ["1", "2"]
    assert headers.get_all("nothing") == []
    assert headers.get("nothing") is None
    assert "X-B" in headers
    assert "nothing" not in headers
    assert SOMETHING_ELSE not in headers
    assert len(headers) == 2
    assert dict(headers) == {"content-type": "a", "x-b": "1, 2"}
    with pytest.raises(KeyError):
        headers["nothing"]


def test_a_raw_header_block_is_parsed_when_looked_at() -> None:
    block = (
        b"HTTP/1.1 200 OK: fine\r\nContent-Type:  text/html \r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-L: caf\xe9\r\n\r\n"
    )
    headers = Headers(block)
    assert headers.may_have(b"set-cookie")
    assert not headers.may_have(b"retry-after")
    assert dict(headers) == {"content-type": "text/html", "set-cookie": "a=1, b=2", "x-l": "café"}
    assert headers.may_have(b"cookie")
    assert headers.get_all("set-cookie") == ["a=1", "b=2"]


@given(st.lists(st.tuples(st.sampled_from(["A", "a", "B-c"]), st.text("xyz ,", max_size=5))))
def test_headers_keep_every_value_through_a_pickle(fields: list[tuple[str, str]]) -> None:
    headers = Headers(fields)
    again = pickle.loads(pickle.dumps(headers))
    assert again == headers
    for name in headers:
        assert again.get_all(name) == [value for own, value in fields if own.lower() == name]


# -- responses


def test_a_response_has_what_users_of_requests_know() -> None:
    answer = response(b'{"a": 1}')
    assert (answer.status_code, answer.reason, answer.ok, answer.url) == (200, "OK", True, "http://api.test/")
    assert answer.json() == answer.json_data == {"a": 1}
    assert answer.is_json
    assert answer.text == '{"a": 1}'
    assert answer.http_version == "HTTP/1.1"
    assert answer.history == ()
    answer.raise_for_status()
    assert repr(answer) == "<Response [200 OK] http://api.test/>"
    assert response(status=299).reason == ""


@pytest.mark.parametrize("status", [400, 404, 503])
def test_raise_for_status_raises_from_400(status: int) -> None:
    answer = response(status=status)
    with pytest.raises(HTTPStatusError) as caught:
        answer.raise_for_status()
    assert caught.value.response is answer
    assert caught.value.status_code == status
    assert not answer.ok


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[" * 100_000, b"9" * 5_000, b"\xff\xfe\xfd", b'{"a": 1} x', b"{'a': 1}"],
    ids=["empty", "html", "deep", "digits", "bytes", "tail", "quotes"],
)
def test_row_30_what_is_not_json_is_a_decode_error_with_the_body_kept(body: bytes) -> None:
    answer = response(body)
    with pytest.raises(DecodeError) as caught:
        answer.json()
    assert caught.value.response is answer
    assert answer.content == body
    assert answer.json_data is None
    assert not answer.is_json
    assert len(str(caught.value)) < 400
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" [1, 2]\n", [1, 2]),
        (b"\xef\xbb\xbf[1]", [1]),
        ('"é"'.encode("utf-16"), "é"),
        ("[1]".encode("utf-16-le"), [1]),
        (b" null\n", None),
        ('{"ключ": "значение"}'.encode(), {"ключ": "значение"}),
        (b"1.5e3", 1500.0),
    ],
)
def test_json_is_decoded_in_all_its_forms(body: bytes, value: Any) -> None:
    answer = response(body)
    assert answer.json() == value
    assert answer.is_json


def test_the_error_for_a_page_in_place_of_json_says_what_it_is() -> None:
    with pytest.raises(DecodeError, match=r"is not JSON but text/html .*return_type='text'"):
        response(b"<html>", "text/html").json()
    with pytest.raises(DecodeError, match=r"is not JSON \(.*\)"):
        response(b"{", "application/json").json()
    with pytest.raises(DecodeError, match="is not JSON but of no stated type"):
        Response(200, {}, b"{", Request("http://api.test/")).json()
    with pytest.raises(DecodeError, match=r"is empty, so it is not JSON\. .*return_type='text'"):
        response(b"", "application/json").json()


def test_a_response_that_states_no_type_is_text_in_utf8() -> None:
    answer = Response(200, {}, "é".encode(), Request("http://api.test/"))
    assert (answer.encoding, answer.text, answer.is_json) == ("utf-8", "é", False)


def test_is_json_needs_the_content_type_too() -> None:
    assert not response(b"[1]", "text/html").is_json
    assert response(b"[1]", "application/problem+json; charset=utf-8").is_json
    assert response(b"[1]", "Application/JSON ; charset=utf-8").is_json


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/html; Charset=ISO-8859-1", "é".encode("latin-1"), "é"),
        ('text/html; charset="latin-1" ; x=1', "é".encode("latin-1"), "é"),
        ("text/html", b"\xff", "\ufffd"),
        ("text/html; charset=", "é".encode(), "é"),
        ("text/csv", "\ufeffa,é".encode(), "a,é"),
        ("text/csv; charset=latin-1", "\ufeffa,é".encode(), "a,é"),
        *(
            (f"text/csv; charset={name}", "\ufeffa,é".encode(name), "a,é")
            for name in ("utf-8", "utf-16-le", "utf-16-be")
        ),
        *(
            (f"text/html; charset={name}", "é-".encode() + b"\xff", "é-\ufffd")
            for name in ("no-such-charset", "base64", "no\0charset", "idna", "undefined")
        ),
        *((f"text/html; charset={name}", b"a-\\n", "a-\\n") for name in ("punycode", "unicode_escape")),
    ],
)
def test_text_is_decoded_as_the_content_type_says(content_type: str, body: bytes, text: str) -> None:
    assert response(body, content_type).text == text


# -- results


def test_a_result_unwraps_to_its_value_or_error() -> None:
    request = Request("http://api.test/", key="k", index=7)
    good = Result(request, 42)
    assert (good.index, good.key, good.ok, good.unwrap()) == (7, "k", True, 42)
    error = RequestTimeout("slow")
    bad: Result[int] = Result(request, error=error)
    assert not bad.ok
    with pytest.raises(RequestTimeout) as caught:
        bad.unwrap()
    assert caught.value is error
    assert repr(good) == "<Result [7] http://api.test/ ok>"
    assert repr(bad) == f"<Result [7] http://api.test/ {error!r}>"


def test_requests_are_compared_by_identity() -> None:
    first, second = Request("http://api.test/"), Request("http://api.test/")
    assert first != second
    assert {first: 1, second: 2}[first] == 1


def test_return_types_are_their_names() -> None:
    assert [str(kind) for kind in ReturnType] == ["json", "text", "content", "response", "stream"]


# -- copies


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_keeps_the_secrets_that_a_pickle_leaves_out(duplicate: Callable[[Any], Any]) -> None:
    """It is sent, or read, like the original."""
    request = Request("http://me:pw@api.test/?token=t", headers={"Authorization": "Bearer t"}, meta=[1])
    response = Response(200, Headers([("Set-Cookie", "a=1")]), b"[1]", request)
    for again in (duplicate(request), duplicate(Result(request, response=response)).request):
        assert again.url == request.url
        assert again.headers == request.headers
        assert again.meta == [1]
    for answer in (duplicate(response), duplicate(Result(request, response=response)).response):
        assert answer.url == request.url
        assert answer.headers["set-cookie"] == "a=1"
        assert (answer.json_data, answer.size, answer.request.url) == ([1], 3, request.url)


def test_a_deep_copy_shares_nothing_that_changes() -> None:
    request = Request("http://api.test/", headers={"X": "1"}, meta=[1])
    response = Response(200, Headers(), b"", request)
    again: Any = copy.deepcopy(Result(request, response=response))
    assert again.request is again.response.request  # as in the original
    again.request.headers["X"] = "2"
    again.request.meta.append(2)
    assert (request.headers, request.meta) == ({"X": "1"}, [1])


# -- pickles


def through_a_pickle(value: Any) -> Any:
    return [
        pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ][-1]


def test_everything_pickles() -> None:
    stage = Stage()
    result = stage.run(
        Request("http://api.test/", authority="api.test", key="k", meta={"row": 5}, index=3, content=b"body"),
        [TruncatedBody("cut"), Answer(302, {"Location": "/b"}), Answer(503), Answer(200, {"X": "1"}, b"[1]")],
    )
    again = through_a_pickle(result)
    assert (again.index, again.key, again.attempts, again.ok) == (3, "k", 4, True)
    assert again.request.meta == {"row": 5}
    assert (again.request.content, again.request.proxy_authorization) == (b"body", None)
    assert [attempt.status_code for attempt in again.history] == [None, 302, 503, 200]
    assert isinstance(again.history[0].error, TruncatedBody)
    assert again.response.json() == [1]
    assert again.response.headers["x"] == "1"
    assert [past.status_code for past in again.response.history] == [302]
    assert again.response.elapsed == pytest.approx(0.1)


def test_a_failed_result_pickles_with_its_causes() -> None:
    again = through_a_pickle(Stage().run(Request("http://api.test/", authority="api.test"), [Answer(503)]))
    assert isinstance(again.error, RetryExhaustedError)
    assert isinstance(again.error.__cause__, HTTPStatusError)
    assert again.error.__cause__.status_code == 503


# -- secrets


def secretive_result(*replies: Any) -> Result[Any]:
    request = Request(
        FULL_OF_SECRETS,
        authority="api.test",
        headers={
            "Authorization": f"Bearer {SECRET}",
            "Cookie": f"sid={SECRET}",
            "X-Api-Key": SECRET,
            "Accept": "*/*",
        },
        proxy=f"http://joe:{SECRET}@proxy.test:3128",
        proxy_authorization=f"Bearer {SECRET}",
    )
    return Stage().run(request, replies)


@pytest.mark.parametrize(
    "replies",
    [
        [Answer(200, {"Set-Cookie": f"sid={SECRET}", "X-Auth-Token": SECRET})],
        [Answer(404)],
        [Answer(503)],
        [Answer(407)],
        [TruncatedBody(f"{FULL_OF_SECRETS} was cut", url=FULL_OF_SECRETS)],
        [Answer(302, {"Location": f"http://joe:{SECRET}@other.test/?token={SECRET}"}), Answer(404)],
        [Answer(302, {"Location": f"ftp://joe:{SECRET}@other.test/?token={SECRET}"})],
        [Answer(429, {"Retry-After": "9999"})],
    ],
    ids=["200", "404", "503", "407", "cut", "redirected", "redirected to ftp", "told to wait"],
)
def test_no_secret_shows(replies: list[Any]) -> None:
    result = secretive_result(*replies)
    shown = [str(result), repr(result), repr(result.request), repr(result.response), repr(result.history)]
    if result.response is not None:
        shown += [repr(result.response.headers), repr(result.response.history)]
    if result.error is not None:
        group = PartialFailureError.from_results([result])
        shown += [str(result.error), repr(result.error), "".join(traceback.format_exception(result.error))]
        shown += [
            repr(vars(result.error)),
            str(group),
            repr(group),
            "".join(traceback.format_exception(group)),
        ]
        shown += [repr(group.failures), repr(group.get_failed_urls())]
        assert SECRET.encode() not in pickle.dumps(group)
    for text in shown:
        assert SECRET not in text
    assert SECRET.encode() not in pickle.dumps(result)
    assert "page=2" in repr(result), "what is no secret still shows"


@pytest.mark.parametrize(
    "text",
    [
        f"http://joe:{SECRET}@host/",
        f"http://{SECRET}@host/",
        f"http://joe:a@{SECRET}@host/",
        f"http://joe:a/{SECRET}@host/",
        f"http://joe:a#{SECRET}@host/",
        f"http://joe:a b{SECRET}@host/",
        f"see socks5://joe:{SECRET}@host:1 and https://{SECRET}@b",
        f"http://host/?access_token={SECRET}",
        f"http://host/?a=1&client_secret={SECRET}&b=2",
        f"http://host/#id_token={SECRET}",
        f"http://host/?PASSWORD={SECRET}",
        f"http://host/?user[password]={SECRET}",
        f"http://host/?sig={SECRET}",
        f"http://host/?authorization={SECRET}",
        f"http://host/?subscription-key={SECRET}",
        f"http://host/?AWSAccessKeyId={SECRET}",
        f"http://host/;PHPSESSID={SECRET}",
    ],
)
def test_secrets_in_urls_are_masked(text: str) -> None:
    assert SECRET not in redact(text)


@pytest.mark.parametrize(
    "url",
    [
        "http://host/@user/page",
        "http://host:8080/a@b",
        "http://[::1]:80/a@b",
        "https://registry.test/@scope/name?v=1",
        "http://host/?author=ann&page=2&keyword=x&authors[]=bob",
        "http://host/a=b/c",
        "mail me at joe@host.test",
    ],
)
def test_other_text_is_not_redacted(url: str) -> None:
    assert redact(url) == url


def test_redacting_takes_linear_time() -> None:
    """A search from each of its "://" to the end would take minutes."""
    text = "http://host/@" + "://a:" * 400_000
    assert redact(text) == text


@given(st.text(max_size=80))
def test_redacting_is_idempotent_and_never_fails(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "cookie",
        "Set-Cookie",
        "X-Api-Key",
        "X-Auth-Token",
        "Proxy-Authorization",
        "x-amz-security-token",
        "Ocp-Apim-Subscription-Key",
        "DD-APPLICATION-KEY",
    ],
)
def test_secret_headers_are_masked(name: str) -> None:
    assert is_secret_header(name)
    assert SECRET not in redact_headers({name: SECRET}).values()


@pytest.mark.parametrize(
    "name", ["Accept", "Author", "Idempotency-Key", "X-Request-Id", "Content-Type", "ETag"]
)
def test_other_headers_are_shown(name: str) -> None:
    assert not is_secret_header(name)
    assert redact_headers({name: "as it is", "Cookie": SECRET}) == {name: "as it is", "Cookie": "***"}


def test_an_attempt_keeps_no_secret() -> None:
    attempt = Attempt(1, None, ParallelRequestsError("x"), 0.1, FULL_OF_SECRETS)
    assert SECRET not in attempt.url
    assert SECRET not in repr(attempt)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("id"), "raised KeyError for http://api.test/: 'id'. The"),
        (ValueError("Not a page."), "raised ValueError for http://api.test/: Not a page. The"),
        (MemoryError(), "raised MemoryError for http://api.test/. The"),
    ],
)
def test_a_parse_error_says_what_was_raised(error: Exception, told: str) -> None:
    assert f"parse_func {told} response is kept in .response." == str(parse_failure(response(b""), error))


def test_a_parse_error_with_a_cause_that_will_not_pickle() -> None:
    class Local(Exception):
        """Cannot be found by its name."""

    error = ParseError("parse_func raised", response(b"kept"))
    error.__cause__ = Local("odd")
    again = pickle.loads(pickle.dumps(error))
    assert again.response.content == b"kept"
    assert "Local: odd" in str(again.__cause__)
