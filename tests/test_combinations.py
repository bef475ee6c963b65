"""One session used in every way at once: each input has one Result, in its place, as the server confirms.

The steps are drawn by hypothesis, always the same ones. What the server saw of a batch is told apart by a
tag in the query, so that batches may overlap.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from parallel_requests import ParallelRequests, PartialFailureError, Result, RetryPolicy, RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.server.control import Server

PATIENCE = 20.0
MAX_RETRIES = 2
EXAMPLES, STEPS = 8, 15
KINDS = ("fine", "fine", "fine", "missing", "flaky", "moved", "invalid", "down")

kinds = st.lists(st.sampled_from(KINDS), min_size=1, max_size=12)
forms = st.sampled_from([list, tuple, iter, "dicts"])

pytestmark = pytest.mark.timeout(120)


class InputError(Exception):
    """The error that an input raises."""


def raise_anything(*_: object) -> None:
    raise OSError("a hook of the caller's")


HOOKS = st.fixed_dictionaries(
    {},
    optional={
        "on_result": st.just(raise_anything),
        "on_attempt": st.just(raise_anything),
        "progress": st.just(raise_anything),
        "parse_func": st.just(dict),
        "deadline": st.just(PATIENCE),
        "cookies": st.just({"own": "1"}),
    },
)


class Expected:
    """A batch and its expected Results."""

    def __init__(self, server: Server, tag: int, drawn: list[str]) -> None:
        self.tag = f"batch-{tag}"
        self.kinds = drawn
        self.urls = [self._url(server, kind, index) for index, kind in enumerate(drawn)]

    def _url(self, server: Server, kind: str, index: int) -> str:
        tagged = f"/id/{index}?tag={self.tag}"
        return {
            "fine": server.url(tagged),
            "missing": server.url(f"/status/404?tag={self.tag}"),
            "down": server.url(f"/status/503?tag={self.tag}"),
            "flaky": server.url(f"/flaky/{self.tag}-{index}?tag={self.tag}"),
            "moved": server.url(f"/redirect-to?tag={self.tag}&url={quote(tagged, safe='')}"),
            "invalid": "ftp://nowhere",
        }[kind]

    def items(self, form: Any) -> Any:
        """The URLs in one of the forms an input may have."""
        return [{"url": url} for url in self.urls] if form == "dicts" else form(self.urls)

    def value(self, index: int) -> Any:
        """The value of an item; None if it fails."""
        kind = self.kinds[index]
        if kind == "flaky":
            return {"key": f"{self.tag}-{index}", "count": 2}
        return {"id": index} if kind in ("fine", "moved") else None

    def check(self, results: Iterable[Result[Any]], *, is_ordered: bool = True) -> None:
        """Check the Results of a batch that came to its end."""
        results = list(results)
        indices = [result.index for result in results]
        assert (indices if is_ordered else sorted(indices)) == list(range(len(self.urls)))
        for result in results:
            assert result.ok == (self.value(result.index) is not None), result
            assert result.value == self.value(result.index)


class Session(RuleBasedStateMachine):
    """The session, and its running batches on threads of their own."""

    server: Server
    backend: str
    tags: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        self.threads = ThreadPoolExecutor(4)
        self.under_way: list[tuple[Expected, Future[list[Result[Any]]]]] = []
        self.failed: list[tuple[Expected, PartialFailureError]] = []
        self.client: ParallelRequests | None = None

    @initialize(
        concurrency=st.sampled_from([1, 3, 8]),
        per_host=st.sampled_from([None, 1, 2]),
        adaptive=st.booleans(),
        rate=st.sampled_from([None, 1000.0]),
        retry_budget=st.booleans(),
    )
    def open(
        self, concurrency: int, per_host: int | None, adaptive: bool, rate: float | None, retry_budget: bool
    ) -> None:
        self.client = ParallelRequests(
            backend=self.backend,
            concurrency=concurrency,
            concurrency_per_host=per_host,
            adaptive=adaptive,
            rate_limit=rate,
            retry_budget=retry_budget,
            retry=RetryPolicy(max_retries=MAX_RETRIES, backoff_factor=0.001),
        )
        self.session = self.client.__enter__()

    # -- batches that come to their end

    @rule(drawn=kinds, form=forms, hooks=HOOKS, is_keyed=st.booleans())
    def request(self, drawn: list[str], form: Any, hooks: dict[str, Any], is_keyed: bool) -> None:
        batch = self.new_batch(drawn)
        keys = [f"key-{index}" for index in range(len(drawn))] if is_keyed else None
        try:
            values = self.session.request(batch.items(form), keys=keys, **hooks)
        except PartialFailureError as error:
            self.failed.append((batch, error))
            batch.check(error.results)
            self.check_attempts(batch, error.results)
        else:
            expected = [batch.value(index) for index in range(len(drawn))]
            assert values == (dict(zip(keys, expected, strict=True)) if keys else expected)

    @rule(drawn=kinds, form=forms, hooks=HOOKS, ordered=st.booleans())
    def iterate(self, drawn: list[str], form: Any, hooks: dict[str, Any], ordered: bool) -> None:
        batch = self.new_batch(drawn)
        results = list(self.session.iter_results(batch.items(form), ordered=ordered, **hooks))
        batch.check(results, is_ordered=ordered)
        self.check_attempts(batch, results)

    @rule(drawn=kinds, form=forms, hooks=HOOKS, ordered=st.booleans())
    def iterate_in_a_loop(self, drawn: list[str], form: Any, hooks: dict[str, Any], ordered: bool) -> None:
        batch = self.new_batch(drawn)

        async def results() -> list[Result[Any]]:
            assert self.client is not None
            stream = self.client.iter_results(batch.items(form), ordered=ordered, **hooks)
            return [result async for result in stream]

        done = asyncio.run(results())
        batch.check(done, is_ordered=ordered)
        self.check_attempts(batch, done)

    @precondition(lambda self: self.failed)
    @rule()
    def retry_what_failed(self) -> None:
        batch, error = self.failed.pop(0)
        assert error.call is not None
        with pytest.raises(PartialFailureError) as caught:  # what failed for good fails again
            self.session.retry_failed(error)
        batch.check(caught.value.results)
        if len(self.failed) < 2:
            self.failed.append((batch, caught.value))

    @rule(drawn=kinds, hooks=HOOKS)
    def begin(self, drawn: list[str], hooks: dict[str, Any]) -> None:
        batch = self.new_batch(drawn)
        stream = self.session.iter_results(batch.urls, **hooks)
        self.under_way.append((batch, self.threads.submit(list, stream)))

    @precondition(lambda self: self.under_way)
    @rule()
    def wait_for_one(self) -> None:
        batch, results = self.under_way.pop(0)
        batch.check(results.result(PATIENCE), is_ordered=False)
        self.check_attempts(batch, results.result())

    # -- batches that do not

    @rule(drawn=kinds, form=forms, ordered=st.booleans(), count=st.integers(0, 5))
    def leave_the_loop(self, drawn: list[str], form: Any, ordered: bool, count: int) -> None:
        batch = self.new_batch(drawn)
        stream = self.session.iter_results(batch.items(form), ordered=ordered)
        self.check_some(batch, list(itertools.islice(stream, count)), is_ordered=ordered)
        stream.close()

    @rule(drawn=kinds, count=st.integers(0, 5))
    def cancel_in_a_loop(self, drawn: list[str], count: int) -> None:
        batch = self.new_batch(drawn)

        async def some() -> list[Result[Any]]:
            assert self.client is not None
            results: list[Result[Any]] = []
            async with aclosing(self.client.iter_results(batch.urls)) as stream:
                async for result in stream:
                    results.append(result)
                    if len(results) > count:
                        break
            return results

        self.check_some(batch, asyncio.run(some()), is_ordered=False)

    @rule(drawn=kinds, hooks=HOOKS)
    def raise_from_the_input(self, drawn: list[str], hooks: dict[str, Any]) -> None:
        batch = self.new_batch(drawn)

        def urls() -> Iterator[str]:
            yield from batch.urls
            raise InputError

        with pytest.raises(InputError) as caught:
            self.session.request(urls(), **hooks)
        results: list[Result[Any]] = caught.value.results  # type: ignore[attr-defined]
        batch.check(results)
        self.check_attempts(batch, results)

    @rule()
    def close_and_open_another(self) -> None:
        """Close while batches are running: unfinished items fail as stopped."""
        self.session.close()
        for batch, results in self.under_way:
            done = results.exception(PATIENCE)
            if done is not None:
                assert isinstance(done, RunStoppedError)  # it had not begun
                continue
            assert sorted(result.index for result in results.result()) == list(range(len(batch.urls)))
            kept = [result for result in results.result() if not isinstance(result.error, RunStoppedError)]
            self.check_some(batch, kept, is_ordered=False)
        self.under_way.clear()
        self.failed.clear()
        self.open(3, None, False, None, True)

    def teardown(self) -> None:
        if self.client is not None:
            for batch, results in self.under_way:
                batch.check(results.result(PATIENCE), is_ordered=False)
            self.session.close()
        self.threads.shutdown()

    # -- what is checked

    def new_batch(self, drawn: list[str]) -> Expected:
        return Expected(self.server, next(self.tags), drawn)

    def check_some(self, batch: Expected, results: list[Result[Any]], *, is_ordered: bool) -> None:
        indices = [result.index for result in results]
        assert len(set(indices)) == len(indices)
        assert not is_ordered or indices == list(range(len(indices)))
        for result in results:
            assert result.value == batch.value(result.index)

    def check_attempts(self, batch: Expected, results: Iterable[Result[Any]]) -> None:
        """The attempts that Results report are those that the server saw."""
        seen = Counter(tag for entry in self.server.log() for tag in parse_qs(entry.query).get("tag", ()))
        assert seen[batch.tag] == sum(result.attempts for result in results)


def test_every_input_has_one_result_whatever_else_goes_on(backend: str, server: Server) -> None:
    tags = itertools.count()
    machine = type("Machine", (Session,), {"server": server, "backend": backend, "tags": tags})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS),
    )
