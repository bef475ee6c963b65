"""libcurl with more transfers than one pool of connections, or ``select``, can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pycurl")

from parallel_requests import exceptions
from parallel_requests.session import ParallelSession
from tests.server.faults import FaultServer, close, read_request, send
from tests.server.h2_faults import h2_context, speak_h2

if TYPE_CHECKING:
    from h2.connection import H2Connection

    from tests.server.control import Server
    from tests.server.tls import Certificates

HUNDREDS = 300


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_hundreds_in_flight_over_several_pools(server: Server, tls_server: Server, scheme: str) -> None:
    answering = tls_server if scheme == "https" else server
    with ParallelSession(backend="curl", concurrency=HUNDREDS, verify_ssl=str(tls_server.ca_file)) as session:
        for _ in range(2):
            answers = session.request([answering.url("/conn?delay=0.3")] * (2 * HUNDREDS))
            assert len(answers) == 2 * HUNDREDS
        stats = answering.stats()
        assert stats.max_in_flight == HUNDREDS
        assert stats.connections <= HUNDREDS, "connections are used again"
        assert session.backend.connections_opened == stats.connections
    while answering.stats().open_connections > 0:
        pass  # the server has yet to see that they are closed


def test_hundreds_share_few_connections_over_http2(h2_server: Server) -> None:
    with ParallelSession(backend="curl", concurrency=HUNDREDS, verify_ssl=str(h2_server.ca_file)) as session:
        session.request([h2_server.url("/conn?delay=0.3")] * (2 * HUNDREDS))
        stats = h2_server.stats()
        assert stats.max_in_flight == HUNDREDS
        assert stats.connections <= 6, "each of three pools has at most 128 in flight, 100 on a connection"


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize(
    "rest", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"], ids=["none", "a line", "a part"]
)
def test_a_head_cut_after_an_interim_one_is_no_answer(rest: bytes) -> None:
    script = [read_request(), send(EARLY_HINTS + rest), close()]
    with FaultServer(script) as server, ParallelSession(backend="curl", max_retries=0) as session:
        [result] = session.iter_results([server.url("/")], return_type="content")
        assert isinstance(result.error, exceptions.TruncatedBody)


def test_a_head_may_end_in_a_bare_newline() -> None:
    script = [read_request(), send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nhi"), close()]
    with FaultServer(script) as server, ParallelSession(backend="curl", max_retries=0) as session:
        assert session.get(server.url("/"), return_type="content") == b"hi"


def test_trailers_are_no_headers() -> None:
    trailers = b"Set-Cookie: t=1\r\nContent-Encoding: gzip\r\nLocation: /elsewhere\r\n\r\n"
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n" + trailers
    script = [read_request(), send(b"HTTP/1.1 200 OK\r\nX-Real: 1\r\n" + body), close()]
    with FaultServer(script) as server, ParallelSession(backend="curl", max_retries=0) as session:
        response = session.get(server.url("/"), return_type="response")
    assert response.content == b"hi"
    assert set(response.headers) == {"x-real", "transfer-encoding"}


def test_a_malformed_head_over_http2_is_not_cut(certificates: Certificates) -> None:
    def contradict(protocol: H2Connection, stream: int, _path: str) -> None:
        lengths = [("content-length", "5"), ("content-length", "6")]
        protocol.send_headers(stream, [(":status", "200"), *lengths], end_stream=False)

    server = FaultServer([speak_h2(contradict)], tls=h2_context(certificates.good))
    with server, ParallelSession(backend="curl", verify_ssl=str(certificates.ca_file)) as session:
        [result] = session.iter_results([server.url("/")], return_type="content")
    assert isinstance(result.error, exceptions.ProtocolError)
    assert len(server.requests) == 1, "never retried"
