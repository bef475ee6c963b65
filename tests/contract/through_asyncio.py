"""The asynchronous client with the interface of a session, so that the contract tests cover both."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from parallel_requests.aio import ParallelRequests


class LoopThread:
    """An asyncio event loop that runs on a thread of its own and serves callers on any other, many at once.

    Leaving the block fails if a task is left on the loop, or if the exception of one was never retrieved.
    """

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="contract-loop")
        self._is_running = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._complaints: list[object] = []

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function on the loop, await an awaitable, and return the result or raise the exception."""

        async def outcome() -> tuple[Any, BaseException | None]:
            try:
                answer = function(*args, **options)
                return (await answer if inspect.isawaitable(answer) else answer), None
            except BaseException as error:  # noqa: BLE001 - the caller's, also what would end the loop
                return None, error

        pending = asyncio.run_coroutine_threadsafe(outcome(), self._loop)
        try:
            answer, error = pending.result()
        except BaseException:
            pending.cancel()  # the caller was interrupted
            raise
        if error is not None:
            raise error
        return answer

    def __enter__(self) -> Self:
        self._thread.start()
        self._is_running.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        assert not self._complaints, self._complaints

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.set_exception_handler(lambda _, context: self._complaints.append(context))
            self._loop.call_soon(self._is_running.set)
            self._loop.run_forever()
            self._complaints.extend(asyncio.all_tasks(self._loop))


class ThroughAsyncio:
    """A `ParallelRequests` on a loop, called like a session; what the client lacks is not there either."""

    def __init__(self, loop: LoopThread, client: ParallelRequests) -> None:
        self._loop = loop
        self._client = client

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        return functools.partial(self._loop.run, member) if callable(member) else member

    def iter_results(self, *args: Any, **options: Any) -> Generator[Any]:
        """Step through the client's Results, one at a time."""
        results = self._client.iter_results(*args, **options)
        while (result := self._loop.run(anext, results, None)) is not None:
            try:
                yield result
            except GeneratorExit:
                self._loop.run(results.aclose)
                raise

    def __enter__(self) -> Self:
        self._loop.run(self._client.__aenter__)
        return self

    def __exit__(self, *failure: object) -> None:
        self._loop.run(self._client.__aexit__, *failure)
