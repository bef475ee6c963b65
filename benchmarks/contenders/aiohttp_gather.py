"""`asyncio.gather` over one aiohttp session behind a semaphore; with `--uvloop` on that loop."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.contenders.worker import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.scenes import Reading


class AiohttpGather:
    def __init__(
        self, concurrency: int, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    ) -> None:
        self._runner = asyncio.Runner(loop_factory=loop_factory)
        self._slots = asyncio.Semaphore(concurrency)
        self._session = self._runner.run(self._open_session(concurrency))

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        return self._runner.run(self._gather(urls, reading))

    def close(self) -> None:
        self._runner.run(self._session.close())
        self._runner.close()

    async def _open_session(self, concurrency: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=concurrency)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30))

    async def _gather(self, urls: list[str], reading: Reading) -> list[object]:
        fetch_one = self._json if reading == "json" else self._content
        return await asyncio.gather(*map(fetch_one, urls))

    async def _json(self, url: str) -> object:
        async with self._slots, self._session.get(url) as response:
            return await response.json()

    async def _content(self, url: str) -> object:
        async with self._slots, self._session.get(url) as response:
            return await response.read()


def open_on_uvloop(concurrency: int) -> AiohttpGather:
    import uvloop

    return AiohttpGather(concurrency, loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    serve(open_on_uvloop if "--uvloop" in sys.argv else AiohttpGather)
