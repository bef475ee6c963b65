"""The surfaces under test, and sessions over them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests.aio import ParallelRequests
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.session import ParallelSession
from tests.contract.through_asyncio import LoopThread, ThroughAsyncio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONE_QUICK_RETRY = RetryPolicy(max_retries=1, backoff_factor=0.01)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.contract)


@pytest.fixture(params=["sync", "async"])
def surface(request: pytest.FixtureRequest) -> str:
    """How the library is called; the test runs once for a session, once for an asynchronous client."""
    name: str = request.param
    return name


@pytest.fixture
def open_session(backend: str, surface: str) -> Iterator[Callable[..., Any]]:
    """``open_session(**options)`` opens a session, or a client, over the backend; it is closed with the test.

    The sessions of a test stand for several clients on one event loop.
    """
    with contextlib.ExitStack() as opened:
        loop = opened.enter_context(LoopThread()) if surface == "async" else None

        def start(**options: Any) -> ParallelSession | ThroughAsyncio:
            options = {"backend": backend, "retry": ONE_QUICK_RETRY, **options}
            if loop is None:
                return opened.enter_context(ParallelSession(**options))
            return opened.enter_context(ThroughAsyncio(loop, ParallelRequests(**options)))

        yield start


@pytest.fixture
def session(open_session: Callable[..., Any]) -> Any:
    """A session, or an asynchronous client, that retries once, at once."""
    return open_session()
