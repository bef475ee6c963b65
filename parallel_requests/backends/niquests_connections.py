"""HTTP/2 connections of urllib3-future that many threads share.

In urllib3-future, a thread that waits for its response holds the connection, and so does one that waits
until the server takes more of a body: all others would be delayed. Here no thread holds a connection while
it waits. One of the waiting threads at a time watches the socket; for all of them, it reads what arrives
and sends more of their bodies.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from niquests.packages.urllib3 import ResponsePromise
from niquests.packages.urllib3.exceptions import ProtocolError
from niquests.packages.urllib3.util.wait import wait_for_socket

from parallel_requests.backends.sockets import NotServed, socket_beneath

if TYPE_CHECKING:
    from parallel_requests.backends.wire import Wire

POLL_INTERVAL = 0.05
"""Seconds between two checks, by a thread that waits, of whether its own attempt was cut."""

_FRAME_SIZE = 1 << 14
"""Bytes in a frame, as many as every server takes (RFC 9113, 4.2)."""
_FRAMES_AT_ONCE = 4
"""Frames of one body that are sent before those of others, and before the socket is read again."""
_CANCEL = 8
"""The error code of a stream that is no longer needed (RFC 9113, 7)."""
LOST = "the shared connection was lost"
_GOES_AWAY = "the server goes away"
_WORDS_FOR_A_GOAWAY = ("peer sent GOAWAY", "in state ConnectionState.CLOSED")
"""Messages for a GOAWAY with an error, and for one with other frames behind it; there is no other sign."""


class Stream:
    """One stream, and the protocol object of the connection it was opened on.

    A lost connection is reconnected with a new protocol object, and numbers its streams from the start.

    Attributes:
        promise_id: By which the connection knows the promise of its response.
        unsent: What has yet to be sent of the request's body.
    """

    def __init__(self, promise: Any, protocol: Any, body: bytes) -> None:
        self.number: int = promise.stream_id
        self.promise_id: str = promise.uid
        self.protocol = protocol
        self.unsent = memoryview(body)
        self.has_news = False
        self.wake = threading.Event()

    @property
    def is_left_out(self) -> bool:
        """Whether the server has said in a GOAWAY that it does not serve the stream."""
        return bool(self.number > self.protocol._events.last_stream)  # noqa: SLF001

    @property
    def is_answered(self) -> bool:
        """Whether its response is complete, or it was reset."""
        return self.number not in self.protocol._open_streams  # noqa: SLF001

    def forget(self) -> None:
        """Expect nothing more of it, without telling the server."""
        self.protocol._events.discard(self.number)  # noqa: SLF001
        self.protocol._open_streams.discard(self.number)  # noqa: SLF001

    def room(self) -> int:
        """Return how many bytes of the body the server would take now."""
        if not self.unsent or self.is_answered:
            return 0
        window: int = self.protocol._connection.local_flow_control_window(self.number)  # noqa: SLF001
        return max(0, window)

    def forgo_body(self) -> None:
        """Have the server told that the rest of the body does not come; its response stays."""
        self.unsent = self.unsent[:0]
        machine = self.protocol._connection  # noqa: SLF001
        if self.number in machine.streams and not machine.streams[self.number].closed:
            machine.reset_stream(self.number, _CANCEL)


class SharedConnection:
    """Connection mixin: threads wait for their streams without holding the connection."""

    sock: Any
    is_multiplexed: bool
    on_connected: Any
    _protocol: Any
    _pending_responses: dict[int, Any]
    _promises: dict[str, Any]
    _promises_per_stream: dict[int, Any]
    _stream_id: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[Stream, None] = {}
        self._turn = threading.Lock()  # held by the thread that watches the socket

    def connect(self) -> None:
        """Connect.

        Raises:
            NotServed: The server goes away already.
        """
        try:
            super().connect()  # type: ignore[misc]
        except ProtocolError as error:
            if any(words in str(error) for words in _WORDS_FOR_A_GOAWAY):
                raise NotServed(_GOES_AWAY) from error
            raise
        if self.is_multiplexed:
            if self._protocol._goaway_to_honor:  # noqa: SLF001 - it has no other access
                self.close()  # type: ignore[attr-defined]
                raise NotServed(_GOES_AWAY)
            socket_beneath(self.sock).queue_sends()
        self.on_connected(self)

    def request(self, method: str, url: str, body: bytes | None = None, **options: Any) -> Any:
        """Send a request; over HTTP/2 only its head, as `wait_for_news` sends its body."""
        later, body = (body, b"") if body and self.is_multiplexed else (b"", body or None)
        promise = super().request(method, url, body=body, **options)  # type: ignore[misc]
        promise.set_parameter("stream", Stream(promise, self._protocol, later))
        promise.set_parameter("connection", self)
        return promise

    def send(self, data: bytes, *, eot: bool = False) -> Any:
        """Send a part of a body, or its end; over HTTP/2 that is left to `wait_for_news`."""
        if not self.is_multiplexed:
            return super().send(data, eot=eot)  # type: ignore[misc]
        promise = ResponsePromise(self, self._stream_id, self._HfaceBackend__headers)  # type: ignore[attr-defined]
        self._promises[promise.uid] = self._promises_per_stream[promise.stream_id] = promise
        return promise

    def wait_for_news(self, wire: Wire, police: Any, owner: Any, stream: Stream) -> None:
        """Send a stream's body, and block until there is something to read or the connection is lost.

        Args:
            wire: Tells whether the attempt has been cut.
            police: The pool's ``TrafficPolice``, which lends connections to threads.
            owner: The promise or response for which the connection is borrowed.
            stream: The stream.

        Raises:
            TimeoutError: The attempt was cut by the watchdog.
        """
        self._waiting[stream] = None
        wire.uses(stream.wake.set)
        try:
            with police.borrow(owner):
                self._send_body(stream)
                stream.has_news = self._has_news(stream)
            while not stream.has_news:
                if wire.is_cut():
                    raise TimeoutError("the attempt was ended")
                if self._turn.acquire(blocking=False):
                    try:
                        self._exchange(police, owner)
                    finally:
                        self._turn.release()
                else:
                    stream.wake.wait()
                    stream.wake.clear()
        finally:
            wire.uses(None)
            del self._waiting[stream]
            self._pass_turn()

    def lost(self, stream: Stream) -> bool:
        """Whether the connection that a stream was opened on has ended."""
        return self._protocol is None or self._protocol is not stream.protocol

    @property
    def is_connected(self) -> bool:
        """Whether it can be used; to the library it can until all who wait have learnt that it has ended."""
        protocol = self._protocol  # another thread may reset it meanwhile
        if protocol is not None and protocol.multiplexed and protocol._terminated:  # noqa: SLF001
            return not protocol.has_expired()
        return bool(super().is_connected)  # type: ignore[misc]

    @property
    def is_saturated(self) -> bool:
        """Whether it accepts no further attempt.

        After a GOAWAY it accepts none while it has streams, and when it has ended none while there are
        responses left to read: it will be connected again, which discards them.
        """
        protocol = self._protocol  # another thread may reset it meanwhile
        if protocol is None or protocol.is_available():
            return False
        if protocol.multiplexed and protocol._goaway_to_honor and not protocol._terminated:  # noqa: SLF001
            return not protocol.is_idle()
        return not protocol.has_expired()

    def check(self, stream: Stream) -> None:
        """Check that something can be read from a stream; the connection must be borrowed.

        Raises:
            NotServed: The server goes away, and leaves this stream out.
            ConnectionResetError: The connection was lost.
            ProtocolError: It has ended for a reason; reading would wait until the server closes its socket.
        """
        if stream.is_left_out:
            raise NotServed(_GOES_AWAY)
        if self.lost(stream):
            raise ConnectionResetError(LOST)
        if not self._has_event(stream) and self._is_terminated():
            reason = self._protocol._events.reason  # noqa: SLF001
            if self._protocol.has_expired():  # or others have yet to read what has come for them
                self._protocol = None  # as the library does: there is nobody to say goodbye to
                self.close()  # type: ignore[attr-defined]
            raise ConnectionResetError(LOST) if reason is None else ProtocolError(reason)

    def capacity(self) -> int:
        """Return how many attempts it can carry at once."""
        streams: int = self._protocol.max_stream_count  # 1 with HTTP/1.1
        return max(1, streams)

    def cancel(self, stream: Stream) -> None:
        """Cancel a stream, unless it has ended; the connection must be borrowed."""
        self._pending_responses.pop(stream.number, None)
        self._promises_per_stream.pop(stream.number, None)
        self._promises.pop(stream.promise_id, None)  # or its pool would not close the connection
        if self._is_terminated() or stream.is_left_out:
            # To a server that leaves it out it does not exist: on a reset, Go's would end the connection.
            stream.forget()
            return
        self._protocol.submit_stream_reset(stream_id=stream.number)
        is_taken = self._flush() and wait_for_socket(self.sock, write=True, timeout=0)
        if not is_taken and self._protocol.is_idle():
            self._protocol.connection_lost()  # it would hold the next calls up, and nobody else needs it

    def _exchange(self, police: Any, owner: Any) -> None:
        """Read what has arrived, and send more of the bodies, for all streams; wait briefly for either."""
        with police.borrow(owner):
            came = self.peek_and_react()  # type: ignore[attr-defined]
            for stream in list(self._waiting):
                self._send_body(stream)
                if self._has_news(stream):
                    stream.has_news = True
                    stream.wake.set()
            can_send = not self._flush() or any(stream.room() for stream in list(self._waiting))
        sock = self.sock
        if not came and sock is not None:
            try:
                wait_for_socket(sock, read=True, write=can_send, timeout=POLL_INTERVAL)
            except (OSError, ValueError):
                return  # closed by another thread, which the next check detects

    def _send_body(self, stream: Stream) -> None:
        """Send more of a stream's body, as far as the server and the socket take it at once.

        The connection must be borrowed: nobody could read while this thread waited for either.
        """
        if not stream.unsent or self.lost(stream) or stream.is_left_out or self._is_terminated():
            return
        if stream.is_answered:
            stream.forgo_body()
        for _ in range(_FRAMES_AT_ONCE if self._flush() else 0):
            if size := min(stream.room(), _FRAME_SIZE):
                part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
                stream.protocol.submit_data(stream.number, bytes(part), end_stream=not stream.unsent)
        self._flush()

    def _flush(self) -> bool:
        """Send what is ready, as far as the socket takes it at once; return whether that was all."""
        if self._protocol is None:
            return True
        while data := self._protocol.bytes_to_send():
            self.sock.sendall(data)
        return bool(socket_beneath(self.sock).flush())

    def _has_news(self, stream: Stream) -> bool:
        return self.lost(stream) or self._has_event(stream) or stream.is_left_out or self._is_terminated()

    def _has_event(self, stream: Stream) -> bool:
        return bool(self._protocol.has_pending_event(stream_id=stream.number))

    def _is_terminated(self) -> bool:
        """Whether nothing more will come for any stream."""
        self._protocol.has_expired()  # gives a connection up whose server does not answer pings
        # Not after a GOAWAY alone: the server may still serve the streams that it has accepted.
        return bool(self._protocol._terminated)  # noqa: SLF001

    def _pass_turn(self) -> None:
        """Wake one of the waiting threads, as none may be watching the socket now."""
        for stream in list(self._waiting):
            stream.wake.set()
            return
