"""The backends under test, and sessions over them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests.aio import ParallelRequests
from parallel_requests.backends.base import BACKEND_NAMES, is_installed
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INSTALLED = tuple(name for name in BACKEND_NAMES if is_installed(name))
ONE_QUICK_RETRY = RetryPolicy(max_retries=1, backoff_factor=0.01)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder):
            item.add_marker(pytest.mark.contract)


@pytest.fixture(params=INSTALLED)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend; the test runs once for each one installed."""
    name: str = request.param
    return name


@pytest.fixture
def open_session(backend: str) -> Iterator[Callable[..., ParallelSession]]:
    """``open_session(**options)`` opens a session over the backend; it is closed with the test."""
    with contextlib.ExitStack() as opened:

        def start(**options: Any) -> ParallelSession:
            return opened.enter_context(
                ParallelSession(**{"backend": backend, "retry": ONE_QUICK_RETRY, **options})
            )

        yield start


class ThroughAsyncio:
    """An asynchronous client with the face of a session, so that one contract serves both surfaces."""

    def __init__(self, backend: str) -> None:
        self._runner = asyncio.Runner()
        self._client = ParallelRequests(backend=backend, retry=ONE_QUICK_RETRY)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            outcome = method(*args, **options)
            return self._runner.run(outcome) if inspect.iscoroutine(outcome) else outcome

        return call

    def iter_results(self, *args: Any, **options: Any) -> list[Any]:
        """All Results, as they came."""

        async def collect() -> list[Any]:
            return [result async for result in self._client.iter_results(*args, **options)]

        return self._runner.run(collect())

    def close(self) -> None:
        """Close the client and its loop."""
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=["sync", "async"])
def session(
    request: pytest.FixtureRequest, backend: str, open_session: Callable[..., ParallelSession]
) -> Iterator[Any]:
    """A session that retries once, at once; and an asynchronous client in its place."""
    if request.param == "sync":
        yield open_session()
        return
    client = ThroughAsyncio(backend)
    try:
        yield client
    finally:
        client.close()
