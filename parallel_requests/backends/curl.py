"""libcurl through pycurl: what all transfers share.

The engine ``curl_multi`` drives the transfers; each is a `Transfer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pycurl

from parallel_requests.backends.base import Backend, Capabilities, TransportSettings
from parallel_requests.backends.curl_connections import CurlConnections
from parallel_requests.backends.curl_heads import Head, parse_head
from parallel_requests.backends.tcp import KEEPALIVE_IDLE, KEEPALIVE_INTERVAL
from parallel_requests.exceptions import ProtocolError, TruncatedBody
from parallel_requests.models import Headers

if TYPE_CHECKING:
    from parallel_requests.models import Request

_FEATURES = pycurl.version_info()[4]
_HTTP2 = bool(_FEATURES & (1 << 16))
_HTTP3 = bool(_FEATURES & (1 << 25))
_BUFFER = 1 << 19


class CurlBackend(Backend):
    """libcurl, driven by the ``curl_multi`` engine.

    Attributes:
        constants: The options of libcurl that are the same for all transfers.
        connections: What transfers have to know of each other's connections.
    """

    name: ClassVar[str] = "curl"
    engine: ClassVar[str] = "curl_multi"
    capabilities: ClassVar[Capabilities] = Capabilities(
        http2=_HTTP2, http3=_HTTP3, streaming=True, multiplexing=_HTTP2, async_native=True
    )

    constants: list[tuple[int, Any]]
    connections: CurlConnections

    def __init__(self) -> None:
        self._last_block: bytes | None = None
        self._last_head: Head = (0, "", "", Headers())

    @classmethod
    def version(cls) -> str:
        return str(pycurl.version)

    @property
    def connections_opened(self) -> int:
        return self.connections.opened

    def open(self, settings: TransportSettings) -> None:
        self.connections = CurlConnections(settings.concurrency, may_use_quic=settings.http3 and _HTTP3)
        version = pycurl.CURL_HTTP_VERSION_1_1 if settings.http2 is False else pycurl.CURL_HTTP_VERSION_2TLS
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
