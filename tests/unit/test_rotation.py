"""Rotation: entries are used in turn or at random."""

from __future__ import annotations

import random
import threading

import pytest

from parallel_requests.gates.rotation import Rotation

ENTRIES = ["a", "b", "c"]


def test_entries_come_in_turn() -> None:
    rotation = Rotation(ENTRIES)
    assert [rotation.next() for _ in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]


def test_at_random_from_the_given_source() -> None:
    rotation, same = Rotation(ENTRIES, at_random=True, source=random.Random(7)), random.Random(7)
    assert [rotation.next() for _ in range(50)] == [same.choice(ENTRIES) for _ in range(50)]


def test_at_random_from_a_source_of_its_own() -> None:
    first, second = Rotation(ENTRIES, at_random=True), Rotation(ENTRIES, at_random=True)
    drawn = [first.next() for _ in range(64)]
    assert set(drawn) == set(ENTRIES)
    assert drawn != [second.next() for _ in range(64)], "they agree once in 3 ** 64 times"


def test_the_one_after_another() -> None:
    rotation = Rotation(ENTRIES)
    assert [rotation.after(entry) for entry in ENTRIES] == ["b", "c", "a"]
    assert rotation.next() == "a", "to ask for the one after another takes no turn"
    assert rotation.after("unknown") == "b", "after a stranger comes whose turn it is"


def test_threads_share_the_turns() -> None:
    rotation = Rotation(ENTRIES)
    drawn: list[str] = []
    threads = [
        threading.Thread(target=lambda: drawn.extend(rotation.next() for _ in range(300))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn.count(entry) for entry in ENTRIES] == [400, 400, 400]


def test_there_has_to_be_an_entry() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Rotation([])
