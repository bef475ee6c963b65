"""The callers' functions during a run: the hook for Results, progress, and the receiver of chunks."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import logging
import threading
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from parallel_requests.exceptions import ConfigurationError, ParallelRequestsError
from parallel_requests.locks import Lock
from parallel_requests.redaction import redact, text_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.models import Request, Result
    from parallel_requests.options import StreamCallback

T = TypeVar("T")

logger = logging.getLogger("parallel_requests")


class _Bar(Protocol):
    total: float | None

    def update(self, n: int) -> object: ...
    def close(self) -> object: ...


class Observer:
    """Calls the caller's hook and progress with each Result; called with one Result at a time.

    The hook runs in a copy of the context in which this was made; what it raises is logged.
    """

    def __init__(
        self, on_result: Callable[[Result[Any]], object] | None, progress: Progress | None = None
    ) -> None:
        """Set up.

        Args:
            on_result: The hook.
            progress: Counts the Results.
        """
        self._on_result = None if on_result is None else in_context(on_result)
        self._progress = progress

    def __bool__(self) -> bool:
        """Whether there is a hook or progress to call."""
        return self._on_result is not None or self._progress is not None

    def __call__(self, result: Result[Any]) -> None:
        """Report a Result."""
        if self._on_result is not None:
            try:
                self._on_result(result)
            except BaseException as error:  # even a SystemExit must not lose the item
                if _is_ctrl_c(error):
                    raise
                logger.exception("on_result raised; the run goes on")
        if self._progress is not None:
            self._progress.advance(1)

    def close(self) -> None:
        """Close the bar."""
        if self._progress is not None:
            self._progress.close()


def _is_ctrl_c(error: BaseException) -> bool:
    """Whether an exception is a Ctrl-C, which Python raises on the main thread only."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


class Progress:
    """Shows how much is done, in a bar or to a callback (completed, total).

    A total that grows as sizes are announced is None until the first one is.
    """

    def __init__(
        self,
        progress: Literal[True] | Callable[[int, int | None], object],
        total: int | None = None,
        *,
        unit: Literal["call", "B"] = "call",
    ) -> None:
        """Set up, and draw the bar if there is one.

        Args:
            progress: True for a bar.
            total: How much there is in total, if that is known.
            unit: What is counted: calls or bytes.

        Raises:
            ConfigurationError: A bar needs tqdm, which is not installed.
        """
        self._bar = _new_bar(total, unit) if progress is True else None
        self._callback = None if progress is True else in_context(progress)
        self._lock = Lock()  # one call at a time
        self._completed = 0
        self._total = total or 0

    def advance(self, completed: int, announced: int = 0) -> None:
        """Add to what is done and to what is announced; negative if a file starts over."""
        with self._lock:
            self._completed += completed
            self._total += announced
            if self._bar is not None:
                self._bar.total = self._total or None
                self._bar.update(completed)
            elif self._callback is not None:
                try:
                    self._callback(self._completed, self._total or None)
                except BaseException as error:
                    if _is_ctrl_c(error):
                        raise
                    logger.exception("progress raised; the run goes on")

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            with self._lock, contextlib.suppress(OSError):  # nobody reads stderr any more
                self._bar.close()


def in_context(function: Callable[..., T]) -> Callable[..., T]:
    """Wrap a function of the caller's so that it runs in a copy of the current context."""
    context = contextvars.copy_context()
    return lambda *args: context.copy().run(function, *args)


def _new_bar(total: int | None, unit: str) -> _Bar:
    try:
        from tqdm import tqdm
    except ImportError:
        missing = ConfigurationError(
            "progress=True needs the package tqdm: pip install 'parallel-requests[progress]'.",
            "progress",
        )
    else:

        def display(bar: Any, *args: Any, **options: Any) -> None:
            try:
                tqdm.display(bar, *args, **options)
            except OSError:  # nobody reads stderr any more; and tqdm would keep the lock of all its bars
                bar.disable = True

        # Without the monitor thread that tqdm would start, which outlives the bar.
        robust = type("tqdm", (tqdm,), {"monitor_interval": 0, "display": display})
        return cast("_Bar", robust(total=total, unit=unit, unit_scale=unit == "B"))
    raise missing


def chunk_receiver(callback: StreamCallback) -> Callable[[bytes, Request], object]:
    """Wrap a callback, which may take only the chunk, as a function of chunk and Request.

    It runs in a copy of the current context. What it raises is wrapped in an error of ours: an OSError
    of its own would otherwise be mistaken for a network failure.
    """
    call = in_context(callback)
    takes_request = _count_required(callback) >= 2

    def receive(chunk: bytes, request: Request) -> object:
        arguments = (chunk, request) if takes_request else (chunk,)
        try:
            return call(*arguments)
        except BaseException as error:  # even a SystemExit must not lose the item
            raise ParallelRequestsError(
                f"stream_callback raised {type(error).__name__} for {redact(request.url)}: {text_of(error)}"
            ) from error

    return receive


def _count_required(callback: Callable[..., object]) -> int:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except (TypeError, ValueError):  # a builtin such as list.append
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
