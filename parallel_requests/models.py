"""The plain data that passes through the library: Request, Response, Result and what they hold.

Everything here can be pickled, and nothing here holds an object of an HTTP library.
"""

from __future__ import annotations

import codecs
import copy
import json as jsonlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar

from parallel_requests.exceptions import DecodeError, HTTPStatusError, ParallelRequestsError, ValidationError
from parallel_requests.redaction import REDACTED, is_secret_header, redact, redact_headers

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_PLAIN_FRAMING = re.compile(
    rb"(?:^|\n)(?:content-length:[ \t]*\d{1,18}|transfer-encoding:[ \t]*chunked)[ \t\r]*(?=\n|$)"
)


class ReturnType(StrEnum):
    """What a caller gets for each response.

    Attributes:
        JSON: The decoded JSON.
        TEXT: The body as str.
        CONTENT: The body as bytes.
        RESPONSE: The `Response`, whatever its status.
        STREAM: The `Response` without its body, whose chunks go to ``stream_callback``.
    """

    JSON = "json"
    TEXT = "text"
    CONTENT = "content"
    RESPONSE = "response"
    STREAM = "stream"


class _CopiedWhole:
    """Makes copies complete: by default they would be made from the pickled state, which omits secrets."""

    __slots__: tuple[str, ...] = ()

    def __copy__(self) -> Self:
        return self._with(lambda value: value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = twin = self._with(lambda value: copy.deepcopy(value, memo))
        return twin

    def _with(self, duplicate: Callable[[Any], Any]) -> Self:
        twin = object.__new__(type(self))
        for name in self.__slots__:
            setattr(twin, name, duplicate(getattr(self, name)))
        return twin


class Headers(_CopiedWhole, Mapping[str, str]):
    """Response headers: case-insensitive, lower-case keys, in the order the server sent them.

    A field that came more than once reads as one value joined by ``", "`` (RFC 9110, 5.3);
    `get_all` gives the values one by one. Bytes are parsed when a header is first looked at.

    Attributes:
        steers: Whether there may be a field that affects what is sent next: a cookie, a limit, a pause.
        is_framing_plain: Whether the body needs no decoding and no check of its length: it has no coding
            but ``chunked``, and at most one length, which is a number.
    """

    __slots__ = ("_block", "_fields", "_lower", "is_framing_plain", "steers")

    steers: bool
    is_framing_plain: bool

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] | bytes = ()) -> None:
        """Store names and values, or the raw header block of one response."""
        self._block = b""
        self._fields: dict[str, list[str]] | None = None
        self.is_framing_plain = False
        if isinstance(fields, bytes):
            self._block, self._lower = fields, fields.lower()
            self.is_framing_plain = _is_framing_plain(self._lower)
        else:
            self._fields = {}
            for name, value in fields.items() if isinstance(fields, Mapping) else fields:
                self._fields.setdefault(name.lower(), []).append(value)
            self._lower = "\n".join(self._fields).encode("utf-8", "replace")
        self.steers = b"set-cookie" in self._lower or b"limit" in self._lower or b"retry-after" in self._lower

    def _parsed(self) -> dict[str, list[str]]:
        if self._fields is None:
            fields: dict[str, list[str]] = {}
            for line in self._block.decode("latin-1").split("\n"):
                name, colon, value = line.partition(":")
                if colon and not name.startswith("HTTP/"):
                    fields.setdefault(name.rstrip(" \t").lower(), []).append(value.strip(" \t\r"))
            self._fields = fields  # only now: several responses, and threads, may share these headers
        return self._fields

    def may_have(self, name: bytes) -> bool:
        """Check quickly whether a field whose name contains lower-case ``name`` may be there."""
        return name in self._lower

    def get_all(self, name: str) -> list[str]:
        """Return every value of a field, in order."""
        return list(self._parsed().get(name.lower(), ()))

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._parsed()[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed())

    def __len__(self) -> int:
        return len(self._parsed())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._parsed()

    def __repr__(self) -> str:
        return f"Headers({redact_headers(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = [
            (name, REDACTED if is_secret_header(name) else redact(value))
            for name, values in self._parsed().items()
            for value in values
        ]
        return Headers, (fields,)


def _is_framing_plain(block: bytes) -> bool:
    framed = block.count(b"content-length:") + block.count(b"transfer-encoding:")
    return b"content-encoding" not in block and (
        framed == 0 or (framed == 1 and _PLAIN_FRAMING.search(block) is not None)
    )


@dataclass(slots=True, eq=False)
class Request(_CopiedWhole):
    """One planned call.

    A Request may also be given as an item of ``urls``. It then keeps its own method, URL with query,
    and body; the headers and cookies of the call are added to its own, and a timeout or proxy that it
    leaves at the default is taken from the call.

    Attributes:
        url: Absolute ``http`` or ``https`` URL, query included.
        method: The HTTP method.
        headers: Names and values, as they will be sent.
        content: The body, if any.
        timeout: Seconds for one whole attempt; None waits forever.
        connect_timeout: Seconds of these for connecting, TLS handshake included.
        proxy: The proxy's URL, or None for a direct connection.
        verify: True, False, or the path of a CA bundle.
        key: The key of this call's value in the dict, if ``keys`` were given.
        meta: Any object of the caller's; the Result has it as ``meta``.
        index: The place in the input, from 0.
        authority: ``host`` or ``host:port`` of the URL, without the default port of its scheme; limits
            per host go by it.
        problem: Why the item cannot be sent; None if it can.
        proxy_authorization: The ``Proxy-Authorization`` header, which is sent to the proxy only; None
            for the credentials in its URL, if any.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    timeout: float | None = None
    connect_timeout: float | None = None
    proxy: str | None = None
    verify: bool | str = True
    key: Any = None
    meta: Any = None
    index: int = 0
    authority: str = ""
    problem: ValidationError | None = None
    proxy_authorization: str | None = None

    def __repr__(self) -> str:
        return f"<Request [{self.index}] {self.method} {redact(str(self.url))}>"

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        values = {name: getattr(self, name) for name in self.__slots__}
        values["url"] = redact(str(self.url))
        values["headers"] = redact_headers(self.headers)
        values["proxy"] = redact(self.proxy) if self.proxy else self.proxy
        values["proxy_authorization"] = self.proxy_authorization and REDACTED
        return None, values  # no __dict__, and the slots


_UNREAD: Any = ...  # not a JSON value, and a singleton even when copied or pickled
_BODILESS = frozenset({204, 205, 304})
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Each with the codec that takes it off."""
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
"""Codecs that only Python knows: some raise in spite of ``errors``, or take quadratic time."""


class Response(_CopiedWhole):
    """One complete response.

    Attributes:
        status_code: The HTTP status.
        reason: The reason phrase, or the standard one if none was sent, as over HTTP/2.
        headers: The headers of the final response.
        content: The body, decompressed; empty if it was streamed.
        size: Bytes of the decompressed body, streamed or not.
        url: The final URL, after redirects.
        http_version: ``"HTTP/1.0"``, ``"HTTP/1.1"``, ``"HTTP/2"`` or ``"HTTP/3"``.
        elapsed: Seconds from the start of the last attempt to its last byte.
        history: The redirects that led here, oldest first.
        request: The call that this is the response to.
    """

    __slots__ = (
        "_json",
        "content",
        "elapsed",
        "headers",
        "history",
        "http_version",
        "reason",
        "request",
        "size",
        "status_code",
        "url",
    )

    status_code: int
    reason: str
    headers: Headers
    content: bytes
    size: int
    url: str
    http_version: str
    elapsed: float
    history: tuple[Response, ...]
    request: Request

    def __init__(  # noqa: PLR0917 - keywords would double the cost of making one
        self,
        status_code: int,
        headers: Headers | Mapping[str, str] | Iterable[tuple[str, str]],
        content: bytes,
        request: Request,
        reason: str = "",
        http_version: str = "HTTP/1.1",
        *,
        elapsed: float = 0.0,
    ) -> None:
        self.status_code = status_code
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.content = content
        self.size = len(content)
        self.request = request
        self.url = request.url
        self.reason = reason or _phrase(status_code)
        self.http_version = http_version
        self.elapsed = elapsed
        self.history: tuple[Response, ...] = ()
        self._json = _UNREAD

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status_code < 400

    @property
    def encoding(self) -> str:
        """The charset of a byte order mark, else the one the ``content-type`` header names, else UTF-8.

        A mark takes precedence over the header as in browsers (WHATWG Encoding Standard, "decode").
        """
        for mark, charset in _BYTE_ORDER_MARKS:
            if self.content.startswith(mark):
                return charset
        _, _, parameters = self.headers.get("content-type", "").lower().partition("charset=")
        return parameters.split(";")[0].strip(" \"'") or "utf-8"

    @property
    def text(self) -> str:
        """The body as text, without a byte order mark; bytes that do not fit the charset become U+FFFD."""
        try:
            if codecs.lookup(self.encoding).name not in _NO_CHARSETS:
                return self.content.decode(self.encoding, errors="replace")
        except (LookupError, ValueError):  # it is unknown, no charset (base64, say), or has a NUL
            pass
        return self.content.decode("utf-8", errors="replace")

    def json(self) -> Any:
        """Decode the body as JSON; None if there can be none: with status 204, 205 or 304, and after HEAD.

        Raises:
            DecodeError: The body is not JSON, or is nested too deeply, or a number in it is too long.
        """
        try:
            return _load_json(self.content)
        except (ValueError, RecursionError) as error:
            if not self.content and (self.status_code in _BODILESS or self.request.method == "HEAD"):
                return None
            reason = f"{type(error).__name__}: {error}"
        kind = "" if "json" in self._media_type else f" but {self._media_type[:50]}"
        found = f"is not JSON{kind} ({reason})" if self.content else "is empty, so it is not JSON"
        raise DecodeError(
            f"The body of {self.url} {found}. "
            "It is kept in .response; return_type='text' hands it over as it is.",
            self,
        )

    @property
    def json_data(self) -> Any:
        """The decoded JSON body, or None if it is not JSON."""
        if self._json is _UNREAD:
            try:
                self._json = self.json()
            except DecodeError:
                self._json = None
        return self._json

    @property
    def is_json(self) -> bool:
        """Whether the body is JSON, judging by both its content type and its bytes."""
        if self._media_type != "application/json" and not self._media_type.endswith("+json"):
            return False
        return self.json_data is not None or self.content.strip() == b"null"

    @property
    def _media_type(self) -> str:
        return self.headers.get("content-type", "").split(";")[0].strip().lower() or "of no stated type"

    def raise_for_status(self) -> None:
        """Raise an error if the status is 400 or above.

        Raises:
            HTTPStatusError: The status is 400 or above.
        """
        if not self.ok:
            raise HTTPStatusError(f"{self.url} answered {self.status_code} {self.reason}.", self)

    def __repr__(self) -> str:
        return f"<Response [{self.status_code} {self.reason}] {redact(self.url)}>"

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return None, {**values, "_json": _UNREAD, "url": redact(self.url)}


_scan_json = jsonlib.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _load_json(content: bytes) -> Any:
    """Decode JSON; plain UTF-8 without surrounding whitespace skips the overhead of ``json.loads``."""
    try:
        text = content.decode()
        value, end = _scan_json(text, 0)
    except (UnicodeDecodeError, StopIteration, jsonlib.JSONDecodeError):
        return jsonlib.loads(content)
    return value if end == len(text) else jsonlib.loads(content)


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to send a request.

    Attributes:
        number: 1 for the first.
        status_code: The status of the response, or None if there was none.
        error: Why it failed, or None.
        elapsed: Seconds it took.
        url: Where it went, after redirects; without credentials.
    """

    number: int
    status_code: int | None
    error: ParallelRequestsError | None
    elapsed: float
    url: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", redact(self.url))

    def __repr__(self) -> str:
        outcome = self.status_code if self.error is None else repr(self.error)
        return f"<Attempt {self.number} {self.url} {outcome} {self.elapsed:.3f}s>"


@dataclass(slots=True, eq=False)
class Result(Generic[T_co]):
    """The outcome of one input; there is always exactly one for every input.

    Attributes:
        request: The planned call.
        value: What the caller asked for, if it succeeded.
        error: Why it failed, or None.
        response: The response to the last attempt, if there was one.
        attempts: How many attempts were made; 0 if nothing was sent.
        elapsed: Seconds from the first attempt to the last byte, waits included.
        retries: How many of the attempts were made because one before had failed; those that follow
            redirects do not count.
    """

    request: Request
    value: T_co | None = None
    error: ParallelRequestsError | None = None
    response: Response | None = None
    attempts: int = 0
    elapsed: float = 0.0
    retries: int = 0
    _recorded: tuple[Attempt, ...] = ()
    _index: int | None = None

    @property
    def index(self) -> int:
        """The place in the input, from 0, even if a hook has changed that of the Request."""
        return self.request.index if self._index is None else self._index

    @property
    def key(self) -> Any:
        """The key given with ``keys`` or with the item, or None."""
        return self.request.key

    @property
    def meta(self) -> Any:
        """The object that the caller gave with the item, or None."""
        return self.request.meta

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.error is None

    @property
    def history(self) -> tuple[Attempt, ...]:
        """Every attempt, with its status, error and seconds."""
        if len(self._recorded) == self.attempts or self.response is None:
            return self._recorded
        last = Attempt(
            self.attempts, self.response.status_code, None, self.response.elapsed, self.response.url
        )
        return (*self._recorded, last)

    def unwrap(self) -> T_co:
        """Return the value.

        Raises:
            ParallelRequestsError: The item failed; this is its own error.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]

    def __repr__(self) -> str:
        outcome = "ok" if self.error is None else repr(self.error)
        return f"<Result [{self.index}] {redact(str(self.request.url))} {outcome}>"
