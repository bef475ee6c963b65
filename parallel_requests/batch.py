"""One batch from its consumer's side: feeding the input, waiting, and collecting every Result."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from operator import attrgetter
from time import perf_counter
from typing import TYPE_CHECKING, Any

from parallel_requests.exceptions import RunStoppedError, starting
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
"""Seconds for which the input is advanced while Results are waiting."""
_UNSTARTED_SLICE = 256
"""Items that were never started, whose Results are made in one go, which takes some 3 milliseconds."""


class Batch:
    """Feeds a run's input, and collects and counts its Results.

    If the input is a list, the engine pulls from it directly. Any other iterable may block, or belong
    to the consumer's thread (a database cursor, say): it is advanced here, in that thread, and never
    further than the run has room for.

    A consumer that may block calls `results` or `stream`. Another one takes the same steps by itself:
    `start`, then again and again `feed_what_fits`, a wait until there is something to do, and `hand_over`,
    or `finish` at the end.

    Attributes:
        stats: The statistics of the Results so far.
        is_over: Whether all Results have been collected.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        inputs: Iterator[Request | Result[Any]] | None,
        *,
        plan_item: Callable[[Any, int], Request],
        to_value: Callable[[list[Result[Any]]], Any],
        on_end: Callable[[], object],
        is_counted: bool = False,
        is_ordered: bool = False,
        connections_before: int | None = None,
    ) -> None:
        """Set up a batch; `results` and `stream` start it.

        Args:
            engine: What carries it out.
            run: The run.
            inputs: The planned Requests to feed, and the Results of items that need not be sent; None if
                the engine pulls them itself, or if the consumer feeds the run itself.
            plan_item: Plans an item, given with its index, for a consumer that feeds the run itself.
            to_value: Makes what the caller asked for of all Results, in input order.
            on_end: Called when it has ended, however it ended.
            is_counted: Whether it is known how many inputs there are, so that each has a Result even if the
                run is stopped.
            is_ordered: Whether its Results are handed over in input order.
            connections_before: Connections the backend had opened before, if it counts them.
        """
        self.plan_item = plan_item
        self.to_value = to_value
        self.on_end = on_end
        self._engine = engine
        self.run = run
        self._inputs = inputs
        self._is_counted = is_counted
        self.connections_before = connections_before
        self._outbox = _Outbox(is_ordered=is_ordered)
        self._left_out: Iterator[Result[Any]] | None = None
        self.is_over = False
        self.stats = RunStats()
        self._began = perf_counter()  # set anew by `start`, unless a Ctrl-C comes first

    def start(self) -> None:
        """Hand the run to the engine.

        Raises:
            ResourceExhausted: The engine cannot be started.
        """
        self._began = perf_counter()
        try:
            with starting("The engine"):
                self._engine.submit(self.run)
        except Exception:
            self.run.stop_pulling()  # so that it counts as done
            raise

    def results(self) -> list[Result[Any]]:
        """Wait for the end and return all Results, in input order.

        Raises:
            Exception: The input raised; what was in flight was finished, and is in its ``.results``.
            KeyboardInterrupt: With ``.results``, those that were done.
        """
        try:
            self._run_to_its_end()
            return self.finish()
        except BaseException as error:
            _attach(error, self._abandon())
            raise

    # The two loops below are outside the `try` of their callers on purpose: in CPython 3.13 a loop's jump
    # back is not covered by a `try` around the loop, and Ctrl-C may be raised there.

    def _run_to_its_end(self) -> None:
        self.start()
        while not self.run.is_done():
            self.feed_what_fits()
            self.run.notifier.wait(self.needs_attention)

    def _run_as_results_come(self) -> Iterator[Result[Any]]:
        self.start()
        while not self.is_over:
            self.feed_what_fits()
            self.run.notifier.wait(self.needs_attention_or_has_results)
            yield from self.hand_over()

    def finish(self) -> list[Result[Any]]:
        """Return all Results of a run that is done, in input order.

        Raises:
            Exception: The input raised; the Results are in its ``.results`` instead.
        """
        while not self.is_over:
            self.collect()
        results = self._outbox.rest()
        if self.run.error is not None:
            _attach(self.run.error, results)
            raise self.run.error
        return results

    def _results_of_unstarted(self) -> Iterator[Result[Any]]:
        """Yield the Results of the items that a stopped run never started, once it is done.

        Of an input that may be endless, that is only the next item: without it, a run that was stopped
        when all it had pulled was done would look complete.
        """
        stop = self.run.policy.stop
        if stop is None:
            return
        following = itertools.islice(iter(self._next_input, None), None if self._is_counted else 1)
        for request in itertools.chain(self.run.unstarted(), following):
            yield Result(request, error=request.problem or stop_error(stop, request))

    def _report_cut_input(self) -> None:
        """Have the stop of a run raised at its end, if its input was cut off and no Result says so.

        That is an input fed from outside, where the next item cannot be had without perhaps waiting forever.
        """
        stop = self.run.policy.stop
        if stop is None or self.run.has_input_ended() or type(stop).__name__ in self.stats.errors:
            return
        self.run.end_input(stop)

    def stream(self) -> Iterator[Result[Any]]:
        """Yield Results as they come, or in input order; leaving the loop stops the run."""
        try:
            yield from self._run_as_results_come()
        except BaseException:
            self._abandon()
            raise

    def collect(self) -> None:
        """Take over new Results; once the run is done, also some of those of the items never started."""
        is_done = self.run.is_done()
        results = self.run.results()
        self._outbox.put(results)
        self.run.drop(len(results))  # last, so that a Ctrl-C in between finds them in at least one place
        if is_done:
            if self._left_out is None:  # not sooner, as it refers to the batch: a cycle until it has ended
                self._left_out = self._results_of_unstarted()
            left_out = list(itertools.islice(self._left_out, _UNSTARTED_SLICE))
            self._outbox.put(left_out)
            results += left_out
            self.is_over = len(left_out) < _UNSTARTED_SLICE
        self._account(results)
        if self.is_over:
            self._report_cut_input()

    def hand_over(self) -> Iterator[Result[Any]]:
        """Yield the new Results whose turn it is, and let the engine use the room that they leave.

        Raises:
            RunStoppedError: This is a child of the process that runs the batch.
            ConfigurationError: This is one of the engine's own threads, which would wait for itself.
            Exception: The input raised, and this was the last of the Results.
        """
        self.collect()
        arrived = self._outbox.arrived
        while arrived:
            result = arrived[0]
            self.run.release(1)
            try:
                yield result
            finally:  # no Ctrl-C can come between `try` and `yield`, so what is removed was handed over
                arrived.popleft()
            self._engine.threads.check_caller()  # it may be another one by now
        self._engine.wake()
        if self.is_over and self.run.error is not None:
            raise self.run.error

    def stop(self) -> None:
        """Stop the run, without waiting for its end; not in a forked child, as the run is the parent's."""
        if not (self.run.is_done() or self._engine.threads.is_in_child_process()):
            self._engine.stop(self.run, RunStoppedError("The run was stopped."))

    def _abandon(self) -> list[Result[Any]]:
        """Stop the run and return its finished Results that were not handed over, in input order."""
        self.stop()
        # It is a worker if the garbage collector, on an engine's thread, closes an abandoned iterator.
        if not (self._engine.threads.is_worker() or self._engine.threads.is_in_child_process()):
            self.run.notifier.wait(self.run.is_done, _STOP_PATIENCE)
        return self.keep_finished()

    def keep_finished(self) -> list[Result[Any]]:
        """Account for the finished Results that were not handed over, and return them in input order.

        In a forked child there are none: they are the parent's, and a lock may have been held.
        """
        if self._engine.threads.is_in_child_process():
            return []
        results = self.run.results()
        late = _finished(results)
        self._outbox.put(late)
        self.run.drop(len(results))
        self._account(late)
        kept = _finished(self._outbox.rest())
        self.stats.results = tuple(kept)
        return kept

    def feed_what_fits(self) -> None:
        """Advance the input as far as there is room, but only briefly while Results are waiting."""
        if self._inputs is None:
            return
        until = perf_counter() + _LONGEST_FEED
        while self.run.room() > 0 and not (self.run.has_results() and perf_counter() > until):
            if (request := self._next_input()) is None:
                return
            self.run.feed(request)

    def _next_input(self) -> Request | None:
        """Return the next Request of the input; None if there is none, which is noted."""
        if self._inputs is None:
            return None
        try:
            for item in self._inputs:
                if not isinstance(item, Result):
                    return item
                self._outbox.put([item])
                self._account([item])
        except Exception as error:  # noqa: BLE001 - raised again once what is in flight is done
            self.run.end_input(error)
        else:
            self.run.end_input()
        self._inputs = None
        return None

    def needs_attention(self) -> bool:
        """Whether the run has ended, or it is time to feed again."""
        return self.run.is_done() or (self._inputs is not None and self.run.has_half_its_room())

    def needs_attention_or_has_results(self) -> bool:
        """Whether there is anything to do for a consumer of single Results."""
        return self.run.has_results() or self.needs_attention()

    def _account(self, results: list[Result[Any]]) -> None:
        """Add finished Results to the statistics."""
        self.stats.add(results)
        self.stats.seconds = perf_counter() - self._began


def _finished(results: list[Result[Any]]) -> list[Result[Any]]:
    """Return the Results of items that were not prevented by a stop."""
    return [result for result in results if not isinstance(result.error, RunStoppedError)]


def _attach(error: BaseException, results: list[Result[Any]]) -> None:
    """Attach Results to an exception; if its class does not allow that, ``last_run`` still has them."""
    with contextlib.suppress(Exception):
        error.results = results  # type: ignore[attr-defined]


class _Outbox:
    """The Results on their way to the consumer, in the order they came or in input order.

    Attributes:
        arrived: Those whose turn it is, the next one first.
    """

    def __init__(self, *, is_ordered: bool) -> None:
        self.arrived: deque[Result[Any]] = deque()
        self._early: dict[int, Result[Any]] | None = {} if is_ordered else None
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
        # Each once, as a Ctrl-C in the middle of a move may have left one in both places.
        results = dict.fromkeys((*self.arrived, *(self._early or {}).values()))
        return sorted(results, key=attrgetter("index"))
