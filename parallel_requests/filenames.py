"""File names that servers and URLs give → names that are safe in a folder, on every system."""

from __future__ import annotations

import itertools
import sys
import unicodedata
from email.message import Message
from email.utils import collapse_rfc2231_value
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parallel_requests.models import Headers

FALLBACK = "download"
_LONGEST = 180
"""UTF-8 bytes; file systems allow 255, and a number or the name of a temporary file is added."""
_LONGEST_SUFFIX = 20
_FORBIDDEN = frozenset('<>:"|?*')
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"}
)


def name_from_url(url: str) -> str:
    """Return a safe file name for a URL: the last part of its path."""
    return safe_name(unquote(urlsplit(url).path.rpartition("/")[2]))


def name_from_headers(headers: Headers) -> str | None:
    """Return a safe name from ``Content-Disposition``; None if there is none."""
    if not headers.may_have(b"content-disposition"):
        return None
    message = Message()
    message["Content-Disposition"] = headers.get("content-disposition", "")
    try:
        fields = message.get_params([], "content-disposition")
        names = [value for field, value in fields if field == "filename" and value]
        # The extended form, which takes precedence (RFC 6266, 4.3), comes last.
        name = safe_name(_as_utf8(collapse_rfc2231_value(names[-1]))) if names else FALLBACK
    except (LookupError, TypeError, ValueError):  # an unknown charset, or malformed continuations
        return None
    return None if name == FALLBACK else name


def _as_utf8(text: str) -> str:
    """Decode header text as UTF-8, which many servers send, if it is valid."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def safe_name(name: str) -> str:
    """Return one path component that has no special meaning to any file system.

    It has no separators and no control characters, is not a Windows device, not hidden, and not too long;
    what file names cannot contain here, as the locale has it, is replaced.
    """
    encoding = sys.getfilesystemencoding()
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(
        "_" if character in _FORBIDDEN else character
        for character in unicodedata.normalize("NFC", last)
        if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    )
    kept = kept.encode(encoding, "replace").replace(b"?", b"_").decode(encoding)
    kept = _shortened(kept.strip(". \t"))
    if kept.partition(".")[0].rstrip().lower() in _DEVICES:
        kept = f"_{kept}"
    return kept or FALLBACK


def numbered(name: str) -> Iterator[str]:
    """Yield a name, then numbered variants: ``a.txt``, ``a (2).txt``, ``a (3).txt`` and so on."""
    yield name
    stem, suffix = _split(name)
    for number in itertools.count(2):
        yield f"{stem} ({number}){suffix}"


def _shortened(name: str) -> str:
    if len(name.encode()) <= _LONGEST:
        return name
    stem, suffix = _split(name)
    room = _LONGEST - len(suffix.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + suffix


def _split(name: str) -> tuple[str, str]:
    """Split off the suffix; ``.tar.gz`` counts as one."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix.encode()) >= _LONGEST_SUFFIX:
        return name, ""
    if stem.endswith(".tar") and len(stem) > len(".tar"):
        return stem[:-4], f".tar.{suffix}"
    return stem, dot + suffix
