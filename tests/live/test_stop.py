"""Stops take less than a second, nothing starts afterwards, and finished Results are kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import (
    ParallelRequests,
    ParallelSession,
    PartialFailureError,
    Result,
    RetryPolicy,
    RunStoppedError,
)
from tests.leaks import open_sockets
from tests.polling import until
from tests.server.faults import full_port, stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lateness import Lateness
    from tests.server.control import Server, Stats
    from tests.server.faults import FaultServer

    OpenSession = Callable[..., ParallelSession]

PATIENCE = 1.0
"""Seconds to be back within, the machine's own lateness apart."""


@pytest.fixture(autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """Handle SIGINT, here and in child processes, even if the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def has_in_flight(count: int) -> Callable[[Stats], bool]:
    return lambda stats: stats.in_flight >= count


def has_answered(count: int) -> Callable[[Stats], bool]:
    return lambda stats: sum(stats.by_status.values()) >= count


class Stopper:
    """Does something from another thread as soon as the server has seen enough.

    Attributes:
        at: When it did so, on the clock of the server's stamps.
    """

    def __init__(self, server: Server, condition: Callable[[Stats], bool], act: Callable[[], object]) -> None:
        self.at = 0.0
        self._server = server
        self._condition = condition
        self._act = act
        self._is_over = threading.Event()

    @contextlib.contextmanager
    def __call__(self, lateness: Lateness) -> Iterator[None]:
        """Judge the block: it is left in time, and nothing begins after the stop."""
        thread = threading.Thread(target=self._stop, name="stopper")
        thread.start()
        try:
            yield
            took = time.monotonic() - self.at
        finally:
            self._is_over.set()
            thread.join()
        assert took <= PATIENCE + lateness.slack()
        margin = 0.05 + lateness.worst + self._server.stats().max_lag
        late = [stamp for stamp in self._server.arrivals() if stamp > self.at + margin]
        assert not late, "requests were begun after the stop"

    def _stop(self) -> None:
        while not self._condition(self._server.stats()):
            if self._is_over.wait(0.005):
                return
        self.at = time.monotonic()
        self._act()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def results_of(error: BaseException) -> list[Result[Any]]:
    results: list[Result[Any]] = error.results  # type: ignore[attr-defined]
    return results


# -- in this process


def test_row_34_ctrl_c_keeps_finished_results(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    session = open_session(concurrency=8, timeout=None)
    urls = [*[server.url("/static")] * 5, *[server.url("/hang")] * 50]
    with Stopper(server, has_in_flight(8), interrupt)(lateness), pytest.raises(KeyboardInterrupt) as caught:
        session.get(urls)
    finished = results_of(caught.value)
    assert [(result.index, result.ok) for result in finished] == [(n, True) for n in range(5)]
    assert list(session.last_run.results) == finished
    assert session.last_run.succeeded == 5
    session.close()
    assert server.stats().requests == 13


def test_sigterm_turned_into_keyboard_interrupt_stops_the_run(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    session = open_session(concurrency=4, timeout=None)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            Stopper(server, has_in_flight(4), lambda: os.kill(os.getpid(), signal.SIGTERM))(lateness),
            pytest.raises(KeyboardInterrupt),
        ):
            list(session.iter_results(server.url("/hang") for _ in iter(int, 1)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert server.stats().requests == 4


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"rate_limit": 0.01, "rate_limit_burst": 1}, "/static"),
        ({}, "/retry-after?seconds=100&times=100"),
        ({"retry": RetryPolicy(backoff_factor=60), "concurrency": 1}, "/flaky/long-backoff?fail=100"),
    ],
    ids=["rate-limit", "retry-after", "backoff"],
)
def test_ctrl_c_ends_a_long_wait(
    open_session: OpenSession, server: Server, lateness: Lateness, options: dict[str, Any], path: str
) -> None:
    session = open_session(**options)
    with Stopper(server, has_answered(1), interrupt)(lateness), pytest.raises(KeyboardInterrupt):
        session.get([server.url(path)] * 2)


def test_ctrl_c_just_as_the_caller_goes_to_sleep(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    """It wakes nobody then; here, another thread gets the signal."""
    session = open_session(timeout=None)

    def interrupt_unheard() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with Stopper(server, has_in_flight(2), interrupt_unheard)(lateness), pytest.raises(KeyboardInterrupt):
        session.get([server.url("/hang")] * 2)


def test_ctrl_c_while_connecting(
    open_session: OpenSession,
    server: Server,
    fault_server: Callable[..., FaultServer],
    lateness: Lateness,
) -> None:
    session = open_session(concurrency=7, timeout=None)
    silent = f"https://127.0.0.1:{fault_server([stall()]).port}/"
    with full_port() as port, Stopper(server, has_in_flight(1), interrupt)(lateness):
        with pytest.raises(KeyboardInterrupt):
            session.get([f"http://127.0.0.1:{port}/", silent] * 3 + [server.url("/hang")])
        session.close()


def test_close_from_another_thread_keeps_finished_results(
    open_session: OpenSession, server: Server, lateness: Lateness
) -> None:
    before = open_sockets()
    session = open_session(concurrency=8, timeout=None)
    urls = [*[server.url("/static")] * 5, *[server.url("/hang")] * 50]
    with (
        Stopper(server, has_in_flight(8), session.close)(lateness),
        pytest.raises(PartialFailureError) as caught,
    ):
        session.get(urls)
    assert caught.value.successes == 5
    assert {type(error) for error in caught.value.exceptions} == {RunStoppedError}
    assert [result.index for result in caught.value.results] == list(range(55))
    assert open_sockets() <= before
    until(lambda: server.stats().open_connections == 0)


def test_a_cancelled_await_keeps_finished_results(backend: str, server: Server, lateness: Lateness) -> None:
    urls = [*[server.url("/static")] * 5, *[server.url("/hang")] * 50]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with ParallelRequests(backend=backend, concurrency=8, timeout=None) as client:
            task = asyncio.ensure_future(client.request(urls))
            with (
                Stopper(server, has_in_flight(8), lambda: loop.call_soon_threadsafe(task.cancel))(lateness),
                pytest.raises(asyncio.CancelledError),
            ):
                await task
            assert [result.index for result in client.last_run.results] == list(range(5))
            assert client.last_run.succeeded == 5
            until(lambda: server.stats().in_flight == 0)

    asyncio.run(main())
    assert server.stats().requests == 13


def test_an_await_that_timed_out_stops_the_work(backend: str, server: Server, lateness: Lateness) -> None:
    async def main() -> None:
        async with ParallelRequests(backend=backend, concurrency=4, timeout=None) as client:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.get([server.url("/hang")] * 50)
            assert time.monotonic() - began <= 0.2 + PATIENCE + lateness.slack()
            until(lambda: server.stats().in_flight == 0)

    asyncio.run(main())
    assert server.stats().requests <= 4


# -- in processes of their own


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process; killed if it has not ended by itself."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


INTERRUPTED = """
import json, sys, threading
from parallel_requests import ParallelSession
backend, base = sys.argv[1:]
with ParallelSession(backend=backend, concurrency=8, timeout=None) as session:
    try:
        session.get([base + "/static"] * 5 + [base + "/hang"] * 50)
    except KeyboardInterrupt as stop:
        finished = len(stop.results), len(session.last_run.results)
print(json.dumps([*finished, threading.active_count()]))
"""

TOO_LATE = """
import asyncio, atexit, sys, threading
from parallel_requests import RunStoppedError, parallel_requests, parallel_requests_async
backend, url, place, used_before = sys.argv[1:]

def late():
    if threading.current_thread() is not threading.main_thread():
        threading.main_thread().join()
    for verb in (parallel_requests, lambda *a, **k: asyncio.run(parallel_requests_async(*a, **k))):
        try:
            verb([url], backend=backend)
        except RunStoppedError as error:
            print(error)

if used_before:
    parallel_requests([url], backend=backend)
if place == "atexit.register":
    atexit.register(late)
else:
    threading.Thread(target=late).start()
"""

UNFINISHED = """
import sys
from parallel_requests import ParallelSession
backend, base = sys.argv[1:]
session = ParallelSession(backend=backend, concurrency=4, timeout=None)
results = session.iter_results([base + "/static"] + [base + "/hang"] * 50)
print(next(results).ok, flush=True)
sys.stdin.read()
"""


def test_ctrl_c_ends_a_process(backend: str, server: Server, lateness: Lateness) -> None:
    with (
        child("-c", INTERRUPTED, backend, server.url("")) as process,
        Stopper(server, has_in_flight(8), lambda: process.send_signal(signal.SIGINT))(lateness),
    ):
        output, errors = process.communicate()
    assert (json.loads(output), errors) == ([5, 5, 1], "")
    assert process.returncode == 0
    assert server.stats().requests == 13


def test_an_unfinished_iterator_does_not_hold_up_the_exit(
    backend: str, server: Server, lateness: Lateness
) -> None:
    with child("-c", UNFINISHED, backend, server.url("")) as process:
        assert process.stdin is not None
        with Stopper(server, has_in_flight(4), process.stdin.close)(lateness):
            process.wait()
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == ("True\n", "")
    assert process.returncode == 0
    assert server.stats().requests <= 6


@pytest.mark.parametrize("used_before", [True, False])
@pytest.mark.parametrize("place", ["atexit.register", "threading.Thread"])
def test_calls_during_interpreter_shutdown_get_an_error(
    backend: str, server: Server, place: str, used_before: bool
) -> None:
    with child("-c", TOO_LATE, backend, server.url("/id/1"), place, str(used_before or "")) as process:
        output, errors = process.communicate()
    assert (output, errors) == ("The interpreter is shutting down, and nothing more can be sent.\n" * 2, "")
    assert process.returncode == 0
    assert server.stats().requests == used_before


def test_ctrl_c_at_the_command_line(server: Server, lateness: Lateness) -> None:
    program = "import sys; from parallel_requests.cli import main; sys.exit(main())"
    with (
        child("-c", program, "fetch", *[server.url("/hang")] * 30) as process,
        Stopper(server, has_in_flight(20), lambda: process.send_signal(signal.SIGINT))(lateness),
    ):
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert server.stats().requests == 20
