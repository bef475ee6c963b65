"""Claims on files: whoever writes one, in this process or in another, is its only writer.

A claim is an advisory lock (``flock``), which ends with the process that holds it, however that dies.
On Windows a file that is open can neither be removed nor replaced, which serves as well.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path

CAN_MOVE_OPEN_FILES: Final = sys.platform != "win32"
"""Whether a file may keep its claim until it is in its place."""
NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Flags for ``os.open`` under which a link is an error."""


def open_claimed(path: Path, flags: int) -> int | None:
    """Open a file, and keep it for oneself as long as it is open; None where somebody else has it.

    Args:
        path: Where it is.
        flags: As for ``os.open``; a link is not followed.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, flags | NO_LINK, 0o666)
    if _claim(descriptor) and _is_at(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def is_claimed(path: Path) -> bool:
    """Whether somebody is writing a file."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = open_claimed(path, os.O_WRONLY | os.O_NONBLOCK)  # a pipe would wait for its reader
    except OSError:  # nothing is there, or nothing that could be written
        return False
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def move_to_free(path: Path, place: Path) -> bool:
    """Move a file to a place that is free; return False, and do nothing, if it is taken by now.

    If several processes move files to one place at once, exactly one succeeds, as a link is made in one
    atomic step. On file systems without links it takes two steps.

    Raises:
        OSError: It cannot be moved.
    """
    try:
        place.hardlink_to(path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if os.path.lexists(place):
            return False
        path.replace(place)
    else:
        path.unlink(missing_ok=True)
    return True


def _claim(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a file is still there: who had it may have moved it between its opening and its claim."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
