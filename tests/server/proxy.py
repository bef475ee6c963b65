"""A forward proxy on the standard library: absolute-form requests and CONNECT tunnels."""

from __future__ import annotations

import base64
import contextlib
import http.client
import selectors
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from socketserver import BaseRequestHandler
    from types import TracebackType

_HOP_BY_HOP = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade"}
_RELAY_SIZE = 65_536
UPSTREAM_SECONDS = 30
THREAD_NAME = "proxy"


@dataclass(frozen=True)
class ProxiedRequest:
    """What the proxy was asked for; header names are lower-case."""

    method: str
    target: str
    headers: dict[str, str]
    authorized: bool


class AnyProxy:
    """What a proxy on 127.0.0.1 needs, whatever it speaks; use it as a context manager.

    Args:
        handler: Serves one connection.
        resolve: Where the proxy really connects to, by "host:port" or host of the
            request; all other hosts are taken as they are.
    """

    def __init__(
        self, handler: type[BaseRequestHandler], resolve: Mapping[str, tuple[str, int]] | None
    ) -> None:
        self._resolve = dict(resolve or {})
        self._server = _Server(self, handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name=f"{THREAD_NAME}-accept"
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    @property
    def connections(self) -> int:
        """How many connections clients opened to it."""
        return self._server.accepted

    def close(self) -> None:
        """End every connection and thread."""
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    def upstream(self, host: str, port: int) -> tuple[str, int]:
        """Where to connect for a host and port of a request."""
        return self._resolve.get(f"{host}:{port}") or self._resolve.get(host) or (host, port)


class Proxy(AnyProxy):
    """An HTTP proxy.

    Args:
        credentials: ``(user, password)`` that Basic auth must carry; None asks for none.
        resolve: As `AnyProxy` takes it.

    Attributes:
        requests: Everything it was asked for, refused requests included.
    """

    def __init__(
        self,
        *,
        credentials: tuple[str, str] | None = None,
        resolve: Mapping[str, tuple[str, int]] | None = None,
    ) -> None:
        self._expected = None
        if credentials is not None:
            token = base64.b64encode(":".join(credentials).encode()).decode()
            self._expected = f"Basic {token}"
        self.requests: list[ProxiedRequest] = []
        super().__init__(_Handler, resolve)

    @property
    def url(self) -> str:
        """The proxy URL, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    def url_with(self, user: str, password: str) -> str:
        """The proxy URL with these credentials."""
        return f"http://{user}:{password}@127.0.0.1:{self.port}"

    @property
    def tunnels(self) -> int:
        """How many CONNECTs it was asked for."""
        return sum(request.method == "CONNECT" for request in self.requests)

    def admit(self, request: BaseHTTPRequestHandler) -> bool:
        """Record a request; whether its credentials are right."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        authorized = self._expected in (None, headers.get("proxy-authorization"))
        self.requests.append(ProxiedRequest(request.command, request.path, headers, authorized))
        return authorized


class _Server(ThreadingHTTPServer):
    # Non-daemon threads: server_close() then waits for them all.
    daemon_threads = False
    request_queue_size = 512

    def __init__(self, proxy: AnyProxy, handler: type[BaseRequestHandler]) -> None:
        self.proxy = proxy
        self.accepted = 0
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self.accepted += 1
        self.watch(accepted)
        return accepted, address

    def watch(self, connection: socket.socket) -> None:
        """Remember a connection, to end it with the proxy."""
        with self._lock:
            self._sockets.add(connection)

    def end_connections(self) -> None:
        """Wake every thread that waits on a connection."""
        with self._lock:
            connections = list(self._sockets)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error of the proxy's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _proxy(self) -> Proxy:
        return cast("Proxy", cast("_Server", self.server).proxy)

    def do_CONNECT(self) -> None:
        if not self._admitted():
            return
        host, _, port = self.path.rpartition(":")
        try:
            upstream = socket.create_connection(self._proxy.upstream(host, int(port)), UPSTREAM_SECONDS)
        except OSError as error:
            self.send_error(502, str(error))
            return
        with upstream:
            self.send_response_only(200, "Connection established")
            self.end_headers()
            relay(self.connection, upstream)
        self.close_connection = True

    def _forward(self) -> None:
        if not self._admitted():
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = urlsplit(self.path)
        if target.scheme != "http" or not target.hostname:
            self.send_error(400, "an absolute http URL is wanted")
            return
        address = self._proxy.upstream(target.hostname, target.port or 80)
        upstream = http.client.HTTPConnection(*address, timeout=UPSTREAM_SECONDS)
        try:
            self._exchange(upstream, target._replace(scheme="", netloc="").geturl() or "/", body)
        except OSError as error:
            self.send_error(502, str(error))
        finally:
            upstream.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _forward  # noqa: N815

    def _exchange(self, upstream: http.client.HTTPConnection, target: str, body: bytes) -> None:
        upstream.putrequest(self.command, target, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                upstream.putheader(name, value)
        upstream.endheaders(body or None)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP | {"transfer-encoding", "content-length"}:
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        if length is not None and answer.status not in {204, 304}:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)

    def _admitted(self) -> bool:
        if self._proxy.admit(self):
            return True
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response_only(407, "Proxy Authentication Required")
        self.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base
        """Say nothing on stderr: ``Proxy.requests`` is the log."""


def relay(client: socket.socket, upstream: socket.socket) -> None:
    """Copy bytes both ways until either side is done."""
    other = {client: upstream, upstream: client}
    with selectors.DefaultSelector() as selector:
        for side in other:
            selector.register(side, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                source = cast("socket.socket", key.fileobj)
                data = source.recv(_RELAY_SIZE)
                if not data:
                    return
                other[source].sendall(data)
