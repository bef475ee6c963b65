"""The sockets of urllib3 and the libraries based on it."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SHUTDOWN_ENDS_READS = os.name == "posix"
"""Whether shutting a socket down reliably wakes a thread that reads from it."""


class PeerReset(ConnectionError):
    """The peer reset the connection."""


class NotServed(ConnectionError):
    """The peer has said that it will not serve a request that it may have received."""


_MOST_AT_ONCE = 1 << 16
"""Queued bytes that are sent in one go."""


class WatchedSocket:
    """Socket mixin: makes resets distinguishable, and can do without timeouts, or without blocking."""

    gettimeout: Any
    send: Any
    _blocks = False
    _queued: bytearray | None = None
    _has_failed: Callable[[], bool] | None = None

    def fail_reads_if(self, has_failed: Callable[[], bool]) -> None:
        """Set what says, before each read, whether what has been received is malformed already."""
        self._has_failed = has_failed

    def recv(self, *args: Any) -> bytes:
        """Receive, as any socket does.

        Raises:
            PeerReset: The peer reset the connection. urllib3-future would take the standard library's
                error for the end of a body.
            HTTPException: What was received is malformed; urllib3-future has noticed, but waits for more.
        """
        if self._has_failed is not None and self._has_failed():
            raise http.client.HTTPException("the response is malformed")
        try:
            data: bytes = super().recv(*args)  # type: ignore[misc]
        except ConnectionResetError as error:
            raise PeerReset(*error.args) from None
        return data

    def queue_sends(self) -> None:
        """From now on, let `sendall` send what can be sent at once, and leave the rest to `flush`."""
        self._queued = bytearray()

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send, as any socket does, or queue."""
        if self._queued is None:
            super().sendall(data, flags)  # type: ignore[misc]
        else:
            self._queued += data
            self.flush()

    def flush(self) -> bool:
        """Send of the queue what can be sent at once; return whether that was all."""
        queued = self._queued
        if not queued:
            return True
        timeout = self.gettimeout()
        self.settimeout(0)
        try:
            while queued:
                # After an attempt in vain, TLS insists on the same bytes.
                del queued[: self.send(bytes(queued[:_MOST_AT_ONCE]))]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            queued.clear()  # the peer has hung up, which reading tells, after what it has sent before
        finally:
            self.settimeout(timeout)
        return True

    def settimeout(self, value: float | None) -> None:
        """Set the timeout, unless the socket has been left to the watchdog."""
        if not self._blocks:
            super().settimeout(value)  # type: ignore[misc]

    def leave_to_watchdog(self) -> None:
        """Block from now on, as the engine's watchdog ends an attempt that takes too long.

        With a timeout, Python polls before each read or write, and setting one is a system call. Each of
        these releases the GIL to one of many threads, and has to wait to get it back.
        """
        if _SHUTDOWN_ENDS_READS:
            self.settimeout(None)
            self._blocks = True

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Honour timeouts within a block: the watchdog does not watch idle sockets."""
        blocks, self._blocks = self._blocks, False
        try:
            yield
        finally:
            self._blocks = blocks


def plain_socket(family: int, kind: int, protocol: int) -> socket.socket:
    """Open a watched socket without TLS.

    It is of what ``socket.socket`` is now: a test may have replaced it, to keep calls from going out.
    """
    return _watched_class(socket.socket)(family, kind, protocol)


@functools.lru_cache(maxsize=1)
def _watched_class(base: type[socket.socket]) -> type[socket.socket]:
    return type("PlainSocket", (WatchedSocket, base), {})


def socket_beneath(means: Any) -> Any:
    """Return the socket beneath TLS in TLS, as it is used through a TLS proxy; anything else as it is."""
    while not isinstance(means, socket.socket) and hasattr(means, "socket"):
        means = means.socket
    return means
