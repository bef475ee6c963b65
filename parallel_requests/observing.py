"""The caller's eyes on a run: result hooks, progress, and the receiver of streamed chunks."""

from __future__ import annotations

import contextvars
import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.models import Request, Result
    from parallel_requests.options import Settings, StreamCallback

logger = logging.getLogger("parallel_requests")


class _Bar(Protocol):
    total: float | None

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
                except BaseException:  # a SystemExit here must not take the item along
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

        def advance(_result: Result[Any]) -> None:
            bar.update(1)

        return advance
    completed = 0

    def count(_result: Result[Any]) -> None:
        nonlocal completed
        completed += 1
        progress(completed, total)

    return count


class ByteProgress:
    """Tells how many bytes have come, in a bar or to a callback (completed, total).

    The total grows as answers announce their sizes; it is None while none has.
    """

    def __init__(self, progress: Literal[True] | Callable[[int, int | None], object]) -> None:
        """Set up.

        Args:
            progress: True for a bar.

        Raises:
            ConfigurationError: There is nothing to draw a bar with.
        """
        self._bar = _new_bar(None, unit="B", unit_scale=True) if progress is True else None
        self._callback = None if progress is True else in_context(progress)
        self._lock = threading.Lock()  # one call at a time
        self._completed = self._total = 0

    def advance(self, completed: int, total: int) -> None:
        """Count bytes that have come, and bytes announced; where a file begins anew, less than none."""
        with self._lock:
            self._completed += completed
            self._total += total
            if self._bar is not None:
                self._bar.total = self._total or None
                self._bar.update(completed)
            elif self._callback is not None:
                try:
                    self._callback(self._completed, self._total or None)
                except BaseException:
                    logger.exception("progress raised; the run goes on")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()


def _new_bar(total: int | None, **options: Any) -> _Bar:
    try:
        from tqdm import tqdm
    except ImportError:
        missing = ConfigurationError(
            "progress=True needs the package tqdm: pip install 'parallel-requests[progress]'.",
            "progress",
        )
    else:
        # Without the thread that tqdm would start, to outlive the bar.
        quiet = type("tqdm", (tqdm,), {"monitor_interval": 0})
        return cast("_Bar", quiet(**{"total": total, "unit": "call", **options}))
    raise missing


def chunk_receiver(callback: StreamCallback) -> Callable[[bytes, Request], object]:
    """Return a function of chunk and Request around a callback that may want the chunk alone.

    It runs in a copy of the context of this call.
    """
    context = contextvars.copy_context()
    takes_request = _count_positional(callback) >= 2

    def receive(chunk: bytes, request: Request) -> object:
        arguments = (chunk, request) if takes_request else (chunk,)
        return context.copy().run(callback, *arguments)

    return receive


def _count_positional(callback: Callable[..., object]) -> int:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):  # a builtin such as list.append
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
