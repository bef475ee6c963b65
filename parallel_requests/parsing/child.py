"""The child's side of a parse process: its main function, which Ctrl-C does not disturb."""

from __future__ import annotations

import operator
import pickle
import signal
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

from parallel_requests.models import ReturnType
from parallel_requests.parsing.work import Work, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from parallel_requests.parsing.work import Parcel

_REPLY_SECONDS = 0.05
_REPLY_BYTES = 1 << 20
"""A worker sends back what it has done after this many seconds, or this many bytes."""


class Undisturbed(str):
    """The name of a parse process, which ignores Ctrl-C from the moment it unpickles it.

    Ctrl-C reaches children, too, but it is the parent who decides what ends. The name is the first thing
    that a child is sent: before it has imported the main module, which may take long and would end in a
    traceback. Only the standard library can be imported by then.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return operator.getitem, ((_IgnoredCtrlC(), str(self)), 1)


class _IgnoredCtrlC:
    """Becomes a call when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return signal.signal, (signal.SIGINT, signal.SIG_IGN)


def serve(connection: Connection) -> None:
    """Serve the parent until it closes the connection: the main function of a parse process."""
    with suppress(EOFError, OSError):
        connection.send_bytes(b"")
        work = Work(ReturnType.JSON, None, by_value=False)
        while True:
            new_work, parcels = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the parent
            work = new_work or work
            _reply(connection, work, parcels)


def _reply(connection: Connection, work: Work, parcels: Sequence[Parcel]) -> None:
    done: list[bytes] = []
    size = 0
    began = perf_counter()
    for outcome in parse(work, parcels):
        done.append(outcome)
        size += len(outcome)
        seconds = perf_counter() - began
        if seconds >= _REPLY_SECONDS or size >= _REPLY_BYTES:
            connection.send_bytes(pickle.dumps((seconds, done)))
            done, size, began = [], 0, perf_counter()
    if done:
        connection.send_bytes(pickle.dumps((perf_counter() - began, done)))
