"""The input of a command: URLs and JSON objects as arguments, in files and on stdin."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from parallel_requests.exceptions import ConfigurationError, ValidationError
from parallel_requests.models import Request

if TYPE_CHECKING:
    import argparse
    import contextlib
    from collections.abc import Iterable
    from pathlib import Path


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name URLs."""
    parser.add_argument("urls", nargs="*", metavar="URL", help="a URL, or - for those on stdin")
    parser.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="FILE",
        help="read URLs from a file, one per line, or from stdin (-); empty lines and # comments are "
        'skipped; a line may also be a JSON object: {"url": ..., "method": ..., "json": ..., "key": ...}',
    )


def item_of(line: str) -> str | dict[str, Any] | Request:
    """Return a line of input as an item: a URL as it is, a JSON object as a dict.

    A line that begins like an object and is none becomes a Request that fails; it is not quoted, as it
    may hold credentials.
    """
    if not line.startswith("{"):
        return line
    try:
        item: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Request("", problem=ValidationError(f"the line is not JSON: {error}.", "url"))
    if isinstance(item.get("timeout"), list):  # JSON has no tuples
        item["timeout"] = tuple(item["timeout"])
    return item


class Lines(Iterator[str]):
    """The lines of a text file, or of stdin, without empty ones and comments.

    Not a generator, as Ctrl-C would end one: what is left can still be read then.

    Attributes:
        may_be_endless: Whether it is a pipe, say, and not a file.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.may_be_endless = not file.seekable()

    def __next__(self) -> str:
        for line in self._file:
            stripped = line.strip()
            if stripped and not stripped.startswith("#"):
                return stripped
        raise StopIteration

    def reads(self, path: Path) -> bool:
        """Whether they are those of a file."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), path.stat())
        except OSError:  # there is no such file
            return False

    def count(self) -> int | None:
        """Return how many there are, or None if that cannot be known beforehand."""
        if self.may_be_endless:
            return None
        start = self._file.tell()
        count = sum(1 for _ in self)
        self._file.seek(start)
        return count


Source: TypeAlias = Lines | Iterator[str]


def open_sources(arguments: argparse.Namespace, resources: contextlib.ExitStack) -> list[Source]:
    """Open every file that was named; ``resources`` closes them.

    Raises:
        ConfigurationError: Nothing was named, a file cannot be read, or was named in place of a URL.
    """
    if not arguments.input and not arguments.urls:
        raise ConfigurationError("there is nothing to fetch: name URLs, or a file of them with -i.")
    for url in arguments.urls:
        if "://" not in url and os.path.isfile(url):  # noqa: PTH113 - Path.is_file raises for a long name
            raise ConfigurationError(f"{url} is a file; read URLs from it with -i {url}.")

    def lines(name: str) -> Lines:
        return Lines(resources.enter_context(_open(name)))

    return [
        *map(lines, arguments.input),
        *(lines(url) if url == "-" else iter([url]) for url in arguments.urls),
    ]


def count_urls(sources: Iterable[Source]) -> int | None:
    """Return how many URLs there are, or None if that cannot be known beforehand."""
    total = 0
    for source in sources:
        count = source.count() if isinstance(source, Lines) else 1
        if count is None:
            return None
        total += count
    return total


def unread(sources: Iterable[Source]) -> Iterator[str]:
    """Yield what is left of the input, but do not wait for what a pipe may bring."""
    for source in sources:
        if not (isinstance(source, Lines) and source.may_be_endless):
            yield from source


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
