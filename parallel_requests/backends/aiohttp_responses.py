"""Reading the responses of aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
from aiohttp.hdrs import CONTENT_LENGTH, TRANSFER_ENCODING
from aiohttp.http_exceptions import HttpProcessingError

from parallel_requests.backends.body import Body
from parallel_requests.models import Headers, Response

if TYPE_CHECKING:
    import asyncio

    from parallel_requests.exchange import Send

_VERSIONS = {
    aiohttp.HttpVersion10: "HTTP/1.0",
    aiohttp.HttpVersion11: "HTTP/1.1",
    None: "HTTP/1.1",  # of a response that a mock made up
}
_FRAMING = frozenset({CONTENT_LENGTH, TRANSFER_ENCODING})


class AbortingResponse(aiohttp.ClientResponse):
    """Aborts its connection when closed: TLS would wait half a minute for the peer's close_notify."""

    def close(self) -> None:
        connection = self.connection
        if connection is not None and connection.protocol is not None:
            connection.protocol.abort()
        super().close()


async def read_response(send: Send, response: aiohttp.ClientResponse, headers: Headers) -> Response:
    """Read a response to its end.

    Args:
        send: The attempt.
        response: The response, with its body not read yet.
        headers: Its headers.
    """
    policy, source = send.policy, response.content
    closed = None if source.is_eof() else _watch(response)
    if response.status < 200 or response.version not in _VERSIONS:
        raise aiohttp.ClientResponseError(response.request_info, (), message="bad status line")
    is_free = policy.deliver is None and policy.max_response_size is None
    if is_free and headers.is_framing_plain:
        # The common case; aiohttp has checked the length of the body.
        content = source.read_nowait() if closed is None else await source.read()
    else:
        body = Body(send, response.status, headers)
        async for chunk in source.iter_any():
            body.feed(chunk)
        content = body.finish()
    if closed is not None and closed.done() and response.headers.keys().isdisjoint(_FRAMING):
        closed.result()  # raises if it was reset, which must not pass for the end of a body without a length
    return Response(
        response.status,
        headers,
        content,
        send.request,
        (response.reason or "").encode("utf-8", "surrogateescape").decode("latin-1").strip(),
        _VERSIONS[response.version],
    )


def _watch(response: aiohttp.ClientResponse) -> asyncio.Future[None] | None:
    """Make a malformed body raise as such; aiohttp would report it as truncated.

    Returns:
        A future that is done once the connection has ended.
    """
    content, connection = response.content, response.connection
    protocol = connection.protocol if connection is not None else None
    closed = protocol.closed if protocol is not None else None
    if protocol is None or closed is None:
        return None

    def pass_on_error(_: object) -> None:
        error = protocol.exception()
        if isinstance(error, HttpProcessingError) and not content.is_eof():
            content.set_exception(error)

    def stop_watching() -> None:
        closed.remove_done_callback(pass_on_error)

    closed.add_done_callback(pass_on_error)
    content.on_eof(stop_watching)
    return closed
