"""The connection pools of urllib3 and the libraries based on it."""

from __future__ import annotations

import functools
import queue
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary, ref

from urllib3.util import SKIP_HEADER

from parallel_requests.backends.base import split_proxy
from parallel_requests.backends.connections import watched
from parallel_requests.backends.open_connections import OpenConnections
from parallel_requests.backends.socks_proxies import SocksProxy
from parallel_requests.backends.tls import ssl_context
from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

    from parallel_requests.backends.base import TransportSettings
    from parallel_requests.backends.wire import Wire
    from parallel_requests.models import Request

_Setting: TypeAlias = tuple[bool | str | None, str | None, str | None]
"""How certificates are verified, None without TLS; the proxy; the ``Proxy-Authorization`` for it."""
_KEPT = 256
"""Idle connections that are kept, as many pools, and pool managers, which are a way to pools; twice
``concurrency`` if that is more."""
_PORTS = 65_535
"""One address has no more connections to an origin than it has ports."""
_ADDED = ("User-Agent", "Accept-Encoding")


class _OnlyIdle(queue.LifoQueue[Any]):
    """The idle connections of a pool of urllib3.

    urllib3 also puts a None there for each that may still be opened. After a failed call that would be on
    top, and the next call would open another connection rather than use one that is idle; it might not be
    let through. As the pool does not block, a connection is opened whenever none is idle.
    """

    def _put(self, item: Any) -> None:
        if item is not None:
            super()._put(item)


class _Pool:
    """Pool mixin: its connections know it."""

    def _new_conn(self, **kwargs: Any) -> Any:
        connection = super()._new_conn(**kwargs)  # type: ignore[misc]
        connection.pool = ref(self)
        return connection


class Pools:
    """One pool for each origin, each proxy and each way of verifying certificates, created on first use.

    So connections made with one setting are never used with another. Those used last are kept.

    Attributes:
        pools: The library's container of them.
    """

    def __init__(self, library: Any, wire: Wire, settings: TransportSettings, **options: Any) -> None:
        """Set up; nothing is opened yet.

        Args:
            library: ``urllib3`` or ``urllib3_future``.
            wire: Keeps track of every connection.
            settings: What the backend was opened with.
            options: Further options of the pool managers.
        """
        self._library = library
        self._wire = wire
        self._most = max(_KEPT, 2 * settings.concurrency)
        self._open_connections = OpenConnections(self._most)
        # urllib3 takes time for each connection that a pool may keep, before it opens the first.
        size = min(settings.concurrency, _PORTS)
        self._options = {"num_pools": self._most, "maxsize": size, "block": False, **options}
        self._is_future = hasattr(library, "HttpVersion")
        if self._is_future:
            # It would speak HTTP/2 unasked, and start a thread for each host.
            versions = library.HttpVersion
            self._options.setdefault("disabled_svn", {versions.h2, versions.h3})
            self._options.setdefault("background_watch_delay", None)
        manager = library.PoolManager(**self._options)
        self.pools = manager.pools
        self._base_classes = manager.pool_classes_by_scheme
        self._classes = self._pool_classes(None)
        # Weak: what urllib3 drops, to make room for another one, is closed with the last reference to it.
        self._direct: WeakValueDictionary[tuple[str, bool | str], Any] = WeakValueDictionary()
        self._lock = Lock()  # guards _managers and _contexts
        self._managers: dict[_Setting, Any] = {}  # the one used last at the end
        self._contexts: dict[tuple[bool | str, bool], SSLContext] = {}  # also by whether it is for proxies

    def pool_for(self, url: str, verify: bool | str, proxy: str | None, authorization: str | None) -> Any:
        """Return the pool to send with.

        A manager takes 20 µs to find one, so those of direct connections are remembered here. Not so with
        urllib3-future: to make room for another one, it closes one that no thread has got from a manager.

        Args:
            url: What is requested.
            verify: How certificates are verified.
            proxy: The proxy's URL.
            authorization: The caller's ``Proxy-Authorization`` for it.
        """
        if proxy is not None or self._is_future:
            return self._manager_for(url, verify, proxy, authorization).connection_from_url(url)
        origin = url[: _start_of_target(url)]
        pool = self._direct.get((origin, verify))
        if pool is None:
            pool = self._manager_for(url, verify, None, None).connection_from_url(url)
            self._direct[origin, verify] = pool
        return pool

    def close(self) -> None:
        """Close every connection."""
        self._direct.clear()
        if not self._is_future:  # urllib3 leaves them to be collected
            for key in self.pools.keys():  # noqa: SIM118 - it cannot be iterated over
                self.pools[key].close()
        self.pools.clear()

    def _manager_for(self, url: str, verify: bool | str, proxy: str | None, authorization: str | None) -> Any:
        """Return the pool manager for the arguments of `pool_for`."""
        needs_tls = url.startswith("https:") or (proxy or "").startswith("https:")
        setting = (verify if needs_tls else None, proxy, authorization if proxy else None)
        with self._lock:
            manager = self._managers.pop(setting, None) or self._new_manager(*setting)
            self._managers[setting] = manager
            if len(self._managers) > self._most:
                del self._managers[next(iter(self._managers))]
        return manager

    def _new_manager(self, verify: bool | str | None, proxy: str | None, authorization: str | None) -> Any:
        options = dict(self._options)
        if verify is not None:
            options["ssl_context"] = self._context(verify)
            options["cert_reqs"] = "CERT_REQUIRED" if verify else "CERT_NONE"
        socks_proxy = SocksProxy.from_url(proxy) if proxy is not None and proxy.startswith("socks") else None
        if proxy is None or socks_proxy is not None:  # its connections themselves go through that one
            manager = self._library.PoolManager(**options)
        else:
            if proxy.startswith("https:") and verify is not None:
                options["proxy_ssl_context"] = self._context(verify, of_proxy=True)
            manager = self._proxied(proxy, authorization, options)
        manager.pools = self.pools
        manager.pool_classes_by_scheme = (
            self._classes if socks_proxy is None else self._pool_classes(socks_proxy)
        )
        key = functools.partial(_key_of_pool, (verify, proxy, authorization))
        manager.key_fn_by_scheme = dict.fromkeys(manager.key_fn_by_scheme, key)
        return manager

    def _context(self, verify: bool | str, *, of_proxy: bool = False) -> SSLContext:
        context = self._contexts.get((verify, of_proxy))
        if context is None:
            context = self._contexts[verify, of_proxy] = ssl_context(verify, self._wire.uses)
            if of_proxy:  # a tunnel is requested in HTTP/1.1, whatever is spoken in it
                context.set_alpn_protocols(["http/1.1"])
        return context

    def _pool_classes(self, socks_proxy: SocksProxy | None) -> dict[str, Any]:
        return {scheme: self._pool_class(base, socks_proxy) for scheme, base in self._base_classes.items()}

    def _pool_class(self, base: Any, socks_proxy: SocksProxy | None) -> Any:
        """Return a class of pools whose connections are watched, and go through a SOCKS proxy."""
        connection = watched(
            base.ConnectionCls, self._wire, self._library.exceptions, socks_proxy, self._open_connections
        )
        attributes = {"ConnectionCls": connection}
        if not self._is_future:
            attributes["QueueCls"] = _OnlyIdle
        return type(base.__name__, (_Pool, base), attributes)

    def _proxied(self, proxy: str, authorization: str | None, options: dict[str, Any]) -> Any:
        url, credentials = split_proxy(proxy, authorization)
        headers = None if credentials is None else {"Proxy-Authorization": credentials}
        return self._library.ProxyManager(url, proxy_headers=headers, **options)


def _key_of_pool(setting: _Setting, context: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a pool from the others, for a pool manager that has gathered its options."""
    return (*setting, context["scheme"], context["host"], context["port"])


def headers_of(request: Request) -> Mapping[str, str]:
    """Return the headers to send; those that urllib3 would add of its own are kept out."""
    headers = request.headers
    # Here urllib3-future names the proxy, or leaves the brackets of an address off.
    names_host = request.proxy is not None or "[" in request.url
    if all(name in headers for name in _ADDED) and not names_host:
        return headers
    given = {name.lower() for name in headers}
    added = {name: SKIP_HEADER for name in _ADDED if name.lower() not in given}
    if names_host and "host" not in given:
        added["Host"] = request.authority
    return {**headers, **added}


def target_of(url: str) -> str:
    """Return the request target of a URL: path and query."""
    target = url[_start_of_target(url) :]
    return target if target.startswith("/") else f"/{target}"


def _start_of_target(url: str) -> int:
    start = url.find("/", 8)  # behind http:// or https://
    query = url.find("?", 8)
    if start < 0 or 0 <= query < start:
        start = query
    return start if start >= 0 else len(url)
