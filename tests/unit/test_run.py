"""A batch under way, as its consumer and its engine see it."""

from __future__ import annotations

from typing import Any

from parallel_requests.engines.run import Run
from parallel_requests.exceptions import RunStoppedError
from parallel_requests.models import Request, Result
from parallel_requests.policy import Policy


def requests(count: int) -> list[Request]:
    return [Request(f"http://a.test/{index}", index=index) for index in range(count)]


def new_run(kind: type[Run] = Run, *, count: int | None, window: int = 2, **options: Any) -> Run:
    """A batch over a list of Requests; over none for one that is fed."""
    options = {"wake": lambda: None, **options}
    source = None if count is None else iter(requests(count))
    return kind(Policy(), lambda result, deliver: deliver(result), source=source, window=window, **options)


def test_the_consumer_is_told_if_the_end_of_the_input_comes_after_the_last_result() -> None:
    run = new_run(count=1)
    request = run.pull()
    assert request is not None
    run.complete(Result(request))
    told: list[bool] = []
    run.notifier.listen(lambda: told.append(run.is_done()))
    assert run.pull() is None
    assert told == [True]


def test_the_consumer_of_a_stream_is_told_of_each_result() -> None:
    run = new_run(count=3, window=3, holds_back=True)
    told: list[int] = []
    run.notifier.listen(lambda: told.append(len(run.results())))
    for request in requests(2):
        run.pull()
        run.complete(Result(request))
    assert told == [1, 2]


def test_why_a_batch_was_broken_off_is_not_forgotten_when_its_input_ends() -> None:
    run = new_run(count=None)
    run.feed(requests(1)[0])
    run.pull()
    reason = RunStoppedError("The engine has failed.")
    run.break_off(reason)
    assert run.is_done()
    run.end_input()
    assert run.error is reason


def test_a_result_that_comes_after_its_batch_was_broken_off_does_not_revive_it() -> None:
    run = new_run(count=2)
    request = run.pull()
    assert request is not None
    run.break_off(RunStoppedError("The engine has failed."))
    run.complete(Result(request))
    assert run.is_done()


def test_a_stopped_batch_does_not_ask_to_be_fed() -> None:
    run = new_run(count=None)
    assert run.has_half_its_room()
    run.stop_pulling()
    assert not run.has_half_its_room()
    assert run.room() == 0


def test_an_engine_that_found_the_window_full_is_woken_once_when_half_of_it_is_free() -> None:
    wakes: list[str] = []
    run = new_run(count=9, window=4, wake=lambda: wakes.append("now"))
    pulled = [request for _ in range(5) if (request := run.pull()) is not None]
    woken: list[int] = []
    for request in pulled:
        run.complete(Result(request))
        woken.append(len(wakes))
    assert woken == [0, 1, 1, 1]


def test_results_that_come_just_before_the_window_is_found_full_leave_room() -> None:
    class Overtaken(Run):
        """Results come just after it was looked at."""

        pulled: list[Request]

        def _open(self) -> int:
            count = super()._open()
            while count == self._window and self.pulled:
                self.complete(Result(self.pulled.pop()))
            return count

    run = new_run(Overtaken, count=3)
    assert isinstance(run, Overtaken)
    run.pulled = []
    for _ in range(2):
        request = run.pull()
        assert request is not None
        run.pulled.append(request)
    assert run.wants_more()
