"""`urllib3.PoolManager` shared by the threads of an executor, its pool sized to the concurrency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import urllib3

from benchmarks.contenders.worker import serve

if TYPE_CHECKING:
    from benchmarks.scenes import Reading


class Urllib3Map:
    def __init__(self, concurrency: int) -> None:
        self._pool = urllib3.PoolManager(maxsize=concurrency, timeout=30)
        self._executor = ThreadPoolExecutor(concurrency)

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        return list(self._executor.map(self._json if reading == "json" else self._content, urls))

    def close(self) -> None:
        self._executor.shutdown()
        self._pool.clear()

    def _json(self, url: str) -> object:
        return self._pool.request("GET", url).json()

    def _content(self, url: str) -> bytes:
        return self._pool.request("GET", url).data


if __name__ == "__main__":
    serve(Urllib3Map)
