"""The caller's functions: they see its context variables, and work beside a running event loop."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import TruncatedBody, parallel_requests
from tests.server.faults import close, read_request, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests import Request
    from parallel_requests.session import ParallelSession
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


def test_the_one_call_verb_works_where_an_event_loop_is_running(backend: str, server: Server) -> None:
    async def as_in_a_notebook() -> object:
        return parallel_requests([server.url("/id/1"), server.url("/id/2")], backend=backend)

    assert asyncio.run(as_in_a_notebook()) == [{"id": 1}, {"id": 2}]
