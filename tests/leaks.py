"""What a test left behind: threads, child processes, sockets."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.005
_TIMERS = {"00": "none", "02": "keepalive"}
_PROCESSES = Path("/proc")
# Servers of the session, and the standard library's own helpers of multiprocessing,
# which serve the whole process and end with it.
_LASTING_CHILDREN = (
    "tests.server.",
    "multiprocessing.forkserver",
    "multiprocessing.resource_tracker",
)


@dataclass(frozen=True)
class Census:
    """Threads and child processes alive at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]

    @classmethod
    def take(cls) -> Census:
        """Count what is alive now."""
        return cls(frozenset(threading.enumerate()), frozenset(children(os.getpid())))

    def leftovers(self) -> list[str]:
        """What is alive now and was not then; what is about to end has two seconds to do so."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(_PAUSE_SECONDS)
        return left

    def _left(self) -> list[str]:
        now = Census.take()
        threads = [f"thread {thread.name!r}" for thread in now.threads - self.threads]
        processes = [
            f"process {pid} ({_command_line(pid)})"
            for pid in now.children - self.children
            if not any(lasting in _command_line(pid) for lasting in _LASTING_CHILDREN)
        ]
        return threads + processes


def children(pid: int) -> set[int]:
    """Live descendants of a process (none if there is no /proc)."""
    found: set[int] = set()
    for listing in _PROCESSES.glob(f"{pid}/task/*/children"):
        try:
            found.update(int(child) for child in listing.read_text().split())
        except OSError:
            continue  # that thread has just ended
    return {child for child in found if _alive(child)}.union(*map(children, found))


def open_sockets() -> int:
    """Sockets this process has open (0 if there is no /proc)."""
    count = 0
    for descriptor in _PROCESSES.glob("self/fd/*"):
        try:
            count += str(descriptor.readlink()).startswith("socket:")
        except OSError:
            continue  # the descriptor of this very listing
    return count


def timers_of_connections_to(port: int) -> list[tuple[str, float]]:
    """Which timer the system runs for each connection to a port of 127.0.0.1, and for how many seconds."""
    lines = (_PROCESSES / "net" / "tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    timers = [each[5].split(":") for each in fields if each[2] == f"0100007F:{port:04X}" and each[3] == "01"]
    return [(_TIMERS.get(kind, kind), int(ticks, 16) / os.sysconf("SC_CLK_TCK")) for kind, ticks in timers]


def _alive(pid: int) -> bool:
    try:
        state = (_PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _command_line(pid: int) -> str:
    try:
        return (_PROCESSES / str(pid) / "cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return "ended"
