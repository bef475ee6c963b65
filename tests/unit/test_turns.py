"""Items are handled one at a time, whichever thread brings them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from parallel_requests.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_item_brought_meanwhile_is_left_to_the_thread_that_is_handling() -> None:
    handled: list[tuple[int, int]] = []
    is_at_it, may_go_on = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        is_at_it.set()
        assert may_go_on.wait(10)
        handled.append((item, threading.get_ident()))

    turns = Turns(handle)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(turns.bring, 1)
        assert is_at_it.wait(10)
        turns.bring(2)
        turns.bring(3)
        assert handled == []
        may_go_on.set()
        first.result(10)
    assert [item for item, _ in handled] == [1, 2, 3]
    assert threading.get_ident() not in {thread for _, thread in handled}


def test_what_is_brought_while_handling_comes_after() -> None:
    handled: list[int] = []

    def handle(item: int) -> None:
        if item == 1:
            turns.bring(2)
        handled.append(item)

    turns = Turns(handle)
    turns.bring(1)
    assert handled == [1, 2]


def test_everything_is_handled_once_and_alone() -> None:
    handled: list[int] = []
    busy = threading.Lock()

    def handle(item: int) -> None:
        assert busy.acquire(blocking=False)
        handled.append(item)
        busy.release()

    turns = Turns(handle)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(turns.bring, range(2_000)))
    assert sorted(handled) == list(range(2_000))


class Interrupted:
    """A lock; when it is first released, something else happens before its holder goes on."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._happens: Callable[[], object] | None = happens

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        happens, self._happens = self._happens, None
        if happens is not None:
            happens()


def test_what_is_brought_just_before_handling_begins_is_left_to_it() -> None:
    handled: list[tuple[int, int]] = []
    has_decided = threading.Event()

    def handle(item: int) -> None:
        handled.append((item, threading.get_ident()))
        has_decided.set()

    def bring_another() -> None:
        threads.submit(turns.bring, 2).add_done_callback(lambda _: has_decided.set())
        assert has_decided.wait(10)

    turns = Turns(handle)
    turns._lock = Interrupted(bring_another)  # type: ignore[assignment]
    with ThreadPoolExecutor(1) as threads:
        turns.bring(1)
    assert handled == [(1, threading.get_ident()), (2, threading.get_ident())]


def test_what_raises_does_not_stop_the_next() -> None:
    handled: list[int] = []

    def handle(item: int) -> None:
        if item == 1:
            raise KeyboardInterrupt
        handled.append(item)

    turns = Turns(handle)
    with pytest.raises(KeyboardInterrupt):
        turns.bring(1)
    turns.bring(2)
    assert handled == [2]
