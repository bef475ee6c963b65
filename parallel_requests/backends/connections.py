"""What the three libraries built on urllib3 have in common: watched connections and reading answers."""

from __future__ import annotations

import http.client
import itertools
import threading
from typing import Any

from parallel_requests.backends.base import Backend, chain_of
from parallel_requests.backends.body import Body
from parallel_requests.exceptions import (
    BackendError,
    ConnectError,
    DNSError,
    ParallelRequestsError,
    ProtocolError,
    ProxyError,
    RequestTimeout,
    TLSError,
    TruncatedBody,
)
from parallel_requests.exchange import Send
from parallel_requests.models import Headers, Request, Response
from parallel_requests.redaction import redact

READ_SIZE = 1 << 16
_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2", 30: "HTTP/3"}


class FinalResponse(http.client.HTTPResponse):
    """Reads past informational answers, 103 Early Hints above all (RFC 8297), to the final one."""

    def begin(self) -> None:
        super().begin()
        while 100 <= self.status < 200 and self.status != 101:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()


class Wire:
    """Tells the engine's watchdog which socket each thread's attempt is on."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._opened = itertools.count()
        self.connections_opened = 0

    def begin(self, send: Send) -> None:
        """Note that this thread's attempt is this one."""
        self._local.flight = send.flight
        self._local.is_fresh = self._local.is_answered = False

    def answered(self) -> None:
        """Note that the head of this thread's answer has come."""
        self._local.is_answered = True

    def is_stale(self) -> bool:
        """Whether this thread's attempt died unanswered on a connection used before."""
        return not (self._local.is_fresh or self._local.is_answered)

    def uses(self, sock: Any) -> None:
        """Note which socket this thread's attempt is on."""
        flight = getattr(self._local, "flight", None)
        if flight is not None:
            flight.uses(sock)

    def opened(self, sock: Any) -> None:
        """Note a new connection."""
        self.connections_opened = next(self._opened) + 1
        self._local.is_fresh = True
        self.uses(sock)

    def watch(self, connection_class: Any) -> Any:
        """Return a connection class that tells which socket it uses."""
        wire = self

        class WatchedConnection(connection_class):  # type: ignore[misc]
            response_class = FinalResponse

            def _new_conn(self) -> Any:
                sock = super()._new_conn()
                wire.opened(sock)
                return sock

            def connect(self) -> Any:
                answer = super().connect()
                wire.uses(self.sock)
                return answer

            def request(self, *args: Any, **kwargs: Any) -> Any:
                wire.uses(self.sock)
                return super().request(*args, **kwargs)

        WatchedConnection.__name__ = connection_class.__name__
        return WatchedConnection

    def watch_pools(self, manager: Any) -> None:
        """Make a pool manager's pools use watched connections."""
        manager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": self.watch(pool.ConnectionCls)})
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }


def read_answer(send: Send, raw: Any) -> Response:
    """Read an urllib3 response to its end.

    Args:
        send: The attempt it answers.
        raw: The response, with its body not read yet.
    """
    headers = Headers(list(raw.headers.items()))
    body = Body(send, raw.status, headers)
    policy = send.policy
    if policy.deliver is not None:
        while chunk := raw.read1(policy.chunk_size, decode_content=False):
            body.feed(chunk)
    elif policy.max_response_size is not None or body.expected is None:
        while chunk := raw.read(READ_SIZE, decode_content=False):
            body.feed(chunk)
    else:
        body.feed(raw.read(decode_content=False))
    content = body.finish()
    raw.release_conn()
    return Response(
        raw.status,
        headers,
        content,
        send.request,
        reason=raw.reason or "",
        http_version=_VERSIONS.get(raw.version, "HTTP/1.1"),
    )


def translate(backend: Backend, wire: Wire, errors: Any, error: BaseException, request: Request) -> ParallelRequestsError:
    """Say in our words what an exception of urllib3, or of a library over it, means.

    Args:
        backend: Whose attempt it was.
        wire: What is known of the attempt's connection.
        errors: The ``exceptions`` module of the urllib3 in use.
        error: The exception.
        request: What was sent.
    """
    table: tuple[tuple[type[BaseException], type[BackendError]], ...] = (
        (errors.NameResolutionError, DNSError),
        (errors.NewConnectionError, ConnectError),
        (errors.ConnectTimeoutError, RequestTimeout),
        (errors.ReadTimeoutError, RequestTimeout),
        (errors.SSLError, TLSError),
        (errors.InvalidChunkLength, ProtocolError),
        (errors.IncompleteRead, TruncatedBody),
        (errors.InvalidHeader, ProtocolError),
        (http.client.RemoteDisconnected, TruncatedBody),
        (http.client.IncompleteRead, TruncatedBody),
        (http.client.HTTPException, ProtocolError),
    )
    chain = chain_of(error)
    if request.proxy and any(isinstance(cause, errors.ProxyError) for cause in chain):
        return ProxyError(
            f"The proxy {redact(request.proxy)} did not let {redact(request.url)} through ({redact(str(chain[-1]))}).",
            backend.name,
            request.url,
            proxy_url=request.proxy,
        )
    for cause in chain:
        if isinstance(cause, errors.InvalidChunkLength) and not cause.length:
            return backend.failure(TruncatedBody, request, cause)
        for kind, ours in table:
            if isinstance(cause, kind):
                stale = isinstance(cause, http.client.RemoteDisconnected) and wire.is_stale()
                return backend.failure(ours, request, cause, stale=stale)
        if isinstance(cause, ConnectionResetError | BrokenPipeError | ConnectionAbortedError):
            return backend.failure(TruncatedBody, request, cause, stale=wire.is_stale())
    return Backend.translate(backend, error, request)
