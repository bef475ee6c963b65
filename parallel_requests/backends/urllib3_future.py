"""Fixes for connections of urllib3-future, whose state machines parse responses apart from the socket."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib
from typing import TYPE_CHECKING, Any

from parallel_requests.backends.sockets import WatchedSocket, socket_beneath

if TYPE_CHECKING:
    from collections.abc import Iterable


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
        self._protocol._events = _queue_like(self._protocol._events)  # noqa: SLF001 - it has no other access
        sock = socket_beneath(self.sock)
        if isinstance(sock, WatchedSocket) and not self.is_multiplexed:
            sock.feeds(self._protocol)
        return outcome

    @property
    def is_connected(self) -> bool:
        """Whether it can be used (again): not with bytes left after a response, such as the body of a 204."""
        return bool(super().is_connected) and not (self.is_idle and _unread(self._protocol))  # type: ignore[misc]

    def _upgrade(self) -> None:
        """Ignore ``Alt-Svc``, by which a response could lead later calls to another port of the host."""

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
        except ValueError as error:
            raise http.client.HTTPException("its status or a header name is malformed") from error
        except Exception as error:
            if not b"HTTP/".startswith(_unread(protocol)[:5]):
                raise http.client.BadStatusLine("it is not HTTP") from error
            raise


def _queue_like(queue: Any) -> Any:
    """Return a queue for the events of a state machine, with the contents of its present one."""
    replacement = _event_queue(queue.__class__)()
    while (event := queue.popleft()) is not None:
        replacement.append(event)
    return replacement


@functools.cache
def _event_queue(base: Any) -> Any:
    """Return a class of event queues derived from the library's."""
    events = importlib.import_module(".events", base.__module__.rpartition(".")[0])

    def is_for_reader(event: Any) -> bool:
        # For each informational response, its reader would call itself again, and wait for the next one
        # without letting other streams read. An empty part of a body would pass for its end.
        if isinstance(event, events.EarlyHeadersReceived):
            return (b":status", b"101") in event.headers
        return not isinstance(event, events.DataReceived) or bool(event.data) or event.end_stream

    class EventQueue(base):  # type: ignore[misc]
        """Drops what means nothing to a reader, and remembers how the connection ends.

        Attributes:
            reason: Why the connection has ended; None if it has not, or without a reason.
        """

        reason: str | None = None

        def append(self, event: Any) -> None:
            self._note(event)
            if is_for_reader(event):
                super().append(event)

        def extend(self, new: Iterable[Any]) -> None:
            kept = [event for event in new if is_for_reader(event)]
            for event in kept:
                self._note(event)
            super().extend(kept)

        def _note(self, event: Any) -> None:
            if isinstance(event, events.ConnectionTerminated):
                self.reason = event.message

    return EventQueue


def _unread(machine: Any) -> bytes:
    """Return the bytes that a state machine of HTTP/1.1 has received and not parsed."""
    # Only the h11 connection inside shows them.
    unread: bytes = getattr(getattr(machine, "_connection", None), "trailing_data", (b"", False))[0]
    return unread
