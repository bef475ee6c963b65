"""The HTTP/2 test server: ``python -m tests.server.h2 --certificate … --key …``.

hypercorn speaks (TLS, ALPN h2 and http/1.1), ``site`` answers. A connection is counted with its first
request.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.server.counters import Counters
from tests.server.lifetime import (
    announce,
    listener_name,
    listening_socket,
    parse_arguments,
    run,
    stdin_closed,
)
from tests.server.routing import Answer, Call
from tests.server.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.typing import (
        ASGIReceiveCallable,
        ASGISendCallable,
        Framework,
        HTTPScope,
        Scope,
    )


class Application:
    """The site as an ASGI application."""

    def __init__(self, site: Site, counters: Counters) -> None:
        self._site = site
        self._counters = counters
        # By the identity of the client's address, an object that hypercorn makes for each connection: a port
        # may be used again. The object is kept, so that its identity is not.
        self._connections: dict[int, tuple[object, int]] = {}
        self._requests: Counter[int] = Counter()

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] == "lifespan":
            await _acknowledge_lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _serve(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        call = self._call(scope)
        if not call.is_control:
            self._counters.begin(call)
        call.body = await _body(receive)
        answer = self._site.answer(call)
        ended = False

        def end(status: int | None) -> None:
            nonlocal ended
            if not ended and not call.is_control:
                self._counters.end(call, status)
            ended = True

        answering = asyncio.create_task(_send(answer, call, send, end))
        leaving = asyncio.create_task(_disconnected(receive))
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        answering.cancel()
        leaving.cancel()
        end(None)

    def _call(self, scope: HTTPScope) -> Call:
        client, server = cast("tuple[str, int]", scope["client"]), scope["server"]
        listener = listener_name(cast("tuple[str, int]", server))
        raw_headers = list(scope["headers"])
        host = next((value for name, value in raw_headers if name == b"host"), b"")
        call = Call(
            method=scope["method"],
            scheme=scope["scheme"],
            host=host.decode("latin-1"),
            path=scope["raw_path"].decode("latin-1").partition("?")[0],
            query_string=scope["query_string"].decode("latin-1"),
            raw_headers=raw_headers,
            client=client[0],
            listener=listener,
            connection=0,
            request_on_connection=0,
            http_version=scope["http_version"],
            counters=self._counters,
        )
        if not call.is_control:
            if id(client) not in self._connections:
                self._connections[id(client)] = client, self._counters.open_connection(listener)
            _, call.connection = self._connections[id(client)]
            self._requests[call.connection] += 1
            call.request_on_connection = self._requests[call.connection]
        return call


async def _acknowledge_lifespan(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _body(receive: ASGIReceiveCallable) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = cast("dict[str, Any]", await receive())
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks)


async def _disconnected(receive: ASGIReceiveCallable) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(answer: Answer, call: Call, send: ASGISendCallable, end: Callable[[int], None]) -> None:
    if answer.delay == math.inf:
        await asyncio.Event().wait()
    if answer.delay > 0:
        await asyncio.sleep(answer.delay)
    if answer.raw:
        answer = Answer(b"only HTTP/1.1 has a wire to write on", 501)
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
    length = len(answer.body) if isinstance(answer.body, bytes) else answer.content_length
    if length is not None and answer.status not in {204, 304}:
        headers.append((b"content-length", str(length).encode()))
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": headers,
            "trailers": False,
        }
    )
    last = b""
    if call.method != "HEAD":
        if isinstance(answer.body, bytes):
            last = answer.body
        else:
            async for chunk in answer.body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
    # Before the last bytes leave: the client's next request must not overlap with this one.
    end(answer.status)
    await send({"type": "http.response.body", "body": last, "more_body": False})


async def main() -> None:
    """Listen, announce, serve until stdin closes."""
    arguments = parse_arguments("HTTP/2 test server")
    listeners = [listening_socket(address) for address in arguments.listen or ["127.0.0.1"]]
    control = listening_socket("127.0.0.1")
    config = Config()
    config.certfile = arguments.certificate
    config.keyfile = arguments.key
    config.bind = [f"fd://{listener.fileno()}" for listener in listeners]
    config.insecure_bind = [f"fd://{control.fileno()}"]
    config.h2_max_concurrent_streams = 1_000
    config.keep_alive_max_requests = 1_000_000
    config.keep_alive_timeout = 600
    config.errorlog = None
    counters = Counters()
    application = Application(Site(counters), counters)
    announce(listeners, control)
    serving = asyncio.create_task(
        serve(
            cast("Framework", application),
            config,
            shutdown_trigger=asyncio.Event().wait,
            mode="asgi",
        )
    )
    orphaned = asyncio.create_task(stdin_closed())
    await asyncio.wait({serving, orphaned}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    # A graceful end would wait for clients to close their idle connections.
    os._exit(0)


if __name__ == "__main__":
    run(main)
