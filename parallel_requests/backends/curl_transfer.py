"""One libcurl transfer, from a Request to a Response or the error that says why there is none."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, cast

import pycurl

from parallel_requests.backends.base import is_exhaustion
from parallel_requests.backends.body import Body, most_coded, too_large
from parallel_requests.backends.curl_codes import HUNG_UP, LEFT_OUT, MALFORMED, MEANING, UNANSWERED
from parallel_requests.backends.curl_heads import SWITCHED
from parallel_requests.backends.curl_options import (
    REPLAYABLE,
    choose_method,
    choose_proxy,
    choose_trust,
    header_lines,
    milliseconds,
    size_without_url,
)
from parallel_requests.backends.curl_quic import udp_port
from parallel_requests.backends.tcp import shut_down_if_dead
from parallel_requests.exceptions import (
    BackendError,
    BodyTooLarge,
    ConnectError,
    ParallelRequestsError,
    ProtocolError,
    ProxyError,
    RequestTimeout,
    ResourceExhausted,
    TLSError,
    TruncatedBody,
)
from parallel_requests.header_fields import ends_connection
from parallel_requests.models import Request, Response

if TYPE_CHECKING:
    from parallel_requests.backends.curl import CurlBackend
    from parallel_requests.engines.run import Run
    from parallel_requests.exchange import Send

_REFUSED = re.compile(rb"HTTP/[23] stream \d+ refused by server")
"""The beginning of a line of libcurl's log; others quote what the server says, its certificate above all."""
_WITHOUT_END = re.compile(
    rb"content-length:[ \t]*\d{19}|content-length[ \t]|transfer-encoding:[ \t]*+(?!chunked)", re.IGNORECASE
)
"""Fields that announce a body in a way that libcurl ignores: it reads on until the connection ends."""


class Transfer:
    """A reusable easy handle, and the attempt it makes now."""

    __slots__ = (
        "_backend",
        "_body",
        "_connections",
        "_content",
        "_error",
        "_has_opened",
        "_head",
        "_is_https",
        "_is_refused",
        "_needs_new_connection",
        "_quic_sockets",
        "_request",
        "_sends",
        "_size_without_url",
        "_timeout",
        "easy",
        "send",
        "task",
    )

    def __init__(self, backend: CurlBackend) -> None:
        self._backend = backend
        self.easy = cast("Any", pycurl.Curl())
        self._connections = backend.connections
        self._connections.join_pool(self.easy)
        self.task: Any = None
        self.send: Any = None  # the Send under way
        self._head: list[bytes] = []  # line by line
        self._content: list[bytes] = []
        self._body: Body | None = None
        self._error: BaseException | None = None
        self._request: Request | None = None
        self._timeout: float | None = None
        self._size_without_url = 0  # bytes
        self._sends = 0  # over https or through a proxy, how often the request went out
        self._quic_sockets: list[int] = []  # opened for the attempt, while it waits for a connection
        self._has_opened = False  # a connection of its own
        self._is_https = self._is_refused = False
        self._needs_new_connection = False

    def prepare(self, send: Send) -> None:
        """Set up the handle for an attempt, changing only what differs from the last."""
        self.send = send
        request, last = send.request, self._request
        easy, is_https = self.easy, send.request.url.startswith("https:")
        if (
            last is None
            or request.headers is not last.headers  # covers proxy_authorization, which is taken from them
            or request.method is not last.method
            or request.content is not None
            or last.content is not None
            or request.proxy is not last.proxy
            or request.verify is not last.verify
            or request.connect_timeout is not last.connect_timeout
            or is_https is not self._is_https
            or send.policy.deliver is not None
            or send.needs_new_connection is not self._needs_new_connection
        ):
            self._is_https = is_https
            self._needs_new_connection = send.needs_new_connection
            self._configure(send)
        if send.timeout != self._timeout:
            self._timeout = send.timeout
            easy.setopt(pycurl.TIMEOUT_MS, milliseconds(send.timeout))
        easy.setopt(pycurl.URL, request.url)
        self._request = request
        self._sends = 0
        self._has_opened = self._is_refused = False
        if is_https:
            self._connections.add_unconnected(self)
            if self._connections.quic is not None:
                easy.setopt(pycurl.HTTP_VERSION, self._connections.quic.version_for(request))

    def shorten(self) -> None:
        """Deduct the time it has waited, which libcurl forgets when the handle is added again."""
        send = self.send
        if send.timeout is not None:
            self._timeout = max(0.001, send.began_at + send.timeout - send.policy.pacer.clock())
            self.easy.setopt(pycurl.TIMEOUT_MS, milliseconds(self._timeout))

    def can_begin_again(self, code: int) -> bool:
        """Whether a transfer that has failed has sent nothing, and may succeed on another connection."""
        return self._has_lost_race(code) or self._was_not_sent(code)

    def begin_again(self) -> None:
        """Continue on another connection, in the remaining time; if QUIC has failed, over TCP only."""
        if self._quic_sockets:
            self._quic_sockets.clear()
            self.easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        self._sends = 0
        if self.send.request.content is not None:
            choose_method(self.easy, self.send.request)  # with a reader that begins at the start
        if self._is_https:
            self._connections.add_unconnected(self)
        self.shorten()

    def _has_lost_race(self, code: int) -> bool:
        """Whether neither QUIC nor TCP has connected, and the error is that of QUIC.

        Over TCP only it may still succeed, or fail with a more useful error.
        """
        return bool(self._quic_sockets) and MEANING.get(code) not in (TLSError, RequestTimeout)

    def _was_not_sent(self, code: int) -> bool:
        """Whether the kept-alive connections that libcurl tried had all ended; it does not try all it has."""
        return code in UNANSWERED and not self._has_opened and self.easy.getinfo(pycurl.REQUEST_SIZE) == 0

    def _found_connection(self, _host: str, _own_host: str, _port: int, own_port: int) -> int:
        """Note that the request is being sent; called by libcurl."""
        self._sends += 1
        self._connections.note_connected(self)
        if self._quic_sockets:
            if own_port in map(udp_port, self._quic_sockets):
                self._connections.opened += 1
            self._quic_sockets.clear()
        return int(pycurl.PREREQFUNC_OK)

    def _opened_socket(self, descriptor: int, _purpose: int) -> int:
        """Note that it is opening a connection of its own; called by libcurl."""
        self._connections.discard_unconnected(self)
        self._has_opened = True
        if self._connections.quic is not None and udp_port(descriptor) is not None:
            self._quic_sockets.append(descriptor)  # a connection only once it is answered
            return int(pycurl.SOCKOPT_OK)
        is_tls_proxy = (self.send.request.proxy or "").startswith("https:")
        self._connections.note_opened(descriptor, is_plain=not (self._is_https or is_tls_proxy))
        return int(pycurl.SOCKOPT_OK)

    def _configure(self, send: Send) -> None:
        """Set every option."""
        easy, request = self.easy, send.request
        if self._request is not None:
            easy.reset()
        self._timeout = -1.0
        for option, value in self._backend.constants:
            easy.setopt(option, value)
        easy.setopt(pycurl.HEADERFUNCTION, self._head.append)
        easy.setopt(pycurl.SOCKOPTFUNCTION, self._opened_socket)
        easy.setopt(pycurl.CONNECTTIMEOUT_MS, milliseconds(request.connect_timeout))
        lines = header_lines(request)
        easy.setopt(pycurl.HTTPHEADER, lines)
        self._size_without_url = size_without_url(request, lines)
        choose_method(easy, request)
        choose_proxy(easy, request)
        if send.needs_new_connection:
            easy.setopt(pycurl.FRESH_CONNECT, 1)
        if ends_connection(request.headers):
            easy.setopt(pycurl.FORBID_REUSE, 1)
        if self._is_https:
            # Wait for a connection that may be shared, rather than open another.
            easy.setopt(pycurl.PIPEWAIT, 1)
            if request.content is not None and request.method not in REPLAYABLE:
                easy.setopt(pycurl.VERBOSE, 1)
                easy.setopt(pycurl.DEBUGFUNCTION, self._heard)
        if self._is_https or request.proxy:
            easy.setopt(pycurl.PREREQFUNCTION, self._found_connection)
            choose_trust(easy, request)
        if send.policy.deliver is None and send.policy.max_response_size is None:
            easy.setopt(pycurl.WRITEFUNCTION, self._content.append)
        else:
            easy.setopt(pycurl.WRITEFUNCTION, self._receive)
        if send.policy.max_response_size is not None and request.method != "HEAD":
            # libcurl counts coded bytes, which may be more than the decoded ones; Body checks those exactly.
            coded_size = min(most_coded(send.policy.max_response_size), sys.maxsize)
            easy.setopt(pycurl.MAXFILESIZE_LARGE, coded_size)

    def _heard(self, kind: int, text: bytes) -> None:
        """Note that an HTTP/2 server does not serve the request, as after a GOAWAY; called by libcurl.

        Only this says so: for libcurl it ends like a connection that is lost, when it may have been served.
        What a GOAWAY with an error leaves out is, in its words, like what it has reset by itself.
        """
        if kind == pycurl.INFOTYPE_TEXT and _REFUSED.match(text):
            self._is_refused = True

    def _receive(self, data: bytes) -> int | None:
        """Receive a piece of a streamed or limited body; called by libcurl."""
        try:
            if self._body is None:
                status, _, _, headers = self._backend.read_head(b"".join(self._head), self.send.request)
                self._body = Body(self.send, status, headers)
            self._body.feed(data)
        except BaseException as error:  # noqa: BLE001 - libcurl cannot pass it on; `failure` translates it
            self._error = error
            return -1
        return None

    def response(self) -> Response:
        """Return the response of a transfer that libcurl calls a success.

        Raises:
            TruncatedBody: The head broke off, which libcurl does not notice.
            BackendError: The body is not what the head announces.
        """
        send = self.send
        send.replays = self._count_replays()
        status, reason, version, headers = self._backend.read_head(b"".join(self._head), send.request)
        if self._body is not None or send.policy.deliver is not None or not headers.is_framing_plain:
            body = self._body or Body(send, status, headers)
            if send.policy.deliver is None:
                body.feed(b"".join(self._content))
            content = body.finish()
        else:
            content = b"".join(self._content)
        if version == "HTTP/3" and self._connections.quic is not None:
            self._connections.quic.note_response(send.request.authority)
        return Response(status, headers, content, send.request, reason, version)

    def _count_replays(self) -> int:
        """Return how often libcurl resent the request on its own.

        It does so when a kept-alive connection is closed without a response, and up to five times when an
        HTTP/2 server refuses the stream or goes away without serving it; no option turns that off. It is
        worked out from the bytes sent, as some connections fail before anything is.
        """
        request = self.send.request
        has_count = self._is_https or request.proxy
        if has_count and self._sends <= 1:
            return 0
        # Whether connections were opened meanwhile does not tell: it may have used another idle one.
        sent = self.easy.getinfo(pycurl.REQUEST_SIZE)
        once = self._size_without_url + len(request.url)
        if sent < 1.5 * once:
            return 0
        replays: int = round(sent / once) - 1
        return min(replays, self._sends - 1) if has_count else replays

    def failure(self, code: int, message: str) -> ParallelRequestsError:
        """Return the error that says why a transfer has failed."""
        send = self.send
        send.replays = self._count_replays()
        request = send.request
        if self._error is not None:
            return self._backend.translate(self._error, request)
        if (reason := self.why_endless()) is not None:
            return self._backend.failure(ProtocolError, request, OSError(reason))
        if self._is_refused or LEFT_OUT.match(message):
            return self._backend.failure(ConnectError, request, OSError("the server goes away"), stale=True)
        kind = self._kind_of_failure(code, message)
        if kind is RequestTimeout:
            self._note_timeout()
        if request.proxy and code != pycurl.E_SSL_CACERT_BADFILE and self._is_proxy_to_blame(kind):
            return self._backend.proxy_failure(request, message)
        if code == pycurl.E_SSL_CONNECT_ERROR and any(words in message for words in HUNG_UP):
            kind = ConnectError  # the peer hung up, which says nothing about its certificate
        if kind is TruncatedBody and self._is_https and self._sends == 0:
            kind = ConnectError  # the proxy hung up before there was a tunnel
        if kind is BodyTooLarge:
            return self._backend.translate(too_large(send), request)
        stale = code in UNANSWERED and not self._head and self.easy.getinfo(pycurl.NUM_CONNECTS) == 0
        return self._backend.failure(
            kind, request, OSError(message or f"libcurl's error {code}"), stale=stale
        )

    def _note_timeout(self) -> None:
        """Keep what may be dead from being used again: the connection, others like it, or QUIC."""
        send, quic = self.send, self._connections.quic
        descriptor = self.easy.getinfo(pycurl.ACTIVESOCKET)
        if descriptor >= 0:  # libcurl keeps it, as others share it
            shut_down_if_dead(descriptor)
        else:
            is_sent = self.easy.getinfo(pycurl.REQUEST_SIZE) > 0
            send.took_idle_connection = is_sent and not self._has_opened
        if quic is not None and self._is_https and not self._head:
            quic.note_silence(send.request.authority, send.began_at)

    def _kind_of_failure(self, code: int, message: str) -> type[BackendError]:
        kind = MEANING.get(code, BackendError)
        # One that times out may have the message about another one, which shares its connection.
        if kind is not RequestTimeout and any(words in message for words in MALFORMED):
            return ProtocolError
        if kind is RequestTimeout and self._quic_sockets and "certificate" in message:
            return TLSError  # the certificate was rejected over TCP, and QUIC was not answered
        if code == pycurl.E_COULDNT_CONNECT and _is_out_of_descriptors():
            return ResourceExhausted  # libcurl does not say that it could open no socket
        if kind is TruncatedBody and "alert certificate required" in message:
            return TLSError  # in TLS 1.3, a server says so after the handshake
        return kind

    def _is_proxy_to_blame(self, kind: type[BackendError]) -> bool:
        """Whether the proxy refused the tunnel, or could not be reached."""
        connect_status = self.easy.getinfo(pycurl.HTTP_CONNECTCODE)
        is_tls_proxy = (self.send.request.proxy or "").startswith("https:")
        return (
            connect_status >= 300
            or kind is ProxyError
            or (kind is TLSError and is_tls_proxy and connect_status == 0)
            or (kind is ConnectError and self.easy.getinfo(pycurl.NUM_CONNECTS) == 0)
        )

    def why_endless(self) -> str | None:
        """Return why libcurl takes all that follows for the body, if the head is malformed in such a way."""
        for line in self._head:
            if line.startswith(b"HTTP/1.1 101"):
                return SWITCHED
            if _WITHOUT_END.match(line):
                return "its length or transfer coding is invalid"
        return None

    def carries(self, run: Run) -> bool:
        """Whether it makes an attempt for a run."""
        return self.task is not None and self.task.run is run

    def clear(self) -> None:
        """Forget the attempt."""
        if self._is_https:
            self._connections.discard_unconnected(self)
            self._quic_sockets.clear()
        self.task = self.send = self._body = self._error = None
        self._head.clear()
        self._content.clear()


def _is_out_of_descriptors() -> bool:
    """Whether this process can open nothing now, be it a file or a socket."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return is_exhaustion(error)
    return False
