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


class _Closable(Protocol):
    def close(self) -> None: ...


_open: WeakSet[_Closable] = WeakSet()
_register = getattr(threading, "_register_atexit", atexit.register)


def close_at_exit(closable: _Closable) -> None:
    """Close an object at interpreter exit, unless `forget` is called or it is gone by then."""
    _watch_the_exit()
    _open.add(closable)


def forget(closable: _Closable) -> None:
    """Leave an object alone at exit: it has been closed."""
    _open.discard(closable)


@functools.cache
def _watch_the_exit() -> None:
    _register(_close_all)


def _close_all() -> None:
    with contextlib.ExitStack() as closing:  # one that raises must not keep the others open
        for closable in list(_open):
            closing.callback(closable.close)
