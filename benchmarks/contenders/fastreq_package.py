"""The package `fastreq` from PyPI with the backend it chooses by default."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastreq import FastRequests

from benchmarks.contenders.worker import serve

if TYPE_CHECKING:
    from benchmarks.scenes import Reading


class FastreqPackage:
    def __init__(self, concurrency: int) -> None:
        self._runner = asyncio.Runner()
        self._client = FastRequests(concurrency=concurrency, timeout=30)
        self._runner.run(self._client.__aenter__())

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        values: list[object] = self._runner.run(self._client.request(urls, return_type=reading))
        return values

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


if __name__ == "__main__":
    serve(FastreqPackage)
