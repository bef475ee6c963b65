"""HTTP/2 connections of urllib3-future that many threads share.

There, the thread that waits for its answer holds the connection, and all others wait with it: one
slow answer would hold up every other one, and nothing could be sent meanwhile. Here nobody holds
a connection while waiting. Of the threads that wait, one has the turn: it watches the socket, and
takes in what comes for all of them.
"""

from __future__ import annotations

import math
import queue
import threading
from typing import Any

from parallel_requests.backends.connections import Wire
from parallel_requests.backends.pools import Pools

_LOOK_EVERY = 0.05
"""Seconds after which the thread that watches the socket looks whether its own attempt was ended."""


class _Waiter:
    """A thread that waits for news of its stream."""

    def __init__(self) -> None:
        self.has_news = False
        self.wake = threading.Event()


class SharedConnection:
    """Mixed into a connection: waiting without holding it."""

    sock: Any
    timeout: Any
    on_connected: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiters: dict[int, _Waiter] = {}
        self._turn = threading.Lock()  # held by the thread that watches the socket

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        if self.on_connected is not None:
            self.on_connected(self)

    def wait_for_news(self, wire: Wire, police: Any, owner: Any, stream_id: int) -> None:
        """Block until there is something to read from a stream.

        Args:
            wire: Knows whether the attempt has been ended.
            police: The pool's scheduler, which lends the connection out.
            owner: The promise or response through which it is borrowed.
            stream_id: The stream.

        Raises:
            TimeoutError: The attempt was ended from outside.
        """
        waiter = self._waiters[stream_id] = _Waiter()
        wire.uses(waiter.wake.set)
        try:
            with police.borrow(owner):
                waiter.has_news = self._has_news(stream_id)
            while not waiter.has_news:
                if wire.is_cut():
                    raise TimeoutError("the attempt was ended")
                if self._turn.acquire(blocking=False):
                    try:
                        self._take_in(police, owner)
                    finally:
                        self._turn.release()
                else:
                    waiter.wake.wait()
                    waiter.wake.clear()
        finally:
            wire.uses(None)
            del self._waiters[stream_id]
            self._pass_turn()

    def _take_in(self, police: Any, owner: Any) -> None:
        """Read what has come, for every stream; wait a little where nothing has."""
        with police.borrow(owner):
            came = self.peek_and_react()  # type: ignore[attr-defined]
            for stream_id, waiter in list(self._waiters.items()):
                if self._has_news(stream_id):
                    waiter.has_news = True
                    waiter.wake.set()
        if not came:
            self._watch()

    def _watch(self) -> None:
        from niquests.packages.urllib3.util.wait import wait_for_read

        sock = self.sock
        if sock is not None:
            try:
                wait_for_read(sock, _LOOK_EVERY)
            except (OSError, ValueError):
                return  # closed by another thread, which is news

    def _has_news(self, stream_id: int) -> bool:
        protocol: Any = self._protocol  # type: ignore[attr-defined]
        return protocol is None or protocol.has_expired() or protocol.has_pending_event(stream_id=stream_id)

    def _pass_turn(self) -> None:
        """Wake one of those who wait: nobody may be watching the socket now."""
        for waiter in list(self._waiters.values()):
            waiter.wake.set()
            return

    def give_up(self, promise: Any) -> None:
        """Cancel a stream whose answer has not begun; the connection must be borrowed."""
        protocol: Any = self._protocol  # type: ignore[attr-defined]
        self._promises.pop(promise.uid, None)  # type: ignore[attr-defined]
        self._promises_per_stream.pop(promise.stream_id, None)  # type: ignore[attr-defined]
        if protocol is None or self.sock is None:
            return
        protocol.submit_stream_reset(stream_id=promise.stream_id)
        while data := protocol.bytes_to_send():
            self.sock.sendall(data)


class OriginPool:
    """Mixed into a pool: as many connections as the origin's protocol makes useful.

    The first connection tells. Until it is there only one thread connects, and the others wait for
    it. Of connections that speak HTTP/2 there are as few as the server lets carry all attempts; of
    those that speak HTTP/1.1 there may be one for each attempt.
    """

    is_saturated = False
    """What niquests asks before each attempt; it would take other threads' answers in to make room."""

    def __init__(self, *args: Any, maxsize: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, maxsize=1, **kwargs)
        self._attempts = maxsize
        self._is_known = False
        self._finding_out = threading.Lock()
        self._finder: int | None = None

    def urlopen(self, *args: Any, timeout: Any, **kwargs: Any) -> Any:
        if not self._is_known:
            self._find_out(timeout.connect_timeout)
        try:
            return super().urlopen(*args, timeout=timeout, **kwargs)  # type: ignore[misc]
        finally:
            self._found_out()

    def _new_conn(self, **kwargs: Any) -> Any:
        connection = super()._new_conn(**kwargs)  # type: ignore[misc]
        connection.on_connected = self._fit
        return connection

    def _fit(self, connection: Any) -> None:
        """Set the size by what a new connection speaks."""
        streams = connection._protocol.max_stream_count if connection.is_multiplexed else 1
        self.pool.maxsize = math.ceil(self._attempts / max(1, streams))  # type: ignore[attr-defined]
        self._is_known = True
        self._found_out()

    def _find_out(self, seconds: float | None) -> None:
        """Be the one that connects first, or wait for it."""
        if not self._finding_out.acquire(timeout=-1 if seconds is None else seconds):
            raise TimeoutError("the first connection to this host did not come about")
        if self._is_known:
            self._finding_out.release()
        else:
            self._finder = threading.get_ident()

    def _found_out(self) -> None:
        if self._finder == threading.get_ident():
            self._finder = None
            self._finding_out.release()


class SharingPools(Pools):
    """Pools whose https connections are shared where they speak HTTP/2."""

    def _pool_class(self, base: Any) -> Any:
        if base.scheme != "https":
            return super()._pool_class(base)
        connection = type(base.ConnectionCls.__name__, (SharedConnection, base.ConnectionCls), {})
        return super()._pool_class(type(base.__name__, (OriginPool, base), {"ConnectionCls": connection}))


class StreamedAnswer:
    """The answer to a promise of urllib3-future, read like any other of its responses."""

    def __init__(self, wire: Wire, promise: Any, read_timeout: float | None) -> None:
        """Wait for the head.

        Raises:
            TimeoutError: The attempt was ended from outside.
        """
        self._wire = wire
        self._police: Any = promise.get_parameter("police_officer")
        self._connection: Any = promise._conn
        self._stream_id: int = promise.stream_id
        try:
            self._connection.wait_for_news(wire, self._police, promise, self._stream_id)
            with self._police.borrow(promise) as connection:
                connection.timeout = read_timeout
                self._raw = connection.getresponse(promise=promise, police_officer=self._police)
        except BaseException:
            self._give_up(promise)
            raise
        finally:
            self._police.forget(promise)
        self.status: int = self._raw.status
        self.headers: Any = self._raw.headers
        self.reason: str = self._raw.reason
        self.version: int = self._raw.version

    def read(self, amt: int | None = None, *, decode_content: bool = False) -> bytes:
        """Return what has come of the body or, without ``amt``, all of it; b"" at its end."""
        if amt is not None:
            return self.read1(amt, decode_content=decode_content)
        return b"".join(iter(self.read1, b""))

    def read1(self, amt: int = -1, *, decode_content: bool = False) -> bytes:  # noqa: ARG002
        """Return what has come of the body: all of it, as only then nothing is left behind unnoticed."""
        while not self._raw.closed:
            self._connection.wait_for_news(self._wire, self._police, self._raw, self._stream_id)
            data: bytes = self._raw.read1(decode_content=False)
            if data:
                return data
        return b""

    def close(self) -> None:
        """Cancel the stream; the connection goes on."""
        self._raw.close()

    def release_conn(self) -> None:
        """Do nothing: it is held by nobody."""

    def _give_up(self, promise: Any) -> None:
        try:
            with self._police.borrow(promise) as connection:
                connection.give_up(promise)
        except (OSError, queue.Empty):
            return  # the connection is gone, and the stream with it
