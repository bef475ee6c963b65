"""Requests: methods, URLs, headers and bodies are sent as given."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import exceptions
from parallel_requests.backends.content_codings import ACCEPT_ENCODING
from parallel_requests.user_agents import USER_AGENT
from tests.memory import forget_peak, peak, resident
from tests.server.content import content
from tests.server.faults import read_request, repeat, response, send

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parallel_requests.planning import RequestItem
    from parallel_requests.session import ParallelSession
    from tests.server.control import Server
    from tests.server.faults import FaultServer


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_the_method_goes_out_as_given(session: ParallelSession, server: Server, method: str) -> None:
    told = session.request(server.url("/anything"), method=method)
    assert told["method"] == method
    assert server.stats().by_method == {method: 1}


def test_head_and_options_have_no_body(session: ParallelSession, server: Server) -> None:
    head = session.head(server.url("/get"))
    assert head.status_code == 200
    assert int(head.headers["content-length"]) > 0
    assert head.content == b""
    assert session.options(server.url("/anything")).status_code == 200
    assert session.request(server.url("/status/204"), return_type="content") == b""
    assert session.delete(server.url("/status/204")) is None
    assert session.request(server.url("/status/304"), return_type="content") == b""
    assert server.stats().connections == 1


def test_json_after_head_is_none(session: ParallelSession, server: Server) -> None:
    items: list[RequestItem] = [{"url": server.url("/get"), "method": method} for method in ("HEAD", "GET")]
    assert [value is None for value in session.request(items)] == [True, False]
    assert session.request(server.url("/get"), method="HEAD", parse_func=lambda value: [value]) == [None]


def test_what_is_sent_with_every_request(session: ParallelSession, server: Server) -> None:
    session.request(server.url("/static"))
    [entry] = server.log()
    assert entry.headers["user-agent"] == USER_AGENT
    assert entry.headers["accept-encoding"] == ACCEPT_ENCODING
    assert entry.headers["accept"] == "*/*"
    assert entry.headers["host"] == server.listeners[0]
    assert set(entry.headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_a_range_is_requested_uncompressed(session: ParallelSession, server: Server) -> None:
    """Varnish and others would send a part of what they have compressed."""
    own: list[dict[str, str | None]] = [{}, {"Accept-Encoding": "gzip"}, {"Accept-Encoding": None}]
    session.request([server.url("/static")] * 3, headers=[{"range": "bytes=5-9", **more} for more in own])
    sent = [entry.headers.get("accept-encoding", "") for entry in server.log()]
    assert sorted(sent) == ["", "gzip", "identity"]


def test_a_header_that_is_none_is_not_sent(session: ParallelSession, server: Server) -> None:
    ours = {"User-Agent": None, "accept-encoding": None, "Accept": None}
    session.request(server.url("/static"), headers=ours)
    session.request(server.url("/static"), headers={"user-agent": "me"})
    for body in ({"data": "text"}, {"json": ["value"]}):
        session.post(server.url("/post"), headers={**ours, "Content-Type": None}, **body)
    bare, own, *posted = (entry.headers for entry in server.log())
    assert set(bare) <= {"host", "connection"}
    assert (own["user-agent"], own["accept-encoding"]) == ("me", ACCEPT_ENCODING)
    assert {name for headers in posted for name in headers} <= {"host", "connection", "content-length"}


def test_a_header_may_be_empty(session: ParallelSession, server: Server) -> None:
    session.request(server.url("/static"), headers={"X-Empty": "", "Accept": ""})
    [entry] = server.log()
    assert (entry.headers["x-empty"], entry.headers["accept"]) == ("", "")


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT"])
def test_a_large_body_adds_no_header_but_its_length(
    session: ParallelSession, fault_server: Callable[..., FaultServer], method: str
) -> None:
    """By itself, libcurl adds the type of forms, and Expect from 1 MiB on."""
    server = fault_server([read_request(), send(response(b"fine"))])
    large = bytes(1_100_000)
    session.request(
        server.url(), method=method, data=large, headers={"Content-Type": None}, return_type="content"
    )
    [request] = server.requests
    assert (request.method, request.body) == (method, large)
    assert set(request.headers) <= {
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
    }


def test_params_are_added_to_the_query_of_the_url(session: ParallelSession, server: Server) -> None:
    told = session.request(server.url("/get?a=1"), params={"b": "zwei drei", "c": ["4", "5"]})
    assert told["args"] == {"a": "1", "b": "zwei drei", "c": ["4", "5"]}


def test_the_path_goes_out_as_it_is(session: ParallelSession, server: Server) -> None:
    session.request(server.url("/anything/a%2Fb/./c/../d//e;f=1?q=%41&r=/x?:@"))
    [entry] = server.log()
    assert entry.path == "/anything/a%2Fb/./c/../d//e;f=1"
    assert entry.query == "q=%41&r=/x?:@"


@pytest.mark.parametrize(("rest", "query"), [("", ""), ("?a=1", "a=1"), ("?a=/b", "a=/b")])
def test_a_url_without_a_path_asks_for_the_root(
    session: ParallelSession, server: Server, rest: str, query: str
) -> None:
    session.request([server.url("") + rest] * 2, return_type="response")
    assert [(entry.path, entry.query) for entry in server.log()] == [("/", query)] * 2
    assert server.stats().connections <= 2


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ('/a[1]|b?c[]="d"', "/a%5B1%5D%7Cb?c%5B%5D=%22d%22"),
        ("/a%2fb?c=%e4", "/a%2Fb?c=%E4"),
        ("/100%?50%&%zz", "/100%25?50%25&%25zz"),
        ("/a?", "/a"),
    ],
    ids=["not allowed", "small letters", "no escape", "empty query"],
)
def test_what_a_url_may_not_have_is_percent_encoded(
    given: str, sent: str, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(response(b"fine")))])
    session.get(server.url(given), return_type="content")
    assert [request.target for request in server.requests] == [sent]


def test_the_content_length_of_requests_without_a_body(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(response(b"fine")))])
    for method in ("GET", "POST", "PUT", "PATCH"):
        session.request(server.url(), method=method, return_type="content")
    lengths = [request.headers.get("content-length") for request in server.requests]
    assert lengths == [None, "0", "0", "0"]
    assert not any("content-type" in request.headers for request in server.requests)


def test_a_body_is_sent_to_a_server_that_knows_nothing_of_expect(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(response(b"fine"))])
    expecting = {"Expect": "100-continue"}
    answer = session.post(server.url(), data=b"body", headers=expecting, timeout=5.0, return_type="content")
    assert answer == b"fine"
    assert [request.body for request in server.requests] == [b"body"]


def test_an_address_is_named_in_brackets(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(response(b"fine"))])
    session.get(server.url(host="[::ffff:127.0.0.1]"), return_type="content")
    spelt = ipaddress.IPv6Address("::ffff:127.0.0.1")  # Python 3.13 spells it otherwise than 3.11
    assert [request.headers["host"] for request in server.requests] == [f"[{spelt}]:{server.port}"]


@pytest.mark.parametrize(
    "framing",
    [
        {"Content-Length": "2"},
        {"content-length": "9"},
        {"Content-Length": ""},
        {"Transfer-Encoding": "chunked"},
    ],
    ids=["short", "long", "empty", "chunked"],
)
def test_framing_headers_of_the_caller_are_refused(
    framing: dict[str, str], session: ParallelSession, server: Server
) -> None:
    with pytest.raises(exceptions.ValidationError, match="-"):
        session.post(server.url("/post"), data=b"body", headers=framing)
    assert session.post(server.url("/post"), data=b"body", headers={"content-length": "4"})["data"] == "body"
    assert session.get(server.url("/get"), headers={"Content-Length": "0"})["args"] == {}
    assert server.stats().requests == 2


def test_connect_is_refused_as_a_method(session: ParallelSession, server: Server) -> None:
    with pytest.raises(exceptions.ValidationError, match="CONNECT"):
        session.request(server.url("/id/1"), method="connect")
    assert session.request(server.url("/id/1")) == {"id": 1}
    assert server.stats().requests == 1


def test_json_forms_text_and_bytes_arrive_as_what_they_are(session: ParallelSession, server: Server) -> None:
    url = server.url("/post")
    assert session.post(url, json={"name": "Grüße", "n": [1, None]})["json"] == {
        "name": "Grüße",
        "n": [1, None],
    }
    assert session.post(url, data={"a": "1", "b": "2 3"})["form"] == {"a": "1", "b": "2 3"}
    assert session.post(url, data="text")["data"] == "text"
    assert session.post(url, data=b"bytes", headers={"X-One": "1"})["headers"]["X-One"] == "1"
    assert session.post(url)["data"] == ""
    lengths = [entry.headers.get("content-length") for entry in server.log()]
    assert lengths[2:] == ["4", "5", "0"]


def test_big_bodies_arrive_whole(session: ParallelSession, server: Server) -> None:
    body = content(3_000_000)
    told = session.post([server.url("/echo-length")] * 3, data=body)
    assert [answer["length"] for answer in told] == [len(body)] * 3


def test_a_big_body_is_sent_without_a_copy_of_it(session: ParallelSession, server: Server) -> None:
    url, size = server.url("/echo-length"), 64 << 20
    body = b"x" * size
    session.post(url, data=body[: 1 << 20])  # imports, connects and fills buffers
    forget_peak()
    before = resident()
    assert session.post(url, data=body)["length"] == size
    assert peak() - before < size / 2


def test_a_list_of_options_has_one_for_each_url(session: ParallelSession, server: Server) -> None:
    told = session.request(
        [server.url("/anything")] * 3,
        method=["GET", "POST", "PUT"],
        params=[{"n": "1"}, None, {"n": "3"}],
        json=[None, {"n": 2}, None],
        headers=[{"X-N": "1"}, {"X-N": "2"}, {"X-N": "3"}],
        cookies=[{"c": "1"}, None, None],
    )
    assert [answer["method"] for answer in told] == ["GET", "POST", "PUT"]
    assert [answer["args"] for answer in told] == [{"n": "1"}, {}, {"n": "3"}]
    assert [answer["json"] for answer in told] == [None, {"n": 2}, None]
    assert [answer["headers"]["X-N"] for answer in told] == ["1", "2", "3"]
    assert [answer["headers"].get("Cookie") for answer in told] == ["c=1", None, None]


def test_credentials_are_given_by_auth_or_in_the_url(session: ParallelSession, server: Server) -> None:
    url = server.url("/basic-auth/user/pass%20word")
    assert session.request(url, auth=("user", "pass word"))["authenticated"]
    assert session.request(url.replace("://", "://user:pass%20word@"))["authenticated"]
    with pytest.raises(exceptions.HTTPStatusError) as refused:
        session.request(url)
    assert refused.value.status_code == 401


def test_row_22_a_netrc_is_read_when_asked_for_and_never_over_the_callers_authorization(
    open_session: Callable[..., ParallelSession],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    session, own = open_session(), {"Authorization": "Bearer own"}
    session.request(server.url("/static"))
    session.request(server.url("/static"), auth="netrc")
    session.request(server.url("/static"), auth="netrc", headers=own)
    session.request(server.url("/static"), headers=own)
    sent = [entry.headers.get("authorization") for entry in server.log()]
    assert sent == [None, "Basic dXNlcjpzZWNyZXQ=", "Bearer own", "Bearer own"]


def test_row_27_nothing_is_sent_if_a_header_or_method_is_invalid(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(response(b"1")))])
    impossible: list[Any] = [
        {"headers": {"X-One": "1\r\nX-Two: 2"}},
        {"headers": {"X-One\n": "1"}},
        {"headers": {"X-One": "\u0437\u043d\u0430\u043a"}},
        {"method": "GET / HTTP/1.1\r\nX-One: 1"},
        {"method": "\u0413\u0415\u0422"},
    ]
    items: list[Any] = [{"url": server.url("/bad"), **item} for item in impossible]
    results = list(session.iter_results([*items, server.url("/good")], ordered=True))
    assert [type(result.error) for result in results] == [exceptions.ValidationError] * 5 + [type(None)]
    assert [request.target for request in server.requests] == ["/good"]
    assert server.connections == 1
