"""Items are handled one at a time, whichever thread brings them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from parallel_requests.turns import Turns


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
