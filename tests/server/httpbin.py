"""The routes of httpbin that the tests and the documents use."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import brotli  # type: ignore[import-untyped]

from tests.server.content import content
from tests.server.routing import Answer, Call, Router, json_answer, text_answer
from tests.server.zstd import zstd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

routes = Router()

_PAGE = """<!DOCTYPE html>
<html>
  <head><title>A page</title></head>
  <body><h1>A page for tests</h1><p>It says nothing, in well-formed HTML.</p></body>
</html>
"""
_UNICODE = "Grüße, Здравствуйте, γειά σου, こんにちは, 안녕하세요, שלום, ∮ E⋅da = Q, 🐍\n"


def _single(values: dict[str, list[str]]) -> dict[str, str | list[str]]:
    """Lists of one value as the value, as httpbin shows them."""
    return {name: value[0] if len(value) == 1 else value for name, value in values.items()}


def _shown_headers(call: Call) -> dict[str, str]:
    return {name.title(): value for name, value in call.headers.items()}


def _request(call: Call) -> dict[str, Any]:
    """What httpbin tells about every request."""
    return {
        "args": _single(call.args),
        "headers": _shown_headers(call),
        "origin": call.client,
        "url": call.url,
    }


def _body(call: Call) -> dict[str, Any]:
    """What httpbin tells about a request's body."""
    body = bytes(call.body)
    shown: dict[str, Any] = {"data": "", "files": {}, "form": {}, "json": None}
    if call.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return shown | {"form": _single(parse_qs(body.decode(), keep_blank_values=True))}
    try:
        shown["data"] = body.decode()
        shown["json"] = json.loads(body)
    except UnicodeDecodeError:
        encoded = base64.b64encode(body).decode()
        shown["data"] = f"data:application/octet-stream;base64,{encoded}"
    except ValueError:
        pass  # text that is not JSON has no "json", and that is the answer
    return shown


@routes.route("get", methods="GET HEAD OPTIONS")
def get(call: Call) -> Answer:
    return json_answer(_request(call))


def _echo(call: Call) -> Answer:
    return json_answer(_request(call) | _body(call))


for _method in ("POST", "PUT", "PATCH", "DELETE"):
    routes.route(_method.lower(), methods=f"{_method} OPTIONS")(_echo)


@routes.route("anything")
def anything(call: Call, *_rest: str) -> Answer:
    return json_answer(_request(call) | _body(call) | {"method": call.method})


@routes.route("headers")
def headers(call: Call) -> Answer:
    return json_answer({"headers": _shown_headers(call)})


@routes.route("response-headers")
def response_headers(call: Call) -> Answer:
    chosen = [(name, value) for name, values in call.args.items() for value in values]
    return json_answer(_single(call.args), headers=chosen)


@routes.route("status")
def status(call: Call, code: str) -> Answer:
    number = int(code)
    if not 200 <= number <= 599:
        raise ValueError("a final status lies between 200 and 599")
    extra = []
    if number in (301, 302, 303, 307, 308):
        extra.append(("Location", "/redirect/1"))
    if number == 401:
        extra.append(("WWW-Authenticate", 'Basic realm="test"'))
    return Answer(status=number, headers=extra)


@routes.route("delay")
def delay(call: Call, seconds: str) -> Answer:
    return json_answer(_request(call) | _body(call), delay=float(seconds))


@routes.route("bytes")
def some_bytes(call: Call, count: str) -> Answer:
    body = content(int(count), int(call.arg("seed", "0")))
    return Answer(body, headers=[("Content-Type", "application/octet-stream")])


@routes.route("stream-bytes")
def stream_bytes(call: Call, count: str) -> Answer:
    body = content(int(count), int(call.arg("seed", "0")))
    size = int(call.arg("chunk_size", "10240"))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    return Answer(chunks(), headers=[("Content-Type", "application/octet-stream")])


@routes.route("stream")
def stream(call: Call, count: str) -> Answer:
    async def lines() -> AsyncIterator[bytes]:
        for number in range(int(count)):
            yield json.dumps(_request(call) | {"id": number}).encode() + b"\n"

    return Answer(lines(), headers=[("Content-Type", "application/json")])


@routes.route("html")
def html(call: Call) -> Answer:
    return text_answer(_PAGE, content_type="text/html")


@routes.route("json")
def some_json(call: Call) -> Answer:
    slides = [{"title": "One", "type": "all"}, {"title": "Two", "type": "all", "items": ["a", "b"]}]
    return json_answer({"slideshow": {"title": "Sample Slide Show", "slides": slides}})


@routes.route("encoding")
def encoding(call: Call, name: str) -> Answer:
    if name != "utf8":
        raise ValueError("only utf8 is served")
    return text_answer(_UNICODE, content_type="text/html")


def _told_with(call: Call, flag: str) -> bytes:
    told = {flag: True, "method": call.method}
    return json.dumps(told | {"headers": _shown_headers(call), "origin": call.client}).encode()


def _encoded(body: bytes, coding: str) -> Answer:
    return Answer(body, headers=[("Content-Type", "application/json"), ("Content-Encoding", coding)])


@routes.route("gzip")
def gzipped(call: Call) -> Answer:
    return _encoded(gzip.compress(_told_with(call, "gzipped")), "gzip")


@routes.route("deflate")
def deflated(call: Call) -> Answer:
    return _encoded(zlib.compress(_told_with(call, "deflated")), "deflate")


@routes.route("brotli")
def brotlied(call: Call) -> Answer:
    return _encoded(brotli.compress(_told_with(call, "brotli")), "br")


@routes.route("zstd")
def zstandarded(call: Call) -> Answer:
    return _encoded(zstd.compress(_told_with(call, "zstd")), "zstd")


def _redirect(location: str, status: int = 302, extra: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(status=status, headers=[("Location", location), *extra])


@routes.route("redirect")
def redirect(call: Call, count: str) -> Answer:
    left = int(count) - 1
    return _redirect(f"/redirect/{left}" if left > 0 else "/get")


@routes.route("absolute-redirect")
def absolute_redirect(call: Call, count: str) -> Answer:
    left = int(count) - 1
    return _redirect(call.origin + (f"/absolute-redirect/{left}" if left > 0 else "/get"))


@routes.route("redirect-to")
def redirect_to(call: Call) -> Answer:
    location = call.arg("url", "/get")
    urlsplit(location)  # a ValueError here is a 400, as for every other bad argument
    return _redirect(location, int(call.arg("status_code", "302")))


@routes.route("cookies")
def cookies(call: Call, action: str = "") -> Answer:
    if action == "set":
        chosen = [("Set-Cookie", f"{k}={v[-1]}; Path=/") for k, v in call.args.items()]
        return _redirect("/cookies", extra=tuple(chosen))
    jar = SimpleCookie(call.headers.get("cookie", ""))
    return json_answer({"cookies": {name: morsel.value for name, morsel in jar.items()}})


@routes.route("basic-auth")
def basic_auth(call: Call, user: str, password: str) -> Answer:
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    if call.headers.get("authorization") != expected:
        return Answer(status=401, headers=[("WWW-Authenticate", 'Basic realm="test"')])
    return json_answer({"authenticated": True, "user": user})


@routes.route("bearer")
def bearer(call: Call) -> Answer:
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not token:
        return Answer(status=401, headers=[("WWW-Authenticate", "Bearer")])
    return json_answer({"authenticated": True, "token": token})
