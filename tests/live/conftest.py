"""The backends under test, and sessions over them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests.backends.base import BACKEND_NAMES, is_installed
from parallel_requests.session import ParallelSession
from tests.live.lateness import Lateness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(
    params=[
        # Only in the second environment is there something new to see.
        pytest.param(name, marks=pytest.mark.niquests) if name == "niquests" else name
        for name in BACKEND_NAMES
        if is_installed(name)
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend; the test runs once for each one installed."""
    name: str = request.param
    return name


@pytest.fixture
def open_session(backend: str) -> Iterator[Callable[..., ParallelSession]]:
    """``open_session(**options)`` opens a session over the backend; it is closed with the test."""
    with contextlib.ExitStack() as opened:

        def start(**options: Any) -> ParallelSession:
            return opened.enter_context(ParallelSession(**{"backend": backend, **options}))

        yield start


@pytest.fixture
def lateness() -> Iterator[Lateness]:
    """How late this process came by the machine's fault."""
    with Lateness() as measured:
        yield measured
