"""A clock that the tests set, so that nothing waits."""

from __future__ import annotations


class ManualClock:
    """A monotonic clock that only advances when told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        """Stand in for ``time.sleep``: time passes at once."""
        assert seconds >= 0.0
        self.slept.append(seconds)
        self.advance(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Stand in for ``asyncio.sleep``."""
        self.sleep(seconds)
