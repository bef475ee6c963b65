"""Reading the responses of urllib3 and the libraries based on it."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any

from parallel_requests.backends.body import Body
from parallel_requests.models import Headers, Response

if TYPE_CHECKING:
    from parallel_requests.exchange import Send

_READ_SIZE = 1 << 16
_MOST_AT_ONCE = 1 << 26
"""Announced bytes of a body for which memory is reserved at once: a larger length may be a lie."""
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
