"""This library: `python -m benchmarks.contenders.ours BACKEND [--async]`."""

from __future__ import annotations

import argparse
import asyncio
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.contenders.worker import serve
from parallel_requests import ParallelRequests, ParallelSession

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.scenes import Reading


class Synchronous:
    def __init__(self, concurrency: int, *, backend: str) -> None:
        self._session = ParallelSession(backend=backend, concurrency=concurrency)

    def fetch(self, urls: list[str], reading: Reading) -> Sequence[object]:
        return self._session.request(urls, return_type=reading)

    def close(self) -> None:
        self._session.close()


class Asynchronous:
    def __init__(self, concurrency: int, *, backend: str) -> None:
        self._runner = asyncio.Runner()
        self._client = ParallelRequests(backend=backend, concurrency=concurrency)

    def fetch(self, urls: list[str], reading: Reading) -> list[object]:
        return self._runner.run(self._client.request(urls, return_type=reading))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend")
    parser.add_argument("--async", dest="asynchronous", action="store_true")
    arguments = parser.parse_args()
    serve(partial(Asynchronous if arguments.asynchronous else Synchronous, backend=arguments.backend))


if __name__ == "__main__":
    main()
