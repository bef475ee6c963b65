"""The threads engine, with minimal backends."""

from __future__ import annotations

import contextlib
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from parallel_requests.backends.base import BlockingBackend
from parallel_requests.engines.run import Run
from parallel_requests.engines.threads import ThreadsEngine
from parallel_requests.exceptions import BackendError, RunStoppedError
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.gates.pacing import Pacer
from parallel_requests.models import Request, Response
from parallel_requests.policy import Policy
from tests.unit.driving import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.engines.watchdog import Flight
    from parallel_requests.exchange import Send

PATIENCE = 20.0


class Scripted(BlockingBackend):
    """Responds by calling a function of the test."""

    name = "scripted"

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self._answer = answer

    def send(self, send: Send) -> Response:
        return self._answer(send.request)


@pytest.fixture
def start() -> Iterator[Callable[..., ThreadsEngine]]:
    """Start engines that are closed after the test."""
    engines: list[ThreadsEngine] = []

    def new(answer: Callable[[Request], Response], concurrency: int, **options: Any) -> ThreadsEngine:
        engines.append(ThreadsEngine(Scripted(answer), concurrency, **options))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


def new_run(count: int, pacer: Pacer | None = None, **options: Any) -> Run:
    source = [Request(f"http://a.test/{index}", index=index, authority="a.test") for index in range(count)]
    parse = options.pop("parse", lambda result, deliver: deliver(result))
    options.setdefault("retry", RetryPolicy(backoff_factor=0.01))
    policy = Policy(pacer=pacer or Pacer(), **options)
    return Run(policy, parse, wake=lambda: None, source=iter(source), window=100)


def test_a_timer_rings_while_the_thread_that_set_it_is_sending(start: Callable[..., ThreadsEngine]) -> None:
    quick, retried = threading.Event(), threading.Event()
    requests = [Request(f"http://a.test/{index}", index=index, authority="a.test") for index in range(3)]
    run = Run(
        Policy(retry=RetryPolicy(backoff_factor=0.05)),
        lambda result, deliver: deliver(result),
        wake=lambda: None,
        window=9,
    )
    run.notifier.listen(quick.set)
    attempts = [0]

    def answer(request: Request) -> Response:
        if request.index == 1:
            return Answer(200).to(request)
        if request.index == 2:
            assert retried.wait(PATIENCE), "the retry waited for a slot that was free"
            return Answer(200).to(request)
        attempts[0] += 1
        if attempts[0] == 2:
            retried.set()
            return Answer(200).to(request)
        assert quick.wait(PATIENCE)
        run.feed(requests[2])  # found by this very loop, once it has parked the retry: the other one rests
        return Answer(503).to(request)

    run.feed(requests[0])
    run.feed(requests[1])
    engine = start(answer, 2)
    engine.submit(run)
    assert run.notifier.wait(lambda: len(run._results) == 3, PATIENCE)
    run.end_input()
    engine.wake()
    assert [result.ok for result in run.results()] == [True, True, True]
    assert retried.is_set()


def test_one_slot_per_host_never_hangs(start: Callable[..., ThreadsEngine]) -> None:
    engine = start(lambda request: Answer(200).to(request), 8)
    for _ in range(20):
        run = new_run(50, Pacer(concurrency_per_host=1))
        engine.submit(run)
        assert run.notifier.wait(run.is_done, PATIENCE)
        assert len(run.results()) == 50


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_whatever_a_backend_raises_is_an_error_of_its_item(
    start: Callable[..., ThreadsEngine], error: BaseException
) -> None:
    def answer(request: Request) -> Response:
        if request.index == 0:
            raise error
        return Answer(200).to(request)

    run = new_run(3, retry=RetryPolicy(max_retries=0))
    start(answer, 2).submit(run)
    assert run.notifier.wait(run.is_done, PATIENCE)
    results = {result.index: result.error for result in run.results()}
    assert isinstance(results.pop(0), BackendError)
    assert results == {1: None, 2: None}


@pytest.mark.parametrize("error", [ValueError("odd"), SystemExit(3)], ids=repr)
def test_whatever_the_translation_of_an_error_raises_is_an_error_of_its_item(error: BaseException) -> None:
    class Untranslatable(BlockingBackend):
        name = "untranslatable"

        def send(self, send: Send) -> Response:
            raise OSError

        def translate(self, *_: object) -> NoReturn:
            raise error

    run = new_run(3, retry=RetryPolicy(max_retries=0))
    with contextlib.closing(ThreadsEngine(Untranslatable(), 2)) as engine:
        engine.submit(run)
        assert run.notifier.wait(run.is_done, PATIENCE)
    assert [type(result.error) for result in run.results()] == [BackendError] * 3


def test_nothing_begins_after_a_stop(start: Callable[..., ThreadsEngine]) -> None:
    on_the_wire, go_on = threading.Semaphore(0), threading.Event()
    sent: list[int] = []

    def answer(request: Request) -> Response:
        sent.append(request.index)
        on_the_wire.release()
        assert go_on.wait(PATIENCE)
        return Answer(503).to(request)

    run = new_run(50)
    engine = start(answer, 4)
    engine.submit(run)
    for _ in range(4):
        assert on_the_wire.acquire(timeout=PATIENCE)
    reason = RunStoppedError("stopped")
    engine.stop(run, reason)
    go_on.set()
    assert run.notifier.wait(run.is_done, PATIENCE)
    assert sorted(sent) == [0, 1, 2, 3]
    assert len(run.results()) == 4


def test_a_stop_just_before_an_attempt(start: Callable[..., ThreadsEngine]) -> None:
    sent: list[int] = []

    def answer(request: Request) -> Response:
        sent.append(request.index)
        return Answer(200).to(request)

    run = new_run(3)
    engine = start(answer, 1)
    watch, reason = engine._watchdog.watch, RunStoppedError("stopped")

    def stopped_just_before(owner: Any, timeout: float | None) -> Flight:
        engine.stop(run, reason)
        return watch(owner, timeout)

    engine._watchdog.watch = stopped_just_before  # type: ignore[method-assign]
    engine.submit(run)
    assert run.notifier.wait(run.is_done, PATIENCE)
    assert sent == []
    assert [type(result.error) for result in run.results()] == [type(reason)]


def test_a_callers_executor_is_not_shut_down() -> None:
    with ThreadPoolExecutor(2) as executor:
        engine = ThreadsEngine(Scripted(lambda request: Answer(200).to(request)), 5, executor)
        run = new_run(20)
        engine.submit(run)
        assert run.notifier.wait(run.is_done, PATIENCE)
        engine.close()
        assert executor.submit(lambda: 42).result(PATIENCE) == 42


def test_a_thread_that_worked_for_the_engine_may_wait_for_it_afterwards() -> None:
    with ThreadPoolExecutor(1) as executor:
        engine = ThreadsEngine(Scripted(lambda request: Answer(200).to(request)), 5, executor)
        for submit in (engine.submit, lambda run: executor.submit(engine.submit, run).result(PATIENCE)):
            run = new_run(20)
            submit(run)
            assert run.notifier.wait(run.is_done, PATIENCE)
        engine.close()


def test_a_run_ends_if_the_callers_executor_cancels_its_workers() -> None:
    executor, busy = ThreadPoolExecutor(1), threading.Event()
    executor.submit(busy.wait)
    engine = ThreadsEngine(Scripted(lambda request: Answer(200).to(request)), 5, executor)
    run = new_run(3)
    engine.submit(run)
    executor.shutdown(wait=False, cancel_futures=True)
    busy.set()
    assert run.notifier.wait(run.is_done, PATIENCE)
    assert isinstance(run.policy.stop, RunStoppedError)
    assert len(list(run.unstarted())) == 3
    with pytest.raises(RuntimeError):  # rather than wait for a worker that never comes
        engine.submit(new_run(1))
    engine.close()


class Pickling(ThreadPoolExecutor):
    """Pickles what it runs, as do executors of processes, interpreters and other machines."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(lambda: pickle.loads(pickle.dumps(function))(*args, **kwargs))


def test_a_run_ends_if_the_callers_executor_cannot_run_workers(start: Callable[..., ThreadsEngine]) -> None:
    with Pickling(2) as executor:
        run = new_run(3)
        start(lambda request: Answer(200).to(request), 5, executor=executor).submit(run)
        assert run.notifier.wait(run.is_done, PATIENCE)
        assert isinstance(run.policy.stop, RunStoppedError)
        assert "executor" in str(run.policy.stop)
        assert "local object" in str(run.policy.stop)


class Counting(ThreadPoolExecutor):
    """Counts the tasks it is given."""

    submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        return super().submit(*args, **kwargs)


def test_no_more_workers_than_requests(start: Callable[..., ThreadsEngine]) -> None:
    with Counting(1_000) as executor:
        run = new_run(50)
        start(lambda request: Answer(200).to(request), 1_000, executor=executor).submit(run)
        assert run.notifier.wait(run.is_done, PATIENCE)
        assert 1 <= executor.submitted <= 50


class TakesAndFails(ThreadPoolExecutor):
    """Accepts a task and then finds no thread for it, as a ThreadPoolExecutor does."""

    submitted = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.submitted += 1
        future = super().submit(*args, **kwargs)
        if self.submitted > 2:
            raise RuntimeError("can't start new thread")
        return future


def test_workers_are_counted_if_the_executor_fails_while_starting_one(
    start: Callable[..., ThreadsEngine],
) -> None:
    with TakesAndFails(2) as executor:
        run = new_run(50)
        engine = start(lambda request: Answer(200).to(request), 8, executor=executor)
        engine.submit(run)
        assert run.notifier.wait(run.is_done, PATIENCE)
        executor.shutdown()
        assert engine._workers == 0


class Interrupted(ThreadPoolExecutor):
    """Starts a worker, and is interrupted as it starts another."""

    has_started = False

    def __init__(self, error: BaseException) -> None:
        super().__init__(2)
        self.error = error

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        if self.has_started:
            raise self.error
        self.has_started = True
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a time limit")], ids=repr)
def test_an_interruption_while_another_worker_starts_is_not_lost(
    start: Callable[..., ThreadsEngine], error: BaseException
) -> None:
    is_busy, goes_on = threading.Event(), threading.Event()

    def answer(request: Request) -> Response:
        is_busy.set()
        assert goes_on.wait(PATIENCE)
        return Answer(200).to(request)

    with Interrupted(error) as executor:
        engine = start(answer, 2, executor=executor)
        runs = [new_run(1), new_run(1)]
        engine.submit(runs[0])
        assert is_busy.wait(PATIENCE)
        try:
            with pytest.raises(type(error)):
                engine.submit(runs[1])
        finally:
            goes_on.set()
        assert all(run.notifier.wait(run.is_done, PATIENCE) for run in runs)


def test_a_closed_engine_takes_nothing() -> None:
    engine = ThreadsEngine(Scripted(lambda request: Answer(200).to(request)), 1)
    engine.close()
    with pytest.raises(RunStoppedError):
        engine.submit(new_run(1))


def test_a_batch_is_ended_on_a_thread_that_is_starting(start: Callable[..., ThreadsEngine]) -> None:
    """By the garbage collector, which may find an abandoned batch there; `submit` waits for that thread."""
    endings: list[threading.Thread] = []

    class Collecting(ThreadPoolExecutor):
        def submit(self, *args: Any, **options: Any) -> Any:
            ending = threading.Thread(target=engine.stop, args=(abandoned, RunStoppedError()))
            ending.start()
            ending.join(PATIENCE)
            endings.append(ending)
            return super().submit(*args, **options)

    abandoned, run = new_run(0), new_run(3)
    with Collecting(1) as executor:
        engine = start(lambda request: Answer(200).to(request), 1, executor=executor)
        engine.submit(run)
        assert endings
        assert not any(ending.is_alive() for ending in endings)
        assert run.notifier.wait(run.is_done, PATIENCE)
