"""Connection classes for urllib3 and the libraries based on it, which report each thread's socket."""

from __future__ import annotations

import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from parallel_requests.backends.racing import ConnectRace
from parallel_requests.backends.reading import ClosingResponse, StrictResponse
from parallel_requests.backends.sockets import plain_socket, socket_beneath
from parallel_requests.backends.socks_proxies import SocksError, TargetNotFound
from parallel_requests.backends.tcp import keepalive_options
from parallel_requests.backends.urllib3_future import with_fixes
from parallel_requests.header_fields import ends_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from weakref import ReferenceType

    from parallel_requests.backends.open_connections import OpenConnections
    from parallel_requests.backends.socks_proxies import SocksProxy
    from parallel_requests.backends.wire import Wire
    from parallel_requests.engines.watchdog import Flight


class _WatchedConnection:
    """Connection mixin: reports which socket it uses, and connects in a way that the watchdog can abort.

    Attributes:
        wire: What it reports to.
        errors: The exceptions of its library.
        socks_proxy: The SOCKS proxy it goes through, or None.
        open_connections: All open connections of its backend, itself included.
        pool: The pool it belongs to.
        used_at: When the latest request was sent, in monotonic seconds.
    """

    wire: Wire
    errors: Any
    socks_proxy: SocksProxy | None
    open_connections: OpenConnections
    pool: ReferenceType[Any]
    used_at = 0.0
    response_class: type[StrictResponse] = StrictResponse
    _user: ReferenceType[Flight] | None = None

    sock: Any
    host: str
    port: int | None
    default_port: int
    timeout: Any
    socket_options: Iterable[tuple[Any, ...]] | None
    _dns_host: str
    close: Callable[[], None]

    def connect(self) -> Any:
        outcome = super().connect()  # type: ignore[misc]
        for means in (self.sock, socket_beneath(self.sock)):  # the second one is that of a TLS proxy
            if hasattr(means, "suppress_ragged_eofs"):
                # A connection cut by somebody else must not look as if its peer had ended it (RFC 9112, 9.8).
                means.suppress_ragged_eofs = False
        if getattr(self, "cert_reqs", None) == "CERT_NONE":
            # The caller has chosen this; urllib3 would warn about it at each request.
            self.is_verified = True
        self.wire.connected(None if self._is_shared() else self.sock)
        return outcome

    def request(self, *args: Any, headers: Any = None, **kwargs: Any) -> Any:
        wire = self.wire
        wire.requests(self.sock)
        self.used_at = monotonic()
        self.response_class = ClosingResponse if headers and ends_connection(headers) else StrictResponse
        if not self._is_shared():
            self._user = wire.takes_over(self.sock, self._user)
        return super().request(*args, headers=headers, **kwargs)  # type: ignore[misc]

    def close_if_idle(self) -> bool:
        """Close it if it waits in its pool, on any thread; return whether it did."""
        pool = self.pool()
        waiting = None if pool is None else pool.pool
        if waiting is None:
            return False
        if hasattr(waiting, "kill"):  # of urllib3-future
            return bool(waiting.kill(self, idle_only=True))
        with waiting.mutex:
            if self not in waiting.queue:
                return False
            waiting.queue.remove(self)
        self.close()
        return True

    @property
    def is_connected(self) -> bool:
        """Whether it can be used (again) by this thread's attempt."""
        is_connected = bool(super().is_connected)  # type: ignore[misc]
        return is_connected and (self._is_shared() or not self.wire.refuses_idle())

    def _is_shared(self) -> bool:
        """Whether other attempts use the socket too, so that it must not be shut down for one."""
        return getattr(self, "is_multiplexed", False)

    def _new_conn(self) -> Any:
        self.open_connections.make_room(self)
        target = self._dns_host.strip("[]"), self.port or self.default_port
        proxy = self.socks_proxy
        try:
            sock = self._connect_to(target) if proxy is None else self._connect_through(proxy, target)
        except TimeoutError as error:
            raise self.errors.ConnectTimeoutError(self, f"not within {self.timeout} s") from error
        except TargetNotFound as error:
            raise self.errors.NameResolutionError(self.host, self, error) from error
        except (SocksError, OSError) as error:
            if proxy is not None:
                raise self.errors.ProxyError(str(error), error) from error
            if isinstance(error, socket.gaierror):
                raise self.errors.NameResolutionError(self.host, self, error) from error
            raise self.errors.NewConnectionError(self, str(error)) from error
        self.wire.opened(sock)
        return sock

    def _connect_through(self, proxy: SocksProxy, target: tuple[str, int]) -> socket.socket:
        sock = self._connect_to(proxy.address)
        self.wire.uses(sock)
        try:
            proxy.negotiate(sock, target)
        except BaseException:
            sock.close()
            raise
        return sock

    def _connect_to(self, address: tuple[str, int]) -> socket.socket:
        """Do what ``socket.create_connection`` does, but with all addresses at once, and abortably."""
        # urllib3's marker for the default is not a number.
        seconds = self.timeout if isinstance(self.timeout, int | float) else None

        def open_socket(*kind: int) -> socket.socket:
            sock = plain_socket(*kind)
            try:
                # urllib3-future adds the protocol that an option is for: "tcp".
                for level, name, value, *_ in (*keepalive_options(), *(self.socket_options or ())):
                    sock.setsockopt(level, name, value)
            except OSError:
                sock.close()
                raise
            return sock

        # By position, as urllib3 does: programs put functions of their own in its place.
        found = socket.getaddrinfo(*address, socket.AF_UNSPEC, socket.SOCK_STREAM)
        sock = ConnectRace(found, open_socket, self.wire, seconds).run()
        sock.settimeout(seconds)
        return sock


def watched(
    base: Any, wire: Wire, errors: Any, proxy: SocksProxy | None, open_connections: OpenConnections
) -> Any:
    """Return a connection class that reports which socket it uses.

    Args:
        base: What it derives from.
        wire: What it reports to.
        errors: The exceptions of its library.
        proxy: The SOCKS proxy it goes through, or None.
        open_connections: All open connections of its backend.
    """
    attributes = {
        "wire": wire,
        "errors": errors,
        "socks_proxy": proxy,
        "open_connections": open_connections,
    }
    return type(base.__name__, (_WatchedConnection, with_fixes(base)), attributes)
