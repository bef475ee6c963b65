"""The HTTP/1.1 test server: ``python -m tests.server.app --listen 127.0.0.1``.

httptools parses, asyncio (uvloop if installed) carries, ``site`` answers.
It runs in a process of its own, so that it never shares the client's
interpreter lock, and ends when its stdin closes.
"""

from __future__ import annotations

import asyncio
import http
import math
import ssl
import time
from collections import deque
from email.utils import formatdate
from functools import lru_cache, partial
from typing import TYPE_CHECKING, cast

import httptools

from tests.server.counters import Counters
from tests.server.lifetime import (
    BACKLOG,
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
    import socket
    from collections.abc import AsyncIterator

_BODILESS = (204, 304)
_TICK_SECONDS = 0.005
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


@lru_cache(maxsize=2)
def _date_line(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


def _head(answer: Answer, framing: str) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}\r\n"]
    lines.append(_date_line(int(time.time())))
    lines.extend(f"{name}: {value}\r\n" for name, value in answer.headers)
    return f"{''.join(lines)}{framing}\r\n".encode("latin-1")


class Connection(asyncio.Protocol):
    """One connection: parses requests, answers them one after another."""

    def __init__(self, site: Site, counters: Counters, *, scheme: str, counted: bool) -> None:
        self._site = site
        self._counters = counters
        self._scheme = scheme
        self._counted = counted
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Call, bool]] = deque()
        self._current: Call | None = None
        self._delayed: asyncio.TimerHandle | None = None
        self._streaming: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._number = 0
        self._requests = 0

    # -- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._listener = listener_name(transport.get_extra_info("sockname"))
        self._client = transport.get_extra_info("peername")[0]
        if self._counted:
            self._number = self._counters.open_connection(self._listener)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._delayed is not None:
            self._delayed.cancel()
        if self._streaming is not None:
            self._streaming.cancel()
        unanswered = [self._call] if self._requests and not self._received else []
        unanswered += [call for call, _ in self._waiting]
        unanswered += [self._current] if self._current is not None else []
        for call in unanswered:
            if not call.is_control:
                self._counters.end(call, None)
        self._writable.set()
        if self._counted:
            self._counters.close_connection(self._listener)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            # h2c or a websocket, which nobody has to take: answered as HTTP/1.1.
            if rest := data[offer.args[0] :]:
                self.data_received(rest)
        except httptools.HttpParserError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            self._transport.close()

    # -- the parser's side

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        target = httptools.parse_url(self._target)
        self._requests += 1
        self._received = False
        self._call = Call(
            method=self._parser.get_method().decode(),
            scheme=self._scheme,
            host=(target.host or self._header(b"host")).decode("latin-1"),
            path=(target.path or b"/").decode("latin-1"),
            query_string=(target.query or b"").decode("latin-1"),
            raw_headers=self._headers,
            client=self._client,
            listener=self._listener,
            connection=self._number,
            request_on_connection=self._requests,
            http_version=self._parser.get_http_version(),
            counters=self._counters,
        )
        if not self._call.is_control:
            self._counters.begin(self._call)
        if self._header(b"expect").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _header(self, wanted: bytes) -> bytes:
        return next((value for name, value in self._headers if name.lower() == wanted), b"")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._received = True
        self._call.body = b"".join(self._body)
        self._waiting.append((self._call, self._parser.should_keep_alive()))
        self._answer_next()

    # -- answering

    def _answer_next(self) -> None:
        if self._current is not None or not self._waiting:
            return
        call, keep_alive = self._waiting.popleft()
        self._current = call
        answer = self._site.answer(call)
        if not keep_alive:
            answer.headers.append(("Connection", "close"))
        if answer.delay == math.inf:
            return
        send = partial(self._send, call, answer, keep_alive)
        if answer.delay > 0:
            loop = asyncio.get_running_loop()
            self._delayed = loop.call_later(answer.delay, send)
        else:
            send()

    def _send(self, call: Call, answer: Answer, keep_alive: bool) -> None:
        if not isinstance(answer.body, bytes):
            self._streaming = asyncio.create_task(self._stream(call, answer, answer.body, keep_alive))
            return
        if answer.status in _BODILESS:
            self._transport.write(_head(answer, ""))
        else:
            head = _head(answer, f"Content-Length: {len(answer.body)}\r\n")
            self._transport.write(head if call.method == "HEAD" else head + answer.body)
        self._finish(call, answer, keep_alive)

    async def _stream(
        self, call: Call, answer: Answer, chunks: AsyncIterator[bytes], keep_alive: bool
    ) -> None:
        chunked = answer.content_length is None and not answer.raw
        if not answer.raw:
            framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {answer.content_length}"
            self._transport.write(_head(answer, f"{framing}\r\n"))
        if call.method != "HEAD":
            async for chunk in chunks:
                await self._writable.wait()
                self._transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            if chunked:
                self._transport.write(b"0\r\n\r\n")
        self._streaming = None
        self._finish(call, answer, keep_alive and not answer.raw)

    def _finish(self, call: Call, answer: Answer, keep_alive: bool) -> None:
        if not call.is_control:
            self._counters.end(call, answer.status)
        self._current = None
        self._delayed = None
        if keep_alive:
            self._answer_next()
        else:
            self._transport.close()


async def _measure_lag(counters: Counters) -> None:
    """Note by how much a timer comes late, over and over."""
    while True:
        due = time.monotonic() + _TICK_SECONDS
        await asyncio.sleep(_TICK_SECONDS)
        counters.note_lag(time.monotonic() - due)


async def main() -> None:
    """Listen, announce, serve until stdin closes."""
    arguments = parse_arguments("HTTP/1.1 test server")
    context = None
    if arguments.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.certificate, arguments.key)
        context.set_alpn_protocols(["http/1.1"])
    counters = Counters()
    site = Site(counters)
    listeners = [listening_socket(address) for address in arguments.listen or ["127.0.0.1"]]
    control = listening_socket("127.0.0.1")

    async def serve(listener: socket.socket, tls: ssl.SSLContext | None, counted: bool) -> None:
        scheme = "https" if tls else "http"
        protocol = partial(Connection, site, counters, scheme=scheme, counted=counted)
        loop = asyncio.get_running_loop()
        await loop.create_server(protocol, sock=listener, ssl=tls, backlog=BACKLOG)

    for listener in listeners:
        await serve(listener, context, counted=True)
    await serve(control, None, counted=False)
    announce(listeners, control)
    measuring = asyncio.create_task(_measure_lag(counters))
    await stdin_closed()
    measuring.cancel()


if __name__ == "__main__":
    run(main)
