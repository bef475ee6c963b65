"""Results → what the caller asked for, and what happens when some failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parallel_requests.exceptions import PartialFailureError
from parallel_requests.models import Result


def collect(
    results: Sequence[Result[Any]], *, single: bool, keyed: bool, none_on_failure: bool
) -> Any:
    """Return a value, a list or a dict.

    Args:
        results: The Results of a batch, in input order.
        single: The input was one URL: return its value alone.
        keyed: Return a dict by the Results' keys.
        none_on_failure: Put None in place of what failed instead of raising.

    Raises:
        ParallelRequestsError: The single URL's own error.
        PartialFailureError: Items of a list failed; all Results are in it.
    """
    if single:
        result = results[0]
        return None if none_on_failure and not result.ok else result.unwrap()
    if not none_on_failure and any(result.error is not None for result in results):
        raise PartialFailureError.from_results(results)
    if keyed:
        return {result.key: result.value for result in results}
    return [result.value for result in results]
