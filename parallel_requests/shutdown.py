"""Closes what is still open when the interpreter exits.

``atexit`` runs after the interpreter has joined all threads, and so would wait for attempts that
never end. ``concurrent.futures`` meets the same need with the hook of ``threading`` used here.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
from typing import Protocol
from weakref import WeakSet

from parallel_requests.exceptions import RunStoppedError


class _Closable(Protocol):
    def close(self) -> None: ...


_open: WeakSet[_Closable] = WeakSet()
_exit_begun = threading.Event()
_register = getattr(threading, "_register_atexit", atexit.register)


def close_at_exit(closable: _Closable) -> None:
    """Close an object at interpreter exit, unless it is gone by then; one that is closed may be closed again.

    Raises:
        RunStoppedError: The exit has begun: nothing could be started any more, nor closed.
    """
    try:
        _register_once()
    except RuntimeError:
        _exit_begun.set()
    if _exit_begun.is_set():
        raise RunStoppedError("The interpreter is shutting down, and nothing more can be sent.")
    _open.add(closable)


@functools.cache
def _register_once() -> None:
    _register(_close_all)


def _close_all() -> None:
    _exit_begun.set()
    with contextlib.ExitStack() as closing:  # one that raises must not keep the others open
        for closable in list(_open):
            closing.callback(closable.close)
