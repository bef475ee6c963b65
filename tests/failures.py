"""Batches of which something is expected to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parallel_requests import PartialFailureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server.control import Server


def partial_failure(call: Callable[[], object]) -> PartialFailureError:
    """Return the error that a call raises, after checking that it has one Result per item, in order."""
    with pytest.raises(PartialFailureError) as caught:
        call()
    assert [result.index for result in caught.value.results] == list(range(len(caught.value.results)))
    return caught.value


def urls_that_raise(server: Server, count: int) -> Iterator[str]:
    """Some URLs, and then a KeyError."""
    for number in range(count):
        yield server.url(f"/id/{number}")
    raise KeyError("the table is gone")
