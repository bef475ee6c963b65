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
        raise _partial_failure(results, call)
    if call.is_keyed:
        return {result.key: result.value for result in results}
    return [result.value for result in results]


def _partial_failure(results: Sequence[Result[Any]], call: Call) -> PartialFailureError:
    # Not where it is raised: by a variable there it would refer to itself, and be freed much later.
    failure = PartialFailureError.from_results(results)
    failure.call = call
    return failure


def merge_retried(results: Sequence[Result[Any]], retried: Sequence[Result[Any]]) -> list[Result[Any]]:
    """Return the Results of a batch, with those that failed replaced by their retried ones."""
    again = iter(retried)
    return [result if result.ok else next(again) for result in results]
