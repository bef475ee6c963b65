"""URLs in, values out: what is sent and what comes back."""

from __future__ import annotations

import gzip
import ipaddress
import sys
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import exceptions
from parallel_requests.backends.base import is_installed
from parallel_requests.backends.body import ACCEPT_ENCODING
from parallel_requests.planning import USER_AGENT
from tests.server.content import content
from tests.server.faults import close, read_request, repeat, response, send, stall, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.models import Result
    from parallel_requests.session import ParallelSession
    from tests.server.control import Server
    from tests.server.faults import FaultServer


def test_a_list_keeps_its_order(session: ParallelSession, server: Server) -> None:
    numbers = list(range(200))
    answers = session.request([server.url(f"/id/{number}") for number in numbers])
    assert answers == [{"id": number} for number in numbers]
    assert sorted(server.ids()) == numbers


def test_one_url_gives_one_value(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/id/7")) == {"id": 7}


def test_one_url_that_may_fail(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/id/7"), return_none_on_failure=True) == {"id": 7}
    assert session.request(server.url("/status/404"), return_none_on_failure=True) is None


def test_a_wrong_return_type_is_found_before_anything_is_sent(
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
def test_wrong_keys_are_found_before_anything_is_sent(
    keys: list[Any], session: ParallelSession, server: Server
) -> None:
    with pytest.raises(exceptions.ConfigurationError, match="keys") as wrong:
        session.request([server.url("/id/1"), server.url("/id/2")], keys=keys)
    assert wrong.value.config_key == "keys"
    assert server.stats().requests == 0


def test_progress_is_told_call_by_call(session: ParallelSession, server: Server) -> None:
    seen: list[tuple[int, int | None]] = []
    urls = [server.url("/id/1"), "no url", server.url("/status/404")]
    for given in (urls, iter(urls)):
        session.request(
            given, return_none_on_failure=True, progress=lambda done, total: seen.append((done, total))
        )
    assert seen == [(1, 3), (2, 3), (3, 3), (1, None), (2, None), (3, None)]


def test_keys_that_repeat_or_run_out_cost_their_items_alone(session: ParallelSession, server: Server) -> None:
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


def test_an_input_that_raises_hands_over_what_was_fetched(session: ParallelSession, server: Server) -> None:
    def urls() -> Iterator[str]:
        for number in range(30):
            yield server.url(f"/id/{number}")
        raise KeyError("the table is gone")

    with pytest.raises(KeyError, match="the table is gone") as raised:
        session.request(urls())
    fetched: list[Result[Any]] = raised.value.results  # type: ignore[attr-defined]
    assert [result.value for result in fetched] == [{"id": number} for number in range(30)]
    assert session.last_run.results == tuple(fetched)
    assert session.last_run.total == 30


def test_parse_func_takes_the_decoded_answer(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(3)]
    assert session.request(urls, parse_func=lambda answer: answer["id"] * 10) == [0, 10, 20]


def test_return_types(session: ParallelSession, server: Server) -> None:
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


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(session: ParallelSession, server: Server, method: str) -> None:
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


def test_what_is_sent_with_every_request(session: ParallelSession, server: Server) -> None:
    session.request(server.url("/static"))
    [entry] = server.log()
    assert entry.headers["user-agent"] == USER_AGENT
    assert entry.headers["accept-encoding"] == ACCEPT_ENCODING
    assert entry.headers["accept"] == "*/*"
    assert entry.headers["host"] == server.listeners[0]
    assert set(entry.headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_a_header_that_is_none_is_not_sent(session: ParallelSession, server: Server) -> None:
    ours = {"User-Agent": None, "accept-encoding": None, "Accept": None}
    session.request(server.url("/static"), headers=ours)
    session.request(server.url("/static"), headers={"user-agent": "me"})
    session.post(server.url("/post"), data="text", headers={**ours, "Content-Type": None})
    bare, own, posted = (entry.headers for entry in server.log())
    assert set(bare) <= {"host", "connection"}
    assert (own["user-agent"], own["accept-encoding"]) == ("me", ACCEPT_ENCODING)
    assert set(posted) <= {"host", "connection", "content-length"}


def test_params(session: ParallelSession, server: Server) -> None:
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


def test_what_a_body_that_is_not_there_is_announced_as(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(response(b"fine")))])
    for method in ("GET", "POST", "PUT", "PATCH"):
        session.request(server.url(), method=method, return_type="content")
    lengths = [request.headers.get("content-length") for request in server.requests]
    assert lengths == [None, "0", "0", "0"]


def test_a_server_that_knows_nothing_of_expect(
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
def test_where_a_body_ends_is_not_for_the_caller_to_say(
    framing: dict[str, str], session: ParallelSession, server: Server
) -> None:
    with pytest.raises(exceptions.ValidationError, match="-"):
        session.post(server.url("/post"), data=b"body", headers=framing)
    assert session.post(server.url("/post"), data=b"body", headers={"content-length": "4"})["data"] == "body"
    assert server.stats().requests == 1


def test_a_tunnel_is_no_call(session: ParallelSession, server: Server) -> None:
    with pytest.raises(exceptions.ValidationError, match="CONNECT"):
        session.request(server.url("/id/1"), method="connect")
    assert session.request(server.url("/id/1")) == {"id": 1}
    assert server.stats().requests == 1


def test_what_is_around_a_value_is_no_part_of_it(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    head = b"HTTP/1.1 200 Sch\xf6n \r\nX-One:\t 1 \t\r\nTransfer-Encoding: chunked \r\n\r\n"
    server = fault_server([read_request(), send(head + b"4\r\nbody\r\n0\r\n\r\n"), close()])
    answer = session.get(server.url(), return_type="response")
    assert answer.content == b"body"
    assert answer.headers["x-one"] == "1"
    assert answer.headers["transfer-encoding"] == "chunked"
    if not is_installed("niquests"):  # urllib3-future has phrases of its own
        assert answer.reason == "Schön"


def test_json_data_and_headers(session: ParallelSession, server: Server) -> None:
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


def test_big_uploads(session: ParallelSession, server: Server) -> None:
    body = content(3_000_000)
    told = session.post([server.url("/echo-length")] * 3, data=body)
    assert [answer["length"] for answer in told] == [len(body)] * 3


def test_per_url_options(session: ParallelSession, server: Server) -> None:
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


def test_auth(session: ParallelSession, server: Server) -> None:
    url = server.url("/basic-auth/user/pass%20word")
    assert session.request(url, auth=("user", "pass word"))["authenticated"]
    assert session.request(url.replace("://", "://user:pass%20word@"))["authenticated"]
    with pytest.raises(exceptions.HTTPStatusError) as refused:
        session.request(url)
    assert refused.value.status_code == 401


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


def test_a_flaky_answer_is_tried_again(session: ParallelSession, server: Server) -> None:
    assert session.request(server.url("/flaky/once")) == {"key": "once", "count": 2}
    with pytest.raises(exceptions.RetryExhaustedError) as spent:
        session.request(server.url("/flaky/ever?fail=9"))
    assert spent.value.attempts == 2
    with pytest.raises(exceptions.HTTPStatusError):
        session.post(server.url("/flaky/post"))
    assert server.stats().by_path == {"/flaky/once": 2, "/flaky/ever": 2, "/flaky/post": 1}


def test_what_failed_is_tried_again_in_its_place(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/flaky/{number}?fail={2 * (number % 2)}") for number in range(4)]
    with pytest.raises(exceptions.PartialFailureError) as caught:
        session.request(urls, keys=list("abcd"), parse_func=lambda value: value["key"])
    assert caught.value.successes == 2
    assert session.retry_failed(caught.value) == {"a": "0", "b": "1", "c": "2", "d": "3"}
    assert server.stats().requests == 2 + 2 * 2 + 2


def test_codings_are_undone(session: ParallelSession, server: Server) -> None:
    routes = {"gzip": "gzip", "deflate": "deflate", "brotli": "br", "zstd": "zstd"}
    announced = {name for name, coding in routes.items() if coding in ACCEPT_ENCODING.split(", ")}
    assert announced >= {"gzip", "deflate"}
    for name in announced:
        flag = {"gzip": "gzipped", "deflate": "deflated"}.get(name, name)
        assert session.request(server.url(f"/{name}"))[flag] is True


PLAIN = content(3_000)


def raw_deflated(body: bytes) -> bytes:
    """Without the header and the checksum RFC 1950 asks for, as some servers send it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("coding", "coded"),
    [
        ("deflate", zlib.compress(PLAIN)),
        ("deflate", raw_deflated(PLAIN)),
        ("X-GZip", gzip.compress(PLAIN)),
        ("gzip", gzip.compress(PLAIN) + bytes(10)),
        ("gzip", gzip.compress(PLAIN[:1_000]) + gzip.compress(PLAIN[1_000:])),
        ("deflate , gzip", gzip.compress(zlib.compress(PLAIN))),
        ("identity", PLAIN),
    ],
    ids=["deflate", "raw deflate", "x-gzip", "padded gzip", "two members", "two codings", "identity"],
)
def test_codings_as_servers_send_them(
    coding: str, coded: bytes, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(response(coded, f"Content-Encoding: {coding}")))])
    assert session.get(server.url(), return_type="content") == PLAIN


def test_http_1_0(session: ParallelSession, fault_server: Callable[..., FaultServer], backend: str) -> None:
    old = response(b"old").replace(b"HTTP/1.1", b"HTTP/1.0")
    server = fault_server([read_request(), send(old), close()])
    answer = session.get(server.url(), return_type="response")
    assert answer.content == b"old"
    if backend in {"curl", "aiohttp"} or not is_installed("niquests"):  # urllib3-future does not tell
        assert answer.http_version == "HTTP/1.0"


def test_a_head_that_was_cut(session: ParallelSession, fault_server: Callable[..., FaultServer]) -> None:
    server = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\nX-One: 1\r\n"), close()])
    [result] = session.iter_results([server.url()], return_type="content")
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert isinstance(result.error.last_error, exceptions.TruncatedBody), result.error
    assert len(server.requests) == 2


def test_hundreds_of_headers(session: ParallelSession, fault_server: Callable[..., FaultServer]) -> None:
    fields = {f"x-{number}": str(number) for number in range(500)}
    answer = response(b"{}", *map(": ".join, fields.items()))
    server = fault_server([read_request(), send(answer)])
    headers = session.get(server.url(), return_type="response").headers
    assert {name: headers[name] for name in fields} == fields


def test_streaming(session: ParallelSession, server: Server) -> None:
    sizes = [1, 1_000, 200_000]
    chunks: dict[int, list[bytes]] = {size: [] for size in sizes}

    def take(chunk: bytes, request: Any) -> None:
        chunks[sizes[request.index]].append(chunk)

    urls = [server.url(f"/bytes/{size}") for size in sizes]
    session.request(urls, return_type="stream", stream_callback=take, chunk_size=4096)
    for size in sizes:
        assert b"".join(chunks[size]) == content(size)
        assert max(map(len, chunks[size])) <= 4096


def test_streamed_chunks_come_as_they_arrive(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    first_came = threading.Event()
    chunks: list[bytes] = []

    def take(chunk: bytes) -> None:
        chunks.append(chunk)
        first_came.set()

    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server = fault_server(
        [read_request(), send(head + b"5\r\nfirst\r\n"), wait(first_came), send(b"4\r\nlast\r\n0\r\n\r\n")]
    )
    session.request(server.url(), return_type="stream", stream_callback=take, timeout=5.0)
    assert chunks == [b"first", b"last"]


def test_max_response_size(session: ParallelSession, server: Server) -> None:
    url = server.url("/stream-bytes/50000")
    assert len(session.request(url, return_type="content", max_response_size=50_000)) == 50_000
    with pytest.raises(exceptions.BodyTooLarge):
        session.request(url, return_type="content", max_response_size=49_999)
    assert server.stats().requests == 2


@pytest.mark.parametrize("framing", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("return_type", ["content", "stream"])
def test_a_body_that_is_too_large_is_not_waited_for(
    return_type: Any, framing: str, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    beginning = gzip.compress(content(300_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n{framing}\r\n\r\n".encode()
    size = b"" if "Length" in framing else b"%x\r\n" % 1_000_000_000
    server = fault_server([read_request(), send(head + size + beginning), stall()])
    with pytest.raises(exceptions.BodyTooLarge):
        session.get(
            server.url(),
            return_type=return_type,
            stream_callback=None if return_type == "content" else lambda chunk: None,
            max_response_size=100_000,
            timeout=5.0,
        )


def test_the_cap_is_on_bytes_that_come_and_are_decoded(
    session: ParallelSession, server: Server, fault_server: Callable[..., FaultServer]
) -> None:
    assert (
        session.head(server.url("/range/50000"), max_response_size=100).headers["content-length"] == "50000"
    )
    body = content(50_000)
    coded = gzip.compress(body)
    assert len(coded) > len(body)
    packing = fault_server([repeat(read_request(), send(response(coded, "Content-Encoding: gzip")))])
    assert session.get(packing.url(), return_type="content", max_response_size=len(body)) == body
    with pytest.raises(exceptions.BodyTooLarge):
        session.get(packing.url(), return_type="content", max_response_size=len(body) - 1)


@pytest.mark.parametrize(
    "status",
    ["204 No Content", "304 Not Modified"],
)
def test_an_answer_of_these_statuses_has_no_body(
    status: str, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    for framing in ("Content-Length: 50", "Transfer-Encoding: chunked"):
        head = f"HTTP/1.1 {status}\r\n{framing}\r\nContent-Encoding: gzip\r\n\r\n".encode()
        server = fault_server([read_request(), send(head), stall()])
        assert session.get(server.url(), return_type="content", max_response_size=49, timeout=5.0) == b""


def test_a_body_of_no_bytes_fits_any_size(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    empty = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    server = fault_server([read_request(), send(empty), close()])
    assert session.get(server.url(), return_type="content", max_response_size=0) == b""


def test_the_largest_cap_there_can_be(session: ParallelSession, server: Server) -> None:
    assert session.get(server.url("/range/10"), return_type="content", max_response_size=sys.maxsize)
