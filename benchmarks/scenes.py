"""What is fetched: how many calls of which kind, how many of them at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal

#: The small answer, 66 bytes.
JSON_BODY: Final = b'{"id": 7, "name": "parallel", "ok": true, "tags": ["http", "get"]}'
BIG_BODY_SIZE: Final = 1024 * 1024
DELAY_SECONDS: Final = 0.1

Reading = Literal["json", "content"]


@dataclass(frozen=True)
class Scene:
    """One kind of work, the same for every contender.

    Attributes:
        name: What the command line calls it.
        n: Calls in a round.
        concurrency: Calls in flight at most.
        reading: What becomes of a body: decoded, or kept as bytes.
        server: Who answers.
        path: What is asked for.
        fresh_client: Whether each round opens a client of its own and pays for its connections.
            Otherwise the client, and with it the open connections, last from round to round.
    """

    name: str
    n: int
    concurrency: int
    reading: Reading = "json"
    server: Literal["nginx", "delay"] = "nginx"
    path: str = "/json"
    fresh_client: bool = False

    @property
    def expected(self) -> object:
        """What every answer has to be: the decoded JSON, or the size of the body in bytes."""
        return json.loads(JSON_BODY) if self.reading == "json" else BIG_BODY_SIZE


SCENES: Final = {
    scene.name: scene
    for scene in (
        Scene("json", n=2_000, concurrency=20),
        Scene("async", n=2_000, concurrency=20),
        Scene("bodies", n=100, concurrency=20, reading="content", path="/1MiB"),
        Scene("latency", n=10_000, concurrency=1_000, server="delay", fresh_client=True),
        Scene("latency-100", n=1_000, concurrency=100, server="delay", fresh_client=True),
    )
}
