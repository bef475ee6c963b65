"""niquests: HTTP/2 if the server supports it, with many attempts on one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import niquests
from niquests.adapters import HTTPAdapter
from niquests.packages import urllib3

from parallel_requests.backends.base import Capabilities, TransportSettings
from parallel_requests.backends.niquests_pools import SharingPools
from parallel_requests.backends.niquests_responses import StreamedResponse
from parallel_requests.backends.pooled import PooledBackend
from parallel_requests.backends.pools import headers_of
from parallel_requests.backends.responses import read_response, timeouts_of

if TYPE_CHECKING:
    from parallel_requests.exchange import Send
    from parallel_requests.models import Request, Response


_PLANNED = "planned request"
"""The key of the Request among ``proxies``, a dict that niquests passes on unchanged."""


class _PooledAdapter(HTTPAdapter):  # type: ignore[misc]
    """An adapter for our pools that returns urllib3-future's response as it is."""

    def __init__(self, pools: SharingPools) -> None:
        self._pools = pools
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self.poolmanager = self._pools

    def get_connection(self, url: str, proxies: Any = None) -> Any:
        planned = proxies[_PLANNED]
        return self._pools.pool_for(url, planned.verify, planned.proxy, planned.proxy_authorization)

    def request_url(self, request: Any, proxies: Any) -> str:
        proxy = proxies[_PLANNED].proxy
        is_forwarded = proxy and not proxy.startswith("socks") and request.url.startswith("http:")
        return str(request.url if is_forwarded else request.path_url)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the pool of the connection has a TLS context."""

    def build_response(self, req: Any, resp: Any) -> Any:
        return resp


class NiquestsBackend(PooledBackend):
    """Sends through niquests' adapters.

    HTTP/3 is disabled: niquests would use it on a later connection, where our timeout cannot cut off
    an attempt.
    """

    name: ClassVar[str] = "niquests"
    capabilities: ClassVar[Capabilities] = Capabilities(http2=True, streaming=True, multiplexing=True)
    errors: ClassVar[Any] = urllib3.exceptions
    wrapper = niquests.exceptions.RequestException

    _adapter: _PooledAdapter

    @classmethod
    def version(cls) -> str:
        return str(niquests.__version__)

    def open(self, settings: TransportSettings) -> None:
        versions = urllib3.HttpVersion
        disabled = {versions.h3} if settings.http2 is not False else {versions.h2, versions.h3}
        self._pools = pools = SharingPools(urllib3, self._wire, settings, disabled_svn=disabled)
        self._adapter = _PooledAdapter(pools)

    def _attempt(self, send: Send) -> Response:
        request = send.request
        # Requested over HTTP/1.1, it would make this thread read the other threads' responses first.
        can_be_http2 = request.url.startswith("https:")
        response = self._adapter.send(
            _prepare(request),
            timeout=timeouts_of(send),
            proxies={_PLANNED: request},
            multiplexed=can_be_http2,
        )
        if isinstance(response, urllib3.ResponsePromise):
            response = StreamedResponse(self._wire, response, send.timeout)
        self._wire.answered()
        return read_response(send, response)


def _prepare(request: Request) -> niquests.PreparedRequest:
    """Copy a planned request; ``PreparedRequest.prepare`` would check and encode it all again."""
    prepared = niquests.PreparedRequest()
    prepared.method = request.method
    prepared.url = request.url
    prepared.headers = dict(headers_of(request))
    prepared.body = request.content
    if request.content is not None:
        prepared.headers["Content-Length"] = str(len(request.content))
    return prepared
