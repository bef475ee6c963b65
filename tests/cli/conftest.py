"""What every command has for its output."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def buffered_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what a command prints buffered, as it is for users."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
