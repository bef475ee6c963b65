"""Creates the parsers of batches, and owns the thread and the processes that those of a session share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from parallel_requests.exceptions import ConfigurationError, RunStoppedError, starting
from parallel_requests.locks import Lock
from parallel_requests.models import ReturnType
from parallel_requests.parsing.in_place import InPlaceParser, Parse, ThreadParser

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import ProcessPoolExecutor

    from parallel_requests.options import Settings
    from parallel_requests.parsing.processes import ParsePool
    from parallel_requests.policy import Policy


class Parsers:
    """Creates parsers, and closes what they run on."""

    def __init__(self, *, on_own_thread: bool) -> None:
        """Start nothing yet.

        Args:
            on_own_thread: Whether parsing needs a thread of its own, as the engine's only one must not block.
        """
        self._on_own_thread = on_own_thread
        self._ident: int | None = None  # of the thread, once it runs
        self._lock = Lock()  # guards all below
        self._thread: ThreadPoolExecutor | None = None
        self._pools: dict[int | ProcessPoolExecutor, ParsePool] = {}
        self._is_closed = False

    def parser(
        self, settings: Settings, policy: Policy, kind: ReturnType, parse_func: Callable[[Any], Any] | None
    ) -> Parse:
        """Return the parser of a batch.

        Raises:
            ConfigurationError: ``parse_func`` cannot be sent to a process, or the pool cannot be used.
        """
        if settings.parse_processes and (parse_func is not None or kind is ReturnType.JSON):
            return self._in_processes(settings.parse_processes, policy, kind, parse_func)
        parser = InPlaceParser(kind, parse_func)
        return parser if parse_func is None else self.off_the_engine(parser, policy)

    def off_the_engine(self, parser: Parse, policy: Policy) -> Parse:
        """Return a parser that does not block the only thread of an event-driven engine.

        Raises:
            ConfigurationError: The caller is the parser's thread, which would wait for itself.
            ResourceExhausted: The parser's thread cannot be started.
        """
        if not self._on_own_thread:
            return parser
        if self._is_at_work_here():
            raise ConfigurationError(
                "A parse_func cannot wait for another one on the session that runs it: use another session."
            )
        with self._lock:
            self._check_open()
            if self._thread is None:
                thread = ThreadPoolExecutor(1, "parallel-requests-parse")
                with starting("The parser's thread"):
                    thread.submit(self._begin)  # now, so that a failure is the call's and not an item's
                self._thread = thread
            return ThreadParser(parser, self._thread, policy)

    def close(self) -> None:
        """End the thread and the processes; called on that thread, by a hook, it does not wait for it."""
        with self._lock:
            self._is_closed = True
            thread, self._thread = self._thread, None
            pools = list(self._pools.values())
            self._pools.clear()
        if thread is not None:
            thread.shutdown(wait=not self._is_at_work_here())
        for pool in pools:
            pool.close()

    def _in_processes(
        self,
        processes: int | ProcessPoolExecutor,
        policy: Policy,
        kind: ReturnType,
        parse_func: Callable[[Any], Any] | None,
    ) -> Parse:
        from parallel_requests.parsing.processes import ParsePool, ProcessParser
        from parallel_requests.parsing.work import plan_work

        work = plan_work(kind, parse_func)
        with self._lock:
            self._check_open()
            pool = self._pools.get(processes)
            if pool is None:
                pool = self._pools[processes] = ParsePool(processes)
        pool.prepare()
        return ProcessParser(pool, work, policy)

    def _begin(self) -> None:
        self._ident = threading.get_ident()

    def _is_at_work_here(self) -> bool:
        return threading.get_ident() == self._ident

    def _check_open(self) -> None:
        if self._is_closed:
            raise RunStoppedError
