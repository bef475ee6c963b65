"""ParallelSession: the public methods, and the lifetime of what they share."""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from parallel_requests.calls import Call
from parallel_requests.keywords import (
    NOT_FOR_DOWNLOADS,
    check_call_options,
    documents_options,
    reject_unknown,
)
from parallel_requests.models import ReturnType
from parallel_requests.options import CALL_OPTION_NAMES, Options, RequestOptions, Settings
from parallel_requests.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from types import TracebackType

    from parallel_requests.backends.base import Backend
    from parallel_requests.batch import Batch
    from parallel_requests.checksums import Checksums
    from parallel_requests.destinations import Existing, Target
    from parallel_requests.exceptions import PartialFailureError
    from parallel_requests.models import Result
    from parallel_requests.planning import Item
    from parallel_requests.signatures import DownloadVerb, HeadVerb, IterVerb, RequestVerb
    from parallel_requests.stats import RunStats

# Decorators that give each method below a type for every combination of arguments.
_request_verb: Callable[[Callable[..., Any]], RequestVerb] = documents_options(session=False)
_iter_verb: Callable[[Callable[..., Any]], IterVerb] = documents_options(session=False)
_download_verb: Callable[[Callable[..., Any]], DownloadVerb] = documents_options(
    session=False, without=NOT_FOR_DOWNLOADS
)


_HTTP_VERB_OPTIONS = CALL_OPTION_NAMES - {"method"}
_HTTP_VERB_DOC = """Send {method} to one URL or many, and return one value or many, in input order.

    Args:
        urls: A URL gives a value, a list (or any iterable) of them a list; items may differ as for `request`.
        keys: One name per URL; a dict with these as its keys is returned.
        return_type: What each response becomes: json, text, content, response or stream; default {default}.
        parse_func: Called with each decoded response; what it returns takes the place of the response.
        return_none_on_failure: Put None in place of what failed instead of raising.

    Raises:
        ConfigurationError: An option is wrong; nothing was sent.
        TypeError: An option does not exist; the message says what would be right.
        RunStoppedError: The session is closed.
        ParallelRequestsError: The single URL failed; this is its own error.
        PartialFailureError: Items of a list failed; every Result is in ``.results``.
        KeyboardInterrupt: With what finished in ``.results``; for a coroutine it is in ``last_run.results``.
        Exception: The iterable of URLs raised; what was fetched is in ``.results``, too.
    """


def http_verb(method: str, default: ReturnType = ReturnType.JSON) -> Callable[..., Any]:
    """Return a method that calls ``request`` with one HTTP method, for a session or an asynchronous client.

    Args:
        method: The HTTP method.
        default: The ``return_type`` if none is given.
    """

    def verb(
        self: Any,
        urls: str | Iterable[Item],
        *,
        keys: Iterable[Any] | None = None,
        return_type: ReturnType | str = default,
        parse_func: Callable[[Any], Any] | None = None,
        return_none_on_failure: bool = False,
        **options: Any,
    ) -> Any:
        if options and not options.keys() <= _HTTP_VERB_OPTIONS:
            _check_verb_options(options, method, self.request)
        return self.request(
            urls,
            method=method,
            keys=keys,
            return_type=return_type,
            parse_func=parse_func,
            return_none_on_failure=return_none_on_failure,
            **options,
        )

    verb.__name__ = verb.__qualname__ = method.lower()
    verb.__doc__ = _HTTP_VERB_DOC.format(method=method, default=default.value)
    return documents_options(session=False, without=["method"])(verb)


def _check_verb_options(options: Mapping[str, Any], method: str, request: Callable[..., Any]) -> None:
    """Check the options of ``get``, ``post`` …, in the name of that method.

    They are those of ``request``, to which a subclass may have added its own.
    """
    caller = method.lower()
    if "method" in options:
        raise TypeError(
            f"{caller}() sends {method} and takes no 'method'; call request(urls, method=...) instead."
        )
    taken = inspect.signature(request).parameters
    others = {name: value for name, value in options.items() if name not in taken}
    check_call_options(others, caller, "request", refused=["method"])


class ParallelSession:
    """Makes batches of HTTP calls that share connections, cookies, rate limit and retry budget.

    ::

        with ParallelSession(concurrency=50, rate_limit=100) as session:
            users = session.request([f"https://api.example.com/users/{n}" for n in range(1000)])

    It is thread-safe: batches from several threads run side by side and share ``concurrency``.
    """

    @documents_options(session=True)
    def __init__(self, **options: Unpack[Options]) -> None:
        """Open a session; nothing is sent yet.

        Raises:
            ConfigurationError: An option is wrong, or the backend is not installed.
            RunStoppedError: The interpreter is shutting down.
            TypeError: An option does not exist; the message names the closest one.
        """
        reject_unknown(options, type(self).__name__)
        self._runtime = Runtime(Settings(**options))

    @property
    def backend(self) -> Backend:
        """The backend in use."""
        return self._runtime.backend

    @property
    def last_run(self) -> RunStats:
        """The statistics of the latest run that ended; after an interrupt, also its Results."""
        return self._runtime.last_run

    @_request_verb
    def request(
        self,
        urls: str | Iterable[Item],
        *,
        keys: Iterable[Any] | None = None,
        return_type: ReturnType | str = ReturnType.JSON,
        parse_func: Callable[[Any], Any] | None = None,
        return_none_on_failure: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Any:
        """Fetch one URL or many, and return one value or many, in input order.

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
            RunStoppedError: The session is closed.
            ParallelRequestsError: The single URL failed; this is its own error.
            PartialFailureError: Items of a list failed; every Result is in ``.results``.
            KeyboardInterrupt: With what finished in ``.results``.
            Exception: The iterable of URLs raised; what was fetched is in ``.results``, too.
        """
        call = Call(
            is_single=isinstance(urls, str),
            keys=keys,
            none_on_failure=return_none_on_failure,
            return_type=return_type,
            parse_func=parse_func,
            options=options,
        )
        return self._runtime.run(self._runtime.plan(urls, call))

    @_iter_verb
    def iter_results(
        self,
        urls: Iterable[Item],
        *,
        keys: Iterable[Any] | None = None,
        return_type: ReturnType | str = ReturnType.JSON,
        parse_func: Callable[[Any], Any] | None = None,
        ordered: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Generator[Result[Any]]:
        """Yield a Result for each item as it completes; failures are Results too, and raise nothing.

        The input may be endless: it is advanced in the calling thread, and only as slots come free.
        At most twice ``concurrency`` items are open at any time. Leaving the loop stops the run.

        Args:
            urls: Any iterable of items, as for `request`.
            keys: One name per item.
            return_type: What each response becomes.
            parse_func: Called with each decoded response.
            ordered: Yield in input order, holding back what comes early.

        Raises:
            ConfigurationError: An option is wrong; nothing was sent.
            TypeError: An option does not exist; the message names the closest one.
            RunStoppedError: The session is closed.
            Exception: The input raised; what was in flight is yielded first.
        """
        call = Call(
            verb="iter_results",
            keys=keys,
            return_type=return_type,
            parse_func=parse_func,
            is_ordered=ordered,
            options=options,
        )
        return self._stream(self._runtime.plan(urls, call))

    @_download_verb
    def download(
        self,
        urls: str | Iterable[Item],
        to: Target,
        *,
        sha256: Checksums = None,
        existing: Existing = "skip",
        keys: Iterable[Any] | None = None,
        return_none_on_failure: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Any:
        """Fetch one URL or many into files, and return one `Download` or many, in input order.

        Bodies go to disk as they arrive, into a hidden file next to the final one, which is renamed
        once it is complete and verified. A download that broke off, in this call or in one that was
        killed, is resumed if the server supports that, and restarted if it does not.

        In a folder, a file gets the name that the server gives it (``Content-Disposition``), or else
        the last part of the URL's path, made safe for every system; equal names are numbered.
        ``progress`` counts bytes.

        Args:
            urls: As for `request`.
            to: The folder, or a list with one path per URL. Folders are created.
            sha256: The checksum in hex: one for all, a list with one per URL, or a dict by URL. True
                computes it without comparing it to anything.
            existing: What to do if a file of that name exists: ``"skip"`` it, unless it does not match
                the given checksum; ``"replace"`` it; ``"keep"`` both, by numbering the new one.
            keys: One name per URL; a dict with these as its keys is returned.
            return_none_on_failure: Put None in place of what failed instead of raising.

        Raises:
            ConfigurationError: An option is wrong; nothing was sent.
            TypeError: An option does not exist; the message names the closest one.
            RunStoppedError: The session is closed.
            ParallelRequestsError: The single URL failed; this is its own error, a DownloadError if
                the file cannot be written or does not match its checksum.
            PartialFailureError: Items of a list failed; every Result is in ``.results``.
            KeyboardInterrupt: With the Results of what was fetched in ``.results``.
            Exception: The iterable of URLs raised; what was fetched is in ``.results``, too.
        """
        call = Call(
            verb="download",
            is_single=isinstance(urls, str),
            keys=keys,
            none_on_failure=return_none_on_failure,
            options=options,
        )
        return self._runtime.run(
            self._runtime.plan_download(urls, call, to, sha256=sha256, existing=existing)
        )

    def retry_failed(self, error: PartialFailureError) -> Any:
        """Run the failed items of a batch again, and return what the whole batch would have returned.

        Args:
            error: What the batch raised.

        Raises:
            ConfigurationError: The error was unpickled, and so no longer knows its call; or it comes from
                `download`, which should be called again instead.
            RunStoppedError: The session is closed.
            PartialFailureError: Some failed again; ``.results`` has the whole batch.
            KeyboardInterrupt: With what finished in this second run in ``.results``.
        """
        return self._runtime.run(self._runtime.plan_retry(error))

    get: RequestVerb = http_verb("GET")
    post: RequestVerb = http_verb("POST")
    put: RequestVerb = http_verb("PUT")
    patch: RequestVerb = http_verb("PATCH")
    delete: RequestVerb = http_verb("DELETE")
    head: HeadVerb = http_verb("HEAD", ReturnType.RESPONSE)
    options: HeadVerb = http_verb("OPTIONS", ReturnType.RESPONSE)

    def set_cookies(self, cookies: Mapping[str, str]) -> None:
        """Send these cookies with every request from now on, in addition to those set before.

        They replace those of the same names that servers have set; a server may set them anew.

        Raises:
            ConfigurationError: They are not a mapping of names to values, or not valid in HTTP.
        """
        self._runtime.set_cookies(cookies)

    def reset_cookies(self) -> None:
        """Forget all cookies: those set here and those the servers set."""
        self._runtime.reset_cookies()

    def close(self) -> None:
        """Stop what is under way, close every connection and end every thread; safe to call twice.

        Do not call it from a signal handler, which may have interrupted what it would wait for: raise
        KeyboardInterrupt there instead.
        """
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        runtime = getattr(self, "_runtime", None)  # missing if an option was wrong
        if runtime is not None and not runtime.is_closed:
            self.close()  # first: with warnings as errors, the next line raises
            warnings.warn(
                f"{self!r} was not closed; use it in a with statement",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    def __reduce__(self) -> NoReturn:
        """Refuse: when a copy is dropped, it would close what this session uses."""
        raise TypeError(
            f"A {type(self).__name__} cannot be copied or pickled, as its connections and threads cannot: "
            "open another one with the same options."
        )

    def _stream(self, batch: Batch) -> Generator[Result[Any]]:
        """Run a batch and yield its Results; as a method of the session, it keeps the session open."""
        try:
            yield from batch.stream()
        finally:
            self._runtime.conclude(batch)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} backend={self._runtime.backend.name} "
            f"concurrency={self._runtime.settings.concurrency}>"
        )


def runtime_of(session: ParallelSession) -> Runtime:
    """Return the runtime of a session, which the asyncio client drives as well."""
    return session._runtime  # noqa: SLF001 - of the class above
