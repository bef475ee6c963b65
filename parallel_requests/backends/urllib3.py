"""urllib3, the base dependency: a blocking pool, and nothing around it."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import urllib3
from urllib3 import exceptions as errors

from parallel_requests.backends.base import BlockingBackend, Capabilities, TransportSettings
from parallel_requests.backends.connections import Wire, read_answer, translate
from parallel_requests.backends.tls import ssl_context
from parallel_requests.exceptions import ParallelRequestsError
from parallel_requests.exchange import Send
from parallel_requests.models import Request, Response

_POOLS = 256


class Urllib3Backend(BlockingBackend):
    """One ``PoolManager`` for each proxy and way of checking certificates."""

    name: ClassVar[str] = "urllib3"
    capabilities: ClassVar[Capabilities] = Capabilities(streaming=True)

    def __init__(self) -> None:
        self._wire = Wire()
        self._managers: dict[tuple[str | None, bool | str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()  # guards _managers
        self._settings = TransportSettings()

    @classmethod
    def version(cls) -> str:
        return urllib3.__version__

    @property
    def connections_opened(self) -> int:
        return self._wire.connections_opened

    def open(self, settings: TransportSettings) -> None:
        self._settings = settings

    def close(self) -> None:
        with self._lock:
            for manager in self._managers.values():
                manager.clear()
            self._managers.clear()

    def send(self, send: Send) -> Response:
        request = send.request
        self._wire.begin(send)
        connect = request.connect_timeout
        if send.timeout is not None:
            connect = send.timeout if connect is None else min(connect, send.timeout)
        raw = self._manager(request).urlopen(
            request.method,
            request.url,
            body=request.content,
            headers=request.headers,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=connect, read=send.timeout),
            preload_content=False,
            decode_content=False,
        )
        self._wire.answered()
        try:
            return read_answer(send, raw)
        except BaseException:
            raw.close()
            raise

    def _manager(self, request: Request) -> urllib3.PoolManager:
        key = (request.proxy, request.verify)
        manager = self._managers.get(key)
        if manager is None:
            with self._lock:
                manager = self._managers.get(key)
                if manager is None:
                    manager = self._managers[key] = self._new_manager(*key)
        return manager

    def _new_manager(self, proxy: str | None, verify: bool | str) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "num_pools": max(_POOLS, self._settings.concurrency),
            "maxsize": self._settings.concurrency,
            "block": False,
            "ssl_context": ssl_context(verify),
            "cert_reqs": "CERT_REQUIRED" if verify else "CERT_NONE",
        }
        manager: urllib3.PoolManager
        if proxy is None:
            manager = urllib3.PoolManager(**options)
        elif proxy.startswith("socks"):
            from urllib3.contrib.socks import SOCKSProxyManager

            manager = SOCKSProxyManager(proxy, **options)
        else:
            bare = urllib3.util.parse_url(proxy)
            headers = urllib3.make_headers(proxy_basic_auth=bare.auth) if bare.auth else None
            manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
        self._wire.watch_pools(manager)
        return manager

    def translate(self, error: BaseException, request: Request) -> ParallelRequestsError:
        return translate(self, self._wire, errors, error, request)
