"""The figures of docs/async-and-fastapi.md: `python -m examples.concurrency_figures`.

It serves small FastAPI endpoints with uvicorn, in one process or two, has many users call them at once, and
requests /health meanwhile. Then it measures how late an event loop gets while 4,000 calls run beside it.
Everything happens on loopback; the upstream is the server of the tests. Everything is measured once in each
round, and medians are printed.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio.to_thread
import requests
from fastapi import FastAPI, Request

from parallel_requests import ParallelRequests, ParallelSession, TokenBucket
from parallel_requests.backends.registry import BACKEND_NAMES, is_installed
from tests.server.control import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

ROOT = Path(__file__).resolve().parents[1]
UPSTREAM_URL = os.environ.get("UPSTREAM_URL", "")
USERS = 20
CPU_SECONDS = 0.05
CALLS = 4_000
ROUNDS = 5
TICK_SECONDS = 0.001

Figures: TypeAlias = tuple[float, ...]


# -- the endpoints


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Open what the endpoints share."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = 2 * USERS
    with ProcessPoolExecutor(2) as processes:
        async with ParallelRequests(concurrency=USERS) as client:
            yield {"client": client, "processes": processes}


app = FastAPI(lifespan=lifespan)


@app.get("/wait/serial")
async def wait_serially() -> int:
    """Wait in a blocking call on the event loop: the mistake to avoid."""
    return requests.get(UPSTREAM_URL, timeout=10).status_code  # noqa: ASYNC210 - that it blocks is the point


@app.get("/wait/threads")
def wait_in_a_thread() -> int:
    """Wait in a blocking call on a thread of FastAPI's pool."""
    return requests.get(UPSTREAM_URL, timeout=10).status_code


@app.get("/wait/await")
async def wait_awaiting(request: Request) -> int:
    """Wait without blocking anything."""
    response = await request.state.client.request(UPSTREAM_URL, return_type="response")
    return int(response.status_code)


@app.get("/compute/async-def")
async def compute_on_the_loop() -> int:
    """Compute on the event loop."""
    return compute()


@app.get("/compute/def")
def compute_in_a_thread() -> int:
    """Compute on a thread of FastAPI's pool."""
    return compute()


@app.get("/compute/processes")
async def compute_in_a_process(request: Request) -> int:
    """Compute in another process."""
    return await asyncio.get_running_loop().run_in_executor(request.state.processes, compute)


@app.get("/health")
async def health() -> str:
    """Respond at once."""
    return "ok"


def compute() -> int:
    """Keep one core busy for `CPU_SECONDS`."""
    rounds, began = 0, time.thread_time()
    while time.thread_time() - began < CPU_SECONDS:
        rounds += 1
    return rounds


# -- users and health


@contextmanager
def served(upstream: str, processes: int) -> Iterator[str]:
    """Serve the endpoints with a number of processes; yields the base URL."""
    command = [sys.executable, "-m", "uvicorn", "examples.concurrency_figures:app", "--no-access-log"]
    command += ["--port", "0", "--workers", str(processes)]
    environment = {**os.environ, "UPSTREAM_URL": upstream}
    with subprocess.Popen(  # noqa: S603 - our own server
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as service:
        assert service.stderr is not None  # noqa: S101 - for the type checker
        url, waiting_for = "", processes
        for line in service.stderr:
            if found := re.search(r"running on (http://[\d.:]+)", line):
                url = found[1]
            waiting_for -= "startup complete" in line
            if url and not waiting_for:
                break
        try:
            yield url
        finally:
            service.terminate()


def call_as_users(url: str) -> float:
    """Call an endpoint for all users at once; return the seconds until the last is served."""
    with ParallelSession(concurrency=USERS, timeout=60) as session:
        session.get([url] * USERS)
        return session.last_run.seconds


def slowest_health(url: str, until: Callable[[], bool]) -> float:
    """Request /health 100 times a second; return the seconds of the slowest response."""
    pace = TokenBucket(rate=100, burst=1)
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    slowest = 0.0
    while not until():
        pace.acquire()
        asked = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        slowest = max(slowest, time.perf_counter() - asked)
    connection.close()
    return slowest


def measure_endpoint(base: str, path: str) -> Figures:
    """Return the seconds until all users are served, and the slowest /health meanwhile."""
    with ThreadPoolExecutor(1) as users:
        calling = users.submit(call_as_users, base + path)
        slowest = slowest_health(base, calling.done)
        return calling.result(), slowest


# -- the event loop's lateness


async def lateness(work: Callable[[], Awaitable[object]]) -> tuple[list[float], float]:
    """Run a timer on the event loop while some work goes on.

    Returns:
        How many seconds late each tick was, sorted, and the seconds the work took.
    """
    late = []
    began = time.perf_counter()
    working = asyncio.ensure_future(work())
    while not working.done():
        ticked = time.perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        late.append(time.perf_counter() - ticked - TICK_SECONDS)
    await working
    return sorted(late), time.perf_counter() - began


async def measure_library(url: str, backend: str, concurrency: int) -> Figures:
    """Return how late the loop is beside the asynchronous client."""
    async with ParallelRequests(backend=backend, concurrency=concurrency) as client:
        await client.request([url] * concurrency)
        return _summary(*await lateness(lambda: client.request([url] * CALLS)))


async def measure_threads(url: str, concurrency: int) -> Figures:
    """Return how late the loop is beside plain threads with `requests`."""
    with requests.Session() as session, ThreadPoolExecutor(concurrency) as threads:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=concurrency))
        loop = asyncio.get_running_loop()

        async def work() -> None:
            calls = (loop.run_in_executor(threads, lambda: session.get(url).json()) for _ in range(CALLS))
            await asyncio.gather(*calls)

        return _summary(*await lateness(work))


def _summary(late: list[float], seconds: float) -> Figures:
    percentiles = statistics.quantiles(late, n=100, method="inclusive")
    return percentiles[49], percentiles[98], late[-1], CALLS / seconds


# -- the tables


def medians(measures: dict[str, Callable[[], Figures]]) -> Iterator[tuple[str, list[float]]]:
    """Take every measurement once a round; yields each title with the medians of its figures."""
    rounds = [{title: measure() for title, measure in measures.items()} for _ in range(ROUNDS)]
    for title in measures:
        yield title, [statistics.median(figures) for figures in zip(*(r[title] for r in rounds), strict=True)]


def endpoints(one: str, two: str) -> dict[str, Callable[[], Figures]]:
    """Return the measurements of the endpoints, served by one process and by two."""
    return {
        "wait 200 ms: blocking call in `async def`": partial(measure_endpoint, one, "/wait/serial"),
        "the same, 2 processes": partial(measure_endpoint, two, "/wait/serial"),
        "blocking call in `def`": partial(measure_endpoint, one, "/wait/threads"),
        "`await client.request(...)` in `async def`": partial(measure_endpoint, one, "/wait/await"),
        "compute for 50 ms: in `async def`": partial(measure_endpoint, one, "/compute/async-def"),
        "in `def`": partial(measure_endpoint, one, "/compute/def"),
        "in a pool of 2 processes": partial(measure_endpoint, one, "/compute/processes"),
    }


def loops(url: str) -> dict[str, Callable[[], Figures]]:
    """Return the measurements of the event loop."""
    measures: dict[str, Callable[[], Figures]] = {}
    for concurrency in (20, 100):
        for backend in filter(is_installed, BACKEND_NAMES):
            library = partial(measure_library, url, backend, concurrency)
            measures[f"`{backend}`, {concurrency} in flight"] = partial(_in_a_loop, library)
        threads = partial(measure_threads, url, concurrency)
        measures[f"{concurrency} plain threads with `requests`"] = partial(_in_a_loop, threads)
    return measures


def _in_a_loop(measure: Callable[[], Coroutine[Any, Any, Figures]]) -> Figures:
    return asyncio.run(measure())


def main() -> None:
    """Print both tables as Markdown."""
    with Server() as upstream:
        print(f"| {USERS} users at once | all served after | slowest `/health` |\n| --- | --- | --- |")
        slow = upstream.url("/delay/0.2")
        with served(slow, 1) as one, served(slow, 2) as two:
            for title, (seconds, slowest) in medians(endpoints(one, two)):
                print(f"| {title} | {seconds:.2f} s | {slowest * 1000:,.0f} ms |")

        print(f"\n| {CALLS:,} calls beside an event loop | p50 | p99 | most | calls/s |")
        print("| --- | --- | --- | --- | --- |")
        for title, (*late, rate) in medians(loops(upstream.url("/static"))):
            shown = " | ".join(f"{seconds * 1000:.1f} ms" for seconds in late)
            print(f"| {title} | {shown} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
