"""The URLs given to a command: as arguments, in files and on stdin."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO, TypeAlias

from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    import argparse
    import contextlib
    from collections.abc import Iterable, Iterator


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name URLs."""
    parser.add_argument("urls", nargs="*", metavar="URL", help="a URL, or - for those on stdin")
    parser.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="FILE",
        help="read URLs from a file, one per line, or from stdin (-); empty lines and # comments are skipped",
    )


class Lines:
    """The URLs in a text file, or on stdin: one per line, without empty lines and comments."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            url = line.strip()
            if url and not url.startswith("#"):
                yield url

    def count(self) -> int | None:
        """Return how many there are, or None if that cannot be known beforehand."""
        if not self._file.seekable():
            return None
        start = self._file.tell()
        count = sum(1 for _ in self)
        self._file.seek(start)
        return count


Source: TypeAlias = Lines | list[str]


def open_sources(arguments: argparse.Namespace, resources: contextlib.ExitStack) -> list[Source]:
    """Open every file that was named; ``resources`` closes them.

    Raises:
        ConfigurationError: Nothing was named, or a file cannot be read.
    """
    if not arguments.input and not arguments.urls:
        raise ConfigurationError("there is nothing to fetch: name URLs, or a file of them with -i.")

    def lines(name: str) -> Lines:
        return Lines(resources.enter_context(_open(name)))

    return [*map(lines, arguments.input), *(lines(url) if url == "-" else [url] for url in arguments.urls)]


def count_urls(sources: Iterable[Source]) -> int | None:
    """Return how many URLs there are, or None if that cannot be known beforehand."""
    total = 0
    for source in sources:
        count = source.count() if isinstance(source, Lines) else len(source)
        if count is None:
            return None
        total += count
    return total


def _open(name: str) -> TextIO:
    # A line that is not valid UTF-8 is kept, so that it fails as an item of its own.
    if name == "-" and sys.stdin is None:
        raise ConfigurationError("cannot read -: stdin is closed.")
    stdin = sys.stdin.fileno() if name == "-" else None
    try:
        return open(
            name if stdin is None else stdin,
            encoding="utf-8-sig",
            errors="surrogateescape",
            closefd=stdin is None,
        )
    except OSError as error:
        reason = error.strerror
    raise ConfigurationError(f"cannot read {name}: {reason}.")
