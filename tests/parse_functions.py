"""Functions that tests run in parse processes; in a module of their own, so that these import it quickly."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any, NoReturn

from parallel_requests import ConfigurationError, ParallelSession, ParseError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from parallel_requests import Response

HUGE = 48 * 1024 * 1024
LARGE = 1024 * 1024


class NeedsTwo(Exception):
    """Can be pickled but not unpickled: its arguments are not those of its constructor."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")


class HoldsLock(Exception):
    """Will not pickle."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class OwnParseError(ParseError):
    """Will not pickle, either."""

    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Textless(Exception):
    """Has no readable text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class OneWay:
    """Can be pickled, and raises when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


class SilentOneWay:
    """Likewise, with an exception that has no readable text."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_silently, ()


class NoWay:
    """Cannot be pickled, and the exception has no readable text."""

    def __reduce__(self) -> NoReturn:
        raise Textless


def _refuse() -> NoReturn:
    raise ValueError("no way back")


def _refuse_silently() -> NoReturn:
    raise Textless


class NotesLoads:
    """A part of a parse_func that adds the process ID to a file when it is unpickled."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        with self._note.open("a") as file:
            file.write(f"{os.getpid()}\n")


RESULTS: dict[str, Callable[[], Any]] = {
    "unpicklable result": threading.Lock,
    "unpicklable result that says nothing": NoWay,
    "one-way result": OneWay,
    "one-way result that says nothing": SilentOneWay,
}


def with_pid(value: Any) -> tuple[Any, int]:
    return value, os.getpid()


def number(value: dict[str, int]) -> int:
    return value["id"]


def length(value: bytes) -> int:
    return len(value)


def length_beside(_part: Any, value: bytes) -> int:
    return len(value)


def itself(value: Any) -> Any:
    return value


def raises_with_password(_: Any) -> NoReturn:
    raise ValueError("http://me:hidden@a.test/")


def huge(value: dict[str, int]) -> bytes:
    return value["id"].to_bytes(1, "big") * HUGE


def trouble(kind: str, at: int, value: dict[str, int]) -> Any:
    """Make one item fail; `functools.partial` says which, and how."""
    if value["id"] != at:
        return value["id"]
    if kind in RESULTS:
        return RESULTS[kind]()
    match kind:
        case "death":
            os._exit(7)
        case "exit":
            sys.exit("enough")
        case "unpicklable exception":
            raise HoldsLock
        case "exception that does not round-trip":
            raise NeedsTwo(1, "why")
        case "unpicklable parse error":
            raise OwnParseError
        case "exception without a text":
            raise Textless
    raise LookupError(kind)


def fails(kind: str, at: int) -> functools.partial[Any]:
    return functools.partial(trouble, kind, at)


def waits_for(path: Path, value: dict[str, int]) -> int:
    """Create a file "waiting" beside a path, and return once something is there."""
    path.with_name("waiting").touch()
    while not path.exists():
        time.sleep(0.005)
    return value["id"]


def waits_beside_others(folder: Path, value: dict[str, int]) -> int:
    """Create a file in a folder, and return once there is one called "open"."""
    (folder / str(value["id"])).touch()
    while not (folder / "open").exists():
        time.sleep(0.005)
    return value["id"]


def waits_then_fails(path: Path, kind: str, at: int, value: dict[str, int]) -> Any:
    """Wait as `waits_for` does, then make one item fail."""
    waits_for(path, value)
    return trouble(kind, at, value)


def does_as_told(path: Path, what: bytes) -> bytes:
    """Take a tenth of a second, return a MiB, or return once a file is there."""
    end = time.monotonic() + 0.1
    while what == b"take time" and time.monotonic() < end:
        pass
    while what == b"wait" and not path.exists():
        time.sleep(0.005)
    return bytes(1 << 20) if what == b"return much" else b""


def never_returns(begun: Path, value: Any) -> NoReturn:
    """Add a character to a file to show that it has begun, and never return."""
    with begun.open("a") as file:
        file.write(".")
    while True:
        time.sleep(60)


def never_returns_nor_can_be_terminated(begun: Path, value: Any) -> NoReturn:
    """Do as `never_returns` does, and ignore SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    never_returns(begun, value)


def notes_its_end(note: Path, value: dict[str, int]) -> int:
    """Have a file created when the process ends in good order."""
    Finalize(None, note.touch, exitpriority=0)
    return value["id"]


def outlives_its_parent(begun: Path, value: dict[str, int]) -> int:
    """Create a file to show that it has begun, and return once the process that started this one has died."""
    parent = os.getppid()
    begun.touch()
    while os.getppid() == parent:
        time.sleep(0.005)
    return value["id"]


def with_child(_: Any) -> int:
    """Return the process ID of a child that never ends, and keeps what this process has open."""
    pid = os.fork()
    while pid == 0:
        time.sleep(60)
    return pid


def notes_and_dies(note: Path, _: Any) -> NoReturn:
    """Add a character to a file, and die."""
    with note.open("a") as file:
        file.write(".")
    os._exit(7)


def dies_before_its_child(note: Path, _: Any) -> NoReturn:
    """Die, and leave a child behind that keeps what this process has open; its process ID is in a file."""
    note.write_text(str(with_child(None)))
    os._exit(7)


def what_travelled(response: Response) -> dict[str, Any]:
    request = response.request
    return {
        "request": (request.url, dict(request.headers), request.content, request.meta, request.key),
        "cookie": response.headers.get("x-seen"),
        "status": response.status_code,
        "history": [earlier.status_code for earlier in response.history],
        "id": response.json().get("id"),
    }


def sends_its_problem(connection: Connection, url: str) -> None:
    """Request a URL with a parse process, and send why that is refused."""
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        try:
            session.request(url)
        except ConfigurationError as error:
            connection.send(str(error))
