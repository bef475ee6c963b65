"""The child's side of a parse process: its main function."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

from parallel_requests.models import ReturnType
from parallel_requests.parsing.work import Work, parse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from parallel_requests.parsing.work import Parcel

_REPLY_SECONDS = 0.05
_REPLY_BYTES = 1 << 20
"""A worker sends back what it has done after this many seconds, or this many bytes."""


def serve(connection: Connection) -> None:
    """Serve the parent until it closes the connection: the main function of a parse process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only needed where it could not be blocked: on Windows
    if sys.platform != "win32":
        # A process that parse_func forks and that lives on would hide the end of this one from the parent.
        os.register_at_fork(after_in_child=connection.close)
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
