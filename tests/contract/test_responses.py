"""Responses: heads, content codings, streamed bodies, and the limit on their size."""

from __future__ import annotations

import gzip
import sys
import threading
import zlib
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import exceptions
from parallel_requests.backends.content_codings import ACCEPT_ENCODING
from parallel_requests.backends.registry import is_installed
from tests.server.content import content
from tests.server.faults import close, read_request, repeat, response, send, stall, wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.session import ParallelSession
    from tests.server.control import Server
    from tests.server.faults import FaultServer


def test_whitespace_around_header_values_and_reasons_is_removed(
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


def test_content_codings_are_decoded(session: ParallelSession, server: Server) -> None:
    routes = {"gzip": "gzip", "deflate": "deflate", "brotli": "br", "zstd": "zstd"}
    announced = {name for name, coding in routes.items() if coding in ACCEPT_ENCODING.split(", ")}
    assert announced >= {"gzip", "deflate"}
    for name in announced:
        flag = {"gzip": "gzipped", "deflate": "deflated"}.get(name, name)
        assert session.request(server.url(f"/{name}"))[flag] is True


PLAIN = content(3_000)


def raw_deflated(body: bytes) -> bytes:
    """Without the header and the checksum that RFC 1950 requires, as some servers send it."""
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
def test_codings_are_decoded_as_servers_send_them(
    coding: str, coded: bytes, session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([repeat(read_request(), send(response(coded, f"Content-Encoding: {coding}")))])
    assert session.get(server.url(), return_type="content") == PLAIN


def test_a_response_in_http_1_0_is_accepted(
    session: ParallelSession, fault_server: Callable[..., FaultServer], backend: str
) -> None:
    old = response(b"old").replace(b"HTTP/1.1", b"HTTP/1.0")
    server = fault_server([read_request(), send(old), close()])
    answer = session.get(server.url(), return_type="response")
    assert answer.content == b"old"
    if backend in {"curl", "aiohttp"} or not is_installed("niquests"):  # urllib3-future does not tell
        assert answer.http_version == "HTTP/1.0"


def test_a_head_that_was_cut_is_truncated_and_retried(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\nX-One: 1\r\n"), close()])
    [result] = session.iter_results([server.url()], return_type="content")
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert isinstance(result.error.last_error, exceptions.TruncatedBody), result.error
    assert len(server.requests) == 2


def test_hundreds_of_headers_are_all_kept(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    fields = {f"x-{number}": str(number) for number in range(500)}
    answer = response(b"{}", *map(": ".join, fields.items()))
    server = fault_server([read_request(), send(answer)])
    headers = session.get(server.url(), return_type="response").headers
    assert {name: headers[name] for name in fields} == fields


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


def test_a_body_of_the_largest_size_fits_and_one_byte_more_does_not(
    session: ParallelSession, server: Server
) -> None:
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


def test_the_cap_applies_to_decoded_bytes(
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
def test_responses_of_these_statuses_have_no_body(
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


def test_the_largest_cap_there_can_be_lets_a_body_through(session: ParallelSession, server: Server) -> None:
    assert session.get(server.url("/range/10"), return_type="content", max_response_size=sys.maxsize)


def test_a_body_without_a_length_lasts_until_the_connection_ends(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(b"HTTP/1.1 200 OK\r\n\r\nabc"), close()])
    assert session.get(server.url(), return_type="content") == b"abc"


@pytest.mark.parametrize("length", [10**14, 10**18 - 1])
def test_no_memory_is_reserved_for_an_absurd_length(
    session: ParallelSession, fault_server: Callable[..., FaultServer], length: int
) -> None:
    server = fault_server(
        [read_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nx" % length), close()]
    )
    with pytest.raises(exceptions.RetryExhaustedError) as failed:
        session.get(server.url(), return_type="content")
    assert isinstance(failed.value.last_error, exceptions.TruncatedBody)
