"""Keeps secrets out of everything a person may read: messages, reprs, logs and pickles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

REDACTED = "***"

# Parts of names that indicate a credential; ``author`` does not.
_TELLTALES = (
    r"token|secret|pass(?:wd|word|phrase)|pwd|signature|credential|sess(?:ion)?[_-]?id"
    r"|(?:api|access|private|subscription|application|account|license)[_-]?key|auth(?!ors?(?:[=_\-\[]|$))"
)
_NAME_LIKE_A_CREDENTIAL = rf"[\w.\-\[\]]*(?:{_TELLTALES})[\w.\-\[\]]*"
# The second form is what a password looks like that has a reserved character in it.
_USERINFO = re.compile(
    r"(?<=://)(?:[^/?#@\s]*(?:@[^/?#@\s]*)*@|[^/?#@\s:\[\]]*:(?!\d*(?:[/?#\s\"']|$))[^@]*@)"
)
_SECRET_PAIR = re.compile(
    rf"(?i)(?<=[?&;#])({_NAME_LIKE_A_CREDENTIAL}|key|sig|hmac|code|otp|pass|jwt|bearer|session|sid)=[^&;#\s'\"]*",
)
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_SECRET_HEADER_NAME = re.compile(rf"(?i)^(?:{_NAME_LIKE_A_CREDENTIAL}|x-.*key)$")


class ShownUrl(str):
    """A URL that can be fetched as it is, but whose repr, and so a list's or dict's, hides its secrets."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(redact(str(self)))


def redact(text: str) -> str:
    """Return ``text`` without the user names, passwords and tokens of the URLs in it."""
    if "@" in text:
        end = text.rindex("@") + 1  # a search beyond it would be in vain, and take quadratic time
        text = _USERINFO.sub(f"{REDACTED}@", text[:end]) + text[end:]
    if "=" in text:
        text = _SECRET_PAIR.sub(rf"\1={REDACTED}", text)
    return text


def text_of(error: BaseException) -> str:
    """Return what an exception says, redacted; one of the caller's may be broken itself."""
    try:
        return redact(str(error))
    except Exception:  # noqa: BLE001 - whatever its __str__ raises
        return "(it has no readable text)"


def is_secret_header(name: str) -> bool:
    """Whether a header of this name carries a credential."""
    return name.lower() in _SECRET_HEADERS or _SECRET_HEADER_NAME.match(name) is not None


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of ``headers`` in which credentials are replaced."""
    return {name: REDACTED if is_secret_header(name) else redact(value) for name, value in headers.items()}
