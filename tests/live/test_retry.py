"""Retry, budget and pacing on real servers: nothing is lost, and no server is hit harder than promised."""

from __future__ import annotations

import itertools
import json
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import (
    ConfigurationError,
    HTTPStatusError,
    ParallelSession,
    PartialFailureError,
    RateLimitExceededError,
    RequestTimeout,
    Response,
    RetryExhaustedError,
    RetryPolicy,
    TruncatedBody,
)
from parallel_requests.gates.retry_budget import RetryBudget
from tests.server.faults import close, read_request, response, send

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parallel_requests import Request, Result
    from parallel_requests.models import Attempt
    from tests.lateness import Lateness
    from tests.server.control import LogEntry, Server
    from tests.server.faults import FaultServer
    from tests.server.proxy import Proxy

    OpenSession = Callable[..., ParallelSession]

QUICK = RetryPolicy(backoff_factor=0.01)


def failures_of(session: ParallelSession, urls: list[Any], **options: Any) -> PartialFailureError:
    """The error of a batch with failures."""
    with pytest.raises(PartialFailureError) as caught:
        session.request(urls, **options)
    return caught.value


def halves(entries: list[LogEntry]) -> tuple[list[LogEntry], list[LogEntry]]:
    middle = len(entries) // 2
    return entries[:middle], entries[middle:]


# -- retry


def test_row_36_an_outage_is_not_amplified(open_session: OpenSession, server: Server) -> None:
    session = open_session(concurrency=50, retry=RetryPolicy(max_retries=3, backoff_factor=0.001))
    error = failures_of(session, [server.url("/status/503")] * 2_000)

    stats = server.stats()
    assert stats.requests <= 2_450
    assert stats.requests == sum(result.attempts for result in error.results) == session.last_run.attempts
    assert [result.index for result in error.results] == list(range(2_000))
    for failure in error.exceptions:
        assert isinstance(failure, RetryExhaustedError)
        assert isinstance(failure.last_error, HTTPStatusError)
        assert failure.__cause__ is failure.last_error


def test_row_36_an_outage_is_not_amplified_by_replays(
    backend: str, open_session: OpenSession, fault_server: Callable[..., FaultServer]
) -> None:
    if backend == "curl":
        pytest.skip("libcurl replays on its own")
    down = fault_server(
        [read_request(), send(response(b"", status="502 Bad Gateway")), read_request(), close()]
    )
    count, concurrency = 300, 5
    session = open_session(concurrency=concurrency, retry=RetryPolicy(max_retries=3, backoff_factor=0.001))
    failures_of(session, [down.url()] * count)
    assert session.last_run.attempts <= 1.2 * count + RetryBudget.RESERVE + concurrency


def test_without_a_budget_every_retry_is_made(open_session: OpenSession, server: Server) -> None:
    session = open_session(retry_budget=False, retry=RetryPolicy(max_retries=3, backoff_factor=0.001))
    failures_of(session, [server.url("/status/503")] * 100)
    assert server.stats().requests == 400


def test_flaky_hosts_recover(open_session: OpenSession, server: Server) -> None:
    session = open_session(retry=RetryPolicy(max_retries=3, backoff_factor=0.1))
    values = session.get([server.url(f"/flaky/{n}?fail={1 + n % 2}") for n in range(30)])
    assert [(value["key"], value["count"]) for value in values] == [(str(n), 2 + n % 2) for n in range(30)]
    assert session.last_run.retries == 45


def test_a_waiting_retry_holds_no_slot(open_session: OpenSession, server: Server) -> None:
    session = open_session(concurrency=1, retry=RetryPolicy(backoff_factor=60, backoff_jitter=0))
    results = session.iter_results([server.url("/flaky/parked"), *[server.url("/static")] * 10])
    assert [result.index for result in itertools.islice(results, 10)] == list(range(1, 11))
    assert server.stats().by_path == {"/flaky/parked": 1, "/static": 10}
    results.close()


def test_a_retry_waits_for_its_backoff(open_session: OpenSession, server: Server) -> None:
    session = open_session(retry=RetryPolicy(backoff_factor=0.3, backoff_jitter=0))
    session.get(server.url("/flaky/parked"))
    first, second = server.arrivals(route="flaky")
    assert second - first >= 0.3


def test_a_post_is_sent_once(open_session: OpenSession, server: Server) -> None:
    session = open_session(retry=QUICK)
    with pytest.raises(HTTPStatusError):
        session.post(server.url("/flaky/post"), json={"n": 1})
    assert server.stats().requests == 1


def test_row_37_a_post_whose_response_is_lost_is_sent_once(
    open_session: OpenSession, fault_server: Callable[..., FaultServer]
) -> None:
    losing = fault_server([read_request(), close()])
    session = open_session(retry=QUICK)
    with pytest.raises(TruncatedBody):
        session.post(losing.url(), json={"n": 1})
    assert len(losing.requests) == 1


def test_a_post_is_retried_if_the_caller_allows_it(open_session: OpenSession, server: Server) -> None:
    session = open_session(retry=RetryPolicy(backoff_factor=0.01, allowed_methods={"POST"}))
    assert session.post(server.url("/flaky/post"), json={"n": 1})["count"] == 2


def test_conditions_see_the_response(open_session: OpenSession, server: Server) -> None:
    session = open_session(retry=QUICK)
    url = server.url("/status-seq/conditions?seq=404,503,200")
    assert session.get(url, retry_on=lambda outcome: getattr(outcome, "status_code", 0) == 404)["count"] == 3
    with pytest.raises(HTTPStatusError):
        session.get(server.url("/flaky/never"), dont_retry_on=lambda outcome: isinstance(outcome, Response))


# -- pacing


def test_retry_after_holds_back_the_whole_host_and_no_other(
    open_session: OpenSession, many_hosts: Server, lateness: Lateness
) -> None:
    hosts = in_seconds, as_date, free = range(3)
    session = open_session(concurrency=3, retry=QUICK)
    session.get(
        [
            many_hosts.url("/retry-after?seconds=1", listener=in_seconds),
            many_hosts.url("/retry-after?date=2&key=date", listener=as_date),
            *[many_hosts.url("/static?delay=0.05", listener=number) for number in hosts] * 10,
        ]
    )
    last_elsewhere = many_hosts.arrivals(host=many_hosts.listeners[free])[-1]
    late = lateness.worst + many_hosts.stats().max_lag
    for number in (in_seconds, as_date):
        told, *later = many_hosts.arrivals(host=many_hosts.listeners[number])
        told_at = time.time() - (time.monotonic() - told)
        # A date has whole seconds, and the clocks are not read at the same moment.
        seconds = 1.0 if number == in_seconds else int(told_at + 2) - told_at - 0.1
        # What was on its way when the answer came cannot be called back.
        early = [stamp for stamp in later if stamp < told + seconds]
        assert all(stamp < told + 0.1 + late for stamp in early)
        assert len(early) < 10
        assert len(later) == 11
        assert last_elsewhere < later[len(early)]


@pytest.mark.parametrize(
    ("seconds", "options"),
    [(600, {}), (5, {"retry": RetryPolicy(retry_after_max=1)}), (5, {"deadline": 2.0})],
    ids=["default-cap", "cap", "deadline"],
)
def test_a_pause_that_is_too_long_fails_at_once(
    open_session: OpenSession, server: Server, lateness: Lateness, seconds: int, options: dict[str, Any]
) -> None:
    began = time.monotonic()
    with pytest.raises(RateLimitExceededError) as caught:
        open_session().get(server.url(f"/retry-after?seconds={seconds}"), **options)
    assert time.monotonic() - began < 1 + lateness.slack()
    assert caught.value.retry_after == seconds
    assert caught.value.response is not None
    assert caught.value.response.json() == {"count": 1}
    assert server.stats().requests == 1


def test_a_spent_quota_is_waited_for(open_session: OpenSession, many_hosts: Server) -> None:
    session = open_session(concurrency=6, concurrency_per_host=1, retry=QUICK)
    styles = ("x", "fields", "draft")
    session.get(
        [
            many_hosts.url(f"/ratelimit?limit=2&window=0.5&style={style}&key={style}", listener=number)
            for number, style in enumerate(styles)
        ]
        * 4
    )
    assert many_hosts.stats().by_status == {"200": 12}, "nobody had to be told 429"


def test_concurrency_finds_its_own_level(open_session: OpenSession, server: Server) -> None:
    session = open_session(
        concurrency=40, adaptive=True, retry=RetryPolicy(max_retries=20, backoff_factor=0.02, backoff_max=0.1)
    )
    session.get([server.url("/crowded?most=10&delay=0.05")] * 400)
    [level] = session.last_run.concurrency_levels.values()
    assert 5 <= level <= 15
    overloads = server.stats().by_status["503"]
    assert overloads < 200, "with all 40 in flight there would be three for each call"


# -- nothing lost


def test_retry_failed_completes_the_batch(open_session: OpenSession, server: Server) -> None:
    session = open_session(max_retries=0)
    urls = [server.url(f"/flaky/{n}?fail={n % 2}") for n in range(10)]
    error = failures_of(session, urls)
    assert error.successes == 5
    assert [details.index for details in error.failed] == [1, 3, 5, 7, 9]
    values = session.retry_failed(error)
    assert [value["key"] for value in values] == [str(n) for n in range(10)]
    assert server.stats().requests == 15


def test_a_retry_keeps_the_options_of_the_call(
    open_session: OpenSession, server: Server, proxy: Callable[..., Proxy]
) -> None:
    running = proxy()
    session = open_session(max_retries=0, proxy=running.url, headers={"X-Team": "maps"})
    urls = [server.url(f"/flaky/{n}?fail=1") for n in range(2)]
    error = failures_of(
        session,
        urls,
        method=["GET", "PUT"],
        data=[None, b"body"],
        headers={"X-Team": None, "X-One": "1"},
        proxy=False,
        timeout=None,
    )
    assert {result.request.timeout for result in error.results} == {None}
    assert [value["key"] for value in session.retry_failed(error)] == ["0", "1"]
    assert running.requests == []
    first, second = (sorted(half, key=lambda entry: entry.path) for half in halves(server.log()))
    for before, after in zip(first, second, strict=True):
        assert (after.method, after.headers) == (before.method, before.headers)
    assert "x-team" not in first[0].headers


def test_retry_failed_tells_the_callers_functions_the_places_in_the_whole_batch(
    open_session: OpenSession, server: Server
) -> None:
    session = open_session(max_retries=0)
    urls = [server.url(f"/flaky/{n}?fail={n % 2}") for n in range(4)]
    bodies = [bytearray() for _ in urls]
    attempted: list[int] = []
    finished: list[int] = []

    def receive(chunk: bytes, request: Request) -> None:
        bodies[request.index] += chunk

    error = failures_of(
        session,
        urls,
        return_type="stream",
        stream_callback=receive,
        on_attempt=lambda request, _: attempted.append(request.index),
        on_result=lambda result: finished.append(result.index),
    )
    session.retry_failed(error)
    assert [json.loads(body)["key"] for body in bodies] == ["0", "1", "2", "3"]
    assert sorted(attempted) == sorted(finished) == [0, 1, 1, 2, 3, 3]


def test_retry_failed_keeps_keys_and_accepts_a_part_of_the_failures(
    open_session: OpenSession, server: Server
) -> None:
    session = open_session(max_retries=0)
    urls = [server.url(f"/flaky/{n}?fail={n % 2}") for n in range(4)]
    error = failures_of(session, urls, keys=list("abcd"), parse_func=lambda value: value["count"])
    part = error.subgroup(HTTPStatusError)
    assert isinstance(part, PartialFailureError)
    assert session.retry_failed(part) == {"a": 1, "b": 2, "c": 1, "d": 2}


def test_errors_that_cannot_be_retried_are_refused(
    open_session: OpenSession, server: Server, tmp_path: Path
) -> None:
    session = open_session(max_retries=0)
    with pytest.raises(PartialFailureError) as caught:
        session.download([server.url("/bytes/10"), server.url("/status/404")], tmp_path)
    with pytest.raises(ConfigurationError, match=r"call download\(\) again"):
        session.retry_failed(caught.value)
    unpickled = pickle.loads(pickle.dumps(failures_of(session, [server.url("/status/404")])))
    not_of_a_batch: Any = ExceptionGroup("a group of the caller's", [caught.value])
    with pytest.raises(ConfigurationError, match="pickled"):
        session.retry_failed(unpickled)
    with pytest.raises(ConfigurationError, match="not ExceptionGroup"):
        session.retry_failed(not_of_a_batch)


def test_items_that_fail_again_keep_their_places(open_session: OpenSession, server: Server) -> None:
    session = open_session(max_retries=0)
    urls = [server.url(f"/flaky/{n}?fail={2 * (n % 2)}") for n in range(6)]
    error = failures_of(session, urls)
    with pytest.raises(PartialFailureError) as caught:
        session.retry_failed(error)
    assert [result.index for result in caught.value.results] == [0, 1, 2, 3, 4, 5]
    assert [details.index for details in caught.value.failed] == [1, 3, 5]
    values = session.retry_failed(caught.value)
    assert [value["key"] for value in values] == [str(n) for n in range(6)]
    assert server.stats().requests == 12


def test_row_38_duplicate_urls_are_distinguished(open_session: OpenSession, server: Server) -> None:
    session = open_session(max_retries=0, concurrency=1)
    url = server.url("/status-seq/thrice?seq=200,500,200")
    error = failures_of(session, [url] * 3)
    assert [details.index for details in error.failed] == [1]
    assert error.get_failed_urls() == [url]
    assert list(error.failures) == [url]
    assert [result.ok for result in error.results] == [True, False, True]
    assert [result.index for result in pickle.loads(pickle.dumps(error)).results] == [0, 1, 2]


def test_hooks_and_history_tell_every_attempt(open_session: OpenSession, server: Server) -> None:
    attempts: list[tuple[Request, Attempt]] = []
    results: list[Result[Any]] = []
    session = open_session(
        retry=QUICK,
        on_attempt=lambda request, attempt: attempts.append((request, attempt)),
        on_result=results.append,
    )
    session.get([server.url("/flaky/told?fail=2"), server.url("/redirect/1")])

    assert sorted(result.index for result in results) == [0, 1]
    flaky = min(results, key=lambda result: result.index)
    assert [attempt for request, attempt in attempts if request.index == 0] == list(flaky.history)
    told = [(attempt.number, attempt.status_code) for attempt in flaky.history]
    assert told == [(1, 503), (2, 503), (3, 200)]
    assert sum(attempt.elapsed for attempt in flaky.history) <= flaky.elapsed
    redirected = max(results, key=lambda result: result.index)
    assert [attempt.status_code for attempt in redirected.history] == [302, 200]


def test_the_statistics_of_a_run_count_what_the_server_saw(open_session: OpenSession, server: Server) -> None:
    session = open_session(
        concurrency=4, retry=RetryPolicy(max_retries=1, backoff_factor=0.3, backoff_jitter=0)
    )
    urls: list[Any] = [
        *[server.url("/static")] * 20,
        server.url("/flaky/figures"),
        server.url("/status/404"),
        {"url": server.url("/hang"), "timeout": 0.3},
    ]
    failures_of(session, urls, dont_retry_on=RequestTimeout)

    run, stats = session.last_run, server.stats()
    assert (run.total, run.succeeded) == (23, 21)
    assert run.statuses == {200: 21, 404: 1}
    assert run.errors == {"HTTPStatusError": 1, "RequestTimeout": 1}
    assert (run.attempts, run.retries) == (stats.requests, 1)
    assert run.bytes_received >= 20 * 66
    assert run.seconds_waited >= 0.3
    assert 0 < run.p50 <= run.p95 <= run.p99 <= run.seconds
    assert run.connections == stats.connections
    assert str(run).startswith("21 of 23 succeeded")

    session.get([server.url("/static")] * 4)
    assert session.last_run.total == 4
    assert session.last_run.connections == server.stats().connections - stats.connections
