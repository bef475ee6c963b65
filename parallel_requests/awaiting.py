"""One batch on an event loop: what `Batch` does by blocking is awaited here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from parallel_requests.batch import Batch
    from parallel_requests.planning import Item
    from parallel_requests.runtime import Runtime


class Listener:
    """Wakes a coroutine when something has changed in a run, from any thread."""

    def __init__(self, batch: Batch) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        batch.run.notifier.listen(self._notify_from_thread)

    def _notify_from_thread(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed, so nobody is waiting
            self._loop.call_soon_threadsafe(self._changed.set)

    def notify(self) -> None:
        """Make all waiting coroutines check their conditions again."""
        self._changed.set()

    async def wait(self, until: Callable[[], bool]) -> None:
        """Wait until a condition holds; it is checked whenever something has changed."""
        while True:
            self._changed.clear()
            if until():
                return
            await self._changed.wait()


async def _feed(batch: Batch, urls: AsyncIterable[Item], listener: Listener) -> None:
    """Feed an asynchronous input to a batch, as far as there is room."""
    run = batch.run
    try:
        index = 0
        async for item in urls:
            run.feed(batch.plan_item(item, index))
            index += 1
            await listener.wait(lambda: run.room() > 0 or run.is_exhausted())
            if run.is_exhausted():  # stopped: an endless input would now keep the loop busy
                return
    except BaseException as error:
        run.end_input(error)  # raised again by the consumer, once the rest is done
        if not isinstance(error, Exception):
            raise  # a cancellation, of this task or from within the input
    else:
        run.end_input()


class Running:
    """Runs a batch for the duration of an ``async with`` block; leaving it early stops the batch.

    It is not a contextlib generator: a loop that shuts down closes all async generators, in any order.
    """

    def __init__(self, runtime: Runtime, batch: Batch, urls: object = None) -> None:
        """Set up.

        Args:
            runtime: Where the batch is carried out.
            batch: The batch.
            urls: Its input, which is fed to the batch if it is asynchronous.
        """
        self._runtime = runtime
        self._batch = batch
        self._urls = urls
        self._feeder: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Listener:
        listener = Listener(self._batch)
        if isinstance(self._urls, AsyncIterable):
            self._feeder = asyncio.ensure_future(_feed(self._batch, self._urls, listener))
        try:
            self._batch.start()
        except BaseException:
            await self._end(is_early=True)
            raise
        return listener

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(is_early=kind is not None)

    async def _end(self, *, is_early: bool) -> None:
        if is_early:
            self._batch.stop()
            self._batch.keep_finished()
        self._runtime.conclude(self._batch)
        feeder = self._feeder
        # If the loop was closed meanwhile, its tasks can neither be cancelled nor awaited.
        if feeder is not None and not feeder.done() and feeder.get_loop().is_running():
            feeder.cancel()
            await asyncio.wait([feeder])  # raises if we are cancelled, but not what the feeder raised


async def run_batch(runtime: Runtime, batch: Batch, urls: object = None) -> Any:
    """Run a batch and return what was asked for; the arguments are those of `Running`.

    Raises:
        Exception: What ``Runtime.run`` raises.
    """
    async with Running(runtime, batch, urls) as listener:
        while not batch.is_over:
            batch.feed_what_fits()
            await listener.wait(batch.needs_attention)
            batch.collect()
            await let_others_run(batch)
        results = batch.finish()
    return batch.to_value(results)


async def let_others_run(batch: Batch) -> None:
    """Let the loop run, if a stopped batch has more Results of items that were never started."""
    if batch.run.is_done() and not batch.is_over:
        await asyncio.sleep(0)
