"""Header fields: finding, checking and merging what callers give; checks of what servers send."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from parallel_requests.exceptions import ValidationError
from parallel_requests.values import shown

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What a method, a header or a cookie may be called (RFC 9110, 5.6.2)."""
LARGEST_HEAD = 300 << 10
"""Bytes of headers of a response, those of informational ones before it included, as libcurl has it."""
TOO_MANY_INTERIM = "there are too many informational responses"
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_COOKIE_VALUE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")


def find_field(headers: Mapping[str, str], name: str) -> str | None:
    """Return a header's name as it is written in ``headers``; None if it is not there.

    Args:
        headers: Names and values.
        name: The name, in lower case.
    """
    return next((own for own in headers if own.lower() == name), None)


def pop_field(headers: dict[str, str], name: str) -> str | None:
    """Remove a header, whose name is given in lower case, and return its value; None if it is not there."""
    own = find_field(headers, name)
    return None if own is None else headers.pop(own)


def ends_connection(headers: Mapping[str, str]) -> bool:
    """Whether a request says that its connection is used for no other one after it (RFC 9112, 9.6)."""
    name = find_field(headers, "connection")
    return name is not None and "close" in [option.strip() for option in headers[name].lower().split(",")]


def merge_headers(headers: dict[str, str], given: object) -> set[str]:
    """Merge the caller's headers into those so far.

    Args:
        headers: The headers so far; changed in place.
        given: What the caller gave: a mapping, or None.

    Returns:
        The lower-case names of headers that must not be sent, as their value is None.

    Raises:
        ValidationError: It is not a mapping, or a name or value is not valid in HTTP.
    """
    unwanted: set[str] = set()
    if given is None:
        return unwanted
    if not isinstance(given, Mapping):
        raise ValidationError(
            f"headers must be a mapping of names to values, not {type(given).__name__}.", "headers"
        )
    for given_name, value in given.items():
        name = given_name.decode("latin-1") if isinstance(given_name, bytes) else given_name
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise ValidationError(f"header name {shown(name)} is not valid in HTTP.", "headers")
        pop_field(headers, name.lower())
        if value is None:
            unwanted.add(name.lower())
        else:
            unwanted.discard(name.lower())
            headers[name] = _check_field_value(name, value)
    return unwanted


def _check_field_value(name: str, value: object) -> str:
    is_text = isinstance(value, str | bytes | int | float) and not isinstance(value, bool)
    text = as_text(value) if is_text else None
    if text is None:
        raise ValidationError(f"the value of header {name} must be a str.", "headers")
    if not _FIELD_VALUE.fullmatch(text):
        raise ValidationError(
            f"the value of header {name} has a line break, a control character or text beyond Latin-1.",
            "headers",
        )
    return text.strip(" \t")


def as_text(value: object) -> str | None:
    """Return the text of a caller's value; None if it has none, as an int of more than 4,300 digits."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value[:]  # rather than what str() makes of the member of an enum
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever its __str__ raises
        return None


def is_utf8(text: str) -> bool:
    """Whether the text of a header is UTF-8, as it has to be for every backend to send it back.

    Args:
        text: The text, decoded as Latin-1.
    """
    try:
        text.encode("latin-1").decode()
    except UnicodeDecodeError:
        return False
    return True


def byte_count(text: str) -> int | None:
    """Return the bytes that a header announces; None if that is not a number of at most 18 digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def interim_size(headers: Iterable[tuple[str | bytes, str | bytes]]) -> int:
    """Return the approximate size of an informational response, in bytes."""
    return 16 + sum([len(name) + len(value) + 4 for name, value in headers])


def take_framing(headers: dict[str, str], content: bytes | None) -> None:
    """Remove the headers that say where the body ends: backends add them themselves.

    Raises:
        ValidationError: They are wrong: a server would take part of the body for another request.
    """
    if find_field(headers, "transfer-encoding") is not None:
        raise ValidationError("Transfer-Encoding cannot be set: a body is sent as a whole.", "headers")
    if pop_field(headers, "content-length") not in (None, str(len(content or b""))):
        raise ValidationError("Content-Length is not the length of the body; leave it out.", "headers")


def check_cookies(cookies: object) -> dict[str, str]:
    """Return the cookies as they are sent; one whose value is None is left out.

    Raises:
        ValidationError: They are not a mapping of names to values, or not valid in HTTP.
    """
    if not isinstance(cookies, Mapping):
        raise ValidationError(
            f"cookies must be a mapping of names to values, not {type(cookies).__name__}.", "cookies"
        )
    checked: dict[str, str] = {}
    for given_name, given_value in cookies.items():
        if given_value is None:
            continue
        name, value = as_text(given_name) or "", as_text(given_value)
        if not TOKEN.fullmatch(name) or value is None or not _COOKIE_VALUE.fullmatch(value):
            raise ValidationError(f"cookie {shown(given_name)} is not valid in HTTP.", "cookies")
        checked[name] = value
    return checked


def add_cookies(headers: dict[str, str], cookies: Mapping[str, str]) -> None:
    """Add cookies to those in the caller's own Cookie header, which take precedence."""
    own = pop_field(headers, "cookie")
    names = {pair.partition("=")[0].strip() for pair in (own or "").split(";")}
    added = "; ".join(f"{name}={value}" for name, value in cookies.items() if name not in names)
    if own is not None or added:
        headers["Cookie"] = "; ".join(filter(None, [own, added]))
