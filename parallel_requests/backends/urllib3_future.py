"""Fixes for connections of urllib3-future, whose state machines parse responses apart from the socket."""

from __future__ import annotations

import contextlib
import http.client
from typing import Any

from parallel_requests.backends.sockets import WatchedSocket, socket_beneath


def with_fixes(connection_class: Any) -> Any:
    """Return a connection class with the fixes; one of real urllib3 needs none and is returned as it is."""
    if not hasattr(connection_class, "peek_and_react"):
        return connection_class
    return type(connection_class.__name__, (_Fixes, connection_class), {})


class _Fixes:
    """Connection mixin: fails at once on a malformed response, and is not reused with unread bytes."""

    sock: Any
    _protocol: Any
    is_idle: bool
    is_multiplexed: bool
    close: Any

    def connect(self) -> Any:
        """Connect, and have the socket refuse to receive once the state machine has failed.

        Not if streams share it: some of them may still be read when the connection is about to end.
        """
        outcome = super().connect()  # type: ignore[misc]
        sock = socket_beneath(self.sock)
        if isinstance(sock, WatchedSocket) and not self.is_multiplexed:
            sock.feeds(self._protocol)
        return outcome

    @property
    def is_connected(self) -> bool:
        """Whether it can be used (again): not with bytes left after a response, such as the body of a 204."""
        return bool(super().is_connected) and not (self.is_idle and _unread(self._protocol))  # type: ignore[misc]

    def peek_and_react(self, *args: Any, **kwargs: Any) -> Any:
        """Check an idle connection for data, as urllib3-future does before it reuses it."""
        timed = self.sock.timed() if isinstance(self.sock, WatchedSocket) else contextlib.nullcontext()
        with timed:
            has_data: bool = super().peek_and_react(*args, **kwargs)  # type: ignore[misc]
        if has_data and not self.is_multiplexed:
            self.close()  # in HTTP/1.1 it can only be a response, which nobody has requested
        return has_data

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        """Read the head of a response; distinguish one that is not HTTP from a closed connection."""
        protocol = self._protocol
        try:
            return super().getresponse(*args, **kwargs)  # type: ignore[misc]
        except Exception as error:
            if not b"HTTP/".startswith(_unread(protocol)[:5]):
                raise http.client.BadStatusLine("it is not HTTP") from error
            raise


def _unread(machine: Any) -> bytes:
    """Return the bytes that a state machine of HTTP/1.1 has received and not parsed."""
    # Only the h11 connection inside shows them.
    unread: bytes = getattr(getattr(machine, "_connection", None), "trailing_data", (b"", False))[0]
    return unread
