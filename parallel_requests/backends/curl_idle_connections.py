"""The connections of libcurl, looked at while all of them are idle."""

from __future__ import annotations

import contextlib
import select
import socket


class IdleConnections:
    """Shuts down idle connections that their servers have closed, or on which they have sent something.

    libcurl itself looks at a connection before it reuses it only after a second of idleness. Until then it
    would send a POST on a connection that is closed, and take data that nobody has requested for the next
    response.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()  # a socket that libcurl closes leaves it by itself

    def add(self, descriptor: int, *, is_plain: bool) -> None:
        """Watch the socket of a new connection.

        Args:
            descriptor: The socket.
            is_plain: Whether it is used without TLS. With TLS it may be HTTP/2, where servers may send
                frames at any time, so that only the end of the connection counts.
        """
        self._epoll.register(descriptor, select.EPOLLIN if is_plain else select.EPOLLRDHUP)

    def retire(self) -> None:
        """Shut down those that must not be used again; no transfer may be in flight.

        Sending on them fails at once, whereupon libcurl closes them.
        """
        for descriptor, _ in self._epoll.poll(0):
            try:
                self._epoll.unregister(descriptor)
            except OSError:  # libcurl has closed it, but a child process holds a copy, which epoll reports
                self.close()
                self._epoll = select.epoll()
                return
            connection = socket.socket(fileno=descriptor)
            with contextlib.suppress(OSError):  # reset by the server
                connection.shutdown(socket.SHUT_RDWR)
            connection.detach()

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()
