"""What a backend is, what it can do, and what all of them share."""

from __future__ import annotations

import errno
import functools
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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
    stand_in,
)
from parallel_requests.redaction import redact, text_of
from parallel_requests.urls import split_user_info

if TYPE_CHECKING:
    import asyncio

    from parallel_requests.exchange import Send
    from parallel_requests.models import Request, Response

# What a library quotes of its own objects, such as ``<ssl.SSLContext object at 0x7f...>``: with the address,
# no two messages would be the same.
_OBJECT = re.compile(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-fA-F]+>")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        http2: Speaks HTTP/2.
        http3: Speaks HTTP/3.
        streaming: Hands over a body as it arrives, by feeding a `Body`; streams and downloads need that.
        multiplexing: Carries several calls on one connection at once.
        async_native: Runs on events instead of a thread per call.
    """

    http2: bool = False
    http3: bool = False
    streaming: bool = False
    multiplexing: bool = False
    async_native: bool = False


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What a backend is opened with.

    Attributes:
        concurrency: Attempts in flight at most; its pools must hold that many connections per host.
        http2: Whether to use HTTP/2; None uses it if the backend can.
        http3: Whether HTTP/3 is tried first.
    """

    concurrency: int = 20
    http2: bool | None = None
    http3: bool = False


class Backend:
    """An adapter for an HTTP library: it makes single attempts.

    It must not follow redirects, retry, keep cookies, or read the environment: all of that is done in
    one place for all backends. Third-party backends derive from `BlockingBackend` or `AsyncBackend`.

    Attributes:
        name: Its name in ``backend=``.
        engine: The engine that drives it: ``"threads"``, ``"event_loop"`` or ``"curl_multi"``.
        capabilities: What it can do.
    """

    name: ClassVar[str] = ""
    engine: ClassVar[str] = "threads"
    capabilities: ClassVar[Capabilities] = Capabilities()

    def open(self, settings: TransportSettings) -> None:
        """Get ready to send; called once, before the first attempt."""

    def close(self) -> None:
        """Close every connection; called once, after the last attempt."""

    @property
    def connections_opened(self) -> int | None:
        """Connections opened so far, or None if they are not counted."""
        return None

    @classmethod
    def version(cls) -> str:
        """Return the version of the library."""
        return ""

    def lacking_for_socks(self) -> str | None:
        """Return why SOCKS proxies cannot be used, and what to do about it; None if they can."""
        return None

    def translate(self, error: BaseException, request: Request) -> ParallelRequestsError:
        """Translate an exception of the HTTP library into one of this library's.

        A subclass handles its library's own exceptions first, and leaves the rest to this method, which
        looks in the chain of causes for an exception of the standard library.
        """
        for cause in chain_of(error):
            if isinstance(cause, BackendError):
                cause.backend_name = cause.backend_name or self.name
            if isinstance(cause, ParallelRequestsError):
                return cause
            for kind, ours in _standard_errors():
                if isinstance(cause, kind):
                    return self.failure(ours, request, cause)
            if isinstance(cause, OSError):
                return self.failure(
                    ResourceExhausted if is_exhaustion(cause) else ConnectError, request, cause
                )
        failure = self.failure(BackendError, request, error)
        # It may be a bug of the backend's: show where, without what the library may quote. The first
        # entry is the engine's own line.
        trace = error.__traceback__
        failure.__cause__ = stand_in(error).with_traceback(trace and trace.tb_next)
        return failure

    def failure(
        self, kind: type[BackendError], request: Request, cause: BaseException, *, stale: bool = False
    ) -> BackendError:
        """Build the error of an attempt, without secrets that the library's message may contain."""
        detail = _OBJECT.sub(r"\1", text_of(cause)) or type(cause).__name__
        if kind is BackendError and detail != type(cause).__name__:
            # It may be a bug of the backend's, where the message alone says little.
            detail = f"{type(cause).__name__}: {detail}"
        message = f"{request.method} {redact(request.url)}: {_SUMMARY.get(kind, 'failed')} ({detail})."
        return kind(message, self.name, request.url, stale=stale)

    def proxy_failure(self, request: Request, reason: str) -> ProxyError:
        """Build the error of an attempt that the proxy did not let through, without secrets."""
        proxy = request.proxy or ""
        message = f"The proxy {redact(proxy)} did not let {redact(request.url)} through ({redact(reason)})."
        return ProxyError(message, self.name, request.url, proxy_url=proxy)


class BlockingBackend(Backend):
    """A backend that sends one attempt at a time in each thread that calls it."""

    def send(self, send: Send) -> Response:
        """Make one attempt and read its response to the end.

        Raises:
            Exception: Any exception; it is passed to `translate`.
        """
        raise NotImplementedError


class AsyncBackend(Backend):
    """A backend that sends on the engine's event loop."""

    engine: ClassVar[str] = "event_loop"

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Get ready on the engine's loop; called on it, before the first attempt."""

    async def send(self, send: Send) -> Response:
        """Make one attempt and read its response to the end."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close every connection; called on the engine's loop."""


_SUMMARY: dict[type[BackendError], str] = {
    ConnectError: "no connection",
    DNSError: "the host name was not found",
    TLSError: "the TLS handshake failed",
    RequestTimeout: "took longer than its timeout",
    ProtocolError: "the response is not valid HTTP",
    TruncatedBody: "the connection ended before the response was complete",
    ResourceExhausted: "this process is out of sockets or memory; lower concurrency or raise the limit",
}


@functools.cache
def _standard_errors() -> tuple[tuple[type[BaseException], type[BackendError]], ...]:
    import socket
    import ssl  # costs as much to import as all of ours, and is needed for failures only

    return (
        (ssl.SSLCertVerificationError, TLSError),
        (ssl.SSLEOFError, TruncatedBody),
        (ssl.SSLError, TLSError),
        (socket.gaierror, DNSError),
        (TimeoutError, RequestTimeout),
        (ConnectionRefusedError, ConnectError),
        (ConnectionResetError, TruncatedBody),
        (ConnectionAbortedError, TruncatedBody),
        (BrokenPipeError, TruncatedBody),
        (MemoryError, ResourceExhausted),
    )


_EXHAUSTED = frozenset({errno.ENOMEM, errno.ENFILE, errno.EMFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})


def split_proxy(proxy: str, authorization: str | None) -> tuple[str, str | None]:
    """Return the URL of an HTTP proxy without credentials, and the ``Proxy-Authorization`` to send to it.

    Args:
        proxy: Its URL.
        authorization: The caller's own header, which takes precedence over credentials in the URL.
    """
    url, credentials = split_user_info(proxy)
    if authorization is not None or credentials is None:
        return url, authorization
    return url, f"Basic {b64encode(':'.join(credentials).encode()).decode('ascii')}"


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an exception and its causes, innermost last, including exceptions held as arguments."""
    chain: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or current in chain or len(chain) > 20:
            continue
        chain.append(current)
        queue += [
            arg for arg in (*current.args, getattr(current, "reason", None)) if isinstance(arg, BaseException)
        ]
        queue += [current.__cause__, current.__context__]
    return chain


def is_exhaustion(error: BaseException) -> bool:
    """Whether an exception comes from this process having no sockets or memory left."""
    return any(isinstance(cause, OSError) and cause.errno in _EXHAUSTED for cause in chain_of(error))
