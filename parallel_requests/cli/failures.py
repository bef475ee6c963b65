"""The input lines of failed calls, in a file that can be fetched again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Failures:
    """Passes lines of input on, and writes those whose calls failed to a file, exactly as they were.

    On leaving the ``with`` block, the lines that were never settled are written, too: a run that was stopped
    did not finish them.
    """

    def __init__(self, name: str, inputs: Sequence[str]) -> None:
        """Create the file, or empty it.

        Args:
            name: Its name.
            inputs: The names of the files that are read meanwhile.

        Raises:
            ConfigurationError: It cannot be written, or is one of the inputs.
        """
        path = Path(name)
        if any(path.exists() and other != "-" and path.samefile(other) for other in inputs):
            raise ConfigurationError(f"cannot write the failures to {name}, which is an input.")
        try:
            # Line by line, so that they survive a kill; bytes that are not UTF-8 are kept.
            self._file = path.open("w", buffering=1, encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            reason = error.strerror
        else:
            self._unsettled: dict[int, str] = {}
            return
        raise ConfigurationError(f"cannot write {name}: {reason}.")

    def watch(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield the lines, and remember each until it is settled."""
        for index, line in enumerate(lines):
            self._unsettled[index] = line
            yield line

    def settle(self, index: int, *, is_success: bool) -> None:
        """Forget a line by its place in the input, or write it if its call failed."""
        line = self._unsettled.pop(index)
        if not is_success:
            print(line, file=self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            for line in self._unsettled.values():
                print(line, file=self._file)
