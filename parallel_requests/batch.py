"""One batch as its consumer sees it: feeding the input, waiting, and gathering every Result."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

from parallel_requests.engines.base import Engine, Run
from parallel_requests.exceptions import RunStoppedError
from parallel_requests.models import Request, Result
from parallel_requests.stats import RunStats

_STOP_PATIENCE = 0.8
"""Seconds a stopped run may take to let go of what is in flight."""


class Batch:
    """Brings a run's input in and its Results out.

    The input of a list is pulled by the engine itself. Any other iterable may block, or belong to
    the consumer's thread (a database cursor, say): it is advanced here, in that thread, and never
    further than the run has room for.
    """

    def __init__(self, engine: Engine, run: Run, inputs: Iterator[Request] | None) -> None:
        """Set a batch up; `results` and `stream` start it.

        Args:
            engine: What carries it out.
            run: The run.
            inputs: The planned Requests to feed; None where the engine pulls them itself.
        """
        self._engine = engine
        self._run = run
        self._inputs = inputs
        self._began = 0.0
        self.stats = RunStats()

    def start(self) -> None:
        """Hand the run to the engine."""
        self._began = perf_counter()
        self._engine.submit(self._run)

    def results(self) -> list[Result[Any]]:
        """Wait for the end and return all Results, in input order.

        Raises:
            Exception: The input raised; what was in flight is done by then.
            KeyboardInterrupt: With ``.results``, those that were done.
        """
        try:
            self.start()
            while not self._run.is_done():
                self._feed()
                self._run.wait(self._needs_attention)
        except BaseException as error:
            finished = self.abandon()
            error.results = finished  # type: ignore[attr-defined]
            raise
        return self.finish()

    def finish(self) -> list[Result[Any]]:
        """Return all Results of a run that is done, in input order."""
        results = self._run.take()
        stop = self._run.policy.stop
        if stop is not None:
            results += [Result(request, error=request.problem or stop) for request in self._run.unstarted()]
        results.sort(key=_index)
        self._account(results)
        self._raise_input_error()
        return results

    def stream(self, *, ordered: bool) -> Iterator[Result[Any]]:
        """Yield Results as they come, or in input order; leaving the loop stops the run."""
        arrange = _Arrange() if ordered else None
        try:
            self.start()
            while True:
                self._feed()
                self._run.wait(self._needs_attention_or_has_results)
                is_last = self._run.is_done()
                results = self._run.take()
                self._account(results)
                for result in results if arrange is None else arrange(results):
                    self._run.release(1)
                    yield result
                self._engine.wake()
                if is_last:
                    break
        except BaseException:
            self.abandon()
            raise
        self._raise_input_error()

    def abandon(self) -> list[Result[Any]]:
        """Stop the run and return the Results that were done, in input order."""
        reason = RunStoppedError("The run was stopped before this item was done.")
        if not self._run.is_done():
            self._engine.stop(self._run, reason)
            self._run.wait(self._run.is_done, _STOP_PATIENCE)
        finished = [result for result in self._run.take() if result.error is not reason]
        finished.sort(key=_index)
        self._account(finished)
        self.stats.results = tuple(finished)
        return finished

    def feed(self, request: Request) -> None:
        """Hand in one planned Request."""
        if self._run.feed(request):
            self._engine.wake()

    def end_input(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes in, and why, if the input raised."""
        self._run.end_input(error)
        self._engine.wake()

    def _feed(self) -> None:
        """Advance the input as far as there is room."""
        if self._inputs is None:
            return
        while self._run.room() > 0:
            try:
                request = next(self._inputs, None)
            except Exception as error:
                self._inputs = None
                self.end_input(error)
                return
            if request is None:
                self._inputs = None
                self.end_input()
                return
            self.feed(request)

    def _needs_attention(self) -> bool:
        return self._run.is_done() or (self._inputs is not None and self._run.has_half_its_room())

    def _needs_attention_or_has_results(self) -> bool:
        return self._run.has_results() or self._needs_attention()

    def _account(self, results: list[Result[Any]]) -> None:
        self.stats.add(results)
        self.stats.seconds = perf_counter() - self._began

    def _raise_input_error(self) -> None:
        if self._run.input_error is not None:
            raise self._run.input_error


class _Arrange:
    """Puts Results into input order, keeping those that came early."""

    def __init__(self) -> None:
        self._early: dict[int, Result[Any]] = {}
        self._next = 0

    def __call__(self, results: list[Result[Any]]) -> Iterator[Result[Any]]:
        for result in results:
            self._early[result.index] = result
        while self._next in self._early:
            yield self._early.pop(self._next)
            self._next += 1


def _index(result: Result[Any]) -> int:
    return result.request.index
