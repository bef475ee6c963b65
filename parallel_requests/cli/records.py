"""A Result as one line of JSON."""

from __future__ import annotations

import base64
import json
from typing import Any

from parallel_requests.models import Response, Result
from parallel_requests.part_files import Download
from parallel_requests.redaction import redact


def line_of(result: Result[Any]) -> tuple[str, bool]:
    """Return a result as one line of JSON, and whether it is a success."""
    record: dict[str, Any] = {
        "index": result.index,
        "url": redact(str(result.request.url)),
        "status": None if result.response is None else result.response.status_code,
        "attempts": result.attempts,
        "elapsed": round(result.elapsed, 6),
    }
    own = {"key": result.key, "meta": result.meta}
    record.update({name: value for name, value in own.items() if value is not None})
    if result.error is None:
        try:
            return json.dumps({**record, "value": _plain(result.value)}, allow_nan=False), True
        except (ValueError, RecursionError) as error:  # NaN, or nested too deeply
            failure: Exception = error
    else:
        failure = result.error
    record["error"] = {"type": type(failure).__name__, "message": str(failure)}
    return json.dumps(record), False


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Download):
        return {"path": str(value.path), "size": value.size, "sha256": value.sha256, "status": value.status}
    if isinstance(value, Response):
        return {
            "url": redact(value.url),
            "http_version": value.http_version,
            "reason": value.reason,
            "headers": dict(value.headers),
            "text": value.text,
        }
    return value
