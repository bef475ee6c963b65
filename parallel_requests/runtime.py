"""What a session is made of, and how its batches are set up; shared by the sync and async clients."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sized
from functools import partial
from typing import TYPE_CHECKING, Any

from parallel_requests import shutdown
from parallel_requests.assembly import new_backend, new_engine, new_pacer, new_policy
from parallel_requests.backends.content_codings import ACCEPT_ENCODING
from parallel_requests.batch import Batch
from parallel_requests.collecting import collect, merge_retried
from parallel_requests.cookies import CookieStore
from parallel_requests.engines.run import Run
from parallel_requests.environment import Environment
from parallel_requests.exceptions import (
    ConfigurationError,
    PartialFailureError,
    RunStoppedError,
    ValidationError,
)
from parallel_requests.header_fields import check_cookies
from parallel_requests.keywords import NOT_FOR_DOWNLOADS, check_call_options
from parallel_requests.locks import Lock
from parallel_requests.logs import set_level
from parallel_requests.models import Request, Result, ReturnType
from parallel_requests.observing import Observer, Progress
from parallel_requests.parsing.parsers import Parsers
from parallel_requests.planning import Item, Planner
from parallel_requests.request_builder import RequestBuilder
from parallel_requests.stats import RunStats

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from parallel_requests.calls import Call
    from parallel_requests.checksums import Checksums
    from parallel_requests.destinations import Existing, Target
    from parallel_requests.gates.rotation import Rotation
    from parallel_requests.options import Settings
    from parallel_requests.parsing.in_place import Parse
    from parallel_requests.policy import Policy

logger = logging.getLogger("parallel_requests")

_LOOK_AHEAD = 10_000
"""Items of a list that may be open at once, so that those of a paused host do not block the others."""


class Runtime:
    """Owns backend, engine, gates, cookies and parsers; checks calls, and sets up their batches.

    Attributes:
        settings: The options of the session.
        backend: The backend in use.
        last_run: The statistics of the latest run that ended.
        is_closed: Whether it has been closed.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the backend; nothing is sent yet.

        Raises:
            ConfigurationError: The backend is not installed, or conflicts with an option.
        """
        self.settings = settings
        self.last_run = RunStats()
        set_level(verbose=settings.verbose, debug=settings.debug)
        self._environment = Environment(trust=settings.trust_env)
        self._cookies = CookieStore()
        self._own_cookies: dict[str, str] = {}
        self._pacer = new_pacer(settings)
        self._proxies: Rotation | None = None  # set by the first batch that uses the session's proxies
        self.backend = new_backend(settings)
        self._engine = new_engine(self.backend, settings)
        self._parsers = Parsers(on_own_thread=self.backend.engine != "threads")
        self._lock = Lock()  # guards is_closed and _own_cookies
        self.is_closed = False
        shutdown.close_at_exit(self)

    def set_cookies(self, cookies: Mapping[str, str]) -> None:
        """Send these cookies with every request from now on, in addition to those set before.

        They replace those of the same names that servers have set; a server may set them anew.

        Raises:
            ConfigurationError: They are not a mapping of names to values, or not valid in HTTP.
        """
        try:
            checked = check_cookies(cookies)
        except ValidationError as error:
            raise ConfigurationError(error.message, "cookies") from None
        with self._lock:
            self._own_cookies = {**self._own_cookies, **checked}
        self._cookies.forget(checked)

    def reset_cookies(self) -> None:
        """Forget all cookies: those set here and those the servers set."""
        with self._lock:
            self._own_cookies = {}
        self._cookies.clear()

    def plan(self, urls: str | Iterable[Item], call: Call, *, is_fed: bool = False) -> Batch:
        """Check everything that can be checked before anything is sent, and set up the batch.

        Args:
            urls: The items, or the only one.
            call: How the batch was requested.
            is_fed: Whether the caller feeds the items itself; ``urls`` is empty then.

        Raises:
            ConfigurationError: Something is wrong; nothing was sent.
        """
        self._check_open()
        items = call.checked_items(urls)
        settings = self._settings_of(call)
        planner = self._planner(settings)
        requests = planner.plan(items, call.keys, keys_differ=call.is_keyed)
        # Other sized iterables may belong to the consumer's thread.
        is_list = isinstance(items, list | tuple)
        return self._request_batch(
            settings,
            call,
            planner,
            source=requests if is_list else None,
            inputs=None if is_list or is_fed else requests,
            total=len(items) if isinstance(items, Sized) else None,
            to_value=partial(collect, call=call),
        )

    def plan_retry(self, error: Exception) -> Batch:
        """Set up a batch of the failed items, whose value is that of the whole batch.

        Raises:
            ConfigurationError: The error is not that of a batch, or was unpickled and so no longer knows
                its call; or it comes from ``download``.
        """
        self._check_open()
        if not isinstance(error, PartialFailureError):
            raise ConfigurationError(
                f"retry_failed() needs the PartialFailureError of a batch, not {type(error).__name__}."
            )
        if error.call is None:
            raise ConfigurationError(
                "This error was pickled and no longer knows its call: run your own inputs again, by the "
                "index of what failed."
            )
        call = error.call
        if call.verb == "download":
            raise ConfigurationError(
                "retry_failed() has no place for files: call download() again, which skips the files that "
                "are there and resumes what broke off."
            )
        settings = self._settings_of(call)
        failed = [result for result in error.results if not result.ok]
        # Already planned, and not planned again: a None in them is deliberate.
        requests = [dataclasses.replace(result.request, index=result.index) for result in failed]
        return self._request_batch(
            settings,
            call,
            self._planner(settings),
            source=iter(requests),
            total=len(requests),
            to_value=lambda results: collect(merge_retried(error.results, results), call),
        )

    def plan_download(
        self,
        urls: str | Iterable[Item],
        call: Call,
        to: Target,
        *,
        sha256: Checksums,
        existing: Existing,
    ) -> Batch:
        """Check everything that can be checked, and set up a batch of downloads.

        Raises:
            ConfigurationError: Something is wrong; nothing was sent.
        """
        from parallel_requests.downloading import Downloads

        self._check_open()
        self._check_streaming()
        items = call.checked_items(urls)
        settings = self._settings_of(call, refused=NOT_FOR_DOWNLOADS)
        downloads = Downloads(
            items,
            to,
            sha256=sha256,
            existing=existing,
            observe=Observer(settings.on_result),
        )
        planner = self._planner(settings, accept_encoding="identity")
        requests = downloads.checked(planner.plan(items, call.keys, keys_differ=call.is_keyed))
        policy = downloads.policy(self._policy(settings, ReturnType.JSON, planner.builder))
        finish: Parse = downloads.finish
        if downloads.needs_time:
            finish = self._parsers.off_the_engine(finish, policy)
        if settings.progress is not False:  # only now that nothing is refused any more: it may draw a bar
            downloads.progress = Progress(settings.progress, unit="B")
        run = Run(
            policy,
            finish,
            wake=self._engine.wake,
            window=2 * self.settings.concurrency,
            observe=downloads.release,
        )
        return Batch(
            self._engine,
            run,
            # Fed by the consumer, as looking for existing files and verifying them takes time.
            downloads.missing_or_skipped(requests, policy),
            plan_item=planner.plan_item,
            to_value=partial(collect, call=call),
            on_end=downloads.close,
            is_counted=downloads.is_counted,
            connections_before=self.backend.connections_opened,
        )

    def run(self, batch: Batch) -> Any:
        """Run a batch and return what was asked for.

        Raises:
            ParallelRequestsError: The single URL failed.
            PartialFailureError: Items of a list failed.
            Exception: The input raised; what was in flight was finished, and is in its ``.results``.
            KeyboardInterrupt: With what finished in ``.results``, even if it comes after the end.
        """
        try:
            try:
                results = batch.results()
            finally:
                self.conclude(batch)
            return batch.to_value(results)
        except KeyboardInterrupt as ctrl_c:
            ctrl_c.results = batch.keep_finished()  # type: ignore[attr-defined]
            raise

    def conclude(self, batch: Batch) -> None:
        """Keep the statistics of a batch that has ended, and close its progress bar.

        In a forked child it does nothing: the batch goes on in the parent, where a lock may have been held.
        """
        if self._engine.threads.is_in_child_process():
            return
        self.last_run = batch.stats
        batch.on_end()
        batch.stats.concurrency_levels = self._pacer.limits()
        opened, before = self.backend.connections_opened, batch.connections_before
        batch.stats.connections = None if opened is None or before is None else opened - before
        logger.info("run ended: %s", batch.stats)

    def close(self) -> None:
        """Stop what is under way, close every connection and end every thread; safe to call twice.

        In a forked child it does nothing of that: everything belongs to the parent, which still uses it.
        """
        if self._engine.threads.is_in_child_process():
            self.is_closed = True  # without the lock, which another thread may have held during the fork
            return
        with self._lock:
            if self.is_closed:
                return
            self.is_closed = True
        with contextlib.ExitStack() as closing:
            # A Ctrl-C while one of them closes must not leave the others open.
            closing.callback(self._parsers.close)
            closing.callback(self.backend.close)
            self._engine.close()

    def _settings_of(self, call: Call, *, refused: Collection[str] = ()) -> Settings:
        check_call_options(call.options, call.verb, call.verb, refused=refused)
        return self.settings.override(call.options)

    def _planner(self, settings: Settings, accept_encoding: str = ACCEPT_ENCODING) -> Planner:
        own = self.settings
        inherits_proxies = settings.proxies is own.proxies and settings.random_proxy is own.random_proxy
        builder = RequestBuilder(
            settings,
            self._environment,
            accept_encoding=accept_encoding,
            cookies=self._own_cookies,
            proxies=self._proxies if inherits_proxies else None,
            lacking_for_socks=self.backend.lacking_for_socks,
        )
        if inherits_proxies:
            self._proxies = builder.proxies  # or each batch would begin with the first proxy
        return Planner(builder)

    def _policy(self, settings: Settings, kind: ReturnType, builder: RequestBuilder) -> Policy:
        return new_policy(
            settings,
            kind,
            pacer=self._pacer,
            cookies=self._cookies,
            proxies=builder.proxies,
            proxy_for=builder.environment_proxy if self._environment.has_proxies else None,
        )

    def _request_batch(
        self,
        settings: Settings,
        call: Call,
        planner: Planner,
        *,
        source: Iterator[Request] | None,
        inputs: Iterator[Request] | None = None,
        total: int | None,
        to_value: Callable[[list[Result[Any]]], Any],
    ) -> Batch:
        kind = call.checked_return_type(settings)
        if kind is ReturnType.STREAM:
            self._check_streaming()
        policy = self._policy(settings, kind, planner.builder)
        parser = self._parsers.parser(settings, policy, kind, call.parse_func)
        # Only now that nothing is refused any more: it may draw a bar.
        progress = None if settings.progress is False else Progress(settings.progress, total)
        observer = Observer(settings.on_result, progress)
        window = 2 * self.settings.concurrency
        if source is not None and not call.yields_results:
            window = max(window, _LOOK_AHEAD)
        run = Run(
            policy,
            parser,
            wake=self._engine.wake,
            source=source,
            window=window,
            holds_back=call.yields_results,
            observe=observer or None,
        )
        return Batch(
            self._engine,
            run,
            inputs,
            plan_item=planner.plan_item,
            to_value=to_value,
            on_end=observer.close,
            is_counted=total is not None,
            is_ordered=call.is_ordered,
            connections_before=self.backend.connections_opened,
        )

    def _check_open(self) -> None:
        if self.is_closed:
            raise RunStoppedError
        self._engine.threads.check_process()  # before anything is started for a parse_func

    def _check_streaming(self) -> None:
        if not self.backend.capabilities.streaming:
            raise ConfigurationError(
                f"The backend {self.backend.name!r} reads each body at once, so it supports no streams and "
                "no downloads. (One that feeds a Body declares capabilities = Capabilities(streaming=True).)",
                "backend",
            )
