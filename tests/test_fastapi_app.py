"""The FastAPI example under a real uvicorn: fast for all callers, and ids are never mixed up."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs
from uuid import UUID

import pytest

from parallel_requests import ParallelSession, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests import Response
    from tests.server.control import Server

ROOT = Path(__file__).resolve().parents[1]
USERS = 50
PAGES = 5
UPSTREAM_SECONDS = 0.2
HEALTH_SECONDS = 0.05
ROUNDS = 10


@pytest.fixture(scope="module")
def service(server: Server) -> Iterator[str]:
    """The example, served by uvicorn in a process of its own; its base URL."""
    upstream = f"{server.url('/delay/')}{UPSTREAM_SECONDS}?page={{page}}"
    command = [sys.executable, "-m", "uvicorn", "examples.fastapi_app:app", "--port", "0", "--no-access-log"]
    environment = {**os.environ, "UPSTREAM_URL": upstream}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            announcement = (re.search(r"running on (http://[\d.:]+)", line) for line in process.stderr)
            yield next(found[1] for found in announcement if found)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(params=["awaited", "blocking"])
def endpoint(request: pytest.FixtureRequest, service: str) -> str:
    """The URL of an endpoint, without the user."""
    return f"{service}/{request.param}"


def call_as_users(endpoint: str) -> tuple[list[Response], float]:
    """Call an endpoint for all users at once; their responses, and the seconds all of them took."""
    urls = [f"{endpoint}/{user}" for user in range(USERS)]
    headers = [{"X-Correlation-ID": f"user-{user}"} for user in range(USERS)]
    with ParallelSession(concurrency=USERS) as session:
        answers = session.get(urls, headers=headers, return_type="response")
        return answers, session.last_run.seconds


def ask_health(service: str, *, until: Callable[[], bool]) -> list[float]:
    """Request /health 100 times a second on one connection; the seconds each response took."""
    pace = TokenBucket(rate=100, burst=1)
    host, port = service.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    seconds = []
    while not until():
        pace.acquire()
        asked = time.perf_counter()
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        seconds.append(time.perf_counter() - asked)
    connection.close()
    return seconds


def test_fifty_users_at_once_are_served_and_health_answers(
    endpoint: str, service: str, server: Server
) -> None:
    call_as_users(endpoint)  # opens the connections
    rounds = []
    for _ in range(ROUNDS):
        server.reset()
        with ThreadPoolExecutor(1) as users:
            calling = users.submit(call_as_users, endpoint)
            health = ask_health(service, until=calling.done)
            answers, seconds = calling.result()
        assert [answer.status_code for answer in answers] == [200] * USERS
        assert server.stats().requests == USERS * PAGES
        rounds.append((seconds, max(health)))
        if seconds <= 3 * UPSTREAM_SECONDS and max(health) <= HEALTH_SECONDS:
            return
    # What else the machine does can only make a round slower, so one good round is proof, and none is a miss.
    pytest.fail(f"seconds until all were served, and of the slowest health answer: {rounds}")


def test_correlation_ids_are_never_mixed_up(endpoint: str, server: Server) -> None:
    server.reset()
    answers, _ = call_as_users(endpoint)
    for user, answer in enumerate(answers):
        assert answer.headers["x-correlation-id"] == f"user-{user}"
        assert answer.json() == [str(page) for page in pages_of(user)]
    seen = Counter(
        (int(parse_qs(entry.query)["page"][0]), entry.headers["x-correlation-id"]) for entry in server.log()
    )
    assert seen == {(page, f"user-{user}"): 1 for user in range(USERS) for page in pages_of(user)}


def test_a_caller_without_an_id_is_given_one(endpoint: str, server: Server) -> None:
    server.reset()
    with ParallelSession() as session:
        answer = session.get(f"{endpoint}/0", return_type="response")
    given = answer.headers["x-correlation-id"]
    assert str(UUID(given)) == given
    assert {entry.headers["x-correlation-id"] for entry in server.log()} == {given}


def pages_of(user: int) -> range:
    return range(user * PAGES, (user + 1) * PAGES)
