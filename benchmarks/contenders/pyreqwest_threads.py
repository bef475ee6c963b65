"""The blocking client of pyreqwest (Rust) shared by the threads of an executor."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

from pyreqwest.client import SyncClientBuilder

from benchmarks.contenders.worker import serve

if TYPE_CHECKING:
    from benchmarks.scenes import Reading


class PyreqwestThreads:
    def __init__(self, concurrency: int) -> None:
        builder = SyncClientBuilder().pool_max_idle_per_host(concurrency).timeout(timedelta(seconds=30))
        self._client = builder.build()
        self._executor = ThreadPoolExecutor(concurrency)

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        return list(self._executor.map(self._json if reading == "json" else self._content, urls))

    def close(self) -> None:
        self._executor.shutdown()
        self._client.close()

    def _json(self, url: str) -> object:
        return self._client.get(url).build().send().json()

    def _content(self, url: str) -> object:
        return self._client.get(url).build().send().bytes()


if __name__ == "__main__":
    serve(PyreqwestThreads)
