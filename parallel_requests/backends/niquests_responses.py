"""Reading the responses of HTTP/2 connections that threads share."""

from __future__ import annotations

import http.client
import queue
from typing import TYPE_CHECKING, Any

from niquests.packages.urllib3.exceptions import MustDowngradeError

from parallel_requests.backends.niquests_connections import LOST
from parallel_requests.backends.tcp import shut_down_if_dead

if TYPE_CHECKING:
    from parallel_requests.backends.niquests_connections import Stream
    from parallel_requests.backends.wire import Wire


class StreamedResponse:
    """The response to a promise of urllib3-future, with the interface of its other responses."""

    def __init__(self, wire: Wire, promise: Any, read_timeout: float | None) -> None:
        """Wait for the head.

        Raises:
            TimeoutError: The attempt was cut by the watchdog.
            ConnectionError: The connection was lost.
        """
        self._wire = wire
        self._police: Any = promise.get_parameter("police_officer")
        self._connection: Any = promise.get_parameter("connection")
        self._stream: Stream = promise.get_parameter("stream")
        try:
            self._await(promise)
            with self._police.borrow(promise) as connection:
                connection.check(self._stream)
                connection.timeout = read_timeout
                self._raw = connection.getresponse(promise=promise, police_officer=self._police)
                self._raw._connection = None  # noqa: SLF001 - it would close that if its stream is reset
                # If the connection has been replaced, it would reset another call's stream of that number.
                self._raw._fp._stream_abort = None  # noqa: SLF001
        except queue.Empty as error:
            raise ConnectionResetError(LOST) from error
        except BaseException as error:
            self._cancel(promise)
            if isinstance(error, MustDowngradeError):
                raise http.client.HTTPException("it wants HTTP/1.1, after agreeing to HTTP/2") from error
            raise
        finally:
            self._police.forget(promise)
        self.status: int = self._raw.status
        self.headers: Any = self._raw.headers
        self.reason: str = self._raw.reason
        self.version: int = self._raw.version

    def read(self, amt: int | None = None, *, decode_content: bool = False) -> bytes:
        """Return what has arrived of the body or, without ``amt``, all of it; b"" at its end."""
        if amt is not None:
            return self.read1(decode_content=decode_content)
        return b"".join(iter(self.read1, b""))

    def read1(self, amt: int = -1, *, decode_content: bool = False) -> bytes:
        """Return what has arrived of the body, however much: what is left unread is not reported again."""
        try:
            while not self._raw.closed:
                self._await(self._raw)
                with self._police.borrow(self._raw) as connection:
                    connection.check(self._stream)
                    data: bytes = self._raw.read1(decode_content=False)
                if data:
                    return data
        except queue.Empty as error:
            raise ConnectionResetError(LOST) from error
        return b""

    def close(self) -> None:
        """Cancel the stream; the connection stays open."""
        self._cancel(self._raw)
        self._raw.close()

    def release_conn(self) -> None:
        """Do nothing: no thread holds the connection."""

    def _await(self, owner: Any) -> None:
        self._connection.wait_for_news(self._wire, self._police, owner, self._stream)

    def _cancel(self, owner: Any) -> None:
        try:
            with self._police.borrow(owner) as connection:
                if not connection.lost(self._stream):
                    connection.cancel(self._stream)
                    shut_down_if_dead(connection.sock.fileno())
        except (OSError, queue.Empty):
            return  # the connection is gone, and so is the stream
