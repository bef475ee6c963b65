"""aiohttp: connections on an event loop, HTTP/1.1."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import aiohttp
from aiohttp.hdrs import PROXY_AUTHORIZATION
from multidict import CIMultiDict
from yarl import URL

from parallel_requests.backends.aiohttp_connections import (
    READ_SIZE,
    ClientRequest,
    Connector,
    current_send,
    is_fresh_connection,
)
from parallel_requests.backends.aiohttp_errors import (
    fault_of_proxy,
    kind_of,
    kind_of_loss,
    not_canonical,
    without_bytes,
)
from parallel_requests.backends.aiohttp_requests import AUTOMATIC_HEADERS, SentHeaders, as_utf8, payload
from parallel_requests.backends.aiohttp_responses import AbortingResponse, read_response
from parallel_requests.backends.base import (
    AsyncBackend,
    Capabilities,
    TransportSettings,
    chain_of,
    split_proxy,
)
from parallel_requests.backends.tls import ssl_context
from parallel_requests.exceptions import ConnectError, ParallelRequestsError, TruncatedBody
from parallel_requests.models import Headers

if TYPE_CHECKING:
    import asyncio
    import ssl

    from parallel_requests.exchange import Send
    from parallel_requests.models import Request, Response

_LONGEST_HEADER = 1 << 18
_MOST_HEADERS = 1_000
_KEPT_IDLE = 256
"""Idle connections that are kept, or twice ``concurrency`` if that is more."""


class AiohttpBackend(AsyncBackend):
    """One ``ClientSession`` on the engine's loop."""

    name: ClassVar[str] = "aiohttp"
    capabilities: ClassVar[Capabilities] = Capabilities(streaming=True, async_native=True)

    def __init__(self) -> None:
        self._contexts: dict[bool | str, ssl.SSLContext] = {}
        self._most_idle = _KEPT_IDLE
        self._connector: Connector | None = None
        self._last_sent = SentHeaders({})
        self._last_raw: tuple[tuple[bytes, bytes], ...] = ()
        self._last_received = Headers()

    @classmethod
    def version(cls) -> str:
        return aiohttp.__version__

    @property
    def connections_opened(self) -> int:
        return 0 if self._connector is None else self._connector.opened

    def open(self, settings: TransportSettings) -> None:
        self._most_idle = max(_KEPT_IDLE, 2 * settings.concurrency)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._connector = Connector(self._most_idle)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            loop=loop,
            request_class=ClientRequest,
            response_class=AbortingResponse,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=_LONGEST_HEADER,
            max_field_size=_LONGEST_HEADER,
            max_headers=_MOST_HEADERS,
            read_bufsize=READ_SIZE,
        )
        # Or aiohttp would resend idempotent requests on its own. A middleware could hide the errors that
        # make it do so, but costs a twentieth of the speed.
        self._session._retry_connection = False  # noqa: SLF001

    async def aclose(self) -> None:
        """Close every connection, including those that wait for their peer's close_notify."""
        await self._session.close()
        if self._connector is not None:
            await self._connector.abort()

    async def send(self, send: Send) -> Response:
        request = send.request
        headers = self._last_sent
        if headers.planned is not request.headers:  # most calls of a batch share one object
            headers = self._last_sent = SentHeaders(request.headers)
        fields, proxy, proxy_headers = headers.fields, request.proxy, None
        if request.proxy is not None:
            proxy, credentials = split_proxy(request.proxy, request.proxy_authorization)
            proxy_headers = None if credentials is None else as_utf8({PROXY_AUTHORIZATION: credentials})
            if proxy_headers is not None and request.url.startswith("http:"):
                fields = CIMultiDict([*fields.items(), *proxy_headers.items()])  # no CONNECT is sent
        adds_nothing = headers.are_complete and request.method == "GET" and request.content is None
        if is_fresh_connection.get() is not False:
            is_fresh_connection.set(False)
        current_send.set(send)
        response = await self._session.request(
            request.method,
            URL(request.url, encoded=True),
            data=payload(request.content),
            headers=fields,
            skip_auto_headers=None if adds_nothing else AUTOMATIC_HEADERS,
            allow_redirects=False,
            ssl=self._context(request),
            timeout=_timeout(request.connect_timeout),
            proxy=proxy,
            proxy_headers=proxy_headers,
        )
        try:
            return await read_response(send, response, self._received(response))
        except BaseException:
            response.close()
            raise

    def _received(self, response: aiohttp.ClientResponse) -> Headers:
        """Return the headers of a response, parsed only if they differ from the last ones."""
        if response.raw_headers != self._last_raw:
            self._last_raw = response.raw_headers
            self._last_received = Headers(b"\r\n".join(map(b": ".join, response.raw_headers)))
        return self._last_received

    def _context(self, request: Request) -> ssl.SSLContext | bool:
        if request.url.startswith("http:") and (request.proxy is None or request.proxy.startswith("http:")):
            return True
        context = self._contexts.get(request.verify)
        if context is None:
            context = self._contexts[request.verify] = ssl_context(request.verify)
        return context

    def lacking_for_socks(self) -> str | None:
        return "aiohttp does not speak SOCKS; another backend does, such as curl."

    def translate(self, error: BaseException, request: Request) -> ParallelRequestsError:
        """Translate an exception of aiohttp; called in the attempt's own context."""
        is_fresh = is_fresh_connection.get()
        for cause in chain_of(error):
            if request.proxy is not None and (reason := fault_of_proxy(cause, request.proxy)) is not None:
                return self.proxy_failure(request, reason)
            if isinstance(cause, aiohttp.InvalidURL):
                return not_canonical(request)
            if (kind := kind_of(cause)) is not None:
                return self.failure(kind, request, without_bytes(cause))
            if (kind := kind_of_loss(cause, is_connected=is_fresh is not None)) is not None:
                return self.failure(kind, request, without_bytes(cause), stale=is_fresh is False)
        failure = super().translate(error, request)
        if type(failure) is TruncatedBody and is_fresh is None:
            return self.failure(ConnectError, request, error)  # while it connected
        return failure


@lru_cache(maxsize=64)
def _timeout(connect: float | None) -> aiohttp.ClientTimeout:
    """Limit connecting, from look-up to TLS handshake; the engine limits the whole attempt."""
    # Not sock_connect, as it would apply to each address of a name anew, and not to the look-up.
    return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=float("inf"))
