"""The one-call functions: each opens a session for a single batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from parallel_requests.keywords import NOT_FOR_DOWNLOADS, documents_options, split_options
from parallel_requests.models import Result, ReturnType
from parallel_requests.options import Options, Settings
from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from parallel_requests.checksums import Checksums
    from parallel_requests.destinations import Existing, Target
    from parallel_requests.planning import Item
    from parallel_requests.signatures import OneCallDownloadVerb, OneCallIterVerb, OneCallVerb

# Decorators that give each function below a type for every combination of arguments.
_one_call_verb: Callable[[Callable[..., Any]], OneCallVerb] = documents_options(session=True)
_iter_verb: Callable[[Callable[..., Any]], OneCallIterVerb] = documents_options(session=True)
_download_verb: Callable[[Callable[..., Any]], OneCallDownloadVerb] = documents_options(
    session=True, without=NOT_FOR_DOWNLOADS
)


@_one_call_verb
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

    It blocks until all are done, and also works if an event loop is running in this thread.

    Args:
        urls: A URL gives a value, a list (or any iterable) of them a list. Items may also be
            Request objects, or dicts with options of their own, a ``key`` and ``meta``.
        keys: One name per URL; a dict with these as its keys is returned.
        return_type: What each response becomes: json, text, content, response or stream.
        parse_func: Called with each decoded response; what it returns takes the place of the response.
        return_none_on_failure: Put None in place of what failed instead of raising.

    Raises:
        ConfigurationError: An option is wrong; nothing was sent.
        TypeError: An option does not exist; the message names the closest one.
        ParallelRequestsError: The single URL failed; this is its own error.
        PartialFailureError: Items of a list failed; every Result is in ``.results``.
        KeyboardInterrupt: With what finished in ``.results``.
        Exception: The iterable of URLs raised; what was fetched is in ``.results``, too.
    """
    of_session, of_call = split_options(options, "parallel_requests", "request")
    with ParallelSession(**of_session) as session:
        request: Callable[..., Any] = session.request
        return request(
            urls,
            keys=keys,
            return_type=return_type,
            parse_func=parse_func,
            return_none_on_failure=return_none_on_failure,
            **of_call,
        )


@_iter_verb
def iter_results(
    urls: Iterable[Item],
    *,
    keys: Iterable[Any] | None = None,
    return_type: ReturnType | str = ReturnType.JSON,
    parse_func: Callable[[Any], Any] | None = None,
    ordered: bool = False,
    **options: Unpack[Options],
) -> Generator[Result[Any]]:
    """Yield a Result for each item as it completes; failures are Results too, and raise nothing.

    The input may be endless, and the session lives as long as the loop; see `ParallelSession.iter_results`.

    Args:
        urls: Any iterable of items, as for `parallel_requests`.
        keys: One name per item.
        return_type: What each response becomes.
        parse_func: Called with each decoded response.
        ordered: Yield in input order, holding back what comes early.

    Raises:
        ConfigurationError: An option is wrong; nothing was sent.
        TypeError: An option does not exist; the message names the closest one.
        Exception: The input raised; what was in flight is yielded first.
    """
    of_session, of_call = split_options(options, "iter_results", "iter_results")
    Settings(**options)  # a wrong option fails here, not when the loop begins

    def results() -> Generator[Result[Any]]:
        with ParallelSession(**of_session) as session:
            iterate: Callable[..., Generator[Result[Any]]] = session.iter_results
            yield from iterate(
                urls, keys=keys, return_type=return_type, parse_func=parse_func, ordered=ordered, **of_call
            )

    return results()


@_download_verb
def download(
    urls: str | Iterable[Item],
    to: Target,
    *,
    sha256: Checksums = None,
    existing: Existing = "skip",
    keys: Iterable[Any] | None = None,
    return_none_on_failure: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Fetch one URL or many into files, and return one `Download` or many; see `ParallelSession.download`.

    Args:
        urls: As for `parallel_requests`.
        to: The folder, or a list with one path per URL. Folders are created.
        sha256: The checksum in hex: one for all, a list with one per URL, or a dict by URL. True
            computes it without comparing it to anything.
        existing: What to do if a file of that name exists: ``"skip"`` it, unless it does not match the
            given checksum; ``"replace"`` it; ``"keep"`` both, by numbering the new one.
        keys: One name per URL; a dict with these as its keys is returned.
        return_none_on_failure: Put None in place of what failed instead of raising.

    Raises:
        ConfigurationError: An option is wrong; nothing was sent.
        TypeError: An option does not exist; the message names the closest one.
        ParallelRequestsError: The single URL failed; this is its own error, a DownloadError if
            the file cannot be written or does not match its checksum.
        PartialFailureError: Items of a list failed; every Result is in ``.results``.
        KeyboardInterrupt: With the Results of what was fetched in ``.results``.
        Exception: The iterable of URLs raised; what was fetched is in ``.results``, too.
    """
    of_session, of_call = split_options(options, "download", "download")
    with ParallelSession(**of_session) as session:
        fetch: Callable[..., Any] = session.download
        return fetch(
            urls,
            to,
            sha256=sha256,
            existing=existing,
            keys=keys,
            return_none_on_failure=return_none_on_failure,
            **of_call,
        )
