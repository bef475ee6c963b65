"""How many connections niquests opens to an origin, and which of them threads share."""

from __future__ import annotations

import math
import queue
import threading
from typing import TYPE_CHECKING, Any

from niquests.packages.urllib3.exceptions import EmptyPoolError

from parallel_requests.backends.niquests_connections import POLL_INTERVAL, SharedConnection
from parallel_requests.backends.pools import Pools

if TYPE_CHECKING:
    from parallel_requests.backends.socks_proxies import SocksProxy
    from parallel_requests.backends.wire import Wire


class OriginPool:
    """Pool mixin: as many connections as are useful with the protocol of the origin.

    The first connection shows which protocol that is. Until it is established only one thread
    connects, and the others wait for it. With HTTP/2 there are as few connections as the server's limit
    of streams allows; with HTTP/1.1 there may be one for each attempt.
    """

    is_saturated = False
    """Read by niquests before each attempt: if true, it would read other threads' responses to make room."""

    wire: Wire

    def __init__(self, *args: Any, maxsize: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "maxsize": 1, "block": True})
        self._attempts = maxsize
        self._is_protocol_known = False
        self._first_connect = threading.Lock()
        self._first_thread: int | None = None

    def urlopen(self, *args: Any, timeout: Any, **kwargs: Any) -> Any:
        if not self._is_protocol_known:
            self._begin_first_connect(timeout.connect_timeout)
        try:
            return super().urlopen(*args, timeout=timeout, **kwargs)  # type: ignore[misc]
        finally:
            self._end_first_connect()

    def _get_conn(self, timeout: float | None = None, **kwargs: Any) -> Any:
        """Wait for a connection with room; if all existing ones are saturated, allow one more.

        Raises:
            TimeoutError: The attempt was cut by the watchdog.
        """
        pool = self.pool  # type: ignore[attr-defined]
        while True:
            try:
                connection = super()._get_conn(POLL_INTERVAL, **kwargs)  # type: ignore[misc]
            except (EmptyPoolError, queue.Full):  # full: another thread has made it smaller meanwhile
                if self.wire.is_cut():
                    raise TimeoutError("the attempt was ended") from None
                count = pool.rsize()  # first, as another thread may open one while all are looked at
                if pool.bag_only_saturated:
                    pool.maxsize = min(self._attempts, count) + 1
            else:
                if not connection.is_closed or pool.rsize() <= pool.maxsize:
                    return connection
                pool.kill_cursor()  # rather than connect it again: another one has taken its place

    def _new_conn(self, **kwargs: Any) -> Any:
        connection = super()._new_conn(**kwargs)  # type: ignore[misc]
        connection.on_connected = self._resize
        return connection

    def _resize(self, connection: Any) -> None:
        """Set the size of the pool by the protocol of a new connection."""
        streams = connection.capacity()
        self.pool.maxsize = math.ceil(self._attempts / streams)  # type: ignore[attr-defined]
        self._is_protocol_known = True
        self._end_first_connect()

    def _begin_first_connect(self, seconds: float | None) -> None:
        """Be the thread that connects first, or wait for it."""
        if not self._first_connect.acquire(timeout=-1 if seconds is None else seconds):
            raise TimeoutError("the first connection to this host was not established in time")
        if self._is_protocol_known:
            self._first_connect.release()
        else:
            self._first_thread = threading.get_ident()

    def _end_first_connect(self) -> None:
        if self._first_thread == threading.get_ident():
            self._first_thread = None
            self._first_connect.release()


class SharingPools(Pools):
    """Pools whose https connections are shared if they use HTTP/2."""

    def _pool_class(self, base: Any, socks_proxy: SocksProxy | None) -> Any:
        if base.scheme != "https":
            return super()._pool_class(base, socks_proxy)
        connection = type(base.ConnectionCls.__name__, (SharedConnection, base.ConnectionCls), {})
        attributes = {"ConnectionCls": connection, "wire": self._wire}
        return super()._pool_class(type(base.__name__, (OriginPool, base), attributes), socks_proxy)
