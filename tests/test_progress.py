"""The progress bar of a batch ends when the batch does."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import TYPE_CHECKING

import pytest

from parallel_requests import ParallelRequests, ParallelSession, PartialFailureError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.control import Server

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="the bar is tqdm's")


@pytest.fixture
def session() -> Iterator[ParallelSession]:
    """A session that does not retry."""
    with ParallelSession(max_retries=0) as opened:
        yield opened


def some_that_fail(server: Server) -> list[str]:
    return [*[server.url("/static")] * 30, *[server.url("/status/404")] * 10]


def test_the_bar_ends_with_the_batch(
    session: ParallelSession, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PartialFailureError):
        session.get(some_that_fail(server), progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert shown.endswith("\n")


def test_the_bar_ends_if_the_loop_is_left(
    session: ParallelSession, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    results = session.iter_results(some_that_fail(server), progress=True)
    next(results)
    results.close()
    assert capsys.readouterr().err.endswith("\n")


def test_the_bar_of_a_coroutine_ends_with_the_batch(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fetch() -> None:
        async with ParallelRequests(max_retries=0) as client:
            await client.get(some_that_fail(server), progress=True)

    with pytest.raises(PartialFailureError):
        asyncio.run(fetch())
    shown = capsys.readouterr().err
    assert "40/40" in shown
    assert shown.endswith("\n")
