"""The caller's functions: they see its context variables, and work beside a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import ParallelSession, Response, TruncatedBody, parallel_requests
from parallel_requests.backends.base import AsyncBackend, BlockingBackend
from tests.server.faults import close, read_request, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests import Request
    from parallel_requests.exchange import Send
    from tests.server.control import Server
    from tests.server.faults import FaultServer

USER: ContextVar[str] = ContextVar("USER", default="nobody")


@pytest.mark.parametrize(
    "place",
    ["parse_func", "on_attempt", "on_result", "progress", "retry_on", "dont_retry_on", "stream_callback"],
)
def test_the_callers_functions_see_its_context_variables(
    place: str, session: ParallelSession, server: Server
) -> None:
    seen: list[str] = []

    def look(*_: Any) -> None:
        seen.append(USER.get())

    options: dict[str, Any] = {place: look, "return_none_on_failure": True}
    if place == "stream_callback":
        options["return_type"] = "stream"
    for user in ("ann", "bob"):
        seen.clear()
        token = USER.set(user)
        session.request([server.url("/id/1"), server.url("/status/503")], **options)
        USER.reset(token)
        assert set(seen) == {user}


def test_a_streams_restart_sees_the_callers_context_variables(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    class Sink:
        """A callback that refuses a restart."""

        def __init__(self) -> None:
            self.seen: list[str] = []

        def __call__(self, chunk: bytes) -> None:
            """Take a chunk."""

        def restart(self, _: Request) -> bool:
            self.seen.append(USER.get())
            return False

    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(100_000)
    server, sink = fault_server([read_request(), send(cut), close()]), Sink()
    token = USER.set("ann")
    with pytest.raises(TruncatedBody):
        session.request(server.url(), return_type="stream", stream_callback=sink)
    USER.reset(token)
    assert sink.seen == ["ann"]


class Traced:
    """What a backend's attempts see: each URL names the user for whom it is requested.

    The first attempt of each user waits for the other's, so that both batches are under way at once.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.both_are_here = threading.Barrier(2)

    def answer(self, send: Send) -> Response:
        self.seen.append((send.request.authority, USER.get()))
        return Response(200, {}, b"{}", send.request)


class TracedBlocking(Traced, BlockingBackend):
    name = "traced"

    def send(self, send: Send) -> Response:
        if send.request.index == 0:
            self.both_are_here.wait(10)
        return self.answer(send)


class TracedAsync(Traced, AsyncBackend):
    name = "traced"

    async def send(self, send: Send) -> Response:
        if send.request.index == 0:
            await asyncio.to_thread(self.both_are_here.wait, 10)
        await asyncio.sleep(0)
        return self.answer(send)


def request_as(user: str, session: ParallelSession, urls: list[str]) -> None:
    USER.set(user)
    session.get(urls)


def requests_of_both(session: ParallelSession, urls_of: Callable[[str], list[str]]) -> None:
    """Run a batch each for two users, at once."""
    with ThreadPoolExecutor(2) as executor:
        batches = [executor.submit(request_as, user, session, urls_of(user)) for user in ("ann", "bob")]
    for batch in batches:
        batch.result()


@pytest.mark.parametrize("kind", [TracedBlocking, TracedAsync])
def test_attempts_see_the_context_variables_of_their_own_caller(
    kind: type[TracedBlocking | TracedAsync],
) -> None:
    """As tracers do, which find the span of the caller there."""
    traced = kind()
    with ParallelSession(backend=traced, concurrency=2) as session:
        requests_of_both(session, lambda user: [f"http://{user}/{number}" for number in range(50)])
    assert sorted(traced.seen) == [("ann", "ann")] * 50 + [("bob", "bob")] * 50


@contextlib.contextmanager
def noted_records() -> Iterator[list[tuple[str, str]]]:
    """Each record of ours about an attempt, with the user seen when it was made."""
    noted: list[tuple[str, str]] = []

    def note(record: logging.LogRecord) -> bool:
        noted.append((USER.get(), record.getMessage()))
        return True

    logger = logging.getLogger("parallel_requests")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addFilter(note)
    try:
        yield noted
    finally:
        logger.removeFilter(note)
        logger.setLevel(level)


def test_log_records_see_the_context_variables_of_their_own_caller(
    session: ParallelSession, server: Server
) -> None:
    with noted_records() as noted:
        requests_of_both(session, lambda user: [server.url(f"/anything/{user}")] * 20)
    attempts = [(user, f"/{user} " in message) for user, message in noted if "<Attempt" in message]
    assert sorted(attempts) == [("ann", True)] * 20 + [("bob", True)] * 20


def test_the_one_call_verb_works_where_an_event_loop_is_running(backend: str, server: Server) -> None:
    async def as_in_a_notebook() -> object:
        return parallel_requests([server.url("/id/1"), server.url("/id/2")], backend=backend)

    assert asyncio.run(as_in_a_notebook()) == [{"id": 1}, {"id": 2}]
