"""Heads are read as by the standard library, but more strictly."""

from __future__ import annotations

import http.client
import io
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.backends.reading import MalformedChunk, MalformedHead, StrictResponse

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

Reader = TypeVar("Reader", bound=http.client.HTTPResponse)


class Wire:
    """The part of a socket that a response uses."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def makefile(self, _mode: str) -> io.BytesIO:
        """Return the bytes that have come."""
        return self.file


def read(kind: type[Reader], head: bytes, method: str = "GET") -> Reader:
    response = kind(cast("socket.socket", Wire(head)), method=method)
    response.begin()
    return response


def told(response: Any) -> dict[str, object]:
    names = ("version", "status", "reason", "chunked", "length", "will_close")
    return {name: getattr(response, name) for name in names} | {"headers": response.msg.items()}


def head_of(fields: Sequence[tuple[str, str]], status_line: str = "HTTP/1.1 200 OK") -> bytes:
    lines = [status_line, *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1")


tokens = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
texts = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f\x85\xa0\xad"), max_size=12
)
fields = st.one_of(
    st.tuples(tokens, st.lists(texts, max_size=3).map(" ".join).map(str.strip)),
    st.tuples(st.sampled_from(["Content-Length", "content-length"]), st.sampled_from(["0", "7", "007", "x"])),
    st.just(("Transfer-Encoding", "chunked")),
    st.tuples(st.just("Connection"), st.sampled_from(["close", "keep-alive", "Upgrade"])),
    st.just(("Keep-Alive", "timeout=5")),
)


@given(
    st.sampled_from(["HTTP/1.0", "HTTP/1.1"]),
    st.sampled_from([101, 200, 301, 404, 503, 999]),
    texts,
    st.lists(fields, max_size=8),
    st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_heads_are_read_as_by_the_standard_library(
    version: str, status: int, reason: str, fields: list[tuple[str, str]], method: str
) -> None:
    head = head_of(fields, f"{version} {status} {reason}")
    assert told(read(StrictResponse, head, method)) == told(read(http.client.HTTPResponse, head, method))


def test_a_header_may_go_on_in_the_next_line() -> None:
    response = read(StrictResponse, b"HTTP/1.1 200 OK\r\nA: one \r\n\t two\r\n  three\r\nB:\r\n four\r\n\r\n")
    assert response.msg.items() == [("A", "one two three"), ("B", "four")]


def test_a_continuation_line_before_any_header_is_malformed() -> None:
    with pytest.raises(MalformedHead):
        read(StrictResponse, b"HTTP/1.1 200 OK\r\n A: one\r\n\r\n")


def test_a_header_that_is_too_long_is_told_from_what_is_no_header() -> None:
    with pytest.raises(MalformedHead, match="longer than 65536 bytes"):
        read(StrictResponse, b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000 + b"\r\n\r\n")
    with pytest.raises(MalformedHead, match="not a header"):
        read(StrictResponse, b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n")


@pytest.mark.parametrize(
    "line", [b"A: " + b"a" * 1_000 + b"\r\n", b" a\r\n"], ids=["more headers", "one header"]
)
def test_endless_headers_are_not_read_to_the_end(line: bytes) -> None:
    wire = Wire(b"HTTP/1.1 200 OK\r\nA: a\r\n" + line * (400_000 // len(line)))
    response = StrictResponse(cast("socket.socket", wire))
    with pytest.raises(MalformedHead, match="more than 307200 bytes"):
        response.begin()
    assert wire.file.tell() < 320_000


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"HTT", http.client.IncompleteRead),
        (b"SSH", MalformedHead),
        (b"HTTP/1.1 200 OK\r\nA: a", http.client.IncompleteRead),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, MalformedHead),
        (CHUNKED + b"4", http.client.IncompleteRead),
        (CHUNKED + b"4;" + b"a" * 70_000, http.client.LineTooLong),
        (CHUNKED + b"\r\nabcd\r\n0\r\n\r\n", MalformedChunk),
    ],
    ids=["cut", "not HTTP", "cut header", "long header", "cut size", "long size", "no size"],
)
def test_what_broke_off_and_what_is_malformed_are_told_apart(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        read(StrictResponse, data).read()
    assert caught.type is error


def test_a_response_can_be_closed_after_its_socket() -> None:
    response = read(StrictResponse, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    response.fp.close()
    response.close()
    assert response.isclosed()
