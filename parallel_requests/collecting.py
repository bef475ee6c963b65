"""Results → what the caller asked for, and what happens when some failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from parallel_requests.exceptions import PartialFailureError
from parallel_requests.models import Result, ReturnType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How a batch was asked for.

    Attributes:
        verb: Which verb was called: request, iter_results or download.
        is_single: By one URL: its value alone is the answer.
        is_keyed: With ``keys``: a dict by them is the answer.
        none_on_failure: Put None in place of what failed instead of raising.
        is_ordered: Yield in input order.
        return_type: What each answer becomes.
        parse_func: What is called with each decoded answer.
        options: The options given with it.
    """

    verb: Literal["request", "iter_results", "download"] = "request"
    is_single: bool = False
    is_keyed: bool = False
    none_on_failure: bool = False
    is_ordered: bool = False
    return_type: ReturnType | str = ReturnType.JSON
    parse_func: Callable[[Any], Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def collect(results: Sequence[Result[Any]], call: Call) -> Any:
    """Return a value, a list or a dict.

    Args:
        results: The Results of a batch, in input order.
        call: How the batch was asked for.

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
    """Put the Results of a second try in the places of what failed in the first."""
    again = iter(retried)
    merged: list[Result[Any]] = []
    for result in results:
        if result.ok:
            merged.append(result)
            continue
        second = next(again)
        second.request.index = result.index
        merged.append(second)
    return merged
