"""aiohttp's connections, with the gaps closed that its options leave open."""

from __future__ import annotations

import asyncio
import select
import ssl
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.hdrs import CONNECTION
from aiohttp.http_exceptions import HttpProcessingError

from parallel_requests.backends.tcp import keepalive_options
from parallel_requests.header_fields import LARGEST_HEAD, TOO_MANY_INTERIM, ends_connection, interim_size

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

    from parallel_requests.exchange import Send

_HAS_POLL = hasattr(select, "poll")
READ_SIZE = 1 << 18
"""Bytes that are read at a time, or buffered ahead of the reader of a body."""

is_fresh_connection: ContextVar[bool | None] = ContextVar("is_fresh_connection", default=True)
"""Whether the attempt under way opened a connection for itself; None while it does."""

current_send: ContextVar[Send] = ContextVar("current_send")
"""The attempt under way."""

_begun: ContextVar[list[_Protocol]] = ContextVar("_begun")
"""The connections that the attempt under way has begun to open: two, if TLS goes through a tunnel."""


class NothingSent(aiohttp.ClientConnectionResetError):
    """The connection ended before any part of the request was sent."""


class ClientRequest(aiohttp.ClientRequest):
    """Sends its body at once, and closes its connection if its headers say so."""

    def update_expect_continue(self, expect: bool = False) -> None:
        """Do nothing: the header is sent as it is, as aiohttp would wait forever if a server ignores it."""

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        """Send the head and the body, unless the connection has ended since it was taken.

        Before Python 3.12 this is a task of its own, which has to wait for its turn on the loop.
        """
        protocol = conn.protocol
        if isinstance(protocol, _Protocol) and protocol.has_ended():
            protocol.set_exception(NothingSent("the connection ended just as it was used"))
            return
        await super().write_bytes(writer, conn, content_length)

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if CONNECTION in self.headers and ends_connection(self.headers) and conn.protocol is not None:
            conn.protocol.force_close()
        return await super().send(conn)


class _Protocol(ResponseHandler, asyncio.BufferedProtocol):
    """Closes three gaps of aiohttp's protocol, and reads into a buffer that all connections share.

    asyncio would allocate 256 KiB for each read, and give most of it back: up to a seventh of a call's cost.
    uvloop, which shares a buffer anyway, calls `data_received` directly.
    """

    _interim_size = 0  # bytes since the last final response
    _arrived: select.poll | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, arrivals: memoryview) -> None:
        super().__init__(loop)
        self._arrivals = arrivals
        _begun.get().append(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to, with room for all that has come: at its end, TLS would lose the rest."""
        if sizehint > len(self._arrivals):
            self._arrivals = memoryview(bytearray(sizehint))
        return self._arrivals

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._arrivals[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the socket to look at before it is used again."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if _HAS_POLL and sock is not None:  # None once it has ended
            self._arrived = select.poll()
            self._arrived.register(sock.fileno(), select.POLLIN)

    def is_connected(self) -> bool:
        """Whether it may be used again; it may not if anything has arrived that nobody requested.

        The loop learns of that, as of the end of the connection, only once it has run what is due before.
        """
        if not super().is_connected() or self.should_close:
            return False
        return not self._has_arrivals()

    def has_ended(self) -> bool:
        """Whether it must not be used after all, before anything has been sent for the attempt under way."""
        if self.transport is None or self.transport.is_closing():
            return True
        return is_fresh_connection.get() is False and self._has_arrivals()

    def _has_arrivals(self) -> bool:
        return self._arrived is not None and bool(self._arrived.poll(0))

    def connection_lost(self, exc: BaseException | None) -> None:
        """Distinguish a TLS connection that was cut, which asyncio does not, from one that was closed."""
        if exc is None and self.transport is not None:
            ssl_object = self.transport.get_extra_info("ssl_object")
            if ssl_object is not None and not _has_close_notify(ssl_object):
                exc = ConnectionResetError("the connection ended without a close_notify")
        super().connection_lost(exc)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Receive a head, and end the connection if there are too many informational responses.

        Each kilobyte of them becomes many kilobytes of objects, and uvloop may read megabytes in a row, in
        which nothing else happens on the loop.
        """
        message = data[0]
        if message.code < 200:
            self._interim_size += interim_size(message.raw_headers)
        elif self._interim_size <= LARGEST_HEAD:
            self._interim_size = 0
        if self._interim_size > LARGEST_HEAD:  # a final response may have been read with them
            self.abort()
            self.set_exception(HttpProcessingError(message=TOO_MANY_INTERIM))
            return
        super().feed_data(data, size)


def _has_close_notify(ssl_object: ssl.SSLObject) -> bool:
    """Whether the peer has ended TLS; otherwise there would be more to read."""
    try:
        return not ssl_object.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except OSError:
        return False


class Connector(aiohttp.TCPConnector):
    """Opens connections without limit, as the engine has one, counts them, and keeps only some idle ones."""

    def __init__(self, most_idle: int) -> None:
        """Set up, on the loop that it is used on.

        Args:
            most_idle: Idle connections that are kept; aiohttp itself would keep all for 15 seconds.
        """
        super().__init__(limit=0)
        self._most_idle = most_idle
        arrivals = memoryview(bytearray(READ_SIZE))
        self._factory = partial(_Protocol, self._loop, arrivals)  # type: ignore[assignment]
        self.opened = 0
        self._transports: dict[asyncio.Future[None], asyncio.Transport] = {}

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        send = current_send.get()
        connection = None if send.needs_new_connection else await super()._get(key, traces)
        send.took_idle_connection = connection is not None
        return connection

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> ResponseHandler:
        is_fresh_connection.set(None)
        begun: list[_Protocol] = []
        _begun.set(begun)
        for _ in range(sum(map(len, self._conns.values())) - self._most_idle + 1):
            self._drop_idle()
        try:
            protocol = await super()._create_connection(req, traces, timeout)
        except BaseException:
            for each in begun:
                each.abort()  # if TLS was ready, it would wait for the server's close_notify
            raise
        transport = protocol.transport
        if transport is None or transport.is_closing():
            # In TLS within TLS, the loop may not notice that it has ended, and never tell the protocol.
            raise aiohttp.ClientConnectionResetError("the connection ended before it was ready")
        self.opened += 1
        is_fresh_connection.set(True)
        closed = protocol.closed
        if closed is not None:
            self._transports[closed] = transport
            for option in keepalive_options():
                transport.get_extra_info("socket").setsockopt(*option)
            closed.add_done_callback(self._forget)
        return protocol

    def _drop_idle(self) -> None:
        """Drop an idle connection, of the host that has had some for the longest time."""
        key, idle = next(iter(self._conns.items()))
        protocol, _ = idle.popleft()
        if not idle:
            del self._conns[key]
        protocol.abort()

    def _forget(self, closed: asyncio.Future[None]) -> None:
        closed.exception()  # retrieved, so that asyncio does not report it
        del self._transports[closed]

    async def abort(self) -> None:
        """Abort the connections that still wait for their peer's close_notify."""
        for transport in list(self._transports.values()):
            transport.abort()
        if self._transports:
            await asyncio.wait(self._transports)
