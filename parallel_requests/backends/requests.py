"""requests: its adapters and hooks, without its environment look-ups, redirects and cookies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.hooks import default_hooks, dispatch_hook
from requests.structures import CaseInsensitiveDict

from parallel_requests.backends.base import Capabilities, TransportSettings
from parallel_requests.backends.pooled import PooledBackend
from parallel_requests.backends.pools import Pools, headers_of
from parallel_requests.backends.responses import read_response, timeouts_of
from parallel_requests.exceptions import BackendError, ParallelRequestsError, RequestTimeout

if TYPE_CHECKING:
    from requests.adapters import BaseAdapter

    from parallel_requests.exchange import Send
    from parallel_requests.models import Request, Response


_AUTH = "authorization"
"""The key of the Proxy-Authorization among ``proxies``, a dict that requests passes on unchanged."""


class _PooledAdapter(HTTPAdapter):
    """An adapter whose connections come from our pools."""

    pools: Pools

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Create no pool manager: ours are used."""

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        named = proxies or {}
        return self.pools.pool_for(request.url, verify, named.get("all"), named.get(_AUTH))

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: the pool has a TLS context."""

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        """Leave out headers and cookies if no hook needs them: they cost as much as everything else."""
        if any(req.hooks.values()):
            return super().build_response(req, resp)
        response = requests.Response()
        response.raw = resp
        response.request = req
        response.url = req.url
        response.status_code = resp.status
        return response


class RequestsBackend(PooledBackend):
    """Sends through an adapter of requests.

    Args:
        session: A session whose mounted adapters, hooks, ``auth`` and ``cert`` are used; never its
            headers, cookies or ``trust_env``, as those are options here. It is not closed. An adapter
            mounted there, and each of its adapters if it has a ``cert``, has pools of its own, which should
            hold ``concurrency`` connections.
    """

    name: ClassVar[str] = "requests"
    capabilities: ClassVar[Capabilities] = Capabilities(streaming=True)
    errors: ClassVar[Any] = urllib3.exceptions
    wrapper = requests.RequestException

    def __init__(self, session: requests.Session | None = None) -> None:
        super().__init__()
        self._session = session
        self._adapter = _PooledAdapter()

    @classmethod
    def version(cls) -> str:
        return requests.__version__

    def open(self, settings: TransportSettings) -> None:
        self._pools = self._adapter.pools = Pools(urllib3, self._wire, settings)

    def translate(self, error: BaseException, request: Request) -> ParallelRequestsError:
        translated = super().translate(error, request)
        if type(translated) is BackendError and isinstance(error, requests.Timeout):
            return self.failure(RequestTimeout, request, error)  # a mock raised it: no cause says what it is
        return translated

    def _attempt(self, send: Send) -> Response:
        request = send.request
        prepared = self._prepare(send)
        options: dict[str, Any] = {
            "stream": True,
            "timeout": timeouts_of(send),
            "verify": request.verify,
            "cert": None if self._session is None else self._session.cert,
            "proxies": {"all": request.proxy, _AUTH: request.proxy_authorization} if request.proxy else None,
        }
        response = self._adapter_for(request).send(prepared, **options)
        self._wire.answered()
        if any(prepared.hooks.values()):
            response = dispatch_hook("response", prepared.hooks, response, **options)  # type: ignore[no-untyped-call]
        return read_response(send, response.raw)

    def _prepare(self, send: Send) -> requests.PreparedRequest:
        """Build a PreparedRequest from the planned Request; ``prepare`` would redo that work."""
        request = send.request
        prepared = requests.PreparedRequest()
        prepared.method = request.method
        prepared.url = request.url
        prepared.headers = CaseInsensitiveDict(headers_of(request))
        prepared.body = request.content
        prepared.hooks = default_hooks()
        if request.content is not None:
            prepared.headers["Content-Length"] = str(len(request.content))
        if self._session is not None:
            prepared.prepare_cookies(None)  # an empty jar, which HTTPDigestAuth expects
            prepared.prepare_hooks(self._session.hooks)
            if "Authorization" not in prepared.headers and not send.is_cross_origin:
                prepared.prepare_auth(self._session.auth)
        return prepared

    def _adapter_for(self, request: Request) -> BaseAdapter:
        """Return the session's adapter if it was mounted by the user or has a certificate to show."""
        if self._session is None:
            return self._adapter
        mounted = self._session.get_adapter(request.url)
        is_ordinary = type(mounted) is HTTPAdapter and self._session.cert is None
        return self._adapter if is_ordinary else mounted
