"""Decoding and parsing in the thread that has the response, or on one beside the engine's."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from parallel_requests.decoding import DECODERS
from parallel_requests.exceptions import DecodeError, ParallelRequestsError, ParseError, RunStoppedError
from parallel_requests.exchange import stop_error
from parallel_requests.models import Response, Result, ReturnType
from parallel_requests.redaction import redact, text_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from parallel_requests.policy import Policy

Deliver: TypeAlias = Callable[[Result[Any]], None]
Parse: TypeAlias = Callable[[Result[Any], Deliver], None]
ParseFunc: TypeAlias = Callable[[Any], Any]


class InPlaceParser:
    """Decodes and parses in the thread that has the response."""

    def __init__(self, return_type: ReturnType, parse_func: ParseFunc | None) -> None:
        """Set up the parser.

        Args:
            return_type: What to decode responses to.
            parse_func: The caller's function; it runs in a copy of the current context.
        """
        self._decode = DECODERS[return_type]
        self._parse_func = parse_func
        self._context = contextvars.copy_context()

    def __call__(self, result: Result[Any], deliver: Deliver) -> None:
        """Decode a Result's response and deliver the Result."""
        response = result.response
        assert response is not None  # noqa: S101 - failures are not parsed
        try:
            value = self._decode(response)
            if self._parse_func is not None:
                value = self._context.copy().run(self._parse_func, value)
            result.value = value
        except DecodeError as error:
            # With a traceback, by whose frames it would refer to itself, its body would be freed much later.
            result.error = error.with_traceback(None)
        except BaseException as error:  # noqa: BLE001 - even a SystemExit must not lose the item
            result.error = parse_failure(response, error)
        deliver(result)


class ThreadParser:
    """Parses on a thread of its own, so that a slow ``parse_func`` does not block an engine."""

    def __init__(self, parser: Parse, executor: Executor, policy: Policy) -> None:
        """Set up the parser.

        Args:
            parser: The parser to run there.
            executor: The thread.
            policy: The policy of the batch, whose end also ends the parsing.
        """
        self._parser = parser
        self._executor = executor
        self._policy = policy

    def __call__(self, result: Result[Any], deliver: Deliver) -> None:
        """Submit a Result to the thread."""
        try:
            self._executor.submit(self._parse, result, deliver)
        except RuntimeError:  # a hook has closed the session, on the engine's own thread
            result.error = stop_error(RunStoppedError(), result.request, result.attempts)
            deliver(result)

    def _parse(self, result: Result[Any], deliver: Deliver) -> None:
        stop = self._policy.reason_to_stop()
        if stop is None:
            self._parser(result, deliver)
        else:
            result.error = stop_error(stop, result.request, result.attempts)
            deliver(result)


def parse_failure(response: Response, error: BaseException) -> ParallelRequestsError:
    """Return the error of an item whose ``parse_func`` raised."""
    told = f"{type(error).__name__} for {redact(response.url)}"
    if reason := text_of(error).removesuffix("."):
        told += f": {reason}"
    failure = ParseError(f"parse_func raised {told}. The response is kept in .response.", response)
    failure.__cause__ = error
    return failure
