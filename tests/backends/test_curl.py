"""libcurl with more transfers than one pool of connections, or ``select``, can take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("pycurl")

from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from tests.server.control import Server

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
