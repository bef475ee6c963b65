"""What the error codes of libcurl mean (libcurl-errors(3))."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pycurl

from parallel_requests.exceptions import (
    BackendError,
    BodyTooLarge,
    ConnectError,
    DNSError,
    ProtocolError,
    ProxyError,
    RequestTimeout,
    ResourceExhausted,
    TLSError,
    TruncatedBody,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

# Those that pycurl has no name for.
_E_HTTP2_STREAM, _E_HTTP3, _E_QUIC_CONNECT, _E_PROXY, _E_TOO_LARGE = 92, 95, 96, 97, 100
_E_SSL_CLIENTCERT = 98

MEANING: Mapping[int, type[BackendError]] = {
    pycurl.E_UNSUPPORTED_PROTOCOL: ProtocolError,
    pycurl.E_COULDNT_RESOLVE_PROXY: ProxyError,
    pycurl.E_COULDNT_RESOLVE_HOST: DNSError,
    pycurl.E_COULDNT_CONNECT: ConnectError,
    pycurl.E_FTP_WEIRD_SERVER_REPLY: ProtocolError,
    pycurl.E_HTTP2: TruncatedBody,  # the server has closed the connection; see MALFORMED for the rest
    pycurl.E_PARTIAL_FILE: TruncatedBody,
    pycurl.E_OUT_OF_MEMORY: ResourceExhausted,
    pycurl.E_OPERATION_TIMEDOUT: RequestTimeout,
    pycurl.E_SSL_CONNECT_ERROR: TLSError,
    pycurl.E_PEER_FAILED_VERIFICATION: TLSError,
    pycurl.E_SSL_CERTPROBLEM: TLSError,
    pycurl.E_SSL_CIPHER: TLSError,
    pycurl.E_SSL_CACERT_BADFILE: TLSError,
    pycurl.E_GOT_NOTHING: TruncatedBody,
    pycurl.E_SEND_ERROR: TruncatedBody,
    pycurl.E_SEND_FAIL_REWIND: TruncatedBody,
    pycurl.E_RECV_ERROR: TruncatedBody,
    pycurl.E_BAD_CONTENT_ENCODING: ProtocolError,
    pycurl.E_FILESIZE_EXCEEDED: BodyTooLarge,
    _E_HTTP2_STREAM: TruncatedBody,
    _E_HTTP3: TruncatedBody,
    _E_QUIC_CONNECT: ConnectError,
    _E_TOO_LARGE: ProtocolError,
    _E_PROXY: ProxyError,
    _E_SSL_CLIENTCERT: TLSError,
}
UNANSWERED = frozenset(
    {
        pycurl.E_GOT_NOTHING,
        pycurl.E_SEND_ERROR,
        pycurl.E_RECV_ERROR,
        pycurl.E_SEND_FAIL_REWIND,
        pycurl.E_HTTP2,
    }
)
"""Codes of a connection that was closed just as it was reused."""

MALFORMED = (
    "chunk hex",
    "chunk size",
    "chunked-encoding",
    "Invalid HTTP header field",
    "Too large response headers",
    "Too many response headers",
    "nghttp2 recv error",
)
"""Messages, as the code is ambiguous, for a response that is not valid HTTP rather than truncated."""

LEFT_OUT = re.compile(r"HTTP/2 stream \d+ reset by curl \(error 0x([b-f]|[0-9a-f]{2,}) ")
"""How the message begins for a request that an HTTP/2 server leaves out of a GOAWAY with an error.

With a lower number, libcurl may itself have found that error in the response.
"""

HUNG_UP = ("Recv failure", "Send failure", "SSL_ERROR_SYSCALL", "unexpected eof", "error:00000000:")
"""Messages, as the code is ambiguous, for a peer that hung up during the TLS handshake."""
