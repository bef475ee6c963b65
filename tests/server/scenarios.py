"""Routes made for the tests: failures by plan, pacing headers, big and slow bodies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
import zlib
from collections import defaultdict
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from tests.server.content import content_chunks
from tests.server.routing import Answer, Call, Router, json_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

routes = Router()

STATIC_BODY = b'{"id":1,"name":"static","ok":true,"value":3.141,"tags":["a","bc"]}'
_LAST_MODIFIED = formatdate(1_700_000_000, usegmt=True)


@routes.route("static")
def static(call: Call) -> Answer:
    """66 bytes of JSON; ``?delay=`` seconds late."""
    return Answer(
        STATIC_BODY,
        headers=[("Content-Type", "application/json")],
        delay=float(call.arg("delay", "0")) if call.query_string else 0.0,
    )


@routes.route("id")
def an_id(call: Call, number: str) -> Answer:
    """Answer and log the id; a JSON body with another ``id`` is counted as a mismatch."""
    body_id = json.loads(call.body).get("id") if call.body else None
    call.counters.record_id(int(number), body_id)
    return json_answer({"id": int(number)}, delay=float(call.arg("delay", "0")))


@routes.route("conn")
def connection(call: Call) -> Answer:
    """Which connection this is, and which request on it."""
    return json_answer(
        {
            "connection": call.connection,
            "request": call.request_on_connection,
            "listener": call.listener,
            "http_version": call.http_version,
        },
        delay=float(call.arg("delay", "0")),
    )


@routes.route("flaky")
def flaky(call: Call, key: str) -> Answer:
    """The first ``?fail=`` answers of a key have ``?status=``, all further ones are 200."""
    count = call.counters.occurrence(f"flaky/{key}")
    failing = count <= int(call.arg("fail", "1"))
    return json_answer({"key": key, "count": count}, int(call.arg("status", "503")) if failing else 200)


@routes.route("status-seq")
def status_sequence(call: Call, key: str) -> Answer:
    """The statuses of ``?seq=503,429,200`` one after another; the last one stays."""
    statuses = [int(status) for status in call.arg("seq", "503,200").split(",")]
    count = call.counters.occurrence(f"status-seq/{key}")
    return json_answer({"key": key, "count": count}, statuses[min(count, len(statuses)) - 1])


@routes.route("ratio")
def ratio(call: Call) -> Answer:
    """``?percent=`` of the answers, evenly spread, have ``?status=``."""
    percent = int(call.arg("percent", "20"))
    count = call.counters.occurrence(f"ratio/{call.arg('key', '')}")
    failing = count * percent // 100 > (count - 1) * percent // 100
    return json_answer(
        {"count": count},
        int(call.arg("status", "503")) if failing else 200,
        delay=float(call.arg("delay", "0")),
    )


@routes.route("crowded")
def crowded(call: Call) -> Answer:
    """A 503 while more than ``?most=`` calls are in flight on this listener; ``?delay=`` seconds late."""
    fits = call.counters.in_flight_at(call.listener) <= int(call.arg("most", "10"))
    return json_answer({"fits": fits}, 200 if fits else 503, delay=float(call.arg("delay", "0")))


_gatherings: defaultdict[str, list[asyncio.Event]] = defaultdict(list)


@routes.route("together")
def together(call: Call) -> Answer:
    """Answer once ``?count=`` calls of ``?key=`` wait here."""
    count, waiting = int(call.arg("count", "2")), _gatherings[call.arg("key", "")]

    async def once_all_are_here() -> AsyncIterator[bytes]:
        is_complete = asyncio.Event()
        waiting.append(is_complete)
        if len(waiting) == count:
            for each in waiting:
                each.set()
            waiting.clear()
        await is_complete.wait()
        yield b"{}"

    return Answer(once_all_are_here(), headers=[("Content-Type", "application/json")], content_length=2)


@routes.route("retry-after")
def retry_after(call: Call) -> Answer:
    """The first ``?times=`` answers of ``?key=`` carry Retry-After and ``?status=``.

    ``?seconds=`` is sent verbatim, whatever it is; ``?date=`` is an offset in
    seconds from now, sent as an HTTP-date.
    """
    count = call.counters.occurrence(f"retry-after/{call.arg('key', '')}")
    if count > int(call.arg("times", "1")):
        return json_answer({"count": count})
    value = call.arg("seconds", "1")
    if "date" in call.args:
        value = formatdate(time.time() + float(call.arg("date", "1")), usegmt=True)
    return json_answer({"count": count}, int(call.arg("status", "429")), [("Retry-After", value)])


@routes.route("ratelimit")
def ratelimit(call: Call) -> Answer:
    """At most ``?limit=`` calls in ``?window=`` seconds per ``?key=``; 429 beyond.

    ``?style=`` says so in headers: ``x`` (X-RateLimit-*, reset as epoch seconds),
    ``fields`` (RateLimit-Limit/-Remaining/-Reset) or ``draft`` (RateLimit and
    RateLimit-Policy).
    """
    limit, window = int(call.arg("limit", "10")), float(call.arg("window", "1"))
    key = f"ratelimit/{call.arg('key', '')}"
    count, seconds_left = call.counters.occurrence_in_window(key, window)
    remaining, reset = max(0, limit - count), math.ceil(seconds_left)
    headers = {
        "x": [
            ("X-RateLimit-Limit", str(limit)),
            ("X-RateLimit-Remaining", str(remaining)),
            ("X-RateLimit-Reset", str(math.ceil(time.time() + seconds_left))),
        ],
        "fields": [
            ("RateLimit-Limit", str(limit)),
            ("RateLimit-Remaining", str(remaining)),
            ("RateLimit-Reset", str(reset)),
        ],
        "draft": [
            ("RateLimit-Policy", f'"default";q={limit};w={math.ceil(window)}'),
            ("RateLimit", f'"default";r={remaining};t={reset}'),
        ],
    }[call.arg("style", "fields")]
    return json_answer({"count": count}, 429 if count > limit else 200, headers)


@routes.route("range")
def byte_range(call: Call, length: str) -> Answer:
    """Deterministic bytes (``content.content(length, ?seed=)``) with Range and If-Range.

    ``?ranges=none`` ignores Range, ``?version=`` changes the ETag.
    """
    total, seed = int(length), int(call.arg("seed", "0"))
    etag = f'"{total}-{seed}-{call.arg("version", "1")}"'
    headers = [
        ("Content-Type", "application/octet-stream"),
        ("ETag", etag),
        ("Last-Modified", _LAST_MODIFIED),
    ]
    start, stop, status = 0, total, 200
    if call.arg("ranges", "bytes") == "bytes":
        headers.append(("Accept-Ranges", "bytes"))
        unchanged = call.headers.get("if-range", etag) in (etag, _LAST_MODIFIED)
        if "range" in call.headers and unchanged:
            start, stop = _requested_range(call.headers["range"], total)
            if start >= stop:
                return Answer(status=416, headers=[("Content-Range", f"bytes */{total}")])
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{total}"))
            status = 206

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in content_chunks(start, stop, seed):
            yield chunk

    return Answer(chunks(), status, headers, content_length=stop - start)


def _requested_range(value: str, total: int) -> tuple[int, int]:
    """The half-open range of ``bytes=first-last``, ``bytes=first-`` or ``bytes=-suffix``."""
    first, _, last = value.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, total - int(last)), total
    return int(first), min(total, int(last) + 1) if last else total


@lru_cache(maxsize=4)
def gzip_of_zeros(mib: int) -> bytes:
    """A gzip stream of a few KB that inflates to ``mib`` MiB."""
    compressor = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    return b"".join([*(compressor.compress(block) for _ in range(mib)), compressor.flush()])


@routes.route("bomb")
def bomb(call: Call) -> Answer:
    """``?mib=`` MiB of zeros as a small gzip body; with ``?to=`` the body of a redirect."""
    headers = [("Content-Type", "application/octet-stream"), ("Content-Encoding", "gzip")]
    location = call.arg("to", "")
    if location:
        headers.append(("Location", location))
    return Answer(gzip_of_zeros(int(call.arg("mib", "64"))), 302 if location else 200, headers)


@routes.route("slow-body")
def slow_body(call: Call) -> Answer:
    """``?bytes=`` bytes, one every ``?interval=`` seconds, with a right Content-Length."""
    count, interval = int(call.arg("bytes", "10")), float(call.arg("interval", "0.1"))

    async def one_by_one() -> AsyncIterator[bytes]:
        for _ in range(count):
            await asyncio.sleep(interval)
            yield b"x"

    return Answer(one_by_one(), content_length=count)


@routes.route("hang")
def hang(call: Call) -> Answer:
    """Never answer."""
    return Answer(delay=math.inf)


@routes.route("trickle-header")
def trickle_header(call: Call) -> Answer:
    """A good answer whose bytes come one by one, ``?interval=`` seconds apart."""
    interval = float(call.arg("interval", "0.1"))
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

    async def one_by_one() -> AsyncIterator[bytes]:
        for byte in wire:
            await asyncio.sleep(interval)
            yield bytes([byte])

    return Answer(one_by_one(), raw=True)


@routes.route("echo-length")
def echo_length(call: Call) -> Answer:
    """Length and SHA-256 of the uploaded body."""
    digest = hashlib.sha256(call.body).hexdigest()
    return json_answer({"length": len(call.body), "sha256": digest})
