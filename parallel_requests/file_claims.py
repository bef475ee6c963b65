"""Files in a folder that others write to: one writer at a time, and never through a link.

Whoever writes a file claims it first, against other threads and processes. A claim is an advisory lock
(``flock``), which ends with the process that holds it, however it dies. On Windows an open file can neither
be removed nor replaced, which serves the same purpose.
"""

from __future__ import annotations

import errno
import os
import stat
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
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def open_claimed(path: Path, flags: int) -> int | None:
    """Open a file and claim it while it is open; return None if somebody else has claimed it.

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


def begin_claimed(path: Path) -> int | None:
    """Open a file to write from its beginning; return None if it is being written elsewhere.

    Anything else of that name is unlinked, so that nothing is ever written through a link.
    """
    try:
        return open_claimed(path, _NEW)
    except FileExistsError:
        if status_of_ours(path) is not None:
            return open_claimed(path, os.O_WRONLY | os.O_CREAT)  # it may be gone by now: moved to its place
        if is_claimed(path):  # it is being moved, and linked in both places
            return None
        path.unlink()
        return open_claimed(path, _NEW)


def is_claimed(path: Path) -> bool:
    """Whether a file is being written, or may be: without a free descriptor, that cannot be found out."""
    if sys.platform == "win32":
        return False
    try:
        descriptor = open_claimed(path, os.O_WRONLY | os.O_NONBLOCK)  # a pipe would block until it is read
    except OSError as error:  # nothing is there, or nothing that could be written
        return error.errno in {errno.EMFILE, errno.ENFILE}
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def create_anew(path: Path) -> int:
    """Create a file; what is there is unlinked, so that nothing is ever written through a link."""
    try:
        return os.open(path, _NEW | NO_LINK, 0o666)
    except FileExistsError:
        path.unlink()
        return os.open(path, _NEW | NO_LINK, 0o666)


def status_of_ours(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None for anything else: a link may lead out of the folder."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else None


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
    """Whether a path still names the open file: an earlier writer may have moved it before the claim."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
