"""The command line: ``parallel-requests fetch``, ``download`` and ``backends``.

Each command is a module: ``HELP`` for the list of commands, ``configure`` for its parser, and ``run``.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from parallel_requests._version import __version__
from parallel_requests.cli import backends, download, fetch
from parallel_requests.cli.exits import (
    INTERRUPTED,
    PROGRAM,
    READER_GONE,
    SOME_FAILED,
    WRONG_USAGE,
    discard_buffer,
    say,
)
from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = {"fetch": fetch, "download": download, "backends": backends}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit status: 0; 1 if a call failed or a result could not be written; 2 for wrong usage;
        130 after Ctrl-C; 141 if nobody reads stdout any more.
    """
    _open_missing_streams()
    _escape_unencodable()
    parsed = _parsed(arguments)
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()  # here, as a failure at exit could not be reported
    except ConfigurationError as error:
        say(f"error: {error}")
        return WRONG_USAGE
    except BrokenPipeError:
        discard_buffer(sys.stdout)
        return READER_GONE
    except OSError as error:
        discard_buffer(sys.stdout)
        say(f"error: {error}")
        return SOME_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; what is unknown ends the program with the usage of its command and a hint."""
    parsed, unknown = _parser().parse_known_args(arguments)
    if unknown:
        command: argparse.ArgumentParser = parsed.parser
        command.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(unknown, command)}")
    return parsed


def _hint(unknown: Sequence[str], command: argparse.ArgumentParser) -> str:
    flags = re.findall(r"--[a-z0-9-]+", command.format_help())
    for argument in unknown:
        if argument.startswith("-"):
            close = difflib.get_close_matches(argument.partition("=")[0], flags, n=1)
            return f"; did you mean {close[0]}?" if close else ""
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Many HTTP calls at once.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        subparser = commands.add_parser(name, help=command.HELP)
        subparser.set_defaults(parser=subparser)
        command.configure(subparser)
    return parser


def _open_missing_streams() -> None:
    """Discard the output if stdout or stderr is closed: a socket might get its descriptor."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the program ends
            setattr(sys, name, nowhere)


def _escape_unencodable() -> None:
    """Write characters that stdout cannot encode as escapes, as stderr does by default."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
