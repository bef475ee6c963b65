"""The sockets of urllib3 and its kin."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHUTDOWN_ENDS_READS = os.name == "posix"
"""Whether a thread that waits for a socket is known to wake where another one shuts the socket down."""


class PeerReset(ConnectionError):
    """The peer reset the connection."""


class WatchedSocket:
    """Mixed into a socket; it tells resets, and can do without timeouts."""

    _blocks = False

    def recv(self, *args: Any) -> bytes:
        """Receive, as any socket does.

        Raises:
            PeerReset: The peer reset the connection. The standard library's error urllib3-future takes
                for the end of a body.
        """
        try:
            data: bytes = super().recv(*args)  # type: ignore[misc]
        except ConnectionResetError as error:
            raise PeerReset(*error.args) from None
        return data

    def settimeout(self, value: float | None) -> None:
        """Set the timeout, unless the socket has been left to the watchdog."""
        if not self._blocks:
            super().settimeout(value)  # type: ignore[misc]

    def leave_to_watchdog(self) -> None:
        """Block from now on, as the engine's watchdog ends an attempt that takes too long.

        With a timeout Python polls before it reads or writes, and to set one it asks the kernel. Each of
        these hands the interpreter's lock to one of many threads, and waits to get it back.
        """
        if _SHUTDOWN_ENDS_READS:
            self.settimeout(None)
            self._blocks = True

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Obey timeouts for a while: the watchdog does not know of a socket that is idle."""
        blocks, self._blocks = self._blocks, False
        try:
            yield
        finally:
            self._blocks = blocks


class PlainSocket(WatchedSocket, socket.socket):
    """A socket without TLS."""


def socket_beneath(means: Any) -> Any:
    """Return the socket that TLS within TLS, to a proxy and through it, is laid over; all else as it is."""
    while not isinstance(means, socket.socket) and hasattr(means, "socket"):
        means = means.socket
    return means
