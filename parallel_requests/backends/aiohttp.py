"""aiohttp: connections on an event loop, HTTP/1.1."""

from __future__ import annotations

import asyncio
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import aiohttp
from aiohttp.hdrs import PROXY_AUTHORIZATION
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError, TransferEncodingError
from multidict import CIMultiDict
from yarl import URL

from parallel_requests.backends.aiohttp_connections import (
    READ_SIZE,
    ClientRequest,
    Connector,
    NothingSent,
    current_send,
    is_fresh_connection,
)
from parallel_requests.backends.aiohttp_responses import AbortingResponse, read_response
from parallel_requests.backends.base import (
    AsyncBackend,
    Capabilities,
    TransportSettings,
    chain_of,
    split_proxy,
)
from parallel_requests.backends.tls import ssl_context
from parallel_requests.exceptions import (
    BackendError,
    ConnectError,
    DNSError,
    ParallelRequestsError,
    ProtocolError,
    TLSError,
    TruncatedBody,
    ValidationError,
)
from parallel_requests.models import Headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp.abc import AbstractStreamWriter

    from parallel_requests.exchange import Send
    from parallel_requests.models import Request, Response

_LONGEST_HEADER = 1 << 18
_MOST_HEADERS = 1_000
_SENT_AT_ONCE = 1 << 18
"""Bytes of a body that are sent before others have their turn on the loop."""
_KEPT_IDLE = 256
"""Idle connections that are kept, or twice ``concurrency`` if that is more."""
_PLANNED_HEADERS = frozenset({"User-Agent", "Accept", "Accept-Encoding"})
_AUTOMATIC_HEADERS = _PLANNED_HEADERS | {"Content-Type"}
"""The headers that aiohttp adds to a request that does not have them."""


class AiohttpBackend(AsyncBackend):
    """One ``ClientSession`` on the engine's loop."""

    name: ClassVar[str] = "aiohttp"
    capabilities: ClassVar[Capabilities] = Capabilities(streaming=True, async_native=True)

    def __init__(self) -> None:
        self._contexts: dict[bool | str, ssl.SSLContext] = {}
        self._most_idle = _KEPT_IDLE
        self._connector: Connector | None = None
        self._last_sent = _SentHeaders({})
        self._last_raw: tuple[tuple[bytes, bytes], ...] = ()
        self._last_received = Headers()

    @classmethod
    def version(cls) -> str:
        """Return the version of aiohttp."""
        return aiohttp.__version__

    @property
    def connections_opened(self) -> int:
        """Connections opened so far."""
        return 0 if self._connector is None else self._connector.opened

    def open(self, settings: TransportSettings) -> None:
        """Note how many connections to keep."""
        self._most_idle = max(_KEPT_IDLE, 2 * settings.concurrency)

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the ClientSession."""
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
        """Make one attempt and read its response to the end."""
        request = send.request
        headers = self._last_sent
        if headers.planned is not request.headers:  # most calls of a batch share one object
            headers = self._last_sent = _SentHeaders(request.headers)
        fields, proxy, proxy_headers = headers.fields, request.proxy, None
        if request.proxy is not None:
            proxy, credentials = split_proxy(request.proxy, request.proxy_authorization)
            proxy_headers = None if credentials is None else _as_utf8({PROXY_AUTHORIZATION: credentials})
            if proxy_headers is not None and request.url.startswith("http:"):
                fields = CIMultiDict([*fields.items(), *proxy_headers.items()])  # no CONNECT is sent
        adds_nothing = headers.are_complete and request.method == "GET" and request.content is None
        if is_fresh_connection.get() is not False:
            is_fresh_connection.set(False)
        current_send.set(send)
        response = await self._session.request(
            request.method,
            URL(request.url, encoded=True),
            data=_payload(request.content),
            headers=fields,
            skip_auto_headers=None if adds_nothing else _AUTOMATIC_HEADERS,
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
        """Return that aiohttp does not support SOCKS."""
        return "aiohttp does not speak SOCKS; another backend does, such as curl."

    def translate(self, error: BaseException, request: Request) -> ParallelRequestsError:
        """Translate an exception of aiohttp; called in the attempt's own context."""
        for cause in chain_of(error):
            if request.proxy is not None and (reason := _fault_of_proxy(cause, request.proxy)) is not None:
                return self.proxy_failure(request, reason)
            for kind, ours in _ERRORS:
                if isinstance(cause, kind):
                    # A close_notify during the handshake says nothing about the peer's certificate.
                    has_hung_up = isinstance(getattr(cause, "os_error", None), ssl.SSLZeroReturnError)
                    return self.failure(ConnectError if has_hung_up else ours, request, _without_bytes(cause))
            if isinstance(cause, _LOST) and not isinstance(cause, aiohttp.ClientConnectorError):
                is_fresh = is_fresh_connection.get()
                is_unsent = is_fresh is None or isinstance(cause, NothingSent)
                kind = ConnectError if is_unsent else TruncatedBody
                if isinstance(cause, aiohttp.ClientOSError) and _CERTIFICATE_REQUIRED in str(cause):
                    kind = TLSError  # in TLS 1.3, a server says so after the handshake
                return self.failure(kind, request, _without_bytes(cause), stale=is_fresh is False)
        failure = super().translate(error, request)
        if type(failure) is TruncatedBody and is_fresh_connection.get() is None:
            return self.failure(ConnectError, request, error)  # while it connected
        return failure


_ERRORS: tuple[tuple[type[BaseException], type[BackendError]], ...] = (
    (aiohttp.ClientConnectorDNSError, DNSError),
    (aiohttp.ClientSSLError, TLSError),
    (ContentLengthError, TruncatedBody),
    (TransferEncodingError, TruncatedBody),
    (aiohttp.ClientResponseError, ProtocolError),
    (HttpProcessingError, ProtocolError),
)
"""What aiohttp's exceptions mean; if several entries match, the first one counts."""


_LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""The connection ended before the head of the response had come."""

_CERTIFICATE_REQUIRED = "alert certificate required"


def _fault_of_proxy(error: BaseException, proxy: str) -> str | None:
    """Return why the proxy is to blame for an exception, or None if it is not."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{error.status} {error.message}"
    # No other name than the proxy's is looked up.
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientConnectorDNSError):
        return str(error.os_error)
    if isinstance(error, aiohttp.ClientSSLError):
        url = URL(proxy)
        return str(error) if (error.host, error.port) == (url.raw_host, url.port) else None
    return None


class _SentHeaders:
    """The headers of a Request in the form that aiohttp takes.

    Attributes:
        planned: The headers of the Request.
        fields: The same for aiohttp.
        are_complete: Whether they contain all that aiohttp would add to a request without a body.
    """

    __slots__ = ("are_complete", "fields", "planned")

    def __init__(self, planned: Mapping[str, str]) -> None:
        self.planned = planned
        self.fields = CIMultiDict(_as_utf8(planned))
        self.are_complete = planned.keys() >= _PLANNED_HEADERS


def _as_utf8(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers so that the same bytes are sent: ours are Latin-1, aiohttp encodes as UTF-8.

    Raises:
        ValidationError: A value is not UTF-8, which aiohttp cannot send.
    """
    if all(map(str.isascii, headers.values())):
        return headers
    try:
        return {name: value.encode("latin-1").decode() for name, value in headers.items()}
    except UnicodeDecodeError:
        problem = ValidationError("aiohttp sends no header values but ASCII and UTF-8 ones.", "headers")
    raise problem


def _payload(content: bytes | None) -> bytes | _LargeBody | None:
    """Return the body for aiohttp."""
    return content if content is None or len(content) <= _SENT_AT_ONCE else _LargeBody(content)


class _LargeBody(aiohttp.Payload):
    """A body that is sent piece by piece, so as not to block the loop; of a BytesIO aiohttp makes a copy."""

    _autoclose = True  # there is nothing to close

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._size = len(content)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return it as text; aiohttp demands this method."""
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it."""
        rest = memoryview(self._value)
        while rest:
            await writer.write(rest[:_SENT_AT_ONCE])
            rest = rest[_SENT_AT_ONCE:]
            await asyncio.sleep(0)


@lru_cache(maxsize=64)
def _timeout(connect: float | None) -> aiohttp.ClientTimeout:
    """Limit connecting, from look-up to TLS handshake; the engine limits the whole attempt."""
    # Not sock_connect, as it would apply to each address of a name anew, and not to the look-up.
    return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=float("inf"))


def _without_bytes(error: BaseException) -> BaseException:
    """Drop the bytes of the response that a parser's message quotes, which may include a cookie."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ValueError("the server closed it")
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return ValueError(error.message.partition(":")[0].strip())
    return error
