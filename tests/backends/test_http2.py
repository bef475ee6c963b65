"""HTTP/2 through curl and niquests: few connections, and nobody waits for anybody else's answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from parallel_requests import exceptions
from parallel_requests.backends.base import is_installed
from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.control import Server


@pytest.fixture(params=["curl", pytest.param("niquests", marks=pytest.mark.niquests)])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def session(backend: str, h2_server: Server) -> Iterator[ParallelSession]:
    with ParallelSession(
        backend=backend, concurrency=20, max_retries=0, verify_ssl=str(h2_server.ca_file)
    ) as opened:
        yield opened


def test_a_hundred_calls_share_one_connection(session: ParallelSession, h2_server: Server) -> None:
    began = time.monotonic()
    answers = session.request([h2_server.url("/conn?delay=0.2")] * 100)
    took = time.monotonic() - began
    assert {answer["http_version"] for answer in answers} == {"2"}
    stats = h2_server.stats()
    assert stats.connections == 1
    assert stats.max_in_flight == 20
    assert took <= 1.5 * 5 * 0.2


def test_the_version_is_told(session: ParallelSession, h2_server: Server) -> None:
    assert session.request(h2_server.url("/get"), return_type="response").http_version == "HTTP/2"


def test_http2_can_be_switched_off(backend: str, h2_server: Server) -> None:
    with ParallelSession(
        backend=backend, concurrency=20, http2=False, verify_ssl=str(h2_server.ca_file)
    ) as session:
        answers = session.request([h2_server.url("/conn?delay=0.2")] * 40)
    assert {answer["http_version"] for answer in answers} == {"1.1"}
    assert h2_server.stats().max_in_flight == 20


def test_http11_over_tls_reaches_a_hundred_connections(backend: str, tls_server: Server) -> None:
    with ParallelSession(backend=backend, concurrency=100, verify_ssl=str(tls_server.ca_file)) as session:
        session.request([tls_server.url("/static?delay=0.5")] * 200)
    stats = tls_server.stats()
    assert stats.max_in_flight == 100
    assert stats.connections <= 100


@pytest.mark.parametrize("path", ["/hang", "/slow-body?bytes=1000&interval=0.1"])
def test_a_slow_answer_holds_up_nobody(session: ParallelSession, h2_server: Server, path: str) -> None:
    urls = [h2_server.url(path), *[h2_server.url(f"/id/{number}?delay=0.01") for number in range(100)]]
    results = sorted(
        session.iter_results(urls, timeout=1.0, return_type="content"), key=lambda result: result.index
    )
    assert isinstance(results[0].error, exceptions.RequestTimeout)
    assert [result.value for result in results[1:]] == [b'{"id": %d}' % number for number in range(100)]
    assert max(result.elapsed for result in results[1:]) < 0.9
    assert session.request(h2_server.url("/id/7")) == {"id": 7}
    assert h2_server.stats().connections == 1, "the others' connection outlives a timeout"


def test_bodies_do_not_get_mixed_up(session: ParallelSession, h2_server: Server) -> None:
    from tests.server.content import content

    urls = [h2_server.url(f"/bytes/{20_000 + 1_000 * seed}?seed={seed}") for seed in range(60)]
    bodies = session.request(urls, return_type="content")
    assert bodies == [content(20_000 + 1_000 * seed, seed) for seed in range(60)]
    told = session.post(
        [h2_server.url(f"/id/{number}") for number in range(60)],
        json=[{"id": number} for number in range(60)],
    )
    assert told == [{"id": number} for number in range(60)]
    assert h2_server.stats().mismatched_ids == 0


def test_closing_stops_within_a_second(backend: str, h2_server: Server) -> None:
    import threading

    session = ParallelSession(backend=backend, concurrency=10, verify_ssl=str(h2_server.ca_file))
    results: list[object] = []
    caller = threading.Thread(
        target=lambda: results.extend(session.iter_results([h2_server.url("/hang")] * 30, timeout=None))
    )
    caller.start()
    while h2_server.stats().in_flight < 10:
        pass
    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began < 1.0
    assert len(results) == 30
