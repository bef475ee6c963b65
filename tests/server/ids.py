"""A lean server for a million calls: ``python -m tests.server.ids --listen 127.0.0.1``.

``/{n}`` answers n, and is counted in a byte of its own; ``/report`` tells what was counted.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import cast

import httptools

from tests.server.lifetime import BACKLOG, announce, listening_socket, parse_arguments, run, stdin_closed


class Counts:
    """How often each id was asked for, and how many requests were open at once."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.open = self.most_open = 0

    def begin(self, number: int) -> None:
        """Count a request that has arrived."""
        if number >= len(self.seen):
            self.seen.extend(bytes(max(1 << 16, number + 1 - len(self.seen))))
        self.seen[number] = min(255, self.seen[number] + 1)
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    def report(self) -> dict[str, int]:
        """What was counted since the last report."""
        known = len(self.seen.rstrip(b"\0"))
        counts = {
            "known": known,
            "missing": self.seen[:known].count(0),
            "doubled": known - self.seen[:known].count(0) - self.seen[:known].count(1),
            "most_open": self.most_open,
        }
        self.seen, self.most_open = bytearray(), 0
        return counts


class Connection(asyncio.Protocol):
    """One connection; what arrived in one turn of the loop is answered in the next one."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._target = url[1:]

    def on_message_complete(self) -> None:
        if self._target == b"report":
            self._send(json.dumps(self._counts.report()).encode())
            return
        self._counts.begin(int(self._target))
        asyncio.get_running_loop().call_soon(self._answer, self._target)

    def _answer(self, body: bytes) -> None:
        self._counts.open -= 1
        self._send(body)

    def _send(self, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def main() -> None:
    """Listen, announce, serve until stdin closes."""
    arguments = parse_arguments("a lean server that counts ids")
    listeners = [listening_socket(address) for address in arguments.listen or ["127.0.0.1"]]
    counts = Counts()
    for listener in listeners:
        loop = asyncio.get_running_loop()
        await loop.create_server(partial(Connection, counts), sock=listener, backlog=BACKLOG)
    announce(listeners, listeners[0])
    await stdin_closed()


if __name__ == "__main__":
    run(main)
