"""The connection pools of urllib3 and the libraries based on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from urllib3.util import SKIP_HEADER

from parallel_requests.backends.base import split_proxy
from parallel_requests.backends.connections import watched
from parallel_requests.backends.socks_proxies import SocksProxy
from parallel_requests.backends.tls import ssl_context
from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from parallel_requests.backends.base import TransportSettings
    from parallel_requests.backends.connections import Wire
    from parallel_requests.models import Request

_HOSTS = 256
"""Hosts whose connections are kept, at least."""
_ADDED = ("User-Agent", "Accept-Encoding")


class Pools:
    """One pool manager for each proxy and each way of verifying certificates, created on first use.

    So connections made with one setting are never used with another.
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
        self._size = settings.concurrency
        self._options = options
        self._managers: dict[tuple[bool | str | None, str | None, str | None], Any] = {}
        # Weak: what urllib3 drops, to make room for another host, is closed with the last reference to it.
        self._direct: WeakValueDictionary[tuple[str, bool | str], Any] = WeakValueDictionary()
        self._lock = Lock()  # guards _managers
        self._is_future = hasattr(library, "HttpVersion")
        if self._is_future:
            # It would speak HTTP/2 unasked, and start a thread for each host.
            versions = library.HttpVersion
            self._options.setdefault("disabled_svn", {versions.h2, versions.h3})
            self._options.setdefault("background_watch_delay", None)

    def manager_for(self, url: str, verify: bool | str, proxy: str | None, authorization: str | None) -> Any:
        """Return the pool manager to send with.

        Args:
            url: What is requested.
            verify: How certificates are verified.
            proxy: The proxy's URL.
            authorization: The caller's ``Proxy-Authorization`` for it.
        """
        needs_tls = url.startswith("https:") or (proxy or "").startswith("https:")
        key = (verify if needs_tls else None, proxy, authorization if proxy else None)
        manager = self._managers.get(key)
        if manager is None:
            with self._lock:
                manager = self._managers.get(key)
                if manager is None:
                    manager = self._managers[key] = self._new_manager(*key)
        return manager

    def pool_for(self, url: str, verify: bool | str, proxy: str | None, authorization: str | None) -> Any:
        """Return the pool of a URL's origin; the arguments are those of `manager_for`.

        A manager takes 20 µs to find one, so those of direct connections are remembered here. Not so with
        urllib3-future: to make room for another host, it closes one that no thread has got from the manager.
        """
        if proxy is not None or self._is_future:
            return self.manager_for(url, verify, proxy, authorization).connection_from_url(url)
        origin = url[: _start_of_target(url)]
        pool = self._direct.get((origin, verify))
        if pool is None:
            pool = self.manager_for(url, verify, None, None).connection_from_url(url)
            self._direct[origin, verify] = pool
        return pool

    def close(self) -> None:
        """Close every connection."""
        self._direct.clear()
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            if hasattr(manager.pools, "keys"):  # of urllib3, which leaves them to be collected
                for key in manager.pools.keys():  # noqa: SIM118 - it cannot be iterated over
                    manager.pools[key].close()
            manager.clear()

    def _new_manager(self, verify: bool | str | None, proxy: str | None, authorization: str | None) -> Any:
        options: dict[str, Any] = {
            "num_pools": max(_HOSTS, 2 * self._size),
            "maxsize": self._size,
            "block": False,
            **self._options,
        }
        if verify is not None:
            options["ssl_context"] = ssl_context(verify, self._wire.uses)
            options["cert_reqs"] = "CERT_REQUIRED" if verify else "CERT_NONE"
            if (proxy or "").startswith("https:"):
                # One of its own: a tunnel is requested in HTTP/1.1, whatever is spoken in it.
                options["proxy_ssl_context"] = proxy_context = ssl_context(verify, self._wire.uses)
                proxy_context.set_alpn_protocols(["http/1.1"])
        socks_proxy = SocksProxy.from_url(proxy) if proxy is not None and proxy.startswith("socks") else None
        if proxy is None or socks_proxy is not None:  # its connections themselves go through that one
            manager = self._library.PoolManager(**options)
        else:
            manager = self._proxied(proxy, authorization, options)
        manager.pool_classes_by_scheme = {
            scheme: self._pool_class(pool, socks_proxy)
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }
        return manager

    def _pool_class(self, base: Any, socks_proxy: SocksProxy | None) -> Any:
        """Return a class of pools whose connections are watched, and go through a SOCKS proxy."""
        connection = watched(base.ConnectionCls, self._wire, self._library.exceptions, socks_proxy)
        return type(base.__name__, (base,), {"ConnectionCls": connection})

    def _proxied(self, proxy: str, authorization: str | None, options: dict[str, Any]) -> Any:
        url, credentials = split_proxy(proxy, authorization)
        headers = None if credentials is None else {"Proxy-Authorization": credentials}
        return self._library.ProxyManager(url, proxy_headers=headers, **options)


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
