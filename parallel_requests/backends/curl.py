"""libcurl through pycurl: what all transfers share.

The engine ``curl_multi`` drives the transfers; each is a `Transfer`.
"""

from __future__ import annotations

import itertools
import select
from typing import TYPE_CHECKING, Any, ClassVar

import pycurl

from parallel_requests.backends.base import Backend, Capabilities, TransportSettings
from parallel_requests.backends.curl_heads import Head, parse_head
from parallel_requests.backends.curl_idle_connections import IdleConnections
from parallel_requests.backends.curl_quic import QuicReach
from parallel_requests.backends.tcp import KEEPALIVE_IDLE, KEEPALIVE_INTERVAL
from parallel_requests.exceptions import ProtocolError, TruncatedBody
from parallel_requests.models import Headers

if TYPE_CHECKING:
    from parallel_requests.backends.curl_transfer import Transfer
    from parallel_requests.models import Request

_FEATURES = pycurl.version_info()[4]
_HTTP2 = bool(_FEATURES & (1 << 16))
_HTTP3 = bool(_FEATURES & (1 << 25))
_BUFFER = 1 << 19
_POOL_SIZE = 128
"""Transfers that share a connection pool. libcurl searches a pool from its start, past all busy connections:
with 1,000 in flight that was a fifth of the cost of a call, with 3,000 half of it."""


class CurlBackend(Backend):
    """libcurl, driven by the ``curl_multi`` engine."""

    name: ClassVar[str] = "curl"
    engine: ClassVar[str] = "curl_multi"
    capabilities: ClassVar[Capabilities] = Capabilities(
        http2=_HTTP2, http3=_HTTP3, streaming=True, multiplexing=_HTTP2, async_native=True
    )

    def __init__(self) -> None:
        self.constants: list[tuple[int, Any]] = []
        self.max_idle = 0  # connections of a pool that are kept for later
        self._has_pools = False
        self._pool: Any = None
        self._places = itertools.cycle(range(_POOL_SIZE))
        self._connections = 0  # opened so far
        self.quic: QuicReach | None = None  # set if HTTP/3 may be used
        self.idle: IdleConnections | None = None  # once it is bound, if this system has epoll
        self.unconnected: set[Transfer] = set()  # over https, and without a connection yet
        self.has_connected = False  # whether one of them got one since the engine last looked
        self._last_block: bytes | None = None
        self._last_head: Head = (0, "", "", Headers())

    @classmethod
    def version(cls) -> str:
        return str(pycurl.version)

    @property
    def connections_opened(self) -> int:
        return self._connections

    def open(self, settings: TransportSettings) -> None:
        self._has_pools = settings.concurrency > _POOL_SIZE
        self.max_idle = max(100, 4 * min(settings.concurrency, _POOL_SIZE))
        version = pycurl.CURL_HTTP_VERSION_1_1 if settings.http2 is False else pycurl.CURL_HTTP_VERSION_2TLS
        self.quic = QuicReach() if settings.http3 and _HTTP3 else None
        self.constants = [
            (pycurl.NOSIGNAL, 1),
            (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
            (pycurl.HTTP_VERSION, version),
            (pycurl.BUFFERSIZE, _BUFFER),
            (pycurl.TCP_KEEPALIVE, 1),
            (pycurl.TCP_KEEPIDLE, KEEPALIVE_IDLE),
            (pycurl.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
            (pycurl.HTTP_CONTENT_DECODING, 0),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.NOPROXY, ""),  # or libcurl would read NO_PROXY, and bypass a proxy given as an option
        ]

    def bind(self) -> None:
        """Open what only the engine's thread uses; called on it, before the first transfer."""
        self.idle = IdleConnections() if hasattr(select, "epoll") else None

    def release(self) -> None:
        """Close that again; called on the same thread, after the last transfer."""
        if self.idle is not None:
            self.idle.close()

    def close(self) -> None:
        self._pool = None  # closed with the last of its easy handles

    def read_head(self, block: bytes, request: Request) -> Head:
        """Parse the head of a response, unless it equals the last one: within a second, many do.

        Raises:
            TruncatedBody: It is incomplete, which libcurl does not notice.
            ProtocolError: It is not valid HTTP, which libcurl does not notice either.
        """
        if block != self._last_block:
            try:
                head = parse_head(block)
            except ValueError as error:
                raise self.failure(ProtocolError, request, error) from None
            if head is None:
                raise self.failure(TruncatedBody, request, OSError("the head broke off"))
            self._last_block, self._last_head = block, head
        return self._last_head

    def join_pool(self, easy: Any) -> None:
        """Assign a new easy handle to a connection pool; without one, it uses that of the multi handle."""
        if not self._has_pools:
            return
        if next(self._places) == 0 or self._pool is None:
            self._pool = pycurl.CurlShare()
            self._pool.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_CONNECT)
        easy.setopt(pycurl.SHARE, self._pool)

    def count_connection(self) -> int:
        """Count a connection that is being opened."""
        self._connections += 1
        return int(pycurl.SOCKOPT_OK)
