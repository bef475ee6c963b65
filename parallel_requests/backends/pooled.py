"""What the backends on urllib3, and on the libraries based on it, have in common."""

from __future__ import annotations

import errno
import http.client
import importlib.util
import ssl
from typing import TYPE_CHECKING, Any, ClassVar

from parallel_requests.backends.base import BlockingBackend, chain_of, is_exhaustion
from parallel_requests.backends.sockets import NotServed, PeerReset
from parallel_requests.backends.wire import Wire
from parallel_requests.exceptions import (
    BackendError,
    ConnectError,
    DNSError,
    ParallelRequestsError,
    ProtocolError,
    RequestTimeout,
    ResourceExhausted,
    TLSError,
    TruncatedBody,
)

if TYPE_CHECKING:
    from parallel_requests.backends.pools import Pools
    from parallel_requests.exchange import Send
    from parallel_requests.models import Request, Response

_WORDS_FOR_A_CUT = (
    "without sending complete message body",
    "peer unexpectedly closed connection",
    "was reset by remote peer",
    "peer sent GOAWAY",
    "closed before END_STREAM",
    "InvalidBodyLengthError",
)
"""Messages of urllib3-future for a body, stream or connection that ended too soon."""


class PooledBackend(BlockingBackend):
    """A backend whose connections come from pools of urllib3.

    Attributes:
        errors: The ``exceptions`` module of the urllib3 in use.
        wrapper: The exceptions in which a library based on it wraps those of urllib3.
    """

    errors: ClassVar[Any]
    wrapper: ClassVar[type[BaseException] | tuple[()]] = ()
    _pools: Pools

    def __init__(self) -> None:
        self._wire = Wire()

    def send(self, send: Send) -> Response:
        self._wire.begin(send)
        try:
            return self._attempt(send)
        except BaseException:
            send.took_idle_connection = self._wire.took_idle()
            raise

    def _attempt(self, send: Send) -> Response:
        """Make the attempt."""
        raise NotImplementedError

    @property
    def connections_opened(self) -> int:
        return self._wire.connections_opened

    def close(self) -> None:
        self._pools.close()

    def lacking_for_socks(self) -> str | None:
        if importlib.util.find_spec("socks") is not None:
            return None
        return "a SOCKS proxy needs the package PySocks: pip install 'parallel-requests[socks]'."

    def translate(self, error: BaseException, request: Request) -> ParallelRequestsError:
        """Translate an exception of urllib3 or of a library based on it; called in the attempt's thread."""
        chain = [cause for cause in chain_of(error) if not isinstance(cause, self.wrapper)]
        wire, errors = self._wire, self.errors
        # Only before the request was sent: later, urllib3 blames the proxy for any end of the connection.
        if (
            request.proxy
            and not wire.is_ready()
            and any(isinstance(cause, errors.ProxyError) for cause in chain)
        ):
            return self.proxy_failure(request, str(chain[-1]))
        for cause in chain:
            kind = _kind_of(cause, errors)
            if kind is TruncatedBody and not wire.is_ready():
                kind = ConnectError
            elif kind is TLSError and wire.is_ready() and "certificate" not in str(cause):
                kind = TruncatedBody  # after the handshake, unless the server asks for a certificate then
            if kind is not None:
                is_gone = isinstance(cause, ConnectionError) or _is_end(cause)
                stale = isinstance(cause, NotServed) or (is_gone and wire.is_stale())
                return self.failure(kind, request, cause, stale=stale)
        for cause in chain:
            if isinstance(cause, errors.ProtocolError):
                is_cut = cause.args == (None,) or any(words in str(cause) for words in _WORDS_FOR_A_CUT)
                return self.failure(TruncatedBody if is_cut else ProtocolError, request, cause)
        if not chain:
            return self.failure(BackendError, request, error)
        return super().translate(chain[0], request)


def _kind_of(cause: BaseException, errors: Any) -> type[BackendError] | None:
    """Return the meaning of one exception, or None if another one in the chain decides."""
    table: tuple[tuple[type[BaseException], type[BackendError]], ...] = (
        (errors.NameResolutionError, DNSError),
        (errors.NewConnectionError, ConnectError),
        (errors.ClosedPoolError, ConnectError),
        (errors.ConnectTimeoutError, RequestTimeout),
        (errors.ReadTimeoutError, RequestTimeout),
        (errors.SSLError, TLSError),
        (errors.IncompleteRead, TruncatedBody),
        (errors.InvalidHeader, ProtocolError),
        (http.client.RemoteDisconnected, TruncatedBody),
        (http.client.IncompleteRead, TruncatedBody),
        (http.client.HTTPException, ProtocolError),
        (NotServed, ConnectError),
        (ConnectionResetError, TruncatedBody),
        (PeerReset, TruncatedBody),
        (ConnectionAbortedError, TruncatedBody),
        (BrokenPipeError, TruncatedBody),
    )
    if isinstance(cause, errors.NewConnectionError) and is_exhaustion(cause):
        return ResourceExhausted
    if isinstance(cause, errors.SSLError) and _is_end(cause):
        return TruncatedBody
    if isinstance(cause, OSError) and cause.errno == errno.ENOTCONN:  # reset before its address was asked for
        return TruncatedBody
    return next((ours for theirs, ours in table if isinstance(cause, theirs)), None)


def _is_end(error: BaseException) -> bool:
    """Whether the peer hung up in TLS, which says nothing about its identity."""
    return any(
        isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
        # As Python before 3.11.4 has it.
        or (isinstance(cause, ssl.SSLError) and cause.reason == "UNEXPECTED_EOF_WHILE_READING")
        for cause in chain_of(error)
    )
