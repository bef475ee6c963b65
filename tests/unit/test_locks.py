"""The lock: no signal leaves it locked."""

from __future__ import annotations

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def interrupting_timer() -> Iterator[None]:
    """Make the timer for processor time raise, as Ctrl-C does; pytest-timeout uses the other one."""

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGVTALRM, interrupt)
    yield
    signal.signal(signal.SIGVTALRM, before)


@pytest.mark.usefixtures("interrupting_timer")
def test_ctrl_c_leaves_it_unlocked() -> None:
    lock = Lock()
    with ThreadPoolExecutor(1) as other_thread:
        for _ in range(100):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)
                while True:
                    with lock:
                        pass
            assert other_thread.submit(lock.acquire, blocking=False).result()
            other_thread.submit(lock.release).result()


def test_it_is_reentrant() -> None:
    lock = Lock()
    with lock, lock:
        pass
    with ThreadPoolExecutor(1) as other_thread:
        assert other_thread.submit(lock.acquire, blocking=False).result()
