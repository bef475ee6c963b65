"""The progress bar of a batch ends when the batch does."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import io
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import ConfigurationError, ParallelRequests, ParallelSession, PartialFailureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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


class Abandoned(io.StringIO):
    """A pipe whose reader is gone after the first line."""

    def write(self, text: str) -> int:
        if self.tell():
            raise BrokenPipeError(errno.EPIPE, "nobody reads")
        return super().write(text)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("route", ["/static", "/delay/0.2"], ids=["at the end", "meanwhile"])
def test_a_bar_that_cannot_be_drawn_costs_nothing(
    session: ParallelSession, server: Server, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setattr(sys, "stderr", Abandoned())
    assert len(session.get([server.url(route)] * 2, progress=True, return_type="content")) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": None},
        {"existing": "never"},
        {"sha256": {"http://other.test/": "0" * 64}},
        {"keys": ["one", "too many"]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_there_is_no_bar_if_downloads_are_refused(
    session: ParallelSession,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: dict[str, Any],
) -> None:
    download: Callable[..., Any] = session.download
    with pytest.raises(ConfigurationError):
        download(**{"urls": [server.url("/static")], "to": tmp_path, "progress": True} | wrong)
    assert not capsys.readouterr().err


def test_there_is_no_bar_if_a_function_is_refused(
    session: ParallelSession, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    no_other_process_has_it = threading.Lock().acquire
    with pytest.raises(ConfigurationError, match="parse_func"):
        session.get(
            [server.url("/static")], parse_func=no_other_process_has_it, parse_processes=1, progress=True
        )
    assert not capsys.readouterr().err


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
