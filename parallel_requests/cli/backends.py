"""``parallel-requests backends``: what is installed, and what it can do."""

from __future__ import annotations

import warnings
from dataclasses import fields
from importlib import metadata
from typing import TYPE_CHECKING

from parallel_requests.backends.base import Capabilities
from parallel_requests.backends.registry import BACKEND_NAMES, ENTRY_POINT_GROUP, backend_class, is_installed
from parallel_requests.cli.exits import SUCCESS
from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

HELP = "show which HTTP libraries are installed, and what they can do"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command, which has no arguments."""
    parser.description = (
        "Show which HTTP libraries are installed, what they can do, and which one auto takes."
    )
    parser.set_defaults(run=run)


def run(_arguments: argparse.Namespace) -> int:
    """Print a table of all backends."""
    abilities = [field.name for field in fields(Capabilities)]
    titles = [name.replace("_", " ").replace("http", "HTTP/") for name in abilities]
    names = [*BACKEND_NAMES, *sorted(point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP))]
    table = [["backend", *titles, "version"], *(_backend_row(name, abilities) for name in names)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    print(f"auto takes: {_choice_of_auto()}")
    print(f"urllib3: {_urllib3_verdict()}")
    return SUCCESS


def _backend_row(name: str, abilities: Iterable[str]) -> list[str]:
    unknown = ["-" for _ in abilities]
    if name in BACKEND_NAMES and not is_installed(name):
        return [name, *unknown, "not installed"]
    try:
        backend = backend_class(name)
    except ConfigurationError as error:
        return [name, *unknown, error.message]
    marks = ["yes" if getattr(backend.capabilities, ability) else "no" for ability in abilities]
    return [name, *marks, backend.version()]


def _choice_of_auto() -> str:
    try:
        with warnings.catch_warnings(action="ignore"):  # the row of one that cannot be imported says why
            return backend_class("auto").name
    except ConfigurationError as error:
        return f"none; {error.message}"


def _urllib3_verdict() -> str:
    """Tell whether ``import urllib3`` imports the real one: urllib3-future installs itself in its place."""
    version = backend_class("urllib3").version()
    try:
        future = metadata.version("urllib3-future")
    except metadata.PackageNotFoundError:
        future = None
    if version == future:
        return f"not the real one; urllib3-future {version}, which niquests brings, has taken its place"
    return f"the real one, {version}"
