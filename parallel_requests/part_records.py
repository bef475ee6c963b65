"""The record beside a part file, from which a later call continues the file."""

from __future__ import annotations

import json
import os
from io import FileIO
from typing import TYPE_CHECKING, Any, Final

from parallel_requests.file_claims import NO_LINK, create_anew, status_of_ours

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LARGEST: Final = 1 << 16
"""Bytes; a longer one was not written here."""


class PartRecord:
    """What a later call has to know of a part file or, of a complete file, the name it was given.

    Attributes:
        is_ours: Whether there is one, written by this call or by an earlier one for the same file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_ours = False

    def read(self) -> dict[str, Any]:
        """Return what it says; empty if it is not there, or was not written here."""
        if status_of_ours(self._path) is None:
            return {}
        try:
            descriptor = os.open(self._path, os.O_RDONLY | NO_LINK)
        except OSError:
            return {}
        self.is_ours = True
        with FileIO(descriptor, "r") as file:
            try:
                record = json.loads(file.read(_LARGEST))
            except (OSError, ValueError, RecursionError):
                return {}
        return record if isinstance(record, dict) else {}

    def write(self, record: Mapping[str, object]) -> None:
        """Replace what is there at once: it is complete whenever the process dies."""
        draft = self._path.with_suffix(".draft")
        try:
            with FileIO(create_anew(draft), "w") as file:
                file.write(json.dumps(record).encode())
            draft.replace(self._path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        self.is_ours = True

    def drop(self) -> None:
        """Remove it, if it is there."""
        if self.is_ours:
            self._path.unlink(missing_ok=True)
            self.is_ours = False
