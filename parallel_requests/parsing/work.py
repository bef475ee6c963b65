"""What is sent to a parse process and back, and what is done there.

Of a response, only what decoding needs is sent: its body, and its status and headers if ``return_type``
exposes them, or if there is no body; of the request, only its method, index and redacted URL. What comes
back is pickled item by item, so that one that cannot be pickled does not affect the others.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
import traceback
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from parallel_requests.decoding import DECODERS
from parallel_requests.exceptions import ConfigurationError, DecodeError, ParallelRequestsError, ParseError
from parallel_requests.models import Headers, Request, Response, ReturnType
from parallel_requests.parsing.in_place import parse_failure
from parallel_requests.redaction import redact, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Parcel: TypeAlias = tuple[bytes, str, list[tuple[str, str]], "tuple[Any, ...] | None"]
"""A body, its redacted URL, and the headers and other parts of the response if they are needed."""


class Work(NamedTuple):
    """What a parse process does to the responses of a batch.

    Attributes:
        return_type: What they are decoded to.
        function: The pickled ``parse_func``; None to only decode.
        by_value: Whether it was pickled with its code, by cloudpickle.
    """

    return_type: ReturnType
    function: bytes | None
    by_value: bool


def plan_work(return_type: ReturnType, parse_func: Callable[[Any], Any] | None) -> Work:
    """Return the work, ready to be sent to a process.

    Raises:
        ConfigurationError: ``parse_func`` cannot be pickled.
    """
    if parse_func is None:
        return Work(return_type, None, by_value=False)
    try:
        return Work(return_type, _dump_by_reference(parse_func), by_value=False)
    except Exception as error:  # noqa: BLE001 - whatever its class may raise
        reason = f"{type(error).__name__}: {text_of(error)}"
        problem = f"parse_func {parse_func!r} cannot be sent to a process ({reason})"
    if importlib.util.find_spec("cloudpickle") is None:
        raise ConfigurationError(
            f"{problem}. Move it to the top level of a module, or install cloudpickle for lambdas and "
            "closures: pip install 'parallel-requests[cloudpickle]'.",
            "parse_func",
        )
    import cloudpickle

    try:
        return Work(return_type, cloudpickle.dumps(parse_func), by_value=True)
    except Exception as error:  # noqa: BLE001 - whatever it closes over may raise
        problem += f", nor by cloudpickle ({type(error).__name__}: {text_of(error)})"
    raise ConfigurationError(
        f"{problem}. Move it to the top level of a module, and open there what it needs.", "parse_func"
    )


def _dump_by_reference(parse_func: Callable[[Any], Any]) -> bytes:
    function = pickle.dumps(parse_func)
    main = sys.modules["__main__"]
    is_importable = getattr(main, "__spec__", None) is not None or hasattr(main, "__file__")
    if b"__main__" in function and not is_importable:
        raise pickle.PicklingError("it was defined interactively, and cannot be imported elsewhere")
    pickle.loads(function)  # noqa: S301 - made above; fail here, rather than in a process
    return function


def pack(response: Response, return_type: ReturnType) -> Parcel:
    """Return the parts of a response that have to be sent."""
    url = redact(response.url)
    if return_type is ReturnType.CONTENT:
        return response.content, url, [], None
    # Without a body, the status and the method say whether there should be JSON.
    if return_type is ReturnType.TEXT or (return_type is ReturnType.JSON and response.content):
        return response.content, url, [("content-type", response.headers.get("content-type", ""))], None
    fields = [(name, value) for name in response.headers for value in response.headers.get_all(name)]
    rest = (
        response.status_code,
        response.reason,
        response.http_version,
        response.elapsed,
        response.request.method,
        response.request.index,
        [pack(earlier, return_type) for earlier in response.history],
    )
    return response.content, url, fields, rest


def _unpack(parcel: Parcel) -> Response:
    content, url, fields, rest = parcel
    if rest is None:
        return Response(200, Headers(fields), content, Request(url))
    status_code, reason, http_version, elapsed, method, index, history = rest
    response = Response(
        status_code,
        Headers(fields),
        content,
        Request(url, method, index=index),
        reason=reason,
        http_version=http_version,
        elapsed=elapsed,
    )
    response.history = tuple(map(_unpack, history))
    return response


def parse(work: Work, parcels: Sequence[Parcel]) -> Iterator[bytes]:
    """Do the work; yield for each parcel, in order, a pickled pair of value and error."""
    try:
        function = None if work.function is None else _load(work.function)
    except Exception as error:  # noqa: BLE001 - importing the caller's module may raise anything
        reason = f"{type(error).__name__}: {text_of(error)}"
        problem = f"parse_func cannot be loaded in a parse process ({reason})."
        yield from [_dump_failure(ParseError(problem))] * len(parcels)
        return
    for parcel in parcels:
        yield _parse_one(work, function, _unpack(parcel))


def parse_all(work: Work, parcels: Sequence[Parcel]) -> tuple[float, list[bytes]]:
    """Do the work in one go; return the seconds it took and the pickled pairs."""
    began = perf_counter()
    outcomes = list(parse(work, parcels))
    return perf_counter() - began, outcomes


@lru_cache(maxsize=4)
def _load(function: bytes) -> Callable[[Any], Any]:
    loaded: Callable[[Any], Any] = pickle.loads(function)  # noqa: S301 - from the parent
    return loaded


def _parse_one(work: Work, function: Callable[[Any], Any] | None, response: Response) -> bytes:
    try:
        value = DECODERS[work.return_type](response)
        if function is not None:
            value = function(value)
    except DecodeError as error:
        return _dump_failure(error)
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a parse_func fails its item only
        failure = parse_failure(response, error)
        failure.add_note(redact("In the parse process:\n" + "".join(traceback.format_exception(error))))
        return _dump_failure(failure)
    try:
        return _dump_value(value, by_value=work.by_value)
    except Exception as error:  # noqa: BLE001 - whatever its class may raise
        return _dump_failure(
            ParseError(
                f"What parse_func returned for {response.url}, of type {type(value).__name__}, cannot be "
                f"pickled ({type(error).__name__}: {text_of(error)}); the response is kept in .response."
            )
        )


def _dump_value(value: Any, *, by_value: bool) -> bytes:
    try:
        return pickle.dumps((value, None), pickle.HIGHEST_PROTOCOL)
    except Exception:
        if not by_value:
            raise
    import cloudpickle  # the classes of its results may have been defined interactively, too

    outcome: bytes = cloudpickle.dumps((value, None))
    return outcome


def _dump_failure(error: ParallelRequestsError) -> bytes:
    """Pickle an error without its response, which the parent has."""
    if isinstance(error, DecodeError | ParseError):
        error.response = None
    try:
        return pickle.dumps((None, error), pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - a subclass, or a cause, of the caller's
        return pickle.dumps((None, ParseError(error.message)), pickle.HIGHEST_PROTOCOL)
