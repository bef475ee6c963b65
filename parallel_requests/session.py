"""ParallelSession: owns backend, engine, gates and cookies, and carries batches out."""

from __future__ import annotations

import dataclasses
import logging
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, Self, Unpack

from parallel_requests import shutdown
from parallel_requests.assembly import (
    check_call,
    checked_return_type,
    new_backend,
    new_engine,
    new_pacer,
    new_policy,
)
from parallel_requests.backends.body import ACCEPT_ENCODING
from parallel_requests.batch import Batch
from parallel_requests.collecting import Call, collect, merge_retried
from parallel_requests.cookies import CookieStore
from parallel_requests.engines.base import Run
from parallel_requests.environment import Environment
from parallel_requests.exceptions import ConfigurationError, PartialFailureError, RunStoppedError
from parallel_requests.logs import set_level
from parallel_requests.models import Request, Result, ReturnType
from parallel_requests.observing import ByteProgress, observers
from parallel_requests.options import PER_URL_NAMES, Options, RequestOptions, Settings, documents_options
from parallel_requests.parsers import Parsers
from parallel_requests.planning import Item, Planner
from parallel_requests.stats import RunStats

if TYPE_CHECKING:
    from types import TracebackType

    from parallel_requests.backends.base import Backend
    from parallel_requests.downloading import Checksums, Downloads, Existing, Target
    from parallel_requests.exchange import Policy
    from parallel_requests.signatures import DownloadVerb, HeadVerb, RequestVerb

logger = logging.getLogger("parallel_requests")

_LOOK_AHEAD = 10_000
"""Items of a list that may be parked at once, so that a paused host does not hold up the others."""

NOT_FOR_DOWNLOADS = ("stream_callback", "chunk_size", "parse_processes", "raise_for_status")
"""Options that mean nothing where bodies go into files."""

# What turns the functions below into verbs with a type for every combination of arguments.
_request_verb: Callable[[Callable[..., Any]], RequestVerb] = documents_options(session=False)
_download_verb: Callable[[Callable[..., Any]], DownloadVerb] = documents_options(
    session=False, without=NOT_FOR_DOWNLOADS
)


def http_verb(method: str, default: ReturnType = ReturnType.JSON) -> Callable[..., Any]:
    """Return a method that calls ``request`` with one HTTP method, for a session or an asynchronous client.

    Args:
        method: The HTTP method.
        default: The ``return_type`` where none is given.
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
    verb.__doc__ = f"Call `request` with method {method}; return_type is {default.value!r} unless given."
    return documents_options(session=False, without=["method"])(verb)


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
            TypeError: An option does not exist; the message names the closest one.
        """
        self._is_closed = True
        self._settings = settings = Settings.of(options, type(self).__name__)
        set_level(verbose=settings.verbose, debug=settings.debug)
        self._environment = Environment(trust=settings.trust_env)
        self._cookies = CookieStore()
        self._own_cookies: dict[str, str] = {}
        self._pacer = new_pacer(settings)
        self._backend = new_backend(settings)
        self._engine = new_engine(self._backend, settings)
        self._parsers = Parsers(on_own_thread=self._backend.engine != "threads")
        self._lock = threading.Lock()  # guards _is_closed
        self._last_run = RunStats()
        self._is_closed = False
        shutdown.close_at_exit(self)

    @property
    def backend(self) -> Backend:
        """The backend in use."""
        return self._backend

    @property
    def last_run(self) -> RunStats:
        """The figures of the latest run that ended; after an interrupt also its Results."""
        return self._last_run

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
            keys: One name per URL; the answer is a dict by them.
            return_type: What each answer becomes: json, text, content, response or stream.
            parse_func: Called with each decoded answer; what it returns takes the answer's place.
            return_none_on_failure: Put None in place of what failed instead of raising.

        Raises:
            ConfigurationError: An option is wrong; nothing was sent.
            ParallelRequestsError: The single URL failed; this is its own error.
            PartialFailureError: Items of a list failed; every Result is in ``.results``.
            KeyboardInterrupt: With what finished in ``.results``.
            Exception: The iterable of URLs raised; what was fetched is in ``.results``, too.
        """
        call = Call(
            is_single=isinstance(urls, str),
            is_keyed=keys is not None,
            none_on_failure=return_none_on_failure,
            return_type=return_type,
            parse_func=parse_func,
            options=options,
        )
        batch = self.plan([urls] if isinstance(urls, str) else urls, keys, call)
        return collect(self._results_of(batch), call)

    @documents_options(session=False)
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
        """Yield a Result for each item as it completes; failures are Results too, nothing is raised for them.

        The input may be endless: it is advanced in the calling thread, and only as slots come free.
        At most twice ``concurrency`` items are open at any time. Leaving the loop stops the run.

        Args:
            urls: Any iterable of items, as for `request`.
            keys: One name per item.
            return_type: What each answer becomes.
            parse_func: Called with each decoded answer.
            ordered: Yield in input order, holding back what came early.

        Raises:
            ConfigurationError: An option is wrong; nothing was sent.
            Exception: The input raised; what was in flight has been yielded before.
        """
        call = Call(
            verb="iter_results",
            return_type=return_type,
            parse_func=parse_func,
            is_ordered=ordered,
            options=options,
        )
        batch = self.plan(urls, keys, call, holds_back=True)
        return self._stream(batch, ordered=ordered)

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

        Bodies go to disk as they arrive, into a hidden file beside the place, which is moved there
        when it is whole and right. What broke off, in this call or in one that was killed, is resumed
        where the server can, and begun anew where it cannot.

        In a folder, a file is called what the server calls it (``Content-Disposition``), else what
        the URL ends with, made safe for every system; several of one name are numbered. ``progress``
        counts bytes.

        Args:
            urls: As for `request`.
            to: The folder, or a list with one path per URL. Folders are created.
            sha256: The checksum in hex: one for all, a list with one per URL, or a dict by URL. True
                has it worked out and not compared.
            existing: What is done where a file of that name is there: ``"skip"`` it, unless it lacks
                the given checksum; ``"replace"`` it; ``"keep"`` both, by numbering the new one.
            keys: One name per URL; the answer is a dict by them.
            return_none_on_failure: Put None in place of what failed instead of raising.

        Raises:
            ConfigurationError: An option is wrong; nothing was sent.
            ParallelRequestsError: The single URL failed; this is its own error, a DownloadError where
                the file cannot be written or is not what its checksum says.
            PartialFailureError: Items of a list failed; every Result is in ``.results``.
        """
        call = Call(
            verb="download",
            is_single=isinstance(urls, str),
            is_keyed=keys is not None,
            none_on_failure=return_none_on_failure,
            options=options,
        )
        batch, downloads = self.plan_download(urls, keys, call, to, sha256=sha256, existing=existing)
        return self.carry_out(batch, downloads, call)

    def retry_failed(self, error: PartialFailureError) -> Any:
        """Run again what failed of a batch, and return what the whole batch would have.

        Args:
            error: What the batch raised.

        Raises:
            ConfigurationError: The error was unpickled, and so no longer knows its call; or it is that
                of `download`, which is called again instead.
            PartialFailureError: Some failed again; ``.results`` has the whole batch.
        """
        batch, call = self.plan_retry(error)
        return collect(merge_retried(error.results, self._results_of(batch)), call)

    def plan_retry(self, error: PartialFailureError) -> tuple[Batch, Call]:
        """Set up a batch of what failed; the surfaces call this.

        Raises:
            ConfigurationError: The error was unpickled, and so no longer knows its call; or it is that
                of `download`.
        """
        call = error.call
        if call is None:
            raise ConfigurationError("Only the PartialFailureError that request() raised can be retried.")
        if call.verb == "download":
            raise ConfigurationError(
                "retry_failed() has no place for files: call download() again, which skips the files that "
                "are there and resumes what broke off."
            )
        options = {name: value for name, value in call.options.items() if name not in PER_URL_NAMES}
        requests = [result.request for result in error.results if not result.ok]
        return self.plan(requests, None, dataclasses.replace(call, options=options)), call

    get: RequestVerb = http_verb("GET")
    post: RequestVerb = http_verb("POST")
    put: RequestVerb = http_verb("PUT")
    patch: RequestVerb = http_verb("PATCH")
    delete: RequestVerb = http_verb("DELETE")
    head: HeadVerb = http_verb("HEAD", ReturnType.RESPONSE)
    options: HeadVerb = http_verb("OPTIONS", ReturnType.RESPONSE)

    def set_cookies(self, cookies: Mapping[str, str]) -> None:
        """Send these cookies with every request from now on, beside those set before."""
        self._own_cookies = {**self._own_cookies, **cookies}

    def reset_cookies(self) -> None:
        """Forget all cookies: those set here and those the servers set."""
        self._own_cookies = {}
        self._cookies.clear()

    def close(self) -> None:
        """Stop what is under way, close every connection and end every thread; safe to call twice."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        shutdown.forget(self)
        self._engine.close()
        self._backend.close()
        self._parsers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True):
            warnings.warn(
                f"{self!r} was not closed; use it in a with statement",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            self.close()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} backend={self._backend.name} concurrency={self._settings.concurrency}>"
        )

    def plan(
        self,
        urls: Iterable[Item] | None,
        keys: Iterable[Any] | None,
        call: Call,
        *,
        holds_back: bool = False,
    ) -> Batch:
        """Check everything there is to check before the first byte, and set the batch up.

        The surfaces call this; ``urls`` is None where they feed the batch themselves.
        """
        self._check_open()
        check_call(urls, keys, call)
        settings = self._settings.override(call.options, call.verb)
        kind = checked_return_type(call.return_type, settings)
        planner = Planner(
            settings, self._environment, accept_encoding=ACCEPT_ENCODING, cookies=self._own_cookies
        )
        requests = planner.plan(iter(()) if urls is None else urls, keys, keys_differ=call.is_keyed)
        is_list = isinstance(urls, list | tuple)  # what else has a length may still belong to this thread
        policy = self._policy(settings, kind, planner)
        run = Run(
            policy,
            self._parsers.parser(settings, policy, kind, call.parse_func),
            source=requests if is_list else None,
            window=max(2 * self._settings.concurrency, _LOOK_AHEAD if is_list and not holds_back else 0),
            holds_back=holds_back,
            observe=observers(settings, total=_length(urls)),
        )
        inputs = None if is_list or urls is None else requests
        return self._new_batch(run, inputs, planner)

    def plan_download(
        self,
        urls: str | Iterable[Item],
        keys: Iterable[Any] | None,
        call: Call,
        to: Target,
        *,
        sha256: Checksums,
        existing: Existing,
    ) -> tuple[Batch, Downloads]:
        """Check everything there is to check, and set up a batch of files; the surfaces call this."""
        from parallel_requests.downloading import CHUNK_SIZE, Downloads

        self._check_open()
        items = [urls] if isinstance(urls, str) else urls
        check_call(items, keys, call)
        settings = self._settings.override(call.options, call.verb, refused=NOT_FOR_DOWNLOADS)
        downloads = Downloads(
            to,
            sha256=sha256,
            existing=existing,
            progress=None if settings.progress is False else ByteProgress(settings.progress),
        )
        downloads.check(items)
        planner = Planner(settings, self._environment, accept_encoding="identity", cookies=self._own_cookies)
        policy = dataclasses.replace(
            self._policy(settings, ReturnType.JSON, planner),
            raise_for_status=True,
            deliver=downloads.write,
            resume=downloads,
            chunk_size=CHUNK_SIZE,
        )
        downloads.observe = observers(dataclasses.replace(settings, progress=False), total=None)
        run = Run(
            policy,
            (
                self._parsers.off_the_engine(downloads.finish, policy)
                if downloads.needs_time
                else downloads.finish
            ),
            window=2 * self._settings.concurrency,
            observe=downloads.let_go,
        )
        # Fed by the consumer, whose thread has the time to look for files and to check them.
        inputs = downloads.wanted(planner.plan(items, keys, keys_differ=call.is_keyed))
        return self._new_batch(run, inputs, planner), downloads

    def carry_out(self, batch: Batch, downloads: Downloads, call: Call) -> Any:
        """Wait for a batch of files and return what was asked for; the surfaces call this."""
        try:
            results = self._results_of(batch)
        finally:
            downloads.close()
        left_out = batch.inputs if batch.inputs is not None and downloads.is_counted else ()
        return collect(downloads.merge(results, left_out, batch.run.policy.stop), call)

    def _new_batch(self, run: Run, inputs: Iterator[Request] | None, planner: Planner) -> Batch:
        opened = self._backend.connections_opened
        return Batch(self._engine, run, inputs, planner.plan_item, connections_before=opened)

    def _policy(self, settings: Settings, kind: ReturnType, planner: Planner) -> Policy:
        return new_policy(
            settings,
            kind,
            pacer=self._pacer,
            cookies=self._cookies,
            proxies=planner.proxies,
            environment=self._environment,
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise RunStoppedError("The session is closed; open a new one.")

    def _results_of(self, batch: Batch) -> list[Result[Any]]:
        try:
            return batch.results()
        finally:
            self.note(batch)

    def _stream(self, batch: Batch, *, ordered: bool) -> Generator[Result[Any]]:
        try:
            yield from batch.stream(ordered=ordered)
        finally:
            self.note(batch)

    def note(self, batch: Batch) -> None:
        """Keep the figures of a batch that has ended."""
        batch.stats.concurrency_levels = self._pacer.limits()
        opened, before = self._backend.connections_opened, batch.connections_before
        batch.stats.connections = None if opened is None or before is None else opened - before
        self._last_run = batch.stats
        logger.info("run ended: %s", batch.stats)


def _length(urls: object) -> int | None:
    return len(urls) if isinstance(urls, Sized) else None
