"""The caller's eyes on a run: result hooks, progress, and the receiver of streamed chunks."""

from __future__ import annotations

import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol, cast

from parallel_requests.exceptions import ConfigurationError
from parallel_requests.models import Request, Result
from parallel_requests.options import Settings, StreamCallback

logger = logging.getLogger("parallel_requests")


class _Bar(Protocol):
    def update(self, n: int) -> object: ...
    def close(self) -> object: ...


def observers(settings: Settings, total: int | None) -> Callable[[Result[Any]], None] | None:
    """Return what is to be called with each Result, or None where nobody looks.

    Calls come one at a time, in a copy of the context of this call; what they raise is logged.
    """
    hooks = [hook for hook in (settings.on_result, _progress(settings.progress, total)) if hook is not None]
    if not hooks:
        return None
    context = contextvars.copy_context()
    lock = threading.Lock()  # one call at a time

    def observe(result: Result[Any]) -> None:
        with lock:
            for hook in hooks:
                try:
                    context.copy().run(hook, result)
                except Exception:
                    logger.exception("%r raised; the run goes on", hook)

    return observe


def in_context(hook: Callable[..., object]) -> Callable[..., object]:
    """Return a hook that runs in a copy of the context of this call."""
    context = contextvars.copy_context()
    return lambda *args: context.copy().run(hook, *args)


def _progress(
    progress: bool | Callable[[int, int | None], object], total: int | None
) -> Callable[[Result[Any]], object] | None:
    if progress is False:
        return None
    if progress is True:
        bar = _new_bar(total)

        def advance(result: Result[Any]) -> None:
            bar.update(1)

        return advance
    completed = 0

    def count(result: Result[Any]) -> None:
        nonlocal completed
        completed += 1
        progress(completed, total)

    return count


def _new_bar(total: int | None) -> _Bar:
    try:
        from tqdm import tqdm
    except ImportError:
        missing = ConfigurationError(
            "progress=True needs the package tqdm: install it with pip install 'parallel-requests[progress]'.",
            "progress",
        )
    else:
        return cast("_Bar", tqdm(total=total, unit="call"))
    raise missing


def chunk_receiver(callback: StreamCallback) -> Callable[[bytes, Request], object]:
    """Return a function of chunk and Request around a callback that may want the chunk alone.

    It runs in a copy of the context of this call.
    """
    context = contextvars.copy_context()
    takes_request = _count_positional(callback) >= 2

    def receive(chunk: bytes, request: Request) -> object:
        arguments = (chunk, request) if takes_request else (chunk,)
        return context.copy().run(callback, *arguments)  # type: ignore[arg-type]

    return receive


def _count_positional(callback: Callable[..., object]) -> int:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):  # a builtin such as list.append
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
