"""URLs and options become Requests, one by one; what is wrong stays with its item."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parallel_requests.exceptions import ConfigurationError, ValidationError
from parallel_requests.models import Request
from parallel_requests.options import Settings
from parallel_requests.planning import Planner
from parallel_requests.request_builder import RequestBuilder
from parallel_requests.user_agents import USER_AGENT
from tests.unit.planned import NO_ENVIRONMENT, SECRET, URL, header, plan, plan_one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class _SomethingElse:
    def __repr__(self) -> str:
        return "<something else>"

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")  # as arrays and data frames do


SOMETHING_ELSE = _SomethingElse()


class Unreadable:
    """An object without a text, such as one that reads it from a connection that is closed by now."""

    def __str__(self) -> str:
        raise LookupError(SECRET)


TOO_LONG = 10**5_000
"""Python refuses to write more than 4,300 digits."""


# -- the plain case


def test_a_url_alone_becomes_a_get_with_the_defaults() -> None:
    request = plan_one()
    assert (request.url, request.method, request.content, request.authority) == (URL, "GET", None, "api.test")
    assert (request.timeout, request.connect_timeout) == (30.0, 10.0)
    assert header(request, "user-agent") == USER_AGENT
    assert (request.proxy, request.verify, request.index) == (None, True, 0)


def test_requests_keep_the_order_and_number_of_their_urls() -> None:
    requests = plan([f"{URL}{number}" for number in range(5)])
    assert [request.index for request in requests] == [0, 1, 2, 3, 4]
    assert [request.url[-1] for request in requests] == list("01234")


def test_an_endless_generator_is_planned_as_far_as_it_is_asked() -> None:
    pulled: list[int] = []

    def endless() -> Iterator[str]:
        for number in itertools.count():
            pulled.append(number)
            yield f"{URL}{number}"

    requests = Planner(RequestBuilder(Settings(), NO_ENVIRONMENT)).plan(endless(), itertools.count(100))
    assert pulled == []
    first = list(itertools.islice(requests, 3))
    assert pulled == [0, 1, 2]
    assert [request.key for request in first] == [100, 101, 102]


# -- one for all, or one per URL

ONE_FOR_ALL: dict[str, Any] = {
    "method": "PUT",
    "params": {"q": "x"},
    "json": {"a": 1},
    "data": b"raw",
    "headers": {"X-Own": "1"},
    "timeout": 3.0,
    "proxy": "http://proxy.test:3128",
    "cookies": {"c": "1"},
}


def one_option(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


def seen(request: Request, name: str) -> Any:
    """The value of an option in a Request."""
    return {
        "method": request.method,
        "params": request.url.partition("?")[2],
        "json": request.content,
        "data": request.content,
        "headers": header(request, "x-own"),
        "timeout": request.timeout,
        "proxy": request.proxy,
        "cookies": header(request, "cookie"),
    }[name]


@pytest.mark.parametrize("name", ONE_FOR_ALL)
def test_one_value_applies_to_all_urls_and_a_list_has_one_for_each(name: str) -> None:
    value = ONE_FOR_ALL[name]
    together = plan([URL, URL], **{name: value})
    assert seen(together[0], name) == seen(together[1], name) == seen(plan_one(**{name: value}), name)
    other = "GET" if name == "method" else None
    first, second = plan([URL, URL], **one_option(name, [value, other]))
    assert seen(first, name) == seen(together[0], name)
    assert seen(second, name) == seen(plan_one(**({} if name == "method" else {name: None})), name)
    assert seen(first, name) != seen(second, name)


@pytest.mark.parametrize("name", ONE_FOR_ALL)
@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_list_of_the_wrong_length_is_refused_before_anything_is_sent(name: str, length: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} has {length} entries for 2 URLs") as caught:
        plan([URL, URL], **one_option(name, [ONE_FOR_ALL[name]] * length))
    assert caught.value.config_key == name


@pytest.mark.parametrize("name", ONE_FOR_ALL)
def test_a_list_beside_an_input_of_unknown_length_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not known"):
        plan(iter([URL]), **one_option(name, [ONE_FOR_ALL[name]]))


def test_a_body_that_is_a_list_goes_into_another_one() -> None:
    with pytest.raises(ConfigurationError, match="itself a list goes into another list"):
        plan([URL], json=[1, 2])
    assert plan_one(json=[[1, 2]]).content == b"[1,2]"
    assert plan([], json=[]) == [], "a list of bodies for no URLs at all"


def test_keys_go_with_their_urls_and_must_be_as_many() -> None:
    assert [request.key for request in plan([URL, URL], ["a", "b"])] == ["a", "b"]
    with pytest.raises(ConfigurationError, match="keys has 1 entries for 2 URLs"):
        plan([URL, URL], ["a"])
    for wrong in (5, "ab"):
        with pytest.raises(ConfigurationError, match="keys") as caught:
            plan([URL, URL], wrong)
        assert caught.value.config_key == "keys"


@pytest.mark.parametrize(
    "wrong", [{"url": URL, "headers": {"X-One": 1.5}}, "no url", "http://user:password@api.test"]
)
def test_every_item_takes_one_key(wrong: Any) -> None:
    requests = plan(iter([URL, wrong, URL]), iter(["a", "b", "c"]))
    assert [request.key for request in requests] == ["a", "b", "c"]


def test_keys_of_unknown_length_fail_only_the_items_they_do_not_fit() -> None:
    planner = Planner(RequestBuilder(Settings(), NO_ENVIRONMENT))
    requests = list(planner.plan([URL] * 5, iter(["a", [], "a", "b"]), keys_differ=True))
    assert [request.key for request in requests] == ["a", None, None, "b", None]
    said = ["", "hashable", "another URL has the key 'a'", "", "keys ended before urls did"]
    for request, words in zip(requests, said, strict=True):
        assert words in str(request.problem or "")
        assert (request.problem is None) is (words == "")


def test_keys_may_repeat_if_no_dict_is_returned() -> None:
    assert [request.key for request in plan([URL, URL], iter("aa"))] == ["a", "a"]


def test_a_tuple_is_per_url_if_it_can_be_nothing_else() -> None:
    first, second = plan(
        [URL, URL], method=("GET", "PUT"), headers=({"X-One": "1"}, None), proxy=(None, False)
    )
    assert (first.method, second.method) == ("GET", "PUT")
    assert (header(first, "X-One"), header(second, "X-One")) == ("1", None)
    with pytest.raises(ConfigurationError, match="method has 1 entries for 2 URLs"):
        plan([URL, URL], method=("GET",))


@pytest.mark.parametrize("name", ["params", "data"])
@pytest.mark.parametrize("wrong", [("id", "42"), (b"ab", b"cd"), ({"a": 1}, {"b": 2}), (("a", 1, 2),)])
def test_params_that_are_not_pairs_are_refused(name: str, wrong: Any) -> None:
    [request] = plan([URL], **one_option(name, wrong))
    assert "a tuple of (name, value) pairs; a list has an entry per URL" in str(request.problem)
    assert request.problem is not None
    assert request.problem.field_name == name


@pytest.mark.parametrize("name", ["params", "data"])
def test_a_list_of_pairs_is_refused_with_advice(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"pairs go into a tuple or a dict"):
        plan([URL], **one_option(name, [("a", "1"), ("b", "2")]))
    [request] = plan([URL], **one_option(name, [("id", "42")]))
    assert "a list has an entry per URL" in str(request.problem)


def test_a_wrong_entry_fails_its_item_only() -> None:
    requests = plan([URL] * 4, timeout=[1.0, 2.0, None, (1.0, 5.0)], method=["GET", "P UT", "put", "GET"])
    assert [request.problem is None for request in requests] == [True, False, True, True]
    assert requests[2].method == "PUT"
    assert (requests[0].connect_timeout, requests[0].timeout) == (1.0, 1.0)
    assert (requests[3].connect_timeout, requests[3].timeout) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("timeout", 0), ("timeout", "5"), ("timeout", (1, 2, 3)), ("method", 5), ("method", b"GET")],
)
def test_a_wrong_option_of_an_item_fails_that_item_only(name: str, wrong: object) -> None:
    first, second = plan([{"url": URL, name: wrong}, URL])
    assert first.problem is not None
    assert first.problem.field_name == name
    assert second.problem is None


# -- items that are more than a URL


def test_options_of_dict_items_override_those_of_the_call() -> None:
    first, second = plan(
        [
            {
                "url": URL,
                "method": "post",
                "json": {"a": 1},
                "headers": {"X-B": "2"},
                "key": "k",
                "meta": [5],
            },
            {"url": URL, "params": [("a", 1), ("a", 2)], "timeout": 1, "cookies": {"c": "1"}, "proxy": False},
        ],
        headers={"X-A": "1"},
        proxy="http://proxy.test",
    )
    assert (first.method, first.content, first.key, first.meta) == ("POST", b'{"a":1}', "k", [5])
    assert (header(first, "x-a"), header(first, "x-b"), first.proxy) == ("1", "2", "http://proxy.test")
    assert (second.url, second.timeout, second.proxy) == (f"{URL}?a=1&a=2", 1, None)
    assert header(second, "cookie") == "c=1"


MERGED: dict[str, dict[str, str]] = {
    "params": {"p": "1", "q": "1"},
    "headers": {"X-A": "1", "X-C": "1"},
    "cookies": {"a": "1", "c": "1"},
}


@pytest.mark.parametrize("as_list", [False, True])
def test_params_headers_and_cookies_of_dict_items_are_added_to_those_of_the_call(as_list: bool) -> None:
    options: dict[str, Any] = {name: [value] for name, value in MERGED.items()} if as_list else dict(MERGED)
    own = {"params": {"q": "2"}, "headers": {"x-c": "2"}, "cookies": {"b": "2", "c": "2"}}
    [request] = plan([{"url": URL, **own}], **options)
    assert [header(request, name) for name in ("x-a", "x-c", "cookie")] == ["1", "2", "a=1; c=2; b=2"]
    assert request.url == f"{URL}?p=1&q=2"


def test_a_header_that_a_call_leaves_out_is_sent_with_an_item_that_has_it() -> None:
    with_it, without = plan(
        [{"url": URL, "headers": {"user-agent": "own"}}, URL], headers={"User-Agent": None}
    )
    assert (header(with_it, "user-agent"), header(without, "user-agent")) == ("own", None)


@pytest.mark.parametrize("as_list", [False, True])
def test_none_in_a_dict_item_adds_nothing(as_list: bool) -> None:
    options: dict[str, Any] = {name: [value] for name, value in MERGED.items()} if as_list else dict(MERGED)
    [request] = plan([{"url": URL, "params": None, "headers": None, "cookies": None}], **options)
    assert [header(request, name) for name in ("x-a", "x-c", "cookie")] == ["1", "1", "a=1; c=1"]
    assert request.url == f"{URL}?p=1&q=1"


def test_pairs_and_text_replace_the_params_of_the_call() -> None:
    """They cannot be merged by name: one may be there more than once."""
    items = [{"url": URL, "params": (("q", "2"), ("q", "3"))}, {"url": URL, "params": "r=2"}]
    requests = plan(items, params={"p": "1"})
    assert [request.url for request in requests] == [f"{URL}?q=2&q=3", f"{URL}?r=2"]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({}, "url"),
        ({"url": None}, "url"),
        ({"url": URL, "jsn": 1}, "jsn"),
        ({"url": URL, "timeout": -1}, "timeout"),
    ],
)
def test_a_wrong_dict_item_names_its_field(item: dict[str, Any], field: str) -> None:
    bad, good = plan([item, URL])
    assert isinstance(bad.problem, ValidationError)
    assert bad.problem.field_name == field
    assert good.problem is None


def test_request_items_inherit_from_the_call_what_they_leave_open() -> None:
    [request] = plan(
        [Request(URL, "POST", {"X-B": "2"}, b"body", key="k", meta=5)],
        headers={"X-A": "1"},
        timeout=7.0,
        proxy="http://proxy.test",
    )
    assert (request.method, request.content, request.key, request.meta) == ("POST", b"body", "k", 5)
    assert (header(request, "x-a"), header(request, "x-b")) == ("1", "2")
    assert (request.timeout, request.proxy, request.authority) == (7.0, "http://proxy.test", "api.test")


def test_request_items_inherit_from_lists_with_one_entry_per_url_as_well() -> None:
    _, request, other = plan(
        [
            URL,
            Request(URL, headers={"X-B": "2", "X-C": "own"}),
            Request(URL, timeout=5.0, proxy="http://own.test"),
        ],
        headers=[None, {"X-A": "1", "X-C": "the call's"}, None],
        cookies=[None, {"a": "1"}, None],
        timeout=[1.0, 7.0, 1.0],
        proxy=[None, "http://proxy.test", "http://proxy.test"],
        method=["PUT", "PUT", "PUT"],
    )
    assert [header(request, name) for name in ("x-a", "x-b", "x-c", "cookie")] == ["1", "2", "own", "a=1"]
    assert (request.timeout, request.proxy, request.method) == (7.0, "http://proxy.test", "GET")
    assert (other.timeout, other.proxy) == (5.0, "http://own.test")


def test_planning_a_planned_request_again_changes_nothing() -> None:
    options: dict[str, Any] = {
        "params": {"a": 1},
        "headers": {"X-A": "1"},
        "cookies": {"c": "1"},
        "auth": ("joe", SECRET),
        "json": {"b": 2},
        "method": "POST",
    }
    once = plan_one(**options)
    again = plan_one(once, **options)
    for name in ("url", "method", "headers", "content", "timeout", "connect_timeout", "authority"):
        assert getattr(again, name) == getattr(once, name), name


def test_a_planned_request_keeps_its_proxy_and_whom_it_trusts() -> None:
    once = plan_one(
        proxy="http://proxy.test:1", verify_ssl=False, headers={"Proxy-Authorization": f"Basic {SECRET}"}
    )
    again = plan_one(once)
    assert (again.proxy, again.verify, again.proxy_authorization) == (
        "http://proxy.test:1",
        False,
        f"Basic {SECRET}",
    )


def test_a_request_that_could_not_be_sent_is_not_sent_the_second_time() -> None:
    [bad] = plan([{"url": URL, "headers": {"X": "a\r\nb"}}])
    [again] = plan([bad])
    assert again.problem is bad.problem is not None


# -- rows 26 and 27: bad input stays with its item


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        " ",
        5,
        b"http://api.test/",
        "ftp://x",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "//api.test/",
        "api.test",
        "http://api.test/a b",
        "http://api test/",
        "http://api.test/\n",
        "http://api.test:port/",
        "http://api.test:99999/",
        "http://api.test:-1/",
        "http://api.test:0/",
        "http://[::1/",
        "http://[bad]/",
        "http://a..b/",
        f"http://{'a' * 64}.test/",
        "http://exa\u2100mple/",
        "http://api.test/\ud800",
        "http://\ud800/",
        "http://\ud800:b@api.test/",
        [],
        SOMETHING_ELSE,
    ],
    ids=repr,
)
def test_row_26_a_bad_url_is_a_validation_error_on_its_item(url: Any) -> None:
    bad, good = plan([url, URL])
    assert isinstance(bad.problem, ValidationError)
    assert isinstance(bad.url, str)
    assert good.problem is None
    assert good.index == 1


@pytest.mark.parametrize(
    "url", ["http://joe:hun/ter2@h:x/", f"http://joe:{SECRET}@exa\u2100mple/", f"http://joe:a b{SECRET}@h/"]
)
def test_a_bad_url_does_not_give_its_password_away(url: str) -> None:
    [bad] = plan([url])
    assert bad.problem is not None
    for secret in (SECRET, "ter2"):
        assert secret not in str(bad.problem)
        assert secret not in repr(bad)
    assert bad.problem.__cause__ is None
    assert bad.problem.__context__ is None or SECRET not in str(bad.problem.__context__)


BAD_FIELDS: list[tuple[str, Any]] = [
    ("headers", {"X": "a\r\nInjected: 1"}),
    ("headers", {"X": "a\nb"}),
    ("headers", {"X": "a\0b"}),
    ("headers", {"X\r\n": "a"}),
    ("headers", {"X Y": "a"}),
    ("headers", {"": "a"}),
    ("headers", {"Ключ": "a"}),
    ("headers", {"X": "значение"}),
    ("headers", {"X": SOMETHING_ELSE}),
    ("headers", {"X": True}),
    ("headers", {5: "a"}),
    ("method", "GE T"),
    ("method", "GET\r\nX: 1"),
    ("method", "ГЕТ"),
    ("method", ""),
    ("cookies", {"a;b": "1"}),
    ("cookies", {"a": "1; b=2"}),
    ("cookies", {"a": "1\r\nX: 1"}),
    ("json", {"a": SOMETHING_ELSE}),
    ("json", {"a": float("nan")}),
    ("json", {"a": "\ud800"}),
    ("data", "\ud800"),
    ("data", {"a": "\ud800"}),
    ("params", "\ud800"),
    ("params", {"a": "\ud800"}),
    ("params", (5, 6)),
    ("params", (("a", "1"), ("b",))),
    ("data", (("a", "1"), ("b", "2", "3"))),
    *((name, {"a": value}) for name in ("params", "data") for value in ({"b": 1}, [["x"]], [{"b": 1}])),
    *((name, {("a", "b"): "1"}) for name in ("params", "data")),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=repr)
def test_row_27_a_bad_header_method_or_body_is_a_validation_error_on_its_item(name: str, value: Any) -> None:
    for requests in (plan([URL], **{name: value}), plan([{"url": URL, name: value}])):
        assert isinstance(requests[0].problem, ValidationError)
        assert requests[0].problem.field_name == name
    bad, good = plan([{"url": URL, name: value}, URL])
    assert bad.problem is not None
    assert good.problem is None


@pytest.mark.parametrize(
    "item",
    [
        {"timeout": TOO_LONG},
        {"method": TOO_LONG},
        {"headers": {"X": TOO_LONG}},
        {"headers": {TOO_LONG: "x"}},
        {"cookies": {"a": TOO_LONG}},
        {"params": {"a": TOO_LONG}},
        {"json": TOO_LONG},
        {TOO_LONG: 1},
    ],
    ids=lambda item: next(iter(item)) if TOO_LONG not in item else "name",
)
def test_row_27_a_number_that_python_does_not_show_is_a_validation_error_on_its_item(item: Any) -> None:
    bad, good = plan([{"url": URL, **item}, URL])
    assert isinstance(bad.problem, ValidationError)
    assert good.problem is None


@pytest.mark.parametrize("name", ["params", "data", "cookies"])
@pytest.mark.parametrize("value", [{"a": Unreadable()}, {Unreadable(): "a"}], ids=["value", "name"])
def test_row_27_an_object_whose_text_cannot_be_had_is_a_validation_error_on_its_item(
    name: str, value: Any
) -> None:
    [bad] = plan([URL], **{name: value})
    assert isinstance(bad.problem, ValidationError)
    bad, good = plan([{"url": URL, name: value}, URL])
    assert isinstance(bad.problem, ValidationError)
    assert bad.problem.field_name == name
    assert SECRET not in str(bad.problem)
    assert good.problem is None


@pytest.mark.parametrize("name", ["params", "data", "headers", "cookies", "timeout", "proxy", "method"])
def test_an_option_of_the_wrong_type_is_a_validation_error_on_its_item(name: str) -> None:
    bad, good = plan([{"url": URL, name: SOMETHING_ELSE}, URL])
    assert isinstance(bad.problem, ValidationError)
    assert bad.problem.field_name == name
    assert good.problem is None


@pytest.mark.parametrize("name", ["params", "data"])
@pytest.mark.parametrize(
    "of", [iter, io.StringIO, lambda text: [iter(text)]], ids=["iterator", "file", "list"]
)
def test_an_iterator_is_not_sent_as_its_repr(name: str, of: Callable[[str], object]) -> None:
    bad, good = plan([{"url": URL, name: {"a": of("text")}}, URL])
    assert isinstance(bad.problem, ValidationError)
    assert bad.problem.field_name == name
    assert good.problem is None


def test_json_that_is_nested_too_deeply_is_a_validation_error_on_its_item() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    [bad] = plan([{"url": URL, "json": deep}])
    assert isinstance(bad.problem, ValidationError)
    assert bad.problem.field_name == "json"


def test_each_item_has_an_error_of_its_own() -> None:
    first, second = plan([URL, URL], headers={"X": "a\r\nb"})
    assert first.problem is not second.problem


@pytest.mark.parametrize(
    "item",
    [
        {"headers": [("Authorization", SECRET)]},
        {"headers": {"Authorization": f"{SECRET}\n"}},
        {"cookies": f"sid={SECRET}"},
        {"params": f"token={SECRET}\ud800"},
        {"proxy": f"http://joe:{SECRET}@ bad"},
        {"data": {SECRET}},
    ],
)
def test_bad_input_does_not_give_secrets_away(item: dict[str, Any]) -> None:
    [bad] = plan([{"url": URL, **item}])
    assert bad.problem is not None
    assert SECRET not in str(bad.problem)


@pytest.mark.parametrize("url", [{}, {"url": None}, {"url": 5}, {"url": URL}, {"url": "not a url"}])
def test_an_item_that_cannot_be_sent_shows_its_url_alone(url: dict[str, Any]) -> None:
    secrets = {"headers": {"Authorization": f"Bearer {SECRET}"}, "cookies": {"sid": SECRET}, "data": SECRET}
    [request] = plan([{**url, **secrets, "misspelt": 1}])
    assert request.problem is not None
    assert SECRET not in f"{request!r} {request.url}"
    assert request.url == url.get("url") or not isinstance(url.get("url"), str)


@pytest.mark.parametrize(
    "item",
    [
        (URL, {"Authorization": f"Bearer {SECRET}"}),
        [URL, ("me", SECRET)],
        {"url": (URL, {"Authorization": f"Bearer {SECRET}"})},
        f"http://me:{SECRET}@api.test/".encode(),
    ],
)
def test_an_item_of_another_type_is_named_not_quoted(item: Any) -> None:
    [request] = plan([item])
    assert request.problem is not None
    assert SECRET not in f"{request!r} {request.url} {request.problem}"
    assert type(item.get("url") if isinstance(item, dict) else item).__name__ in str(request.problem)


@pytest.mark.parametrize(
    "item",
    [
        {"url": "not a url", "meta": 5},
        {"url": URL, "meta": 5, "misspelt": 1},
        {"meta": 5},
        Request("not a url", meta=5),
        Request(URL, "not a method", meta=5),
    ],
)
def test_an_item_that_cannot_be_sent_keeps_its_meta(item: Any) -> None:
    [request] = plan([item])
    assert request.problem is not None
    assert request.meta == 5


# -- the law: whatever comes in, one Request comes out for each

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=5,
)
ITEMS = st.one_of(
    ANYTHING,
    st.text(max_size=30).map(lambda tail: f"http://{tail}"),
    st.text(max_size=30).map(lambda tail: f"http://u{tail}@api.test/"),
    st.fixed_dictionaries(
        {"url": st.just(URL) | ANYTHING},
        optional=dict.fromkeys(
            (
                "method",
                "params",
                "json",
                "data",
                "headers",
                "cookies",
                "timeout",
                "proxy",
                "key",
                "meta",
                "x",
            ),
            ANYTHING,
        ),
    ),
)


@settings(max_examples=300)
@given(st.lists(ITEMS, max_size=6))
def test_every_item_becomes_one_request(items: list[Any]) -> None:
    requests = plan(items)
    assert [request.index for request in requests] == list(range(len(items)))
    for request in requests:
        if request.problem is not None:
            assert isinstance(request.problem, ValidationError)
            continue
        assert request.url.isascii()
        assert request.url.startswith(("http://", "https://"))
        assert not any(character <= " " for character in request.url)
        assert "@" not in urlsplit(request.url).netloc
        assert request.method.isascii()
        for name, value in request.headers.items():
            assert not set(f"{name}{value}") & set("\r\n\0")
            f"{name}{value}".encode("latin-1")
        assert request.content is None or isinstance(request.content, bytes)
