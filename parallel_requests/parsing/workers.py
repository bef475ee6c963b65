"""The workers that parse: processes of our own, or slots in the caller's pool."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from parallel_requests.exceptions import ConfigurationError
from parallel_requests.parsing.child import serve
from parallel_requests.parsing.work import parse_all
from parallel_requests.redaction import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import ProcessPoolExecutor

    from parallel_requests.parsing.items import Item, Job

PATIENCE = 0.3
"""Seconds a child has to end by itself, and again after each way of ending it."""

Reply: TypeAlias = tuple[float, list[bytes]]
"""Seconds of work, and for each finished item a pickled pair of value and error."""


class Worker(Protocol):
    """Takes one chunk at a time.

    Attributes:
        items: The items it has not finished yet.
        is_idle: Whether it can be given a chunk.
        is_replaceable: Whether another one may be started in its place.
    """

    items: deque[Item]
    is_idle: bool
    is_replaceable: bool

    def waitables(self) -> list[Any]:
        """Return what ``multiprocessing.connection.wait`` has to wait for."""

    def give(self, items: list[Item]) -> None:
        """Hand over a chunk, of items of one batch.

        Raises:
            OSError: It is dead.
        """

    def receive(self) -> Reply:
        """Return what it has done.

        Raises:
            EOFError: It is dead.
            OSError: It is dead.
        """

    def abandon(self) -> bool:
        """Abandon its chunk; return False if that ends the worker, too."""

    def cause_of_end(self) -> str:
        """Clean up after its death, and return the cause."""

    def disconnect(self) -> None:
        """Tell it to end: an idle one ends by itself, a busy one is terminated."""

    def reap(self, until: float) -> None:
        """Wait for its end until a time, then force it."""

    def kill(self) -> None:
        """Kill it; called on another thread, so that the pool's does not wait for it."""


class Child:
    """A process of our own at the other end of a pipe."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # as a fork would copy locks that threads hold
        self.items: deque[Item] = deque()
        self.is_idle = False  # until it reports that it is ready
        self.is_replaceable = False  # likewise: if it cannot start, the next one cannot either
        self._job: Job | None = None
        self._connection, theirs = context.Pipe()
        if sys.platform != "win32":  # whose pipes are no sockets
            for end in (self._connection, theirs):
                os.set_blocking(end.fileno(), True)  # those of gevent do not block
        with theirs:
            try:
                self._process = context.Process(target=serve, args=(theirs,), name="parallel-requests-parse")
                with _blocked_sigint():
                    self._process.start()
            except BaseException:
                self._connection.close()
                raise

    def waitables(self) -> list[Any]:
        """Return what becomes ready when it replies or dies."""
        return [self._connection]

    def give(self, items: list[Item]) -> None:
        """Send a chunk.

        Raises:
            OSError: It is dead.
        """
        self.is_idle = False
        self.items.extend(items)
        job, parcels = items[0].job, [item.parcel() for item in items]
        new_work = None if self._job is job else job.work
        self._connection.send_bytes(pickle.dumps((new_work, parcels), pickle.HIGHEST_PROTOCOL))
        self._job = job

    def receive(self) -> Reply:
        """Return what it has done.

        Raises:
            EOFError: It is dead.
            OSError: It is dead.
        """
        message = self._connection.recv_bytes()
        reply: Reply = pickle.loads(message) if message else (0.0, [])  # noqa: S301 - from our child
        self.is_replaceable = True
        self.is_idle = len(reply[1]) == len(self.items)
        return reply

    def abandon(self) -> bool:
        """End the work on its items; False, as that is the end of the process."""
        self._process.terminate()
        return False

    def cause_of_end(self) -> str:
        """Return how it died."""
        self.reap(monotonic() + PATIENCE)
        if self.is_replaceable:
            return f"The parse process died (exit code {self._exit_code})."
        return (
            f"A parse process ended before it was ready (exit code {self._exit_code}; its output says why). "
            "A script that uses parse_processes starts its work under: if __name__ == '__main__'."
        )

    def disconnect(self) -> None:
        """Tell it to end: an idle one ends by itself, a busy one is terminated."""
        self._connection.close()
        if not self.is_idle:
            self._process.terminate()

    def reap(self, until: float) -> None:
        """Wait for its end until a time, then force it."""
        self._connection.close()
        self._process.join(max(0.0, until - monotonic()))
        for end in (self._process.terminate, self._process.kill):
            if self._process.is_alive():
                end()
                self._process.join(PATIENCE)
        self._exit_code = self._process.exitcode
        with suppress(ValueError):  # still alive: it is cleaned up when this process ends
            self._process.close()

    def kill(self) -> None:
        """Kill it; called on another thread, so that the pool's does not wait for it."""
        with suppress(ValueError):  # it has been closed meanwhile
            self._process.kill()


class Slot:
    """A slot in the caller's pool; the pool itself is never shut down or repaired."""

    is_replaceable = False

    def __init__(self, executor: ProcessPoolExecutor) -> None:
        self.items: deque[Item] = deque()
        self.is_idle = True
        self._executor = executor
        self._future: Future[Reply] = Future()
        self._wake_reader, self._wake_writer = multiprocessing.Pipe(duplex=False)
        self._problem = ""

    def waitables(self) -> list[Any]:
        """Return what becomes ready when a chunk is done."""
        return [self._wake_reader]

    def give(self, items: list[Item]) -> None:
        """Submit a chunk; if that fails, `receive` raises."""
        self.is_idle = False
        self.items.extend(items)
        parcels = [item.parcel() for item in items]
        try:
            self._future = self._executor.submit(parse_all, items[0].job.work, parcels)
        except RuntimeError as error:  # broken, or shut down
            self._future = Future()
            self._future.set_exception(error)
        self._future.add_done_callback(self._ring)

    def _ring(self, _: Future[Reply]) -> None:
        with suppress(OSError):  # nobody is waiting
            self._wake_writer.send_bytes(b"")

    def receive(self) -> Reply:
        """Return what was done.

        Raises:
            EOFError: The pool is broken.
        """
        self._wake_reader.recv_bytes()
        self.is_idle = True
        try:
            return self._future.result()
        except CancelledError:
            if not self.items:  # by us
                return 0.0, []
            self._problem = "its work was cancelled"
        except Exception as error:  # noqa: BLE001 - the pool is the caller's, and so are its errors
            self._problem = f"{type(error).__name__}: {text_of(error)}"
        raise EOFError

    def abandon(self) -> bool:
        """Cancel the chunk if the pool has not begun it; return True, as the slot lives on."""
        self._future.cancel()
        return True

    def cause_of_end(self) -> str:
        """Return what became of the pool."""
        self.disconnect()
        return (
            f"The process pool given as parse_processes is broken ({self._problem}). "
            "As it is the caller's, it is not rebuilt here."
        )

    def disconnect(self) -> None:
        """Let go of the pool."""
        self._future.cancel()
        self._wake_reader.close()
        self._wake_writer.close()

    def reap(self, until: float) -> None:
        """Do nothing: the processes are the caller's."""

    def kill(self) -> None:
        """Do nothing: the processes are the caller's."""


def check_can_start() -> None:
    """Check that processes can be started from here.

    Raises:
        ConfigurationError: They could not import the main module; or this is itself a process that is
            just doing so, or one that may have no children.
    """
    this = multiprocessing.current_process()
    if this.daemon:
        raise ConfigurationError(
            "parse_processes needs children, which a daemonic process may not have: use 0 here.",
            "parse_processes",
        )
    if getattr(this, "_inheriting", False):
        raise ConfigurationError(
            "parse_processes was used while a child process imports the main module: "
            "start the work of the script under: if __name__ == '__main__'.",
            "parse_processes",
        )
    if getattr(sys, "frozen", False):
        return  # its children are started from the executable, not from a file of the main module
    main = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if getattr(main, "__spec__", None) is None and path is not None and not Path(path).exists():
        raise ConfigurationError(
            f"parse_processes needs a main module that can be imported again, and {path} is not a file: "
            "save the script in one.",
            "parse_processes",
        )


@contextmanager
def _blocked_sigint() -> Iterator[None]:
    """Let no Ctrl-C disturb the process that is started meanwhile, which inherits the mask of this thread.

    Ctrl-C reaches children, too, but it is the parent who decides what ends.
    """
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # otherwise `start` would do it, and unblock the signal
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
