"""A file, in the bytes of responses and as it is on disk."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from parallel_requests import RetryPolicy
from tests.server.content import content
from tests.server.faults import close, read_request, response, send

QUICK = RetryPolicy(max_retries=2, backoff_factor=0.01)
BODY = content(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def visible(folder: Path) -> list[str]:
    """The files in a folder that are not hidden."""
    return [name for name in names(folder) if not name.startswith(".")]


def head(*lines: str, status: str = "200 OK") -> bytes:
    """The bytes of a head."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def whole(body: bytes = BODY, etag: str = '"one"') -> bytes:
    """The bytes of a complete response."""
    return response(body, f"ETag: {etag}")


def rest(start: int, body: bytes = BODY, etag: str = '"one"') -> bytes:
    """The bytes of a 206 response with the rest."""
    span = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
    return response(body[start:], f"ETag: {etag}", span, status="206 Partial Content")


def cut(at: int, etag: str = '"one"') -> bytes:
    """The bytes of a response that ends too soon."""
    return head(f"Content-Length: {len(BODY)}", f"ETag: {etag}") + BODY[:at]


CUT_THEN_REST = ([read_request(), send(cut(100_000)), close()], [read_request(), send(rest(100_000))])
"""What a server does on two connections: its response breaks off, and then it sends the rest."""


def descriptors(folder: Path) -> int:
    """Descriptors of this process that are open on files in a folder, moved and removed ones too."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += link.readlink().is_relative_to(folder)
    return count


def named(disposition: str, body: bytes = b"body") -> bytes:
    """The bytes of a response that names its file."""
    return response(body, f"Content-Disposition: {disposition}")


def respond_with_rest(connection: Any) -> None:
    """Send the range that the last request asks for."""
    connection.send(rest(int(connection.server.requests[-1].headers["range"].strip("bytes=-"))))
