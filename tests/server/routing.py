"""One request as a handler sees it, one answer as it gives it, and the way between."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from tests.server.counters import Counters

Headers = list[tuple[str, str]]


@dataclass(eq=False)
class Call:
    """One request, on HTTP/1.1 or HTTP/2."""

    method: str
    scheme: str
    host: str
    path: str
    query_string: str
    raw_headers: list[tuple[bytes, bytes]]
    client: str
    listener: str
    connection: int
    request_on_connection: int
    http_version: str
    counters: Counters
    body: bytes = field(default=b"", repr=False)

    @cached_property
    def route(self) -> str:
        """The first segment of the path."""
        return self.path.split("/", 2)[1]

    @property
    def is_control(self) -> bool:
        """Control calls are never counted."""
        return self.route == "_control"

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers by lower-case name; repeated ones joined by a comma."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in self.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        return headers

    @cached_property
    def args(self) -> dict[str, list[str]]:
        """The query string, every value of every name."""
        return parse_qs(self.query_string, keep_blank_values=True)

    def arg(self, name: str, default: str) -> str:
        """The last value of one query parameter."""
        return self.args.get(name, [default])[-1]

    @property
    def origin(self) -> str:
        """Scheme and authority, as the client named them."""
        return f"{self.scheme}://{self.host}"

    @property
    def url(self) -> str:
        """The absolute URL that was asked for."""
        return f"{self.origin}{self.path}" + (f"?{self.query_string}" if self.query_string else "")


@dataclass
class Answer:
    """What goes back.

    Attributes:
        body: All bytes, or an asynchronous iterator that is sent as it yields.
        status: The status code.
        headers: Further headers; Content-Length or chunked framing is added.
        delay: Seconds before the answer begins; ``math.inf`` never answers.
        content_length: Announced length of an iterated body; None means chunked.
        raw: The body is the wire itself, status line included (HTTP/1.1 only);
            the connection is closed after it.
    """

    body: bytes | AsyncIterator[bytes] = b""
    status: int = 200
    headers: Headers = field(default_factory=list)
    delay: float = 0.0
    content_length: int | None = None
    raw: bool = False


Handler = Callable[..., Answer]


def json_answer(
    value: object, status: int = 200, headers: Iterable[tuple[str, str]] = (), delay: float = 0.0
) -> Answer:
    """An answer with a JSON body."""
    body = json.dumps(value).encode()
    return Answer(body, status, [("Content-Type", "application/json"), *headers], delay)


def text_answer(text: str, status: int = 200, content_type: str = "text/plain") -> Answer:
    """An answer with a UTF-8 text body."""
    return Answer(text.encode(), status, [("Content-Type", f"{content_type}; charset=utf-8")])


@dataclass(frozen=True)
class _Route:
    handler: Handler
    methods: frozenset[str]
    fewest: int
    most: int


class Router:
    """Handlers by the first segment of the path; the further segments are their arguments."""

    def __init__(self) -> None:
        self._routes: dict[str, _Route] = {}

    def route(self, name: str, *, methods: str = "") -> Callable[[Handler], Handler]:
        """Register a handler under a path segment; no ``methods`` means every method."""

        def register(handler: Handler) -> Handler:
            parameters = list(inspect.signature(handler).parameters.values())[1:]
            fewest = sum(p.default is p.empty for p in parameters)
            variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
            most = 1_000 if variadic else len(parameters)
            allowed = frozenset(methods.split())
            self._routes[name] = _Route(handler, allowed, 0 if variadic else fewest, most)
            return handler

        return register

    def include(self, other: Router) -> None:
        """Serve the routes of another router as well."""
        self._routes.update(other._routes)

    def __contains__(self, name: str) -> bool:
        return name in self._routes

    def answer(self, call: Call) -> Answer:
        """Find the handler and let it answer; 404 and 405 are answers too."""
        route = self._routes.get(call.route)
        arguments = [unquote(part) for part in call.path.split("/")[2:] if part]
        if route is None or not route.fewest <= len(arguments) <= route.most:
            return json_answer({"error": f"no route for {call.path}"}, 404)
        if route.methods and call.method not in route.methods:
            return Answer(status=405, headers=[("Allow", ", ".join(sorted(route.methods)))])
        try:
            return route.handler(call, *arguments)
        except ValueError as error:
            return json_answer({"error": str(error)}, 400)


def control_router(counters: Counters) -> Router:
    """The routes through which a test reads and resets the counts."""
    router = Router()

    def control(call: Call, name: str) -> Answer:
        answers: dict[str, Callable[[], Any]] = {
            "stats": counters.stats,
            "reset": counters.reset,
            "log": counters.log,
            "ids": counters.ids,
            "arrivals": lambda: counters.arrivals(
                *(call.args.get(key, [None])[0] for key in ("host", "route"))
            ),
        }
        if name not in answers:
            return json_answer({"error": f"no control route {name}"}, 404)
        return json_answer(answers[name]())

    router.route("_control")(control)
    return router
