"""The lock that guards what more than one thread changes.

It is reentrant, as the garbage collector may run while it is held, and end an iterator or a coroutine whose
batch needs the same lock.
"""

from __future__ import annotations

import sys
import threading

if sys.version_info[:2] == (3, 14):

    class Lock(type(threading.RLock())):
        """An `RLock` that no Ctrl-C leaves locked.

        In a ``with`` statement, CPython 3.14 may handle a signal when `__enter__` has returned but it is not
        yet sure that `__exit__` will be called (https://github.com/python/cpython/issues/148874).
        """

        def __enter__(self) -> bool:
            taken: list[bool] = []
            try:
                taken.extend(map(self.acquire, (True,)))  # no signal is handled between taking and noting it
            except BaseException:
                if taken:
                    self.release()
                raise
            return True

else:
    Lock = threading.RLock
