"""Results → what the caller asked for: a value, a list, a dict, or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parallel_requests.exceptions import PartialFailureError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parallel_requests.calls import Call
    from parallel_requests.models import Result


def collect(results: Sequence[Result[Any]], call: Call) -> Any:
    """Return a value, a list or a dict.

    Args:
        results: The Results of a batch, in input order.
        call: How the batch was requested.

    Raises:
        ParallelRequestsError: The single URL's own error.
        PartialFailureError: Items of a list failed; all Results are in it.
    """
    if call.is_single:
        result = results[0]
        return None if call.none_on_failure and not result.ok else result.unwrap()
    if not call.none_on_failure and any(result.error is not None for result in results):
        failure = PartialFailureError.from_results(results)
        failure.call = call
        raise failure
    if call.is_keyed:
        return {result.key: result.value for result in results}
    return [result.value for result in results]


def merge_retried(results: Sequence[Result[Any]], retried: Sequence[Result[Any]]) -> list[Result[Any]]:
    """Return the Results of a batch, with those that failed replaced by their retried ones."""
    again = iter(retried)
    merged: list[Result[Any]] = []
    for result in results:
        if result.ok:
            merged.append(result)
            continue
        second = next(again)
        second.request.index = second._index = result.index  # noqa: SLF001 - its place in the whole batch
        merged.append(second)
    return merged
