"""Reading the responses, and translating the exceptions, of urllib3 and the libraries based on it."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING, Any

from parallel_requests.backends.base import Backend, chain_of, is_exhaustion
from parallel_requests.backends.body import Body
from parallel_requests.backends.sockets import PeerReset
from parallel_requests.exceptions import (
    BackendError,
    ConnectError,
    DNSError,
    ParallelRequestsError,
    ProtocolError,
    ProxyError,
    RequestTimeout,
    ResourceExhausted,
    TLSError,
    TruncatedBody,
)
from parallel_requests.models import Headers, Request, Response
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from parallel_requests.backends.connections import Wire
    from parallel_requests.exchange import Send

_READ_SIZE = 1 << 16
_MOST_AT_ONCE = 1 << 26
"""Announced bytes of a body for which memory is reserved at once: a larger length may be a lie."""
_WORDS_FOR_A_CUT = (
    "without sending complete message body",
    "peer unexpectedly closed connection",
    "was reset by remote peer",
    "peer sent GOAWAY",
    "closed before END_STREAM",
    "InvalidBodyLengthError",
)
"""Messages of urllib3-future for a body, stream or connection that ended too soon."""
_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2", 30: "HTTP/3"}


def timeouts_of(send: Send) -> tuple[float | None, float | None]:
    """Return the seconds an attempt may take to connect, and for each further step."""
    connect = send.request.connect_timeout
    if send.timeout is not None:
        connect = send.timeout if connect is None else min(connect, send.timeout)
    return connect, send.timeout


def read_response(send: Send, raw: Any) -> Response:
    """Read a urllib3 response to its end; if that fails, close its connection.

    Args:
        send: The attempt.
        raw: The response, with its body not read yet.
    """
    try:
        _check_is_final(raw)
        headers = Headers(raw.headers.items())
        content = _read_body(send, raw, Body(send, raw.status, headers))
    except BaseException:
        raw.close()
        raise
    raw.release_conn()
    return Response(
        raw.status,
        headers,
        content,
        send.request,
        raw.reason or "",
        _VERSIONS.get(raw.version, "HTTP/1.1"),
    )


def _check_is_final(raw: Any) -> None:
    if raw.status == 101:
        raise http.client.HTTPException("it switches to another protocol, unasked")
    if not 200 <= raw.status <= 999:
        raise http.client.HTTPException(f"its status is {raw.status}")


def _read_body(send: Send, raw: Any, body: Body) -> bytes:
    policy = send.policy
    if policy.deliver is not None:
        while chunk := raw.read1(policy.chunk_size, decode_content=False):
            body.feed(chunk)
    elif policy.max_response_size is not None or body.expected is None or body.expected > _MOST_AT_ONCE:
        while chunk := raw.read(_READ_SIZE, decode_content=False):
            body.feed(chunk)
    else:
        body.feed(raw.read(decode_content=False))
    return body.finish()


def translate(
    backend: Backend,
    wire: Wire,
    errors: Any,
    error: BaseException,
    request: Request,
    *,
    wrapper: type[BaseException] | tuple[()] = (),
) -> ParallelRequestsError:
    """Translate an exception of urllib3, or of a library based on it.

    Args:
        backend: Whose attempt it was.
        wire: What is known of the attempt's connection.
        errors: The ``exceptions`` module of the urllib3 in use.
        error: The exception.
        request: What was sent.
        wrapper: The exceptions in which a library based on it wraps those of urllib3.
    """
    chain = [cause for cause in chain_of(error) if not isinstance(cause, wrapper)]
    # Only before the request was sent: later, urllib3 blames the proxy for any end of the connection.
    if request.proxy and not wire.is_ready() and any(isinstance(cause, errors.ProxyError) for cause in chain):
        return ProxyError(
            f"The proxy {redact(request.proxy)} did not let {redact(request.url)} through "
            f"({redact(str(chain[-1]))}).",
            backend.name,
            request.url,
            proxy_url=request.proxy,
        )
    for cause in chain:
        kind = _kind_of(cause, errors)
        if kind is TruncatedBody and wire.is_connecting():
            kind = ConnectError
        if kind is not None:
            stale = (isinstance(cause, ConnectionError) or _is_end(cause)) and wire.is_stale()
            return backend.failure(kind, request, cause, stale=stale)
    for cause in chain:
        if isinstance(cause, errors.ProtocolError):
            is_cut = cause.args == (None,) or any(words in str(cause) for words in _WORDS_FOR_A_CUT)
            return backend.failure(TruncatedBody if is_cut else ProtocolError, request, cause)
    if not chain:
        return backend.failure(BackendError, request, error)
    return Backend.translate(backend, chain[0], request)


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
        (ConnectionResetError, TruncatedBody),
        (PeerReset, TruncatedBody),
        (ConnectionAbortedError, TruncatedBody),
        (BrokenPipeError, TruncatedBody),
    )
    if isinstance(cause, errors.NewConnectionError) and is_exhaustion(cause):
        return ResourceExhausted
    if isinstance(cause, errors.SSLError) and _is_end(cause):
        return TruncatedBody
    return next((ours for theirs, ours in table if isinstance(cause, theirs)), None)


def _is_end(error: BaseException) -> bool:
    """Whether the peer hung up in TLS, which says nothing about its identity."""
    return any(isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) for cause in chain_of(error))
