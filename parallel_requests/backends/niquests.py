"""niquests: HTTP/2 if the server supports it, with many attempts on one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import niquests
from niquests.adapters import HTTPAdapter
from niquests.packages import urllib3

from parallel_requests.backends.base import Capabilities, TransportSettings
from parallel_requests.backends.multiplexing import SharingPools, StreamedResponse
from parallel_requests.backends.pooled import PooledBackend
from parallel_requests.backends.pools import headers_of
from parallel_requests.backends.responses import read_response, timeouts_of

if TYPE_CHECKING:
    from parallel_requests.exchange import Send
    from parallel_requests.models import Request, Response


class _PooledAdapter(HTTPAdapter):  # type: ignore[misc]
    """An adapter for one of our pool managers that returns urllib3-future's response as it is."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self.poolmanager = self._manager

    def get_connection(self, url: str, proxies: Any = None) -> Any:
        return self._manager.connection_from_url(url)

    def request_url(self, request: Any, proxies: Any) -> str:
        is_forwarded = self._manager.proxy is not None and request.url.startswith("http:")
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

    def __init__(self) -> None:
        super().__init__()
        self._adapters: dict[Any, _PooledAdapter] = {}

    @classmethod
    def version(cls) -> str:
        return str(niquests.__version__)

    def open(self, settings: TransportSettings) -> None:
        versions = urllib3.HttpVersion
        disabled = {versions.h3} if settings.http2 is not False else {versions.h2, versions.h3}
        self._pools = SharingPools(urllib3, self._wire, settings, disabled_svn=disabled)

    def send(self, send: Send) -> Response:
        request = send.request
        self._wire.begin(send)
        # Requested over HTTP/1.1, it would make this thread read the other threads' responses first.
        can_be_http2 = request.url.startswith("https:")
        response = self._adapter_for(request).send(
            _prepare(request), timeout=timeouts_of(send), multiplexed=can_be_http2
        )
        if isinstance(response, urllib3.ResponsePromise):
            response = StreamedResponse(self._wire, response, send.timeout)
        self._wire.answered()
        return read_response(send, response)

    def _adapter_for(self, request: Request) -> _PooledAdapter:
        manager = self._pools.manager_for(
            request.url, request.verify, request.proxy, request.proxy_authorization
        )
        adapter = self._adapters.get(manager)
        if adapter is None:
            adapter = self._adapters.setdefault(manager, _PooledAdapter(manager))
        return adapter


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
