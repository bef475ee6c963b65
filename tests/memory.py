"""The memory of this process, according to Linux."""

from __future__ import annotations

from pathlib import Path

_SELF = Path("/proc/self")


def resident() -> int:
    """Bytes held now."""
    return _status("VmRSS")


def peak() -> int:
    """Bytes held at most since `forget_peak`, or since the process began."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak be what is held now."""
    (_SELF / "clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
