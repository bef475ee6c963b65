"""The HTTP/3 test server: ``python -m tests.server.h3 --certificate … --key …``.

aioquic speaks QUIC and HTTP/3, ``site`` answers. It listens on UDP alone: what speaks TCP on the
same port, if anything does, is another server's matter. A connection is counted once its handshake
is complete.
"""

from __future__ import annotations

import asyncio
import math
import socket
from functools import partial
from typing import TYPE_CHECKING

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StopSendingReceived, StreamReset

from tests.server.app import Connection as ControlConnection
from tests.server.counters import Counters
from tests.server.lifetime import (
    announce,
    listener_name,
    listening_socket,
    parse_arguments,
    run,
    stdin_closed,
)
from tests.server.routing import Call
from tests.server.site import Site

if TYPE_CHECKING:
    from aioquic.h3.events import H3Event, Headers
    from aioquic.quic.connection import QuicConnection
    from aioquic.quic.events import QuicEvent


class Connection(QuicConnectionProtocol):
    """One QUIC connection: each stream carries a request and its answer."""

    def __init__(
        self, site: Site, counters: Counters, listener: str, quic: QuicConnection, **_unused: object
    ) -> None:
        super().__init__(quic)
        self._site = site
        self._counters = counters
        self._listener = listener
        self._http: H3Connection | None = None
        self._number = self._requests = 0
        self._calls: dict[int, Call] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self._http = H3Connection(self._quic)
            self._number = self._counters.open_connection(self._listener)
        if self._http is None:
            return
        if isinstance(event, ConnectionTerminated):
            self._counters.close_connection(self._listener)
            for stream in list(self._calls):
                self._end(stream, None)
        elif isinstance(event, StreamReset | StopSendingReceived):
            self._end(event.stream_id, None)
        for message in self._http.handle_event(event):
            self._receive(message)

    def _receive(self, message: H3Event) -> None:
        if isinstance(message, HeadersReceived):
            self._calls[message.stream_id] = call = self._begin(message.headers)
            self._counters.begin(call)
        elif isinstance(message, DataReceived):
            if message.stream_id not in self._calls:  # its client has left
                return
            call = self._calls[message.stream_id]
            call.body += message.data
        else:
            return
        if message.stream_ended:
            answering = asyncio.create_task(self._answer(message.stream_id, call))
            self._answering[message.stream_id] = answering

    def _begin(self, headers: Headers) -> Call:
        self._requests += 1
        pseudo = {name: value.decode("latin-1") for name, value in headers if name.startswith(b":")}
        path, _, query = pseudo[b":path"].partition("?")
        return Call(
            method=pseudo[b":method"],
            scheme=pseudo[b":scheme"],
            host=pseudo[b":authority"],
            path=path,
            query_string=query,
            raw_headers=[(name, value) for name, value in headers if not name.startswith(b":")],
            client="",
            listener=self._listener,
            connection=self._number,
            request_on_connection=self._requests,
            http_version="3",
            counters=self._counters,
        )

    async def _answer(self, stream: int, call: Call) -> None:
        answer = self._site.answer(call)
        if answer.raw:  # only HTTP/1.1 has a wire to write on
            self._quic.reset_stream(stream, ErrorCode.H3_INTERNAL_ERROR)
            self._end(stream, None)
            self.transmit()
            return
        if answer.delay == math.inf:
            await asyncio.Event().wait()
        await asyncio.sleep(answer.delay)
        length = len(answer.body) if isinstance(answer.body, bytes) else answer.content_length
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
        if length is not None and answer.status not in {204, 304}:
            headers.append((b"content-length", str(length).encode()))
        assert self._http is not None
        self._http.send_headers(stream, [(b":status", str(answer.status).encode()), *headers])
        last = b""
        if call.method != "HEAD":
            if isinstance(answer.body, bytes):
                last = answer.body
            else:
                async for chunk in answer.body:
                    self._http.send_data(stream, chunk, end_stream=False)
                    self.transmit()
        # Before the last bytes leave: the client's next request must not overlap with this one.
        self._end(stream, answer.status)
        self._http.send_data(stream, last, end_stream=True)
        self.transmit()

    def _end(self, stream: int, status: int | None) -> None:
        call, answering = self._calls.pop(stream, None), self._answering.pop(stream, None)
        if call is not None:
            self._counters.end(call, status)
        if answering is not None and status is None:
            answering.cancel()


async def main() -> None:
    """Listen, announce, serve until stdin closes."""
    arguments = parse_arguments("HTTP/3 test server")
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(arguments.certificate, arguments.key)
    counters = Counters()
    site = Site(counters)
    listeners = [
        listening_socket(address, socket.SOCK_DGRAM) for address in arguments.listen or ["127.0.0.1"]
    ]
    control = listening_socket("127.0.0.1")
    loop = asyncio.get_running_loop()
    servers: list[QuicServer] = []
    for listener in listeners:
        connect = partial(Connection, site, counters, listener_name(listener.getsockname()))
        serve = partial(QuicServer, configuration=configuration, create_protocol=connect)
        _, server = await loop.create_datagram_endpoint(serve, sock=listener)
        servers.append(server)
    await loop.create_server(
        partial(ControlConnection, site, counters, scheme="http", counted=False), sock=control
    )
    announce(listeners, control)
    await stdin_closed()
    for server in servers:
        server.close()


if __name__ == "__main__":
    run(main)
