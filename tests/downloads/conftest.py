"""Sessions that download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parallel_requests import ParallelSession
from tests.downloads.files import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def session(open_session: Callable[..., ParallelSession]) -> ParallelSession:
    """A session over each backend."""
    return open_session(retry=QUICK)


@pytest.fixture
def fast() -> Iterator[ParallelSession]:
    """A session over any backend, for tests that do not depend on it."""
    with ParallelSession(retry=QUICK) as opened:
        yield opened
