"""The interface of an engine, and what all engines share apart from the `Scheduler`."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Protocol

from parallel_requests.exceptions import (
    BackendError,
    ConfigurationError,
    ParallelRequestsError,
    RunStoppedError,
)

if TYPE_CHECKING:
    from parallel_requests.backends.base import Backend
    from parallel_requests.engines.run import Run
    from parallel_requests.models import Request

logger = logging.getLogger("parallel_requests")


class Engine(Protocol):
    """Carries out batches: what a session needs of an engine.

    Attributes:
        threads: The threads it works on.
    """

    threads: EngineThreads

    def submit(self, run: Run) -> None:
        """Start a batch.

        Raises:
            RunStoppedError: The engine is closed, or was started in another process.
            ConfigurationError: The caller is one of the engine's own threads, and so cannot wait for it.
            RuntimeError: No thread is left, or the caller's executor takes nothing any more.
            OSError: No socket is left.
        """

    def wake(self) -> None:
        """Look at the runs again: one has been fed, or has room for more."""

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: send no more of it, and abort what is in flight."""

    def close(self) -> None:
        """End everything and release threads and sockets."""


class EngineThreads:
    """The threads an engine works on, and the process they belong to.

    A batch started from the wrong place would never end: threads do not survive a fork, and a thread
    that the engine needs must not wait for the engine.
    """

    def __init__(self) -> None:
        self._process: int | None = None
        self._threads: set[int] = set()

    def check_caller(self) -> None:
        """Check that the caller may wait for the engine, which belongs to the process of its first caller.

        Raises:
            RunStoppedError: The session was used before a fork, and this is the child.
            ConfigurationError: This is one of the engine's own threads.
        """
        self.check_process()
        if self._process is None:
            self._process = os.getpid()
        if self.is_worker():
            raise ConfigurationError(
                "A hook or parse_func cannot wait for a call on the session that runs it: use another one."
            )

    def check_process(self) -> None:
        """Check that the engine may be used in this process.

        Raises:
            RunStoppedError: The session was used before a fork, and this is the child.
        """
        if self.is_in_child_process():
            raise RunStoppedError(
                "The session was used by the parent of this process, and cannot be used here: open one "
                "in each process."
            )

    def enter(self) -> None:
        """Register the calling thread as one of the engine's."""
        self._threads.add(threading.get_ident())

    def leave(self) -> None:
        """Unregister it."""
        self._threads.discard(threading.get_ident())

    def is_worker(self) -> bool:
        """Whether the calling thread works for the engine."""
        return threading.get_ident() in self._threads

    def is_in_child_process(self) -> bool:
        """Whether this process was forked from the one that started the engine."""
        return self._process not in (None, os.getpid())


def translated(backend: Backend, error: BaseException, request: Request) -> ParallelRequestsError:
    """Return the backend's translation of an error; if that fails, only this one item does."""
    try:
        return backend.translate(error, request)
    except BaseException as bug:
        logger.exception("the backend %r failed to translate an error", backend.name)
        return BackendError(
            f"{request!r} failed, and so did its backend's translation: {type(bug).__name__}.",
            backend.name,
            request.url,
        )
