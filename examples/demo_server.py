"""The server of the demo: 100 ms for every response, and a route that fails at first."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import uvicorn

LATENCY = 0.1
"""Seconds that every response takes."""


class App:
    """An ASGI application.

    ``/item/N`` answers with N; so does ``/flaky/RUN/N``, but for every third N its first call gets a 503.
    """

    def __init__(self) -> None:
        self._refused: set[str] = set()

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            status, value = await self._answer(scope["path"])
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(value).encode()})

    async def _answer(self, path: str) -> tuple[int, Any]:
        _, route, *_, last = path.split("/")
        number = int(last)
        await asyncio.sleep(LATENCY)
        if route == "flaky" and number % 3 == 0 and path not in self._refused:
            self._refused.add(path)
            return 503, None
        return 200, {"item": number}


def main() -> None:
    """Listen on a free port of loopback, print it, and serve until terminated."""
    server = uvicorn.Server(uvicorn.Config(App(), lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0), backlog=1_024) as listener:
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
