"""One batch as its consumer sees it: feeding the input, waiting, and gathering every Result."""

from __future__ import annotations

import contextlib
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from parallel_requests.exceptions import RunStoppedError
from parallel_requests.exchange import stop_error
from parallel_requests.models import Request, Result
from parallel_requests.stats import RunStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.engines.base import Engine
    from parallel_requests.engines.run import Run

_STOP_PATIENCE = 0.8
"""Seconds a stopped run may take to let go of what is in flight."""
_LONGEST_FEED = 0.005
"""Seconds a slow input is advanced while there are Results."""


class Batch:
    """Brings a run's input in and its Results out.

    The input of a list is pulled by the engine itself. Any other iterable may block, or belong to
    the consumer's thread (a database cursor, say): it is advanced here, in that thread, and never
    further than the run has room for.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        inputs: Iterator[Request] | None,
        plan_item: Callable[[Any, int], Request],
        on_end: Callable[[], object],
        *,
        connections_before: int | None = None,
    ) -> None:
        """Set a batch up; `results` and `stream` start it.

        Args:
            engine: What carries it out.
            run: The run.
            inputs: The planned Requests to feed; None where the engine pulls them itself, or where
                `feed` is called from outside.
            plan_item: Plans the next item (by its index) for who feeds from outside.
            on_end: To be called when it has ended, one way or another.
            connections_before: Connections the backend had opened by then, where it tells.
        """
        self.plan_item = plan_item
        self.on_end = on_end
        self.engine = engine
        self.run = run
        self.inputs = inputs
        self.connections_before = connections_before
        self.outbox = Outbox(ordered=False)
        self.is_over = False
        self.stats = RunStats()
        self._began = 0.0

    def start(self) -> None:
        """Hand the run to the engine."""
        self._began = perf_counter()
        self.run.on_room = self.engine.wake
        try:
            self.engine.submit(self.run)
        except Exception:
            self.run.stop_pulling()  # nobody will: it is over before it began
            raise

    def results(self) -> list[Result[Any]]:
        """Wait for the end and return all Results, in input order.

        Raises:
            Exception: The input raised; what was in flight is done by then, and in its ``.results``.
            KeyboardInterrupt: With ``.results``, those that were done.
        """
        try:
            self._run_to_its_end()
            return self.finish()
        except BaseException as error:
            _attach(error, self.abandon())
            raise

    # The two loops stand outside of the `try` that looks after them: to CPython 3.13 a loop's jump back
    # is not in it, and that is a place where it hears Ctrl-C.

    def _run_to_its_end(self) -> None:
        self.start()
        while not self.run.is_done():
            self.feed_what_fits()
            self.run.wait(self.needs_attention)

    def _run_as_results_come(self) -> Iterator[Result[Any]]:
        self.start()
        while not self.is_over:
            self.feed_what_fits()
            self.run.wait(self.needs_attention_or_has_results)
            self.collect_news()
            yield from self.hand_over()
            self.engine.wake()

    def finish(self) -> list[Result[Any]]:
        """Return all Results of a run that is done, in input order.

        Raises:
            Exception: The input raised; the Results are in its ``.results`` instead.
        """
        self.collect_news()
        results = self.outbox.rest()
        if self.run.input_error is not None:
            _attach(self.run.input_error, results)
        self.raise_input_error()
        return results

    def left_out(self) -> list[Result[Any]]:
        """Return the Results of what a stopped run never came to."""
        stop = self.run.policy.stop
        if stop is None:
            return []
        return [
            Result(request, error=request.problem or stop_error(stop, request))
            for request in self.run.unstarted()
        ]

    def stream(self, *, ordered: bool) -> Iterator[Result[Any]]:
        """Yield Results as they come, or in input order; leaving the loop stops the run."""
        self.outbox = Outbox(ordered=ordered)
        try:
            yield from self._run_as_results_come()
        except BaseException:
            self.abandon()
            raise
        self.raise_input_error()

    def collect_news(self) -> None:
        """Bring the Results that are there to the outbox; at the end, also those of what was left out."""
        self.is_over = self.run.is_done()
        results = self.run.results()
        self.outbox.put(results)
        self.run.drop(len(results))  # only now: a Ctrl-C may come any time, and finds them in either place
        if self.is_over:
            left_out = self.left_out()
            self.outbox.put(left_out)
            results += left_out
        self.account(results)

    def hand_over(self) -> Iterator[Result[Any]]:
        """Yield the Results whose turn it is."""
        arrived = self.outbox.arrived
        while arrived:
            result = arrived[0]
            self.run.release(1)
            try:
                yield result
            finally:  # Python hears no Ctrl-C between `try` and `yield`: what is let go of was handed over
                arrived.popleft()

    def stop(self) -> None:
        """Break the run off, without waiting for it; not in a forked child, as it is the parent's."""
        if not (self.run.is_done() or self.engine.threads.is_in_child_process()):
            self.engine.stop(self.run, RunStoppedError("The run was stopped."))

    def abandon(self) -> list[Result[Any]]:
        """Stop the run and return the Results that were done and not handed over, in input order."""
        if self.engine.threads.is_in_child_process():
            return []
        self.stop()
        # It is one where the garbage collector, on an engine's thread, found an iterator left half-way.
        if not self.engine.threads.is_worker():
            self.run.wait(self.run.is_done, _STOP_PATIENCE)
        return self.keep_finished()

    def keep_finished(self) -> list[Result[Any]]:
        """Count in the Results that are done and not handed over, and return them in input order."""
        results = self.run.results()
        late = [result for result in results if not isinstance(result.error, RunStoppedError)]
        self.outbox.put(late)
        self.run.drop(len(results))
        self.account(late)
        finished = self.outbox.rest()
        self.stats.results = tuple(finished)
        return finished

    def feed(self, request: Request) -> None:
        """Hand in one planned Request."""
        if self.run.feed(request):
            self.engine.wake()

    def end_input(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes in, and why, if the input raised."""
        self.run.end_input(error)
        self.engine.wake()

    def feed_what_fits(self) -> None:
        """Advance the input as far as there is room; not for long where Results wait to be handed over."""
        if self.inputs is None:
            return
        until = perf_counter() + _LONGEST_FEED
        while self.run.room() > 0 and not (self.run.has_results() and perf_counter() > until):
            try:
                request = next(self.inputs, None)
            except Exception as error:  # noqa: BLE001 - raised again once what is in flight is done
                self.inputs = None
                self.end_input(error)
                return
            if request is None:
                self.inputs = None
                self.end_input()
                return
            self.feed(request)

    def needs_attention(self) -> bool:
        """Whether the end is reached, or it is time to feed again."""
        return self.run.is_done() or (self.inputs is not None and self.run.has_half_its_room())

    def needs_attention_or_has_results(self) -> bool:
        """Whether there is anything to do for a consumer of single Results."""
        return self.run.has_results() or self.needs_attention()

    def account(self, results: list[Result[Any]]) -> None:
        """Count finished Results into the figures."""
        self.stats.add(results)
        self.stats.seconds = perf_counter() - self._began

    def raise_input_error(self) -> None:
        """Raise what the input raised, if it did."""
        if self.run.input_error is not None:
            raise self.run.input_error


def _attach(error: BaseException, results: list[Result[Any]]) -> None:
    """Put Results on an exception; one of the caller's may take none, and the figures have them, too."""
    with contextlib.suppress(Exception):
        error.results = results  # type: ignore[attr-defined]


class Outbox:
    """The Results on their way to the consumer, in the order they came or in input order.

    Attributes:
        arrived: Those whose turn it is, the next one first.
    """

    def __init__(self, *, ordered: bool) -> None:
        self.arrived: deque[Result[Any]] = deque()
        self._early: dict[int, Result[Any]] | None = {} if ordered else None
        self._next = 0

    def put(self, results: list[Result[Any]]) -> None:
        """Take Results in; those that come before their turn are kept."""
        if self._early is None:
            self.arrived.extend(results)
            return
        for result in results:
            self._early[result.index] = result
        while self._next in self._early:
            self.arrived.append(self._early[self._next])
            del self._early[self._next]
            self._next += 1

    def rest(self) -> list[Result[Any]]:
        """Return what has not been handed over, in input order."""
        # By index, as a Ctrl-C may have left one where it was and where it was going.
        results = {result.index: result for result in (*self.arrived, *(self._early or {}).values())}
        return [results[index] for index in sorted(results)]
