"""Decoding and ``parse_func`` in processes; the server's count proves that nothing is fetched twice."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection as PipeEnd
from multiprocessing.connection import wait as wait_for_pipes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import (
    ConfigurationError,
    DeadlineExceededError,
    DecodeError,
    ParallelRequests,
    ParallelSession,
    ParseError,
    PartialFailureError,
    RunStoppedError,
    runtime,
)
from parallel_requests.models import Headers, Request, Response, Result, ReturnType
from parallel_requests.parsing import processes
from parallel_requests.parsing.items import Item, Job
from parallel_requests.parsing.processes import ParsePool
from parallel_requests.parsing.work import Work, plan_work
from parallel_requests.parsing.workers import Child
from parallel_requests.policy import Policy
from tests import parse_functions as functions
from tests.failures import partial_failure
from tests.leaks import children
from tests.polling import until
from tests.server.faults import close, read_request, response, send, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.faults import Connection, FaultServer

ENGINES = ("urllib3", "aiohttp", "curl")
TROUBLES = (
    "death",
    "exit",
    "unpicklable result",
    "unpicklable result that says nothing",
    "one-way result",
    "one-way result that says nothing",
    "unpicklable exception",
    "unpicklable parse error",
    "exception that does not round-trip",
    "exception without a text",
)
_LONG_ENOUGH = 40.0


@pytest.fixture
def session() -> Iterator[ParallelSession]:
    with ParallelSession(backend="urllib3", parse_processes=2) as opened:
        yield opened


@pytest.fixture
def callers_pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def ids(server: Server, count: int) -> list[str]:
    return [server.url(f"/id/{number}") for number in range(count)]


# -- what comes out


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_values_come_in_order_and_from_other_processes(server: Server, backend: str) -> None:
    with ParallelSession(backend=backend, parse_processes=2) as session:
        answers = session.request(ids(server, 200), parse_func=functions.with_pid)
    assert [value for value, _ in answers] == [{"id": number} for number in range(200)]
    assert os.getpid() not in {pid for _, pid in answers}
    assert server.stats().requests == 200


def test_the_processes_serve_one_batch_after_the_other(server: Server, session: ParallelSession) -> None:
    pids = set()
    for _ in range(3):
        pids |= {pid for _, pid in session.request(ids(server, 20), parse_func=functions.with_pid)}
    assert len(pids) <= 2


def test_without_parse_func_they_decode(server: Server, session: ParallelSession) -> None:
    assert session.request(ids(server, 20)) == [{"id": number} for number in range(20)]


@pytest.mark.parametrize("return_type", [ReturnType.JSON, ReturnType.TEXT, ReturnType.CONTENT])
def test_they_get_what_a_parse_func_in_place_gets(
    server: Server, session: ParallelSession, return_type: ReturnType
) -> None:
    url = server.url("/response-headers?content-type=text/plain%3Bcharset=latin-1&name=%C3%A9")
    value, pid = session.request(url, return_type=return_type, parse_func=functions.with_pid)
    assert pid != os.getpid()
    with ParallelSession(backend="urllib3") as other:
        assert value == other.request(url, return_type=return_type)


@pytest.mark.parametrize(("method", "path"), [("HEAD", "/get"), ("DELETE", "/status/204")])
def test_a_response_that_has_no_body_is_none_there_too(
    server: Server, session: ParallelSession, method: str, path: str
) -> None:
    value, pid = session.request(server.url(path), method=method, parse_func=functions.with_pid)
    assert value is None
    assert pid != os.getpid()
    assert session.request(server.url(path), method=method, return_type="json") is None


@pytest.mark.parametrize("path", ["/html", "/bytes/0"])
def test_a_decode_error_says_the_same_there(server: Server, session: ParallelSession, path: str) -> None:
    with pytest.raises(DecodeError) as there:
        session.get(server.url(path))
    with ParallelSession(backend="urllib3") as other, pytest.raises(DecodeError) as here:
        other.get(server.url(path))
    assert str(there.value) == str(here.value)


def test_of_the_request_no_secret_travels(server: Server, session: ParallelSession) -> None:
    seen = session.post(
        server.url("/id/5?token=hidden"),
        json={"id": 5},
        auth=("me", "secret"),
        return_type="response",
        parse_func=functions.what_travelled,
    )
    url, *others = seen["request"]
    assert url.endswith("/id/5?token=***")
    assert others == [{}, None, None, None]
    assert seen["status"] == 200
    assert seen["id"] == 5


def test_a_response_has_its_history_there(server: Server, session: ParallelSession) -> None:
    seen = session.get(server.url("/redirect/2"), return_type="response", parse_func=functions.what_travelled)
    assert seen["history"] == [302, 302]


def test_a_response_is_there_what_it_is_here(
    fault_server: Callable[..., FaultServer], session: ParallelSession
) -> None:
    answer = b"HTTP/1.0 299 Quite\r\nX-Many: 1\r\nX-Many: 2\r\nContent-Length: 2\r\n\r\n{}"
    server = fault_server([read_request(), send(answer), close()])
    results = session.iter_results(
        [server.url()] * 2, method="DELETE", return_type="response", parse_func=functions.itself
    )
    for result in results:
        there, here = result.unwrap(), result.response
        assert isinstance(there, Response)
        assert here is not None
        assert there is not here
        assert (there.status_code, there.reason, there.http_version) == (299, "Quite", "HTTP/1.0")
        assert (there.content, there.elapsed) == (here.content, here.elapsed)
        assert there.headers.get_all("x-many") == ["1", "2"]
        assert (there.request.method, there.request.index) == ("DELETE", result.index)


@pytest.mark.parametrize("code", ["lambda", "closure"])
def test_lambdas_and_closures_travel_with_cloudpickle(
    server: Server, session: ParallelSession, code: str
) -> None:
    pytest.importorskip("cloudpickle")
    factor = 3

    def times(value: dict[str, int]) -> int:
        return value["id"] * factor

    parse_func = (lambda value: value["id"] * 3) if code == "lambda" else times
    assert session.request(ids(server, 5), parse_func=parse_func) == [0, 3, 6, 9, 12]


def test_a_parse_func_is_sent_once_to_each_process_that_a_batch_has(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold a large model."""
    sizes: list[int] = []
    send_bytes = PipeEnd.send_bytes

    def watched(end: PipeEnd, data: bytes) -> None:
        sizes.append(len(data))
        send_bytes(end, data)

    monkeypatch.setattr(PipeEnd, "send_bytes", watched)
    parse_func = functools.partial(functions.length_beside, bytes(functions.LARGE))
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        for _ in range(2):
            assert session.request(ids(server, 20), return_type="content", parse_func=parse_func)
    assert len([size for size in sizes if size > functions.LARGE]) == 2


def test_a_process_loads_a_parse_func_once(server: Server, session: ParallelSession, tmp_path: Path) -> None:
    note = tmp_path / "loads"
    parse_func = functools.partial(functions.length_beside, functions.NotesLoads(note))
    session.request(ids(server, 20), return_type="content", parse_func=parse_func)
    loads = note.read_text().split()
    assert len(loads) == len(set(loads))


def test_huge_results_come_back(server: Server, session: ParallelSession) -> None:
    first, second = session.request(ids(server, 2), parse_func=functions.huge)
    assert first == bytes(functions.HUGE)
    assert second == b"\1" * functions.HUGE


def test_huge_bodies_go_out(server: Server, session: ParallelSession) -> None:
    url = server.url("/range/20000000")
    assert session.request([url] * 3, return_type="content", parse_func=functions.length) == [20_000_000] * 3


async def _ask_async(server: Server) -> list[int]:
    async with ParallelRequests(backend="urllib3", parse_processes=1) as client:
        numbers: list[int] = await client.request(ids(server, 20), parse_func=functions.number)
        return numbers


def test_the_async_surface_has_them_too(server: Server) -> None:
    import asyncio

    assert asyncio.run(_ask_async(server)) == list(range(20))


# -- what fails, fails alone


@pytest.mark.parametrize("kind", TROUBLES)
def test_row_33_one_item_fails_and_no_other(server: Server, session: ParallelSession, kind: str) -> None:
    error = partial_failure(lambda: session.request(ids(server, 60), parse_func=functions.fails(kind, at=33)))
    assert [details.index for details in error.failed] == [33]
    assert [result.value for result in error.results if result.ok] == [n for n in range(60) if n != 33]
    failure = error.results[33].error
    assert isinstance(failure, ParseError)
    assert failure.response is not None
    assert failure.response.json() == {"id": 33}
    assert ("died" in str(failure)) == (kind == "death")
    assert server.stats().requests == 60
    assert session.request(ids(server, 4), parse_func=functions.number) == [0, 1, 2, 3]


def test_a_failure_says_what_happened_and_where(server: Server, session: ParallelSession) -> None:
    with pytest.raises(ParseError, match="LookupError") as caught:
        session.get(server.url("/id/1"), parse_func=functions.fails("no such kind", at=1))
    assert isinstance(caught.value.__cause__, LookupError)
    assert "parse_functions.py" in caught.value.__notes__[0]
    with pytest.raises(ParseError, match="exit code 7"):
        session.get(server.url("/id/1"), parse_func=functions.fails("death", at=1))
    with pytest.raises(ParseError, match="ValueError") as caught:
        session.get(server.url("/id/1"), parse_func=functions.raises_with_password)
    assert "raises_with_password" in caught.value.__notes__[0]
    assert "hidden" not in caught.value.__notes__[0]


def test_every_item_may_kill_its_process(server: Server, session: ParallelSession) -> None:
    error = partial_failure(
        lambda: session.request(
            [server.url("/id/1")] * 8, parse_func=functools.partial(functions.trouble, "death", 1)
        )
    )
    assert len(error.failed) == 8
    assert server.stats().requests == 8


def test_a_process_that_dies_is_noticed_though_one_that_it_has_started_keeps_its_pipe_open(
    server: Server, session: ParallelSession, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    with ThreadPoolExecutor(1) as consumer:
        parse_func = functools.partial(functions.dies_before_its_child, note)
        failing = consumer.submit(session.request, server.url("/id/1"), parse_func=parse_func)
        try:
            error = failing.exception(_LONG_ENOUGH)
        finally:
            os.kill(int(note.read_text()), signal.SIGKILL)
    assert isinstance(error, ParseError)
    assert "died (exit code 7)" in str(error)


def test_of_a_chunk_that_kills_its_process_only_the_item_to_blame_fails(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    give = Child.give

    def watched(child: Child, items: list[Item]) -> None:
        sizes.append(len(items))
        give(child, items)

    monkeypatch.setattr(Child, "give", watched)
    gate = tmp_path / "open"
    parse_func = functools.partial(functions.waits_then_fails, gate, "death", 90)
    with (
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend="urllib3", parse_processes=1) as session,
    ):
        answer = consumer.submit(session.request, ids(server, 100), parse_func=parse_func)
        until(lambda: server.stats().requests == 100)
        gate.touch()
        error = answer.exception(_LONG_ENOUGH)
    assert isinstance(error, PartialFailureError)
    assert [details.index for details in error.failed] == [90]
    assert max(sizes) > 1, "what has piled up goes out in larger chunks"
    assert server.stats().requests == 100


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[" * 100_000, b"1" * 5_000, b'{"a": "\xff"}'],
    ids=["html", "deep", "long number", "not UTF-8"],
)
@pytest.mark.parametrize("parse_func", [None, functions.with_pid])
def test_a_body_that_is_no_json_is_a_decode_error_with_its_body(
    fault_server: Callable[..., FaultServer],
    session: ParallelSession,
    body: bytes,
    parse_func: Callable[[Any], Any] | None,
) -> None:
    running = fault_server([read_request(), send(response(body)), close()])
    with pytest.raises(DecodeError, match="is not JSON") as caught:
        session.get(running.url(), parse_func=parse_func)
    assert caught.value.response.content == body
    assert caught.value.response.request.url == running.url()
    assert len(running.requests) == 1


# -- what is refused before anything is sent


def test_without_cloudpickle_a_lambda_is_refused(
    server: Server, session: ParallelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(ConfigurationError, match=r"top level of a module, or install cloudpickle") as caught:
        session.request(ids(server, 3), parse_func=lambda value: value)
    assert caught.value.config_key == "parse_func"
    assert server.stats().requests == 0


def test_what_even_cloudpickle_cannot_carry_is_refused(server: Server, session: ParallelSession) -> None:
    pytest.importorskip("cloudpickle")
    lock = threading.Lock()
    with pytest.raises(ConfigurationError, match="nor by cloudpickle"):
        session.request(ids(server, 3), parse_func=lambda value: (lock, value))
    assert server.stats().requests == 0


def test_where_no_process_can_be_started_every_item_says_why(
    server: Server, session: ParallelSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> None:
        raise BlockingIOError("no process is left")

    with monkeypatch.context() as patched:
        patched.setattr(multiprocessing.process.BaseProcess, "start", refused)
        error = partial_failure(lambda: session.request(ids(server, 5), parse_func=functions.number))
    assert len(error.failed) == 5
    for failure in error.exceptions:
        assert isinstance(failure, ParseError)
        assert "No parse process could be started (BlockingIOError: no process is left)" in str(failure)
    assert session.request(ids(server, 4), parse_func=functions.number) == [0, 1, 2, 3]


# -- the caller's pool


def test_the_callers_pool_is_used_and_left_running(server: Server, callers_pool: ProcessPoolExecutor) -> None:
    own = {callers_pool.submit(os.getpid).result() for _ in range(4)}
    with ParallelSession(backend="curl", parse_processes=callers_pool) as session:
        answers = session.request(ids(server, 50), parse_func=functions.with_pid)
        error = partial_failure(
            lambda: session.request(ids(server, 9), parse_func=functions.fails("unpicklable result", at=4))
        )
    assert [value["id"] for value, _ in answers] == list(range(50))
    assert own & {pid for _, pid in answers}
    assert error.successes == 8
    assert callers_pool.submit(os.getpid).result() != os.getpid()


def test_all_processes_of_the_callers_pool_parse_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with (
        ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool,
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend="urllib3", parse_processes=pool) as session,
    ):
        parse_func = functools.partial(functions.waits_beside_others, tmp_path)
        answers = consumer.submit(session.request, ids(server, 3), parse_func=parse_func)
        try:
            until(lambda: len(list(tmp_path.iterdir())) == 3)
        finally:
            (tmp_path / "open").touch()
        assert answers.result(_LONG_ENOUGH) == [0, 1, 2]


def answering_in_turn(fault_server: Callable[..., FaultServer], then: threading.Event) -> FaultServer:
    """A server with two responses, the second of which comes when the test says so."""
    first, second = response(b'{"id": 0}'), response(b'{"id": 1}')
    return fault_server([read_request(), send(first), close()], [read_request(), wait(then), send(second)])


def test_an_idle_process_gets_what_comes_while_another_one_is_busy(
    fault_server: Callable[..., FaultServer], callers_pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    first_is_parsed = threading.Event()
    server = answering_in_turn(fault_server, first_is_parsed)
    with (
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend="urllib3", parse_processes=callers_pool) as session,
    ):
        parse_func = functools.partial(functions.waits_beside_others, tmp_path)
        answers = consumer.submit(session.request, [server.url()] * 2, parse_func=parse_func)
        try:
            until((tmp_path / "0").exists)
            first_is_parsed.set()
            until((tmp_path / "1").exists)
        finally:
            (tmp_path / "open").touch()
        assert sorted(answers.result(_LONG_ENOUGH)) == [0, 1]


def test_the_callers_pool_is_not_rebuilt(server: Server, callers_pool: ProcessPoolExecutor) -> None:
    with ParallelSession(backend="urllib3", parse_processes=callers_pool) as session:
        error = partial_failure(
            lambda: session.request(ids(server, 30), parse_func=functions.fails("death", at=20))
        )
        failures = [result.error for result in error.results if not result.ok]
        assert 20 in {details.index for details in error.failed}
        assert all(isinstance(failure, ParseError) and failure.response for failure in failures)
        assert "not rebuilt" in str(failures[-1])
        assert "BrokenProcessPool" in str(failures[-1])
        assert server.stats().requests == 30
        with pytest.raises(ConfigurationError, match="is broken"):
            session.request(ids(server, 3), parse_func=functions.number)
    assert server.stats().requests == 30
    with pytest.raises(BrokenProcessPool):
        callers_pool.submit(os.getpid)


def test_a_pool_that_was_shut_down_is_refused(server: Server) -> None:
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    pool.shutdown()
    with ParallelSession(parse_processes=pool) as session, pytest.raises(ConfigurationError):
        session.request(ids(server, 3))
    assert server.stats().requests == 0


def test_a_pool_that_is_shut_down_meanwhile_fails_what_is_left(
    fault_server: Callable[..., FaultServer], callers_pool: ProcessPoolExecutor
) -> None:
    is_shut_down = threading.Event()
    server = answering_in_turn(fault_server, is_shut_down)
    with ParallelSession(backend="urllib3", parse_processes=callers_pool) as session:
        results = session.iter_results([server.url()] * 2, parse_func=functions.number)
        assert next(results).value == 0
        callers_pool.shutdown()
        is_shut_down.set()
        [left] = results
    assert isinstance(left.error, ParseError)
    assert left.error.response is not None
    assert left.error.response.content == b'{"id": 1}'
    assert "cannot schedule new futures after shutdown" in str(left.error)


def test_what_the_owner_of_a_pool_cancels_fails(server: Server, tmp_path: Path) -> None:
    class Counting(ProcessPoolExecutor):
        submitted = 0

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(*args, **kwargs)
            self.submitted += 1
            return future

    gate = tmp_path / "open"
    with (
        Counting(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend="urllib3", parse_processes=pool) as session,
        contextlib.ExitStack() as in_any_case,
    ):
        in_any_case.callback(gate.touch)  # or a failure would leave the pool waiting for ever
        for number in range(9):
            pool.submit(functions.waits_for, gate, {"id": number})
        answer = consumer.submit(session.request, ids(server, 1)[0], parse_func=functions.number)
        until(lambda: pool.submitted == 11)  # with what is submitted to see whether the pool is broken
        pool.shutdown(wait=False, cancel_futures=True)
        with pytest.raises(ParseError, match="its work was cancelled"):
            answer.result(_LONG_ENOUGH)


def test_what_the_callers_pool_finishes_after_a_deadline_is_dropped(
    server: Server, callers_pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    url = server.url("/id/7")
    with (
        ParallelSession(backend="urllib3", parse_processes=callers_pool) as session,
        contextlib.ExitStack() as in_any_case,
    ):
        in_any_case.callback(gate.touch)
        with pytest.raises(DeadlineExceededError):
            session.request(url, parse_func=functools.partial(functions.waits_for, gate), deadline=0.5)
        gate.touch()
        for _ in range(10):
            assert session.request(ids(server, 9), parse_func=functions.number) == list(range(9))


def test_a_parse_func_that_takes_long_in_the_callers_pool_delays_no_other_batch(
    server: Server, callers_pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    url = server.url("/id/7")
    with (
        ThreadPoolExecutor(2) as callers,
        ParallelSession(backend="urllib3", parse_processes=callers_pool) as session,
        contextlib.ExitStack() as in_any_case,
    ):
        in_any_case.callback(gate.touch)
        assert session.request(url, parse_func=functions.number) == 7
        slow = callers.submit(session.request, url, parse_func=functools.partial(functions.waits_for, gate))
        until((tmp_path / "waiting").exists)
        quick = callers.submit(session.request, url, parse_func=functions.number)
        assert quick.result(_LONG_ENOUGH) == 7
        assert not slow.done()
        gate.touch()
        assert slow.result(_LONG_ENOUGH) == 7


def test_a_session_that_closes_leaves_the_callers_pool_with_nothing_to_complain_about(
    server: Server, callers_pool: ProcessPoolExecutor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if one of its processes was never used, and another is still at work."""
    gate = tmp_path / "open"
    with (
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend="urllib3", parse_processes=callers_pool) as session,
        contextlib.ExitStack() as in_any_case,
    ):
        in_any_case.callback(gate.touch)
        parse_func = functools.partial(functions.waits_for, gate)
        answer = consumer.submit(session.request, server.url("/id/7"), parse_func=parse_func)
        until((tmp_path / "waiting").exists)
        session.close()
        with pytest.raises(RunStoppedError):
            answer.result(_LONG_ENOUGH)
    callers_pool.shutdown()
    assert not caplog.records


def test_a_deadline_takes_from_the_callers_pool_what_has_not_begun(
    server: Server, callers_pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    gate, begun = tmp_path / "open", tmp_path / "begun"
    own = [callers_pool.submit(functions.waits_for, gate, {"id": number}) for number in range(9)]
    with (
        ThreadPoolExecutor(2) as callers,
        ParallelSession(backend="urllib3", parse_processes=callers_pool) as session,
        contextlib.ExitStack() as in_any_case,
    ):
        in_any_case.callback(gate.touch)  # or a failure would leave the pool waiting for ever
        parse_func = functools.partial(functions.never_returns, begun)
        late = callers.submit(session.request, ids(server, 9), parse_func=parse_func, deadline=0.5)
        until(lambda: late.done() or server.stats().requests == 9)
        answers = callers.submit(session.request, ids(server, 9), parse_func=functions.number)
        error = late.exception()
        assert isinstance(error, PartialFailureError)
        assert [type(result.error) for result in error.results] == [DeadlineExceededError] * 9
        gate.touch()
        assert answers.result(_LONG_ENOUGH) == list(range(9))
    assert [future.result() for future in own] == list(range(9))
    assert not begun.exists()


# -- transfers and parsing side by side


def test_the_processes_start_before_there_is_anything_to_parse(
    fault_server: Callable[..., FaultServer],
) -> None:
    have_started = threading.Event()

    def answer(connection: Connection) -> None:
        connection.read_request()
        connection.wait(have_started)
        connection.send(response(b"{}"))

    server = fault_server([answer])
    before = parse_processes(os.getpid())
    with (
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend="urllib3", parse_processes=2) as session,
    ):
        answers = consumer.submit(lambda: session.request(server.url()))
        until(lambda: len(parse_processes(os.getpid()) - before) == 2)
        have_started.set()
        assert answers.result(_LONG_ENOUGH) == {}


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_transfers_go_on_while_parsing_lags(server: Server, tmp_path: Path, backend: str) -> None:
    gate = tmp_path / "open"
    parse_func = functools.partial(functions.waits_for, gate)
    with (
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend=backend, concurrency=5, parse_processes=1) as session,
    ):
        answers = consumer.submit(session.request, ids(server, 300), parse_func=parse_func)
        until(lambda: server.stats().requests == 300)
        assert not answers.done()
        gate.touch()
        assert answers.result() == list(range(300))


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
@pytest.mark.parametrize("as_list", [True, False])
def test_what_waits_to_be_parsed_is_bounded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, as_list: bool
) -> None:
    monkeypatch.setattr(runtime, "_LOOK_AHEAD", 10)
    gate = tmp_path / "open"
    parse_func = functools.partial(functions.waits_for, gate)
    with (
        ThreadPoolExecutor(1) as consumer,
        ParallelSession(backend=backend, concurrency=5, parse_processes=1) as session,
    ):
        urls = ids(server, 100) if as_list else iter(ids(server, 100))
        answers = consumer.submit(session.request, urls, parse_func=parse_func)
        until(lambda: server.stats().requests == 10)
        gate.touch()
        assert answers.result(_LONG_ENOUGH) == list(range(100))
    assert server.stats().requests == 100


def test_a_stream_of_results_holds_twice_the_concurrency(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    parse_func = functools.partial(functions.waits_for, gate)
    with ParallelSession(backend="curl", concurrency=5, parse_processes=1) as session:
        results = session.iter_results(ids(server, 100), parse_func=parse_func)
        with ThreadPoolExecutor(1) as consumer:
            first = consumer.submit(next, results)
            until(lambda: server.stats().requests == 10)
            gate.touch()
            first.result()
        rest = {result.value for result in results}
    assert rest | {first.result().value} == set(range(100))
    assert server.stats().requests == 100


def test_chunks_grow_with_what_is_known_of_the_items() -> None:
    job = Job(Work(ReturnType.JSON, None, by_value=False), Policy())
    assert job.items_per_chunk() == 1
    job.learn(0.02, 1)
    assert job.items_per_chunk() == 2
    job.learn(1.0, 1)
    assert job.items_per_chunk() == 1
    for _ in range(30):
        job.learn(0.001, 100)
    assert job.items_per_chunk() == 256


@pytest.mark.parametrize("first", [b"take time", b"return much"])
def test_a_process_sends_what_it_has_done_before_it_ends_its_chunk(tmp_path: Path, first: bytes) -> None:
    gate = tmp_path / "gate"
    work = plan_work(ReturnType.CONTENT, functools.partial(functions.does_as_told, gate))
    job, request = Job(work, Policy()), Request("http://a.test/")
    bodies = [Response(200, Headers(), body, request) for body in (first, b"wait")]
    items = [Item(job, Result(request, response=body), lambda _: None) for body in bodies]
    child = Child()
    try:
        assert not child.is_idle
        assert wait_for_pipes(child.waitables(), _LONG_ENOUGH)
        assert child.receive() == (0.0, [])
        child.give(items)
        assert not child.is_idle
        assert wait_for_pipes(child.waitables(), _LONG_ENOUGH)
        assert len(child.receive()[1]) == 1
        assert not child.is_idle
        child.items.popleft()
        gate.touch()
        assert wait_for_pipes(child.waitables(), _LONG_ENOUGH)
        assert len(child.receive()[1]) == 1
        assert child.is_idle
    finally:
        child.disconnect()
        child.reap(time.monotonic() + _LONG_ENOUGH)


def test_a_chunk_holds_items_of_one_batch_and_no_suspect_and_not_too_much() -> None:
    jobs = [Job(Work(ReturnType.JSON, None, by_value=False), Policy()) for _ in range(2)]
    for job in jobs:
        job.learn(0.001, 100)  # so quick that a chunk may hold all

    def item(job: Job, size: int = 1, *, is_suspect: bool = False) -> Item:
        request = Request("http://a.test/")
        response = Response(200, Headers(), bytes(size), request)
        item = Item(job, Result(request, response=response), lambda _: None)
        item.is_suspect = is_suspect
        return item

    items = [
        *[item(jobs[0]) for _ in range(3)],
        *[item(jobs[1]) for _ in range(2)],
        item(jobs[1], is_suspect=True),
        item(jobs[1]),
        item(jobs[1], 1 << 19),
        item(jobs[1], 1 << 19),
    ]
    pool = ParsePool(1)
    for each in items:
        pool.add(each)
    chunks = [pool._next_chunk() for _ in range(5)]
    assert chunks == [items[:3], items[3:5], items[5:6], items[6:8], items[8:]]
    pool._shut_down()


def test_a_pool_that_has_ended_fails_what_it_has_and_what_comes_later() -> None:
    job = Job(Work(ReturnType.JSON, None, by_value=False), Policy())
    request = Request("http://a.test/")
    delivered: list[Result[Any]] = []
    pool = ParsePool(1)

    def add() -> None:
        response = Response(200, Headers(), b"{}", request)
        pool.add(Item(job, Result(request, response=response), delivered.append))

    add()
    pool._shut_down()
    pool.wake()
    add()
    assert [type(result.error) for result in delivered] == [RunStoppedError, RunStoppedError]
    assert not pool._jobs, "nothing of the batch is kept"


def test_the_pool_sleeps_while_there_is_nothing_to_do(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []

    def watched(waitables: list[Any], seconds: float | None) -> list[Any]:
        turns.append(len(waitables))
        return wait_for_pipes(waitables, seconds)

    monkeypatch.setattr(processes, "wait", watched)
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        assert session.request(ids(server, 20), parse_func=functions.number) == list(range(20))
    assert len(turns) < 200, "a few for each item, rather than one after the other while a process starts"


def test_whoever_wakes_the_pool_is_never_blocked() -> None:
    pool = ParsePool(1)
    for _ in range(100_000):
        pool.wake()
    pool._shut_down()


# -- the end


def test_nothing_is_left_when_the_session_closes(server: Server) -> None:
    before = children(os.getpid())
    with ParallelSession(backend="curl", parse_processes=2) as session:
        pids = {pid for _, pid in session.request(ids(server, 50), parse_func=functions.with_pid)}
        assert pids <= children(os.getpid())
    assert not pids & children(os.getpid())
    assert len(children(os.getpid()) - before) <= 1  # the standard library's own: the resource tracker


def test_an_idle_process_ends_by_itself(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a parse_func has opened there is closed in good order."""
    monkeypatch.setattr(processes, "PATIENCE", _LONG_ENOUGH)
    note = tmp_path / "has ended"
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        assert (
            session.get(server.url("/id/1"), parse_func=functools.partial(functions.notes_its_end, note)) == 1
        )
        assert not note.exists()
    assert note.exists()


def test_closing_does_not_wait_for_a_process_that_a_parse_func_has_started(
    server: Server, lateness: Lateness
) -> None:
    """It keeps open the pipes by which the end of its parent is noticed."""
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        [pid] = session.request(ids(server, 1), parse_func=functions.with_child)
        began = time.monotonic()
        try:
            session.close()
            assert time.monotonic() - began < 2 + lateness.slack()
        finally:
            os.kill(pid, signal.SIGKILL)


def test_an_item_that_kills_its_process_alone_is_not_given_to_another(
    server: Server, session: ParallelSession, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    with pytest.raises(ParseError, match="exit code 7"):
        session.request(server.url("/id/7"), parse_func=functools.partial(functions.notes_and_dies, note))
    assert note.read_text() == "."


def is_being_sent_to() -> bool:
    """Whether the thread of the only pool is sending something to a process."""
    [pool] = [thread for thread in threading.enumerate() if thread.name == "parallel-requests-parse"]
    frame = sys._current_frames().get(pool.ident or 0)
    return frame is not None and frame.f_code.co_name == "_send"


@pytest.mark.parametrize("closes", [True, False], ids=["session_closes", "process_is_killed"])
def test_a_suspended_process_holds_nothing_up_when_it_ends(server: Server, closes: bool) -> None:
    """The pool's thread waits to send it a large body, which is not to blame for the end of the process."""
    with (
        ThreadPoolExecutor(2) as callers,
        ParallelSession(backend="urllib3", parse_processes=1) as session,
        contextlib.ExitStack() as in_any_case,
    ):
        _, pid = session.request(ids(server, 1)[0], parse_func=functions.with_pid)
        in_any_case.callback(end_for_good, pid)
        os.kill(pid, signal.SIGSTOP)
        size = 10 * functions.LARGE
        url = server.url(f"/range/{size}")
        answer = callers.submit(session.request, url, return_type="content", parse_func=functions.length)
        until(is_being_sent_to)
        if closes:
            callers.submit(session.close).result(_LONG_ENOUGH / 4)
            with pytest.raises(RunStoppedError):
                answer.result(_LONG_ENOUGH)
        else:
            end_for_good(pid)
            assert answer.result(_LONG_ENOUGH) == size


def end_for_good(pid: int) -> None:
    """Kill a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "never_ends", [functions.never_returns, functions.never_returns_nor_can_be_terminated]
)
def test_closing_ends_a_parse_func_that_never_does(
    server: Server, tmp_path: Path, lateness: Lateness, never_ends: Callable[..., Any]
) -> None:
    begun = tmp_path / "begun"
    session = ParallelSession(backend="urllib3", parse_processes=2)
    with ThreadPoolExecutor(1) as consumer:
        answer = consumer.submit(
            session.request, ids(server, 20), parse_func=functools.partial(never_ends, begun)
        )
        until(begun.exists)
        began = time.monotonic()
        session.close()
        seconds = time.monotonic() - began
        error = answer.exception()
    assert seconds < 1 + lateness.slack()
    assert isinstance(error, PartialFailureError)
    assert all(isinstance(result.error, RunStoppedError) for result in error.results)


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_a_deadline_ends_a_parse_func_that_never_does(server: Server, tmp_path: Path, backend: str) -> None:
    parse_func = functools.partial(functions.never_returns, tmp_path / "begun")
    with ParallelSession(backend=backend, parse_processes=2) as session:
        error = partial_failure(lambda: session.request(ids(server, 20), parse_func=parse_func, deadline=0.5))
        assert len(error.failed) == 20
        assert all(isinstance(result.error, DeadlineExceededError) for result in error.results)
        assert session.request(ids(server, 4), parse_func=functions.number) == [0, 1, 2, 3]


def test_a_process_that_cannot_be_terminated_is_replaced_after_a_deadline(
    server: Server, session: ParallelSession, tmp_path: Path
) -> None:
    parse_func = functools.partial(functions.never_returns_nor_can_be_terminated, tmp_path / "begun")
    session.request(ids(server, 4), parse_func=functions.number)  # so that the processes are ready
    error = partial_failure(lambda: session.request(ids(server, 20), parse_func=parse_func, deadline=0.5))
    assert all(isinstance(result.error, DeadlineExceededError) for result in error.results)
    assert session.request(ids(server, 4), parse_func=functions.number) == [0, 1, 2, 3]


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_a_deadline_holds_while_another_batch_has_all_processes(
    server: Server, tmp_path: Path, backend: str
) -> None:
    begun = tmp_path / "begun"
    session = ParallelSession(backend=backend, parse_processes=1)
    with ThreadPoolExecutor(1) as other:
        parse_func = functools.partial(functions.never_returns, begun)
        endless = other.submit(session.request, ids(server, 3), parse_func=parse_func)
        until(begun.exists)
        error = partial_failure(
            lambda: session.request(ids(server, 5), parse_func=functions.number, deadline=0.5)
        )
        assert all(isinstance(result.error, DeadlineExceededError) for result in error.results)
        assert not endless.done()
        session.close()
        assert isinstance(endless.exception(), PartialFailureError)


def test_waiting_items_stay_queued_while_another_batch_ends(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    parse_func = functools.partial(functions.waits_for, gate)
    with (
        ThreadPoolExecutor(1) as other,
        ParallelSession(backend="urllib3", parse_processes=1) as session,
    ):
        answers = other.submit(session.request, ids(server, 9), parse_func=parse_func)
        until((tmp_path / "waiting").exists)
        partial_failure(lambda: session.request(ids(server, 3), parse_func=functions.number, deadline=0.5))
        gate.touch()
        assert answers.result(_LONG_ENOUGH) == list(range(9))


def parse_processes(parent: int) -> set[int]:
    """The parse processes of a process; the standard library's resource tracker is none."""
    found: set[int] = set()
    for pid in children(parent):
        with contextlib.suppress(OSError):  # it has just ended
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_leaving_the_loop_ends_the_parsing(server: Server, tmp_path: Path, backend: str) -> None:
    begun = tmp_path / "begun"
    with ParallelSession(backend=backend, parse_processes=1) as session:
        items: list[Any] = [{"url": server.url("/status/404")}, *ids(server, 5)]
        parse_func = functools.partial(functions.never_returns, begun)
        for result in session.iter_results(items, parse_func=parse_func):
            assert not result.ok
            until(begun.exists)
            break
        until(lambda: not parse_processes(os.getpid()))
        assert session.request(ids(server, 4), parse_func=functions.number) == [0, 1, 2, 3]


def test_what_a_hook_starts_can_be_interrupted(server: Server, session: ParallelSession) -> None:
    """The pool's thread, which runs it, blocks SIGINT only while it starts a parse process."""
    blocked: list[set[int]] = []
    session.request(
        server.url("/id/7"), on_result=lambda _: blocked.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    )
    assert blocked == [set()]
