"""The input lines of failed calls, in a file that can be fetched again."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Self

from parallel_requests.cli.inputs import Lines, unread
from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from parallel_requests.cli.inputs import Source


class Failures:
    """Passes lines of input on, and writes those whose calls failed to a file, exactly as they were.

    On leaving the ``with`` block, the lines that were never settled are written, too, and those that were
    never read: a run that was stopped did not finish them. Ctrl-C between the printing of a result and its
    settling leaves the line there as well: fetched twice rather than lost.
    """

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        """Create the file, or empty it.

        Args:
            name: Its name.
            sources: Where the lines come from.

        Raises:
            ConfigurationError: It cannot be written, or is one of the inputs.
        """
        path = Path(name)
        if any(isinstance(source, Lines) and source.reads(path) for source in sources):
            raise ConfigurationError(f"cannot write the failures to {name}, which is an input.")
        try:
            # Line by line, so that they survive a kill; bytes that are not UTF-8 are kept.
            self._file = path.open("w", buffering=1, encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            reason = error.strerror
        else:
            self._unsettled: dict[int, str] = {}
            self._sources = sources
            return
        raise ConfigurationError(f"cannot write {name}: {reason}.")

    def watch(self) -> Iterator[str]:
        """Yield the lines, and remember each until it is settled."""
        for index, line in enumerate(itertools.chain.from_iterable(self._sources)):
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
            self._file.reconfigure(line_buffering=False)
            unfinished = itertools.chain(self._unsettled.values(), unread(self._sources))
            self._file.writelines(f"{line}\n" for line in unfinished)
