"""Which proxy or user agent the next request uses."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Sequence


class Rotation:
    """Hands out the entries of a list in turn, or at random.

    Args:
        entries: What to choose from; at least one.
        at_random: Choose at random instead of in turn.
        source: The source of randomness, injectable for tests.
    """

    def __init__(
        self, entries: Sequence[str], *, at_random: bool = False, source: random.Random | None = None
    ) -> None:
        if not entries:
            raise ValueError("a rotation needs at least one entry")
        self._entries = tuple(entries)
        self._random = (source or random.Random()) if at_random else None
        self._lock = Lock()  # guards _turns and _random
        self._turns = itertools.count()

    def next(self) -> str:
        """Return the entry whose turn it is."""
        with self._lock:
            if self._random is not None:
                return self._random.choice(self._entries)
            return self._entries[next(self._turns) % len(self._entries)]

    def after(self, entry: str) -> str:
        """Return the entry that follows ``entry``, for when that one has failed."""
        if entry not in self._entries:
            return self.next()
        return self._entries[(self._entries.index(entry) + 1) % len(self._entries)]
