"""Where the files of a batch go: to the caller's paths, or into a folder, under safe names that are free."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from parallel_requests.exceptions import ConfigurationError
from parallel_requests.filenames import name_from_headers, name_from_url, numbered
from parallel_requests.locks import Lock
from parallel_requests.values import shown

if TYPE_CHECKING:
    from parallel_requests.models import Headers, Request

Existing: TypeAlias = Literal["skip", "replace", "keep"]
Target: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(slots=True, eq=False)
class Destination:
    """Where one file goes.

    Attributes:
        path: Its place, once it is complete.
        wanted: The same, before a number was added to the name.
        stem: What the names of its temporary files, in the same folder, begin with.
        is_named_by_server: Whether the server has named the file.
    """

    path: Path
    wanted: Path
    stem: str
    is_named_by_server: bool = False


class Destinations:
    """Gives each file of a batch its place.

    Attributes:
        paths: The caller's, one per URL; None if the files go into a folder.
    """

    def __init__(self, to: Target, existing: Existing) -> None:
        """Set up, and create the folder.

        Args:
            to: The folder, or one path per URL.
            existing: What to do if a file exists: skip, replace, or keep both.

        Raises:
            ConfigurationError: One of these is wrong, or the folder cannot be created.
        """
        if existing not in get_args(Existing):
            raise ConfigurationError(
                f"existing must be 'skip', 'replace' or 'keep', not {shown(existing)}.", "existing"
            )
        self._existing = existing
        self.paths: list[Path] | None = None
        if isinstance(to, str | os.PathLike):
            self._folder = _create_folder(to)
        else:
            self._folder = Path()
            self.paths = _checked_paths(to)
        self._occurrences: Counter[str] = Counter()
        self._lock = Lock()  # guards _taken
        self._taken: set[str] = set()

    def of(self, request: Request) -> Destination:
        """Return where the next Request's file goes, unless its server gives it another name."""
        self._occurrences[request.url] += 1
        occurrence = f"{request.method} {request.url} {self._occurrences[request.url]}"
        mark = hashlib.sha256(occurrence.encode()).hexdigest()[:16]
        if self.paths is not None:
            place = self.paths[request.index]
            return Destination(place, place, mark)
        name = name_from_url(request.url)
        path = self._folder / self._take(name, beside_files=self._existing == "keep")
        return Destination(path, self._folder / name, f"{name}.{mark}")

    def is_blocked(self, destination: Destination) -> bool:
        """Whether the caller's path is that of a folder, a device or the like, which is never replaced."""
        if self.paths is None or self._existing == "keep":
            return False  # the server may give another name, or the file is numbered
        return os.path.exists(destination.path) and not _is_file(destination.path)  # noqa: PTH110 - as below

    def found(self, destination: Destination, known_as: str | None) -> Path | None:
        """Return the file that is there already; None if there is none, or if such are not skipped.

        Args:
            destination: Where to look for it.
            known_as: The name that an earlier call has given it, if any.
        """
        if self._existing != "skip":
            return None
        there = destination.path
        if not _is_file(there) and known_as is not None:
            there = there.with_name(known_as)
        return there if _is_file(there) else None

    def rename(self, destination: Destination, headers: Headers) -> None:
        """Have a file in the folder bear the name in the first headers that have one."""
        if self.paths is not None or destination.is_named_by_server:
            return
        name = name_from_headers(headers)
        if name is None or name == destination.path.name:
            return
        # An existing file of that name may be of any origin: only "replace" overwrites it.
        destination.path = self._folder / self._take(name, beside_files=self._existing != "replace")
        destination.wanted = self._folder / name
        destination.is_named_by_server = True

    def elsewhere(self, destination: Destination) -> Callable[[], Path] | None:
        """Return what finds another place if one is taken by now; None to replace what is there."""
        may_replace = self._existing == "replace" or (
            self._existing == "skip" and not destination.is_named_by_server
        )
        return None if may_replace else partial(self._beside, destination.wanted)

    def _take(self, name: str, *, beside_files: bool) -> str:
        """Return a name that is unused in this batch and, with ``beside_files``, in the folder."""
        with self._lock:
            for candidate in numbered(name):
                folded = candidate.casefold()  # some file systems ignore case
                if folded in self._taken or (beside_files and os.path.lexists(self._folder / candidate)):
                    continue
                self._taken.add(folded)
                return candidate
        raise AssertionError("numbers do not end")

    def _beside(self, place: Path) -> Path:
        """Return a numbered place next to one that was free when it was assigned."""
        if self.paths is not None:
            return _free_place(place)
        return self._folder / self._take(place.name, beside_files=True)


def _is_file(path: Path) -> bool:
    """Whether a file is there; False if that cannot be found out, as when the name is too long."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises then


def _free_place(path: Path) -> Path:
    return next(place for name in numbered(path.name) if not os.path.lexists(place := path.with_name(name)))


def _create_folder(to: str | os.PathLike[str]) -> Path:
    try:
        folder = Path(to)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = str(error)
    else:
        return folder
    raise ConfigurationError(f"The folder {os.fspath(to)!r} cannot be created: {reason}", "to")


def _checked_paths(to: object) -> list[Path]:
    if not isinstance(to, list | tuple) or not all(isinstance(path, str | os.PathLike) for path in to):
        raise ConfigurationError(
            f"to must be a folder, or a list with one path per URL, not {shown(to)}.", "to"
        )
    paths = [Path(path) for path in to]
    for place, count in Counter(path.absolute() for path in paths).items():
        if count > 1:
            raise ConfigurationError(
                f"to names {place} {count} times; every file needs a path of its own.", "to"
            )
    for path in paths:
        if not path.name or not _is_encodable(path):
            raise ConfigurationError(f"to has {str(path)!a}, which is not the path of a file.", "to")
    return paths


def _is_encodable(path: Path) -> bool:
    """Whether a path can be given to the operating system, in the encoding of this locale."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
