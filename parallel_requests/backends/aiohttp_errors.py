"""What aiohttp's exceptions mean."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError, TransferEncodingError
from yarl import URL

from parallel_requests.backends.aiohttp_connections import NothingSent
from parallel_requests.exceptions import (
    BackendError,
    ConnectError,
    DNSError,
    ProtocolError,
    TLSError,
    TruncatedBody,
    ValidationError,
)

if TYPE_CHECKING:
    from parallel_requests.models import Request

_MEANINGS: tuple[tuple[type[BaseException], type[BackendError]], ...] = (
    (aiohttp.ClientConnectorDNSError, DNSError),
    (aiohttp.ClientSSLError, TLSError),
    (ContentLengthError, TruncatedBody),
    (TransferEncodingError, TruncatedBody),
    (aiohttp.ClientResponseError, ProtocolError),
    (HttpProcessingError, ProtocolError),
)
"""If several entries match, the first one counts."""

_LOST = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
"""The connection ended before the head of the response had come."""

_CERTIFICATE_REQUIRED = "alert certificate required"


def kind_of(error: BaseException) -> type[BackendError] | None:
    """Return the meaning of one exception, or None if another one in the chain decides."""
    kind = next((ours for theirs, ours in _MEANINGS if isinstance(error, theirs)), None)
    # A close_notify during the handshake says nothing about the peer's certificate.
    has_hung_up = isinstance(getattr(error, "os_error", None), ssl.SSLZeroReturnError)
    return ConnectError if kind is not None and has_hung_up else kind


def kind_of_loss(error: BaseException, *, is_connected: bool) -> type[BackendError] | None:
    """Return the meaning of the loss of a connection, or None if the exception is not one.

    Args:
        error: The exception.
        is_connected: Whether the attempt had a connection that was ready for use.
    """
    if not isinstance(error, _LOST) or isinstance(error, aiohttp.ClientConnectorError):
        return None
    if isinstance(error, aiohttp.ClientOSError) and _CERTIFICATE_REQUIRED in str(error):
        return TLSError  # in TLS 1.3, a server says so after the handshake
    return TruncatedBody if is_connected and not isinstance(error, NothingSent) else ConnectError


def fault_of_proxy(error: BaseException, proxy: str) -> str | None:
    """Return why the proxy is to blame for an exception, or None if it is not."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{error.status} {error.message}"
    # No other name than the proxy's is looked up.
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientConnectorDNSError):
        return str(error.os_error)
    if isinstance(error, aiohttp.ClientSSLError):
        url = URL(proxy)
        return str(error) if (error.host, error.port) == (url.raw_host, url.port) else None
    return None


def not_canonical(request: Request) -> ValidationError:
    """Return the error for an address such as 127.1: the proxy's, if there is one."""
    field = "url" if request.proxy is None else "proxy"
    return ValidationError(
        f"{field} has an IPv4 address in a form that aiohttp does not take: write it as four numbers.", field
    )


def without_bytes(error: BaseException) -> BaseException:
    """Drop the bytes of the response that a parser's message quotes, which may include a cookie."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ValueError("the server closed it")
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return ValueError(error.message.partition(":")[0].strip())
    return error
