"""A server that answers every request 100 ms after it arrived, thousands of them at once.

`python -m benchmarks.delay_server` prints the port it listens on and serves until it is terminated.
It runs in an environment of its own (requirements/delay-server.txt).
"""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import httptools
import uvloop

from benchmarks.scenes import DELAY_SECONDS, JSON_BODY

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(JSON_BODY),
    JSON_BODY,
)


class DelayedAnswers(asyncio.Protocol):
    """One connection, kept open between requests."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's, so this cannot be asserted.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._loop.call_later(DELAY_SECONDS, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(ANSWER)


async def main() -> None:
    # A thousand clients connect in the same millisecond.
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server = await asyncio.get_running_loop().create_server(DelayedAnswers, sock=listener, backlog=4096)
    print(listener.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
