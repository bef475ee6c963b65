"""How much memory one call takes at most: ``python -m tests.peak_memory BACKEND URL [CAP]``.

Without CAP the body is streamed, with it the call is to fail on ``max_response_size``. Prints the
bytes by which the process grew at its peak, the bytes that came, and the error's name, as JSON.
"""

from __future__ import annotations

import json
import sys
from urllib.parse import urljoin

from parallel_requests import ParallelSession
from tests.memory import forget_peak, peak, resident


def main() -> None:
    """Warm up with a small body, then measure the big one."""
    backend, url = sys.argv[1:3]
    cap = int(sys.argv[3]) if len(sys.argv) > 3 else None
    count = 0

    def receive(chunk: bytes) -> None:
        nonlocal count
        count += len(chunk)

    with ParallelSession(backend=backend, max_retries=0, timeout=300.0, stream_callback=receive) as session:
        small = urljoin(url, "/range/1000")
        session.request(small, return_type="stream")
        session.request(small, return_type="content")
        count = 0
        forget_peak()
        base = resident()
        [result] = session.iter_results(
            [url], return_type="stream" if cap is None else "content", max_response_size=cap
        )
        growth = peak() - base
    print(json.dumps({"growth": growth, "count": count, "error": type(result.error).__name__}))


if __name__ == "__main__":
    main()
