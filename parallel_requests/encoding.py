"""Query parameters and bodies → what is sent."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from parallel_requests.exceptions import ValidationError
from parallel_requests.header_fields import as_text, find_field
from parallel_requests.urls import percent_encode

_BYTES = bytes | bytearray | memoryview


def add_params(url: str, params: object) -> str:
    """Return a URL with query parameters added to its own.

    Raises:
        ValidationError: They cannot be encoded.
    """
    if params is None:
        return url
    if isinstance(params, str):
        query = percent_encode(to_utf8(params.lstrip("?"), "params").decode())
    elif isinstance(params, Mapping | tuple | list):
        query = _encode_pairs(params, "params")
    else:
        raise ValidationError(
            f"params must be a mapping, pairs or text, not {type(params).__name__}.", "params"
        )
    separator = "&" if "?" in url else "?"
    return f"{url}{separator}{query}" if query else url


def encode_body(json: object, data: object, headers: dict[str, str]) -> bytes | None:
    """Return the body, if there is one, and add its Content-Type unless the caller has set one.

    Text may be of any type, JSON or XML for example, and so gets none; an empty form is no body.

    Raises:
        ValidationError: ``json`` and ``data`` are both given, or one cannot be encoded.
    """
    if json is not None and data is not None:
        raise ValidationError("json and data cannot both be the body; give one of them.", "json")
    if json is not None:
        content, content_type = _encode_json(json), "application/json"
    elif data is None:
        return None
    elif isinstance(data, _BYTES):
        return bytes(data)
    elif isinstance(data, str):
        return to_utf8(data, "data")
    elif isinstance(data, Mapping | tuple | list):
        if not data:
            return None
        content, content_type = (
            _encode_pairs(data, "data").encode("ascii"),
            "application/x-www-form-urlencoded",
        )
    else:
        raise ValidationError(
            f"data must be bytes, text, a mapping or pairs, not {type(data).__name__}.", "data"
        )
    if find_field(headers, "content-type") is None:
        headers["Content-Type"] = content_type
    return content


def _encode_json(json: object) -> bytes:
    try:
        return jsonlib.dumps(json, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    raise ValidationError(f"json cannot be encoded: {reason}.", "json")


def _encode_pairs(given: Mapping[str, Any] | Iterable[Any], field_name: str) -> str:
    """Encode names and values for a query or a form; a name whose value is None is left out."""
    pairs = list(given.items() if isinstance(given, Mapping) else given)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValidationError(
            f"{field_name} must be a mapping or a tuple of (name, value) pairs; a list has an entry per URL.",
            field_name,
        )
    return urlencode(
        [
            (_encode_one(name, field_name), _encode_one(value, field_name))
            for name, given_value in pairs
            for value in _values_in(given_value)
        ]
    )


def _values_in(given: Any) -> list[object]:
    """Return the values of a name: those of a list, or the only one; without None."""
    is_several = isinstance(given, Collection) and not isinstance(given, str | _BYTES | Mapping)
    return [value for value in (given if is_several else [given]) if value is not None]


def _encode_one(value: object, field_name: str) -> bytes:
    """Encode a name or a value.

    Raises:
        ValidationError: It has no text: str() raises, or it is a collection or an iterator.
    """
    if isinstance(value, _BYTES):
        return bytes(value)
    is_one = isinstance(value, str) or not isinstance(value, Collection | Iterator)
    text = as_text(value) if is_one else None
    if text is None:
        raise ValidationError(
            f"a value of {field_name} must be text, a number or another object with a text, or a list of "
            f"these; this {type(value).__name__} has none.",
            field_name,
        )
    return to_utf8(text, field_name)


def to_utf8(text: str, field_name: str) -> bytes:
    """Encode text; ``field_name`` says what it is part of.

    Raises:
        ValidationError: It contains a lone surrogate.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        wrong = ValidationError(
            f"{field_name} contains a lone surrogate, which cannot be encoded as UTF-8.", field_name
        )
    raise wrong
