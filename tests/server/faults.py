r"""A server that plays faults byte by byte, from threads of this process.

A script is a sequence of steps for one connection, each step a function of the
connection::

    FaultServer([read_request(), send(b"HTTP/1.1 200 OK\\r\\n..."), close()])

Every connection plays the same script, unless several scripts are given: then
the first connection plays the first one, and so on; the last one stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import httptools

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

Step = Callable[["Connection"], None]
Script = Sequence[Step]

_SO_ATTACH_FILTER = 26  # Linux
_RECEIVE_SIZE = 65_536
# What the fault server's threads are called, so that a leak check can tell them from others.
THREAD_NAME = "fault-server"


class ConnectionEnded(Exception):
    """The client has left, or the server is closing: the rest of the script is moot."""


@dataclass(frozen=True)
class SeenRequest:
    """One complete request, as it came.

    Attributes:
        raw: Every byte of it.
        method: Its method.
        target: The request target, as sent.
        headers: By lower-case name; repeated ones joined by a comma.
        body: The body without its framing.
        connection: The number of its connection, from 0.
        at: When it was complete, ``time.monotonic()``.
    """

    raw: bytes
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float


class _Request:
    """Collects what httptools tells about one request."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]},{text}" if key in self.headers else text

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


class Connection:
    """One accepted connection, as the steps of a script use it."""

    def __init__(self, server: FaultServer, accepted: socket.socket, number: int) -> None:
        self.server = server
        self.number = number
        self.socket = accepted

    def read_request(self) -> SeenRequest:
        """Read one whole request and record it."""
        request, raw = _Request(), b""
        parser = httptools.HttpRequestParser(request)
        while not request.complete:
            data = self.receive()
            raw += data
            with contextlib.suppress(httptools.HttpParserUpgrade):  # CONNECT ends this way
                parser.feed_data(data)
        seen = SeenRequest(
            raw=raw,
            method=parser.get_method().decode(),
            target=request.target.decode("latin-1"),
            headers=request.headers,
            body=request.body,
            connection=self.number,
            at=time.monotonic(),
        )
        self.server.record(seen)
        return seen

    def receive(self) -> bytes:
        """Some bytes from the client."""
        try:
            data = self.socket.recv(_RECEIVE_SIZE)
        except OSError as error:
            raise ConnectionEnded from error
        if not data:
            raise ConnectionEnded
        return data

    def send(self, data: bytes) -> None:
        """Send all bytes at once."""
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise ConnectionEnded from error

    def wait(self, event: threading.Event) -> None:
        """Wait for an event of the test, or for the end."""
        while not event.wait(0.05):
            if self.server.closing.is_set():
                raise ConnectionEnded

    def pause(self, seconds: float) -> None:
        """Let time pass, or end early with the server."""
        if self.server.closing.wait(seconds):
            raise ConnectionEnded

    def drop_packets(self) -> None:
        """Drop every packet that comes from now on, unacknowledged (on Linux)."""
        keep_nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET, 0 bytes
        program = struct.pack("HP", 1, ctypes.addressof(keep_nothing))
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        # Reset at the end: a FIN of its own would never be acknowledged.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def end(self) -> None:
        """Close; idempotent, and safe from another thread."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class TLSConnection(Connection):
    """A connection with TLS laid over it, be it TLS itself: as through a proxy, or to hold records back."""

    def __init__(self, beneath: Connection, context: ssl.SSLContext) -> None:
        super().__init__(beneath.server, beneath.socket, beneath.number)
        self._beneath = beneath
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._advance(self._tls.do_handshake)

    def receive(self) -> bytes:
        """Some bytes from the client."""
        return self._advance(lambda: self._tls.read(_RECEIVE_SIZE))

    def send(self, data: bytes) -> None:
        """Send all bytes at once."""
        self._beneath.send(self.encrypt(data))

    def encrypt(self, data: bytes) -> bytes:
        """Return the records that the bytes make; they have to be sent in this order."""
        self._tls.write(data)
        return self._outgoing.read()

    def notify_end(self) -> None:
        """Send a close_notify, and do not wait for the client's."""
        with contextlib.suppress(ssl.SSLError):  # there may be more from the client
            self._tls.unwrap()
        self._flush()

    def _advance(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self._beneath.receive())
            except ssl.SSLError as error:
                raise ConnectionEnded from error
            finally:
                self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._beneath.send(self._outgoing.read())


class FaultServer:
    """Listens on 127.0.0.1 and plays scripts; use it as a context manager.

    Args:
        script: One script for every connection.
        further: Scripts for the second connection, the third one, and so on.
        tls: Context to serve TLS with.

    Attributes:
        requests: Every complete request, in order of arrival.
        connections: How many connections were accepted.
        failures: Errors of the scripts themselves; closing raises the first one.
    """

    def __init__(self, script: Script, *further: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = (script, *further)
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[int, Connection] = {}
        self._threads: list[threading.Thread] = []
        self.requests: list[SeenRequest] = []
        self.connections = 0
        self.failures: list[Exception] = []
        self.closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name=f"{THREAD_NAME}-accept")
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """The URL of a path on this server."""
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def record(self, request: SeenRequest) -> None:
        """Count a request."""
        with self._lock:
            self.requests.append(request)

    def close(self) -> None:
        """End every connection and thread; raises what a script itself got wrong."""
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            connections = list(self._open.values())
        for connection in connections:
            connection.end()
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, accepted, self.connections)
            with self._lock:
                self.connections += 1
                self._open[connection.number] = connection
            thread = threading.Thread(
                target=self._play, args=(connection,), name=f"{THREAD_NAME}-{connection.number}"
            )
            self._threads.append(thread)
            thread.start()

    def _play(self, connection: Connection) -> None:
        try:
            if self._tls is not None:
                self._handshake(connection, self._tls)
            for step in self._scripts[min(connection.number, len(self._scripts) - 1)]:
                step(connection)
        except ConnectionEnded:
            pass  # the client's right, and often what the test is about
        except Exception as error:  # noqa: BLE001 - reported by close()
            if not self.closing.is_set():  # else the teardown took the socket from under the script
                self.failures.append(error)
        finally:
            connection.end()
            with self._lock:
                del self._open[connection.number]

    def _handshake(self, connection: Connection, tls: ssl.SSLContext) -> None:
        try:
            # Before the handshake: a silent client must not keep `close` from ending the connection.
            wrapped = tls.wrap_socket(connection.socket, server_side=True, do_handshake_on_connect=False)
            connection.socket = wrapped
            wrapped.do_handshake()
        except OSError as error:
            raise ConnectionEnded from error


# -- steps


def read_request() -> Step:
    """Read and record one request."""

    def step(connection: Connection) -> None:
        connection.read_request()

    return step


def within_tls(context: ssl.SSLContext, *steps: Step) -> Step:
    """Play these steps over TLS of their own."""

    def step(connection: Connection) -> None:
        inner = TLSConnection(connection, context)
        for each in steps:
            each(inner)

    return step


def notify_end() -> Step:
    """End TLS in good order; within `within_tls`."""

    def step(connection: Connection) -> None:
        assert isinstance(connection, TLSConnection)
        connection.notify_end()

    return step


def receive() -> Step:
    """Take some bytes that need not be HTTP."""

    def step(connection: Connection) -> None:
        connection.receive()

    return step


def send(data: bytes) -> Step:
    """Send these bytes."""
    return lambda connection: connection.send(data)


def trickle(data: bytes, interval: float) -> Step:
    """Send these bytes one by one, ``interval`` seconds apart."""

    def step(connection: Connection) -> None:
        for byte in data:
            connection.send(bytes([byte]))
            connection.pause(interval)

    return step


def wait(event: threading.Event) -> Step:
    """Go on when the test says so."""
    return lambda connection: connection.wait(event)


def stall() -> Step:
    """Say nothing more until the client leaves."""

    def step(connection: Connection) -> None:
        while True:
            connection.receive()

    return step


def vanish() -> Step:
    """Drop every packet of the connection from now on, as a firewall does that has forgotten it."""

    def step(connection: Connection) -> None:
        connection.drop_packets()
        connection.pause(3600)

    return step


def rst() -> Step:
    """Abort the connection with a TCP reset."""

    def step(connection: Connection) -> None:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.socket.close()
        raise ConnectionEnded

    return step


def close() -> Step:
    """Close the connection in good order, whatever was promised."""

    def step(connection: Connection) -> None:
        connection.end()
        raise ConnectionEnded

    return step


def linger() -> Step:
    """End the connection, and take what still comes: the reset due to it might discard what has been sent."""

    def step(connection: Connection) -> None:
        with contextlib.suppress(OSError):  # the client may have left
            connection.socket.shutdown(socket.SHUT_WR)
        while True:
            connection.receive()

    return step


def redirect(location: str, status: int = 302, body: bytes = b"") -> Step:
    """Send a redirect; ``{port}`` in the location becomes the server's own port."""

    def step(connection: Connection) -> None:
        target = location.replace("{port}", str(connection.server.port))
        connection.send(response(body, f"Location: {target}", status=f"{status} Redirected"))

    return step


def repeat(*steps: Step) -> Step:
    """Play these steps over and over until the client leaves."""

    def step(connection: Connection) -> None:
        while True:
            for inner in steps:
                inner(connection)

    return step


def response(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    """The bytes of a flawless response."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections for as long as the block lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, so nobody else takes it; never listening
        yield bound.getsockname()[1]


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """A port of 127.0.0.1 whose accept queue is full, so that connecting to it hangs."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = listener.getsockname()[1]
        is_full = False
        while not is_full:
            waiting = opened.enter_context(socket.socket())
            waiting.settimeout(0.05)  # a connection that loopback would take is taken at once
            try:
                waiting.connect(("127.0.0.1", port))
            except TimeoutError:
                is_full = True
        yield port
