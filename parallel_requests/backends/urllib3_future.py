"""Fixes for connections of urllib3-future, whose state machines parse responses apart from the socket."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib
import math
from typing import TYPE_CHECKING, Any

from parallel_requests.backends.sockets import WatchedSocket, socket_beneath
from parallel_requests.header_fields import LARGEST_HEAD, TOO_MANY_INTERIM, interim_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_DEFAULT_WINDOW = 65_535
"""Bytes that may be sent on a stream of HTTP/2 if its server announces no number (RFC 9113, 6.5.2)."""
_VERSIONS = (b"1.0", b"1.1")
"""The versions of responses to requests of HTTP/1.1; the state machine would take any."""


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

    def connect(self) -> None:
        """Connect, and have the socket refuse to receive once the state machine has failed.

        Not if streams share it: some of them may still be read when the connection is about to end.
        """
        super().connect()  # type: ignore[misc]
        self._protocol._events = _queue_like(self._protocol._events)  # noqa: SLF001 - it has no other access
        if self.is_multiplexed:
            _note_goaways(self._protocol)
            _queue_by_frame(self._protocol)
            _outlast_goaways(self._protocol)
            _limit_window(self._protocol)
        sock = socket_beneath(self.sock)
        if isinstance(sock, WatchedSocket) and not self.is_multiplexed:
            sock.fail_reads_if(functools.partial(_is_malformed, self._protocol))

    @property
    def is_connected(self) -> bool:
        """Whether it can be used (again): not with more than a response, such as the body of a 204."""
        return bool(super().is_connected) and not self._has_surplus()  # type: ignore[misc]

    @property
    def is_saturated(self) -> bool:
        """Whether it takes no request now; one with a surplus does, as it is closed first.

        Otherwise its pool would wait for it forever: nobody will read what it has received.
        """
        return bool(super().is_saturated) and not self._has_surplus()  # type: ignore[misc]

    def _has_surplus(self) -> bool:
        """Whether it is idle, but has received more than the responses to its requests, or has failed."""
        protocol = self._protocol  # another thread may reset it meanwhile
        return self.is_idle and bool(_unread(protocol) or _is_spoilt(protocol))

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
        """Read the head of a response; refuse one of another version than HTTP/1."""
        protocol, is_http1 = self._protocol, not self.is_multiplexed  # it may close the connection
        try:
            response = super().getresponse(*args, **kwargs)  # type: ignore[misc]
        except ValueError as error:
            raise http.client.HTTPException("its status or a header name is malformed") from error
        if is_http1 and protocol._connection.their_http_version not in _VERSIONS:  # noqa: SLF001
            raise http.client.BadStatusLine("it is not HTTP/1")
        return response


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

    class EventQueue(base):  # type: ignore[misc]
        """Drops what means nothing to a reader, and remembers how the connection ends.

        Attributes:
            reason: Why the connection has ended; None if it has not, or without a reason.
            last_stream: The highest stream that the server serves, if it has said GOAWAY.
        """

        reason: str | None = None
        last_stream: float = math.inf
        _interim_size = 0  # bytes of informational responses since the last other event

        def append(self, event: Any) -> None:
            """Add an event of HTTP/1.1; those of HTTP/2 come several at a time, and for many streams.

            Raises:
                HTTPException: There are too many informational responses.
            """
            self.extend((event,))
            if not isinstance(event, events.EarlyHeadersReceived):
                self._interim_size = 0
                return
            self._interim_size += interim_size(event.headers)
            if self._interim_size > LARGEST_HEAD:
                raise http.client.HTTPException(TOO_MANY_INTERIM)

        def extend(self, new: Iterable[Any]) -> None:
            for event in new:
                if isinstance(event, events.ConnectionTerminated):
                    self.reason = event.message
                if _is_for_reader(event, events):
                    super().append(event)

    return EventQueue


def _note_goaways(machine: Any) -> None:
    """Have a state machine of HTTP/2 note in its queue which streams a GOAWAY leaves out.

    Those of a GOAWAY with an error, too: its own events do not say that.
    """
    queue, map_events = machine._events, machine._map_events  # noqa: SLF001 - it has no other access

    def map_and_note(received: Sequence[Any]) -> Iterator[Any]:
        for event in received:
            queue.last_stream = getattr(event, "last_stream_id", queue.last_stream)
        yield from map_events(received)

    machine._map_events = map_and_note  # noqa: SLF001


def _queue_by_frame(machine: Any) -> None:
    """Have a state machine of HTTP/2 queue the events of each frame before it looks at the next one.

    If that one is malformed, or follows a GOAWAY with an error, the responses before it would be lost.
    """
    connection, queue = machine._connection, machine._events  # noqa: SLF001 - it has no other access
    receive_frame = connection._receive_frame  # noqa: SLF001

    def receive_and_queue(frame: Any) -> list[Any]:
        queue.extend(machine._map_events(receive_frame(frame)))  # noqa: SLF001
        return []

    connection._receive_frame = receive_and_queue  # noqa: SLF001


def _outlast_goaways(machine: Any) -> None:
    """Have a state machine of HTTP/2 stay open, and not expire, by a GOAWAY without an error.

    Otherwise, if all responses have come, no stream could be reset whose body is not needed, and no ping be
    acknowledged. And its connection would be closed, in spite of streams that the server still serves, by
    any response without a body, or any stream that is cancelled.
    """
    connection = machine._connection  # noqa: SLF001 - it has no other access
    receive_frame, has_expired = connection._receive_frame, machine.has_expired  # noqa: SLF001

    def receive_and_stay_open(frame: Any) -> Any:
        before = connection.state_machine.state
        received = receive_frame(frame)  # as `_queue_by_frame` has it: what it means is known then
        if machine._goaway_to_honor and not machine._terminated:  # noqa: SLF001
            connection.state_machine.state = before
        return received

    connection._receive_frame = receive_and_stay_open  # noqa: SLF001
    machine.has_expired = lambda: has_expired() and (machine._terminated or not machine._open_streams)  # noqa: SLF001


def _limit_window(machine: Any) -> None:
    """Have a state machine of HTTP/2 send no more on a stream than its server takes.

    If the server has announced no window, the machine believes in a much larger one than is meant.
    """
    settings = machine._connection.remote_settings  # noqa: SLF001 - it has no other access
    # That very object: a number that the server has announced is another, even if it is equal.
    if settings.initial_window_size is type(settings)(client=False).initial_window_size:
        settings.initial_window_size = _DEFAULT_WINDOW
        settings.acknowledge()


def _is_for_reader(event: Any, events: Any) -> bool:
    """Whether an event means something to the reader of a response."""
    # For each informational response, it would call itself again, and wait for the next one without letting
    # other streams read. An empty part of a body would pass for its end.
    if isinstance(event, events.EarlyHeadersReceived):
        return (b":status", b"101") in event.headers
    return not isinstance(event, events.DataReceived) or bool(event.data) or event.end_stream


def _is_malformed(machine: Any) -> bool:
    """Whether a state machine of HTTP/1.1 has failed, or would fail once a blank line came."""
    if machine.has_expired():
        return True
    awaits_head = machine._connection.their_state.__name__ == "SEND_RESPONSE"  # noqa: SLF001
    return awaits_head and _is_not_http(machine)


def _is_not_http(machine: Any) -> bool:
    return not b"HTTP/".startswith(_unread(machine)[:5])


def _is_spoilt(machine: Any) -> bool:
    """Whether a state machine of HTTP/1.1 has failed, or has received a response that nobody requested."""
    connection = getattr(machine, "_connection", None)
    ours = getattr(connection, "our_state", None)  # that of HTTP/2 has neither
    name = getattr(ours, "__name__", "")
    return name == "ERROR" or (name == "IDLE" and ours is not getattr(connection, "their_state", None))


def _unread(machine: Any) -> bytes:
    """Return the bytes that a state machine of HTTP/1.1 has received and not parsed."""
    # Only the h11 connection inside shows them.
    unread: bytes = getattr(getattr(machine, "_connection", None), "trailing_data", (b"", False))[0]
    return unread
