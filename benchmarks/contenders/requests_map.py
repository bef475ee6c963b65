"""`requests.Session` shared by the threads of an executor, its pool sized to the concurrency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import requests
from requests.adapters import HTTPAdapter

from benchmarks.contenders.worker import serve

if TYPE_CHECKING:
    from benchmarks.scenes import Reading


class RequestsMap:
    def __init__(self, concurrency: int) -> None:
        self._session = requests.Session()
        adapter = HTTPAdapter(pool_connections=concurrency, pool_maxsize=concurrency)
        self._session.mount("http://", adapter)
        self._executor = ThreadPoolExecutor(concurrency)

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        return list(self._executor.map(self._json if reading == "json" else self._content, urls))

    def close(self) -> None:
        self._executor.shutdown()
        self._session.close()

    def _json(self, url: str) -> object:
        return self._session.get(url, timeout=30).json()

    def _content(self, url: str) -> bytes:
        return self._session.get(url, timeout=30).content


if __name__ == "__main__":
    serve(RequestsMap)
