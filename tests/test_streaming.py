"""Streamed bodies, and bodies that are too large: little memory, and no byte is delivered twice."""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import os
import subprocess
import sys
import zlib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli  # type: ignore[import-untyped]
import pytest

from parallel_requests import (
    BackendError,
    BodyTooLarge,
    ConfigurationError,
    HTTPStatusError,
    ParallelRequestsError,
    ParallelSession,
    ProtocolError,
    Request,
    RetryExhaustedError,
    RetryPolicy,
    TruncatedBody,
)
from parallel_requests.backends.body import Body
from parallel_requests.backends.content_codings import ACCEPT_ENCODING
from parallel_requests.exchange import Send
from parallel_requests.models import Headers
from parallel_requests.policy import Policy
from tests.server.content import content
from tests.server.faults import close, read_request, redirect, repeat, response, send
from tests.server.zstd import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.control import Server
    from tests.server.faults import FaultServer

MIB = 1 << 20
ROOT = Path(__file__).parents[1]
QUICK = RetryPolicy(max_retries=2, backoff_factor=0.01)


@pytest.fixture
def session(open_session: Callable[..., ParallelSession]) -> ParallelSession:
    """A session that retries at once."""
    return open_session(retry=QUICK)


class Sink:
    """A callback that keeps what it is given, and starts over if it is allowed to."""

    def __init__(self, *, may_restart: bool = False) -> None:
        self.chunks: list[bytes] = []
        self.restarts = 0
        self.may_restart = may_restart

    def __call__(self, chunk: bytes, request: Request) -> None:
        self.chunks.append(chunk)

    def restart(self, request: Request) -> bool:
        self.restarts += 1
        if self.may_restart:
            self.chunks.clear()
        return self.may_restart

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


# -- streaming


@pytest.mark.parametrize("path", ["/range/1000000", "/stream-bytes/1000000", "/range/0", "/bytes/1"])
def test_chunks_are_the_body(path: str, session: ParallelSession, server: Server) -> None:
    sink = Sink()
    answer = session.request(server.url(path), return_type="stream", stream_callback=sink)
    assert answer.content == b""
    assert sink.body == content(int(path.rpartition("/")[2]))


@pytest.mark.parametrize("size", [1, 1000, 65_536])
def test_chunk_size_is_an_upper_bound(size: int, session: ParallelSession, server: Server) -> None:
    sink = Sink()
    session.request(server.url("/range/5000"), return_type="stream", stream_callback=sink, chunk_size=size)
    assert max(map(len, sink.chunks)) <= size
    assert sink.body == content(5000)


def test_a_coded_body_is_decoded(session: ParallelSession, server: Server) -> None:
    sink = Sink()
    session.request(server.url("/bomb?mib=2"), return_type="stream", stream_callback=sink)
    assert sink.body == bytes(2 * MIB)


def test_each_chunk_comes_with_its_request(session: ParallelSession, server: Server) -> None:
    digests = [hashlib.sha256() for _ in range(20)]
    urls = [server.url(f"/range/100000?seed={seed}") for seed in range(20)]
    session.request(
        urls,
        return_type="stream",
        stream_callback=lambda chunk, request: digests[request.index].update(chunk),
    )
    wanted = [hashlib.sha256(content(100_000, seed)).hexdigest() for seed in range(20)]
    assert [digest.hexdigest() for digest in digests] == wanted


def test_a_builtin_may_be_the_callback(session: ParallelSession, server: Server) -> None:
    with mmap.mmap(-1, 5000) as memory:  # its write() does not tell how many arguments it takes
        session.request(server.url("/range/5000"), return_type="stream", stream_callback=memory.write)
        assert memory[:] == content(5000)


def test_a_stream_needs_a_callback(session: ParallelSession, server: Server) -> None:
    with pytest.raises(ConfigurationError):
        session.request(server.url("/range/1"), return_type="stream")


def test_no_byte_of_a_redirect_or_an_error_is_delivered(session: ParallelSession, server: Server) -> None:
    sink = Sink()
    session.request(server.url("/bomb?mib=1&to=/range/1000"), return_type="stream", stream_callback=sink)
    assert sink.body == content(1000)
    with pytest.raises(HTTPStatusError) as caught:
        session.request(server.url("/anything-else"), return_type="stream", stream_callback=sink)
    assert caught.value.response.content, "an error's body is kept for the caller to read"
    assert sink.body == content(1000)


def test_a_retry_before_the_first_byte_delivers_the_body_once(
    session: ParallelSession, server: Server
) -> None:
    sink = Sink()
    session.request(server.url("/flaky/stream?fail=2"), return_type="stream", stream_callback=sink)
    assert json.loads(sink.body) == {"key": "stream", "count": 3}
    assert sink.restarts == 0


CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000)


def test_a_stream_that_breaks_off_fails(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server = fault_server([read_request(), send(CUT), close()])
    received: list[bytes] = []
    with pytest.raises(TruncatedBody):
        session.request(server.url(), return_type="stream", stream_callback=received.append)
    assert len(server.requests) == 1
    assert sum(map(len, received)) <= 100_000


def test_a_callback_that_refuses_a_restart_is_not_called_again(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server, sink = fault_server([read_request(), send(CUT), close()]), Sink()
    with pytest.raises(TruncatedBody):
        session.request(server.url(), return_type="stream", stream_callback=sink)
    assert (len(server.requests), sink.restarts) == (1, 1)


def test_a_callback_that_allows_a_restart_gets_the_whole_body_again(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    good = repeat(read_request(), send(response(bytes(200_000))))
    server, sink = fault_server([read_request(), send(CUT), close()], [good]), Sink(may_restart=True)
    session.request(server.url(), return_type="stream", stream_callback=sink)
    assert sink.body == bytes(200_000)
    assert (len(server.requests), sink.restarts) == (2, 1)


def test_a_restart_gets_the_request_that_the_chunks_came_with(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    class ByUrl:
        """Keeps bodies by the URLs they came from."""

        def __init__(self) -> None:
            self.bodies: dict[str, bytearray] = defaultdict(bytearray)

        def __call__(self, chunk: bytes, request: Request) -> None:
            self.bodies[request.url] += chunk

        def restart(self, request: Request) -> bool:
            self.bodies[request.url].clear()
            return True

    good = repeat(read_request(), send(response(bytes(200_000))))
    moved = [read_request(), redirect("/moved"), read_request(), send(CUT), close()]
    server, sink = fault_server(moved, [good]), ByUrl()
    session.request(server.url(), return_type="stream", stream_callback=sink)
    assert {url: len(body) for url, body in sink.bodies.items()} == {server.url("/moved"): 200_000}
    assert len(server.requests) == 3


def test_restart_is_not_called_when_no_retry_is_left(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    server, sink = fault_server([read_request(), send(CUT), close()]), Sink(may_restart=True)
    with pytest.raises(RetryExhaustedError):
        session.request(server.url(), return_type="stream", stream_callback=sink)
    assert (len(server.requests), sink.restarts) == (3, 2)
    assert len(sink.body) <= 100_000


def test_a_restart_that_raises_is_named_in_the_error_of_its_item(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    class Pipe(Sink):
        def restart(self, request: Request) -> bool:
            raise OSError("a pipe cannot start over")

    server = fault_server([read_request(), send(CUT), close()])
    with pytest.raises(
        ParallelRequestsError, match=r"restart.* raised OSError for http.*start over$"
    ) as caught:
        session.request(server.url(), return_type="stream", stream_callback=Pipe())
    assert not isinstance(caught.value, BackendError | RetryExhaustedError)
    assert isinstance(caught.value.__cause__, OSError)
    assert len(server.requests) == 1


def test_a_callback_that_raises_fails_its_item_only(session: ParallelSession, server: Server) -> None:
    def receive(chunk: bytes, request: Request) -> None:
        if request.index == 1:
            raise RuntimeError("the disk is full")

    urls = [server.url(f"/range/{size}") for size in (1000, 1001, 1002)]
    results = list(session.iter_results(urls, return_type="stream", stream_callback=receive))
    assert {result.index: result.ok for result in results} == {0: True, 1: False, 2: True}
    assert server.stats().by_path["/range/1001"] == 1


@pytest.mark.parametrize("kind", [OSError, TimeoutError, ValueError], ids=lambda kind: kind.__name__)
def test_an_exception_of_a_callback_is_not_taken_for_a_network_error(
    session: ParallelSession, server: Server, kind: type[Exception]
) -> None:
    class Full(Sink):
        def __call__(self, chunk: bytes, request: Request) -> None:
            raise kind("the disk is full")

    sink = Full(may_restart=True)
    message = rf"stream_callback raised {kind.__name__}.*full"
    with pytest.raises(ParallelRequestsError, match=message) as caught:
        session.request(server.url("/range/1003"), return_type="stream", stream_callback=sink)
    assert not isinstance(caught.value, BackendError | RetryExhaustedError)
    assert isinstance(caught.value.__cause__, kind)
    assert server.stats().by_path["/range/1003"] == 1


# -- memory


def peak(backend: str, url: str, *cap: str) -> dict[str, Any]:
    """What `tests.peak_memory` measures in a process of its own."""
    command = [sys.executable, "-m", "tests.peak_memory", backend, url, *cap]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    measured: dict[str, Any] = json.loads(output)
    return measured


def test_streaming_takes_little_memory(backend: str, server: Server) -> None:
    measured = peak(backend, server.url(f"/range/{256 * MIB}"))
    assert measured["count"] == 256 * MIB
    assert measured["growth"] <= 32 * MIB


@pytest.mark.soak
def test_streaming_a_gibibyte_takes_little_memory(backend: str, server: Server) -> None:
    measured = peak(backend, server.url(f"/range/{1024 * MIB}"))
    print(f"\n{backend}: {measured['growth'] / MIB:.1f} MiB over the base")
    assert measured["count"] == 1024 * MIB
    assert measured["growth"] <= 32 * MIB


@pytest.mark.parametrize(
    "path",
    [
        "/bomb?mib=64",
        "/bomb?mib=64&to=/get",
        f"/stream-bytes/{64 * MIB}",
    ],
)
def test_row_29_a_body_beyond_the_cap_takes_little_memory(path: str, backend: str, server: Server) -> None:
    measured = peak(backend, server.url(path), str(8 * MIB))
    assert measured["error"] == "BodyTooLarge"
    assert measured["growth"] <= 8 * MIB + 16_000_000


def test_a_body_within_the_cap_takes_little_more_than_itself(backend: str, server: Server) -> None:
    measured = peak(backend, server.url("/bomb?mib=60"), str(64 * MIB))
    assert measured["error"] == "NoneType"
    assert measured["growth"] <= 64 * MIB + 16_000_000


def test_the_cap_holds_for_streams_too(session: ParallelSession, server: Server) -> None:
    sink = Sink()
    with pytest.raises(BodyTooLarge):
        session.request(
            server.url("/bomb?mib=64"), return_type="stream", stream_callback=sink, max_response_size=MIB
        )
    assert len(sink.body) <= MIB


def test_a_body_as_large_as_the_cap_is_fine(session: ParallelSession, server: Server) -> None:
    for path in (f"/range/{MIB}", f"/stream-bytes/{MIB}", "/bomb?mib=1"):
        body = session.request(server.url(path), return_type="content", max_response_size=MIB)
        assert len(body) == MIB


# -- the decoders, piece by piece


def coded(coding: str) -> bytes:
    """256 MiB of zeros in a few KB, or in 256."""
    block = bytes(MIB)
    if coding == "br":
        br = brotli.Compressor(quality=9)
        return b"".join([*(br.process(block) for _ in range(256)), br.finish()])
    if coding == "gzip":
        return gzip.compress(bytes(256 * MIB), compresslevel=9)
    if coding == "deflate without a header":
        return zlib.compress(bytes(256 * MIB), 9, -zlib.MAX_WBITS)
    if coding == "zstd":
        compressor = zstd.ZstdCompressor()
        return b"".join([*(compressor.compress(block) for _ in range(256)), compressor.flush()])
    run = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"  # 128 KiB in 4 bytes (RFC 8878, 3.1.1.2)
    return b"\x28\xb5\x2f\xfd\x00\x50" + run * 2000


@pytest.mark.parametrize("coding", ["gzip", "deflate without a header", "br", "zstd", "zstd of runs"])
def test_decoders_produce_bounded_pieces(coding: str) -> None:
    largest = 0

    def receive(chunk: bytes, request: Request) -> None:
        nonlocal largest
        largest = max(largest, len(chunk))

    policy = Policy(deliver=receive, chunk_size=1 << 30)
    headers = Headers({"content-encoding": coding.partition(" ")[0]})
    body = Body(Send(Request("http://api.test/"), None, policy), 200, headers)
    body.feed(coded(coding))
    assert largest <= 2 * MIB  # brotli fills the last of its blocks


@pytest.mark.parametrize(("log_of_window", "fits"), [(23, True), (24, False)])
def test_zstd_takes_no_larger_window_than_browsers_do(log_of_window: int, fits: bool) -> None:
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: log_of_window})
    coded = compressor.compress(bytes(1000)) + compressor.flush()
    body = Body(Send(Request("http://api.test/"), None, Policy()), 200, Headers({"content-encoding": "zstd"}))
    if fits:
        body.feed(coded)
        assert body.finish() == bytes(1000)
    else:
        with pytest.raises(ProtocolError):
            body.feed(coded)


def test_every_coding_that_can_be_decoded_is_announced() -> None:
    assert ACCEPT_ENCODING == "gzip, deflate, br, zstd"


@pytest.mark.parametrize(
    "module",
    ["raise ImportError", "class Decompressor:\n    def process(self, data): ..."],
    ids=["missing", "older than 1.2"],
)
def test_br_is_not_announced_without_a_decoder_that_can_limit_its_output(module: str, tmp_path: Path) -> None:
    (tmp_path / "brotli.py").write_text(module)
    program = "from parallel_requests.backends.content_codings import ACCEPT_ENCODING as it; print(it)"
    printed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == "gzip, deflate, zstd\n"


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_many_small_members_are_one_body(coding: str) -> None:
    member = gzip.compress(b"ab") if coding == "gzip" else zstd.compress(b"ab")
    body = Body(Send(Request("http://api.test/"), None, Policy()), 200, Headers({"content-encoding": coding}))
    body.feed(member * 20_000)
    assert body.finish() == b"ab" * 20_000
