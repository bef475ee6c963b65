"""urllib3, the base dependency: its connection pools, used directly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import urllib3

from parallel_requests.backends.base import Capabilities, TransportSettings
from parallel_requests.backends.pooled import PooledBackend
from parallel_requests.backends.pools import Pools, headers_of, target_of
from parallel_requests.backends.responses import read_response, timeouts_of

if TYPE_CHECKING:
    from parallel_requests.exchange import Send
    from parallel_requests.models import Response


class Urllib3Backend(PooledBackend):
    """Sends through the pool managers of urllib3."""

    name: ClassVar[str] = "urllib3"
    capabilities: ClassVar[Capabilities] = Capabilities(streaming=True)
    errors: ClassVar[Any] = urllib3.exceptions

    @classmethod
    def version(cls) -> str:
        return str(urllib3.__version__)  # type: ignore[attr-defined]

    def open(self, settings: TransportSettings) -> None:
        self._pools = Pools(urllib3, self._wire, settings)

    def _attempt(self, send: Send) -> Response:
        request = send.request
        connect, read = timeouts_of(send)
        options: dict[str, Any] = {
            "body": request.content,
            "headers": headers_of(request),
            "redirect": False,
            "retries": False,
            "timeout": urllib3.Timeout(connect=connect, read=read),
            "preload_content": False,
            "decode_content": False,
        }
        # Not through a manager, as that of a proxy adds headers of its own.
        pool = self._pools.pool_for(request.url, request.verify, request.proxy, request.proxy_authorization)
        is_forwarded = pool.proxy is not None and request.url.startswith("http:")
        target = request.url if is_forwarded else target_of(request.url)
        raw = pool.urlopen(request.method, target, assert_same_host=False, **options)
        self._wire.answered()
        return read_response(send, raw)
