"""What a server process and its parent agree on: one line out, and an end when stdin closes."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

BACKLOG = 4_096


def parse_arguments(description: str) -> argparse.Namespace:
    """The command line of a server process."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--listen", action="append", metavar="ADDRESS[:PORT]", default=[])
    parser.add_argument("--certificate", help="PEM chain; TLS is served if it is given")
    parser.add_argument("--key", help="PEM key of the certificate")
    return parser.parse_args()


def listening_socket(address: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket listening on the port the address names, or on one the kernel chose."""
    host, _, port = address.partition(":")
    place = (host, int(port or 0))
    if kind is socket.SOCK_STREAM:
        return socket.create_server(place, backlog=BACKLOG)
    listener = socket.socket(type=kind)
    listener.bind(place)
    return listener


def listener_name(address: tuple[str, int]) -> str:
    """How a listener is called in counts."""
    return f"{address[0]}:{address[1]}"


def announce(listeners: list[socket.socket], control: socket.socket) -> None:
    """Tell the parent where to connect to, in one JSON line."""
    names = [listener_name(listener.getsockname()) for listener in listeners]
    line = {"listeners": names, "control": listener_name(control.getsockname())}
    print(json.dumps(line), flush=True)


async def stdin_closed() -> None:
    """Return when the parent closes our stdin, or dies."""
    closed = asyncio.Event()

    class UntilEnd(asyncio.Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            closed.set()

    await asyncio.get_running_loop().connect_read_pipe(UntilEnd, sys.stdin)
    await closed.wait()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a server's main coroutine, on uvloop if it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None
    try:
        from uvloop import new_event_loop as factory
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
