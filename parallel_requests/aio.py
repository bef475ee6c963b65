"""The asyncio client: the same API as coroutines, delegated to the session's engine."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack

from parallel_requests.awaiting import Running, let_others_run, run_batch
from parallel_requests.calls import Call
from parallel_requests.exceptions import ResourceExhausted, starting
from parallel_requests.keywords import (
    NOT_FOR_DOWNLOADS,
    documents_options,
    reject_unknown,
    split_options,
)
from parallel_requests.models import Result, ReturnType
from parallel_requests.session import ParallelSession, http_verb, runtime_of

if TYPE_CHECKING:
    from types import TracebackType

    from parallel_requests.backends.base import Backend
    from parallel_requests.batch import Batch
    from parallel_requests.checksums import Checksums
    from parallel_requests.destinations import Existing, Target
    from parallel_requests.exceptions import PartialFailureError
    from parallel_requests.options import Options, RequestOptions
    from parallel_requests.planning import Item
    from parallel_requests.signatures import (
        AsyncDownloadVerb,
        AsyncHeadVerb,
        AsyncIterVerb,
        AsyncOneCallVerb,
        AsyncRequestVerb,
    )
    from parallel_requests.stats import RunStats

# Decorators that give each coroutine below a type for every combination of arguments.
_request_verb: Callable[[Callable[..., Any]], AsyncRequestVerb] = documents_options(
    session=False, args_of=ParallelSession.request
)
_iter_verb: Callable[[Callable[..., Any]], AsyncIterVerb] = documents_options(
    session=False, args_of=ParallelSession.iter_results
)
_download_verb: Callable[[Callable[..., Any]], AsyncDownloadVerb] = documents_options(
    session=False, without=NOT_FOR_DOWNLOADS, args_of=ParallelSession.download
)
_one_call_verb: Callable[[Callable[..., Any]], AsyncOneCallVerb] = documents_options(
    session=True, args_of=ParallelSession.request
)

_STOP_PATIENCE = 1.0
"""Seconds a cancelled download waits for its thread, which may be blocked in the caller's input."""


def _http_verb(method: str, default: ReturnType = ReturnType.JSON) -> Callable[..., Any]:
    """Return a verb as a coroutine function: frameworks and mocks look for one."""
    call = http_verb(method, default)

    @functools.wraps(call)
    async def verb(self: ParallelRequests, *args: Any, **options: Any) -> Any:
        return await call(self, *args, **options)

    return verb


class ParallelRequests:
    """The asynchronous client: a `ParallelSession` whose methods are coroutines.

    ::

        async with ParallelRequests(concurrency=50) as client:
            users = await client.request(urls)

    It takes the options of `ParallelSession`, and serves several batches and event loops at once. A
    plain ``with`` block gives access to the ParallelSession itself.
    """

    @documents_options(session=True)
    def __init__(self, **options: Unpack[Options]) -> None:
        """Open the client; nothing is sent yet.

        Raises:
            ConfigurationError: An option is wrong, or the backend is not installed.
            RunStoppedError: The interpreter is shutting down.
            TypeError: An option does not exist; the message names the closest one.
        """
        reject_unknown(options, type(self).__name__)
        self._session = ParallelSession(**options)
        self._runtime = runtime_of(self._session)

    @property
    def backend(self) -> Backend:
        """The backend in use."""
        return self._session.backend

    @property
    def last_run(self) -> RunStats:
        """The statistics of the latest run that ended; after a cancellation, also its Results."""
        return self._session.last_run

    @_request_verb
    async def request(
        self,
        urls: str | Iterable[Item] | AsyncIterable[Item],
        *,
        keys: Iterable[Any] | None = None,
        return_type: ReturnType | str = ReturnType.JSON,
        parse_func: Callable[[Any], Any] | None = None,
        return_none_on_failure: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Any:
        """Do what `ParallelSession.request` does; the input may also be an async generator.

        Raises:
            asyncio.CancelledError: It was cancelled, and the work stopped; what had finished is in
                ``last_run.results``.
            Exception: What `ParallelSession.request` raises.
        """
        call = Call(
            is_single=isinstance(urls, str),
            keys=keys,
            none_on_failure=return_none_on_failure,
            return_type=return_type,
            parse_func=parse_func,
            options=options,
        )
        batch = self._plan(urls, call)
        return await run_batch(self._runtime, batch, urls)

    get: AsyncRequestVerb = _http_verb("GET")
    post: AsyncRequestVerb = _http_verb("POST")
    put: AsyncRequestVerb = _http_verb("PUT")
    patch: AsyncRequestVerb = _http_verb("PATCH")
    delete: AsyncRequestVerb = _http_verb("DELETE")
    head: AsyncHeadVerb = _http_verb("HEAD", ReturnType.RESPONSE)
    options: AsyncHeadVerb = _http_verb("OPTIONS", ReturnType.RESPONSE)

    @_iter_verb
    async def iter_results(
        self,
        urls: Iterable[Item] | AsyncIterable[Item],
        *,
        keys: Iterable[Any] | None = None,
        return_type: ReturnType | str = ReturnType.JSON,
        parse_func: Callable[[Any], Any] | None = None,
        ordered: bool = False,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[Result[Any]]:
        """Do what `ParallelSession.iter_results` does; the input may also be an async generator.

        Raises:
            Exception: What `ParallelSession.iter_results` raises, once the loop begins.
        """
        call = Call(
            verb="iter_results",
            keys=keys,
            return_type=return_type,
            parse_func=parse_func,
            is_ordered=ordered,
            options=options,
        )
        batch = self._plan(urls, call)
        async with Running(self._runtime, batch, urls) as listener:
            while not batch.is_over:
                batch.feed_what_fits()
                await listener.wait(batch.needs_attention_or_has_results)
                for result in batch.hand_over():
                    yield result
                listener.notify()  # there may be room again for an asynchronous input
                await let_others_run(batch)

    @_download_verb
    async def download(
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
        """Do what `ParallelSession.download` does, on a thread.

        Raises:
            asyncio.CancelledError: It was cancelled, and the work stopped; what had finished is in
                ``last_run.results``, unless the input blocks.
            ResourceExhausted: The thread cannot be started.
            Exception: What `ParallelSession.download` raises.
        """
        call = Call(
            verb="download",
            is_single=isinstance(urls, str),
            keys=keys,
            none_on_failure=return_none_on_failure,
            options=options,
        )
        batch = self._runtime.plan_download(urls, call, to, sha256=sha256, existing=existing)
        executor = ThreadPoolExecutor(1, "parallel-requests-download")
        try:
            with starting("The thread of a download"):
                work = asyncio.get_running_loop().run_in_executor(
                    executor, contextvars.copy_context().run, self._runtime.run, batch
                )
        except ResourceExhausted:
            self._runtime.conclude(batch)  # which closes its progress bar
            raise
        # Retrieved, or asyncio would report the error of a batch that was stopped.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        executor.shutdown(wait=False)
        try:
            # Not `asyncio.shield`, as several releases of Python 3.14 report the error of what was cancelled.
            await asyncio.wait([work])
            return work.result()
        except BaseException as error:
            batch.stop()
            if isinstance(error, asyncio.CancelledError):
                await asyncio.wait([work], timeout=_STOP_PATIENCE)
                if work.done():  # otherwise, its thread still uses the batch
                    batch.keep_finished()
            raise

    async def retry_failed(self, error: PartialFailureError) -> Any:
        """Do what `ParallelSession.retry_failed` does.

        Args:
            error: What the batch raised.

        Raises:
            asyncio.CancelledError: It was cancelled, and the work stopped; what had finished is in
                ``last_run.results``.
            Exception: What `ParallelSession.retry_failed` raises.
        """
        batch = self._runtime.plan_retry(error)
        return await run_batch(self._runtime, batch)

    def set_cookies(self, cookies: Mapping[str, str]) -> None:
        """Do what `ParallelSession.set_cookies` does."""
        self._session.set_cookies(cookies)

    def reset_cookies(self) -> None:
        """Do what `ParallelSession.reset_cookies` does."""
        self._session.reset_cookies()

    async def close(self) -> None:
        """Do what `ParallelSession.close` does, on a thread: it may have to wait for sockets."""
        executor = ThreadPoolExecutor(1, "parallel-requests-close")
        try:
            closing = asyncio.get_running_loop().run_in_executor(executor, self._session.close)
        except RuntimeError:  # no thread is left: better to block the loop than to stay open
            self._session.close()
            return
        executor.shutdown(wait=False)  # its thread ends once the session is closed
        await asyncio.wait([closing])  # a cancellation ends the wait, but does not prevent the closing
        closing.result()
        executor.shutdown()  # the thread has nothing left to do, but may not have ended

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __enter__(self) -> ParallelSession:
        return self._session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()

    def __del__(self) -> None:
        if hasattr(self, "_session"):  # missing if an option was wrong
            self._session.close()  # without its warning: a client may be used without a block, too

    def __reduce__(self) -> NoReturn:
        """Refuse, as a `ParallelSession` does."""
        raise TypeError(
            f"A {type(self).__name__} cannot be copied or pickled, as its connections and threads cannot: "
            "open another one with the same options."
        )

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} backend={self.backend.name} "
            f"concurrency={self._runtime.settings.concurrency}>"
        )

    def _plan(self, urls: str | Iterable[Item] | AsyncIterable[Item], call: Call) -> Batch:
        """Set up a batch; an asynchronous input is fed to it while it runs."""
        if isinstance(urls, AsyncIterable):
            return self._runtime.plan(iter(()), call, is_fed=True)
        return self._runtime.plan(urls, call)


@_one_call_verb
async def parallel_requests_async(
    urls: str | Iterable[Item] | AsyncIterable[Item],
    *,
    keys: Iterable[Any] | None = None,
    return_type: ReturnType | str = ReturnType.JSON,
    parse_func: Callable[[Any], Any] | None = None,
    return_none_on_failure: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Do what `parallel_requests.parallel_requests` does, without blocking the event loop.

    The input may also be an async generator. Cancelling it stops the work.

    Raises:
        Exception: What `parallel_requests.parallel_requests` raises.
    """
    of_session, of_call = split_options(options, "parallel_requests_async", "request")
    async with ParallelRequests(**of_session) as client:
        request: Callable[..., Any] = client.request
        return await request(
            urls,
            keys=keys,
            return_type=return_type,
            parse_func=parse_func,
            return_none_on_failure=return_none_on_failure,
            **of_call,
        )
