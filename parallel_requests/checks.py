"""What the values of options must be."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from parallel_requests.exceptions import ValidationError
from parallel_requests.urls import check_url
from parallel_requests.values import BOOLEAN, Check, is_count, is_rate, is_seconds


def is_timeout(value: object) -> bool:
    """Whether a value is a timeout: None, seconds above 0, or a (connect, total) pair of those."""
    if isinstance(value, tuple):
        return len(value) == 2 and all(part is None or is_seconds(part) for part in value)
    return value is None or is_seconds(value)


def _is_hook(value: object) -> bool:
    """Whether a value can be called from any thread: a coroutine function would never be awaited."""
    return callable(value) and not inspect.iscoroutinefunction(value)


def _is_rate_limit(value: object) -> bool:
    if isinstance(value, Mapping):
        return all((host == "*" or _is_host(host)) and is_rate(rate) for host, rate in value.items())
    return value is None or is_rate(value)


def _is_host(value: object) -> bool:
    if not isinstance(value, str) or set("/?#@") & set(value):
        return False
    try:
        check_url(f"http://{value}")
    except ValidationError:
        return False
    return True


def _is_mapping_or_none(value: object) -> bool:
    return value is None or isinstance(value, Mapping)


def _are_strings(value: object) -> bool:
    return isinstance(value, list | tuple | frozenset | set) and all(isinstance(item, str) for item in value)


def _is_backend(value: object) -> bool:
    if isinstance(value, str):
        return bool(value)
    return not isinstance(value, type) and hasattr(value, "send") and hasattr(value, "open")


def _is_verify(value: object) -> bool:
    if isinstance(value, str | os.PathLike):
        return os.path.exists(value)  # noqa: PTH110 - Path.exists raises for a long name
    return isinstance(value, bool)


def _is_auth(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(isinstance(part, str) for part in value)
    return value is None or value == "netrc"


def _is_pool_of(kind: str, value: object) -> bool:
    """Whether a value is a pool of a kind whose module is slow to import, or newer than this Python."""
    module = sys.modules.get(f"concurrent.futures.{kind}")
    return module is not None and isinstance(value, getattr(module, f"{kind.title()}PoolExecutor"))


def _runs_threads(value: object) -> bool:
    is_pool_of_others = _is_pool_of("process", value) or _is_pool_of("interpreter", value)
    return isinstance(value, Executor) and not is_pool_of_others


def _one_or_several(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Check a value for all URLs, or those of a tuple; planning checks those of a list one by one."""

    def accepts_any(value: Any) -> bool:
        if isinstance(value, tuple):
            return all(map(accepts, value))
        return isinstance(value, list) or accepts(value)

    return accepts_any


BOOLEAN_OR_NONE = Check(lambda value: value is None or BOOLEAN.accepts(value), "True, False or None")
AT_LEAST_1_OR_NONE = Check(
    lambda value: value is None or is_count(value, 1), "a whole number of at least 1, or None"
)
BYTES_OR_NONE = Check(lambda value: value is None or is_count(value, 0), "a whole number of bytes, or None")
BYTES_AT_LEAST_1 = Check(lambda value: is_count(value, 1), "a whole number of bytes of at least 1")
SECONDS_OR_NONE = Check(lambda value: value is None or is_seconds(value), "seconds above 0, or None")
TIMEOUT = Check(
    lambda value: all(map(is_timeout, value)) if isinstance(value, list) else is_timeout(value),
    "seconds above 0, a (connect, total) pair, None, or a list with one of these per URL",
)
STRINGS = Check(_are_strings, "a list of strings")
PROXIES = Check(
    _are_strings, "a list of proxy URLs to rotate through (one for all calls is proxy=)", is_secret=True
)
HOOK = Check(
    lambda value: value is None or _is_hook(value), "a function, but not a coroutine function, or None"
)
BACKEND = Check(_is_backend, "the name of a backend or an instance of a Backend")
RATE_LIMIT = Check(
    _is_rate_limit,
    "a number of attempts per second above 0, a dict of host (or host:port, or '*') to such, or None",
)
RATE_OR_NONE = Check(
    lambda value: value is None or is_rate(value), "a number of attempts per second above 0, or None"
)
METHOD = Check(
    _one_or_several(lambda value: isinstance(value, str)), "an HTTP method, or a list with one per URL"
)
PARAMS = Check(
    lambda value: _is_mapping_or_none(value) or isinstance(value, tuple | str | list),
    "a mapping, a tuple of pairs, text or None, or a list with one of these per URL",
    is_secret=True,
)
JSON = Check(lambda _: True, "what json.dumps() can encode")  # found out when it does
DATA = Check(
    lambda value: (
        _is_mapping_or_none(value) or isinstance(value, tuple | str | bytes | bytearray | memoryview | list)
    ),
    "bytes, text, a mapping, a tuple of pairs or None, or a list with one of these per URL",
    is_secret=True,
)
MAPPING = Check(
    _one_or_several(_is_mapping_or_none),
    "a mapping or None, or a list with one of these per URL",
    is_secret=True,
)
PROXY = Check(
    _one_or_several(lambda value: value is None or value is False or isinstance(value, str)),
    "the URL of a proxy, False or None, or a list with one of these per URL",
    is_secret=True,
)
AUTH = Check(
    _is_auth,
    "a (user, password) tuple, 'netrc' or None (a token goes into headers, as Authorization)",
    is_secret=True,
)
VERIFY = Check(_is_verify, "True, False or the path of a CA bundle that exists")
PARSE_PROCESSES = Check(
    lambda value: is_count(value, 0) or _is_pool_of("process", value),
    "a whole number of processes or a ProcessPoolExecutor",
)
PROGRESS = Check(
    # A class, such as tqdm, would make a new object of each call.
    lambda value: BOOLEAN.accepts(value) or (_is_hook(value) and not isinstance(value, type)),
    "True for a bar, False, or a function of (completed, total)",
)
EXECUTOR = Check(
    lambda value: value is None or _runs_threads(value),
    "a concurrent.futures executor of threads, or None",
)
