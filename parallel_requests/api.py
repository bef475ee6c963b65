"""The one-call verb."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Unpack

from parallel_requests.models import Result, ReturnType
from parallel_requests.options import Options, documents_options
from parallel_requests.planning import Item
from parallel_requests.session import ParallelSession


@documents_options(session=True)
def parallel_requests(
    urls: str | Iterable[Item],
    *,
    keys: Iterable[Any] | None = None,
    return_type: ReturnType | str = ReturnType.JSON,
    parse_func: Callable[[Any], Any] | None = None,
    return_none_on_failure: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Fetch one URL or many, and return one value or many, in input order.

    It blocks until all are done, and also works where an event loop runs in this thread.

    Args:
        urls: A URL gives a value, a list (or any iterable) of them a list.
        keys: One name per URL; the answer is a dict by them.
        return_type: What each answer becomes: json, text, content, response or stream.
        parse_func: Called with each decoded answer; what it returns takes the answer's place.
        return_none_on_failure: Put None in place of what failed instead of raising.

    Raises:
        ConfigurationError: An option is wrong; nothing was sent.
        ParallelRequestsError: The single URL failed; this is its own error.
        PartialFailureError: Items of a list failed; every Result is in ``.results``.
    """
    with ParallelSession(**options) as session:
        return session.request(
            urls,
            keys=keys,
            return_type=return_type,
            parse_func=parse_func,
            return_none_on_failure=return_none_on_failure,
        )


@documents_options(session=True)
def iter_results(
    urls: Iterable[Item],
    *,
    keys: Iterable[Any] | None = None,
    return_type: ReturnType | str = ReturnType.JSON,
    parse_func: Callable[[Any], Any] | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> Iterator[Result[Any]]:
    """Yield a Result for each item as it completes; see `ParallelSession.iter_results`."""
    with ParallelSession(**options) as session:
        yield from session.iter_results(
            urls, keys=keys, return_type=return_type, parse_func=parse_func, ordered=ordered
        )
