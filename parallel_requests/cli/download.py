"""``parallel-requests download``: URLs to files."""

from __future__ import annotations

import contextlib
import itertools
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from parallel_requests.cli.exits import INTERRUPTED, SOME_FAILED, SUCCESS, say
from parallel_requests.cli.flags import add_options, given_options, open_session
from parallel_requests.cli.inputs import add_input, item_of, open_sources
from parallel_requests.cli.records import line_of
from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from parallel_requests.checksums import Checksums
    from parallel_requests.models import Result

HELP = "download URLs to files, and print one line of JSON for each"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command, and add its arguments."""
    parser.description = (
        "Download URLs in parallel, each to a file of its own. Interrupted downloads are resumed, by this "
        "call or the next. For each file one line of JSON is printed as soon as it is complete: index, url, "
        "status, attempts, elapsed, and value (path, size, sha256, status) or error; key and meta if the "
        "input has them."
    )
    parser.epilog = "Exit status: 0, 1 if a file failed, 2 for wrong usage, 130 after Ctrl-C."
    add_input(parser)
    parser.add_argument("--to", default=".", metavar="FOLDER", help="folder for the files; default: .")
    parser.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="HEX",
        help="the SHA-256 of the file; for several URLs, give one for each in the same order, or put them "
        'into the input: {"url": ..., "sha256": ...}',
    )
    parser.add_argument(
        "--existing",
        choices=["skip", "replace", "keep"],
        default="skip",
        help="if a file exists: skip it, replace it, or keep both and number the new one; default: skip",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary on stderr")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Download URLs and print a line for each file.

    Raises:
        ConfigurationError: There is no input, it cannot be read, or an option is wrong.
        OSError: Stdout cannot be written to: its disk is full, say, or its reader has left.
    """
    with contextlib.ExitStack() as resources:
        items: list[Any] = [*map(item_of, itertools.chain.from_iterable(open_sources(arguments, resources)))]
        checksums = _checksums(arguments.sha256, items)
        session = resources.enter_context(open_session(given_options(arguments)))
        lines = _FileLines()
        is_interrupted = False
        try:
            session.download(
                items,
                arguments.to,
                sha256=checksums,
                existing=arguments.existing,
                return_none_on_failure=True,
                on_result=lines.show,
                progress=not arguments.quiet and sys.stderr.isatty() and find_spec("tqdm") is not None,
            )
        except KeyboardInterrupt:
            say("interrupted")
            is_interrupted = True
        if not arguments.quiet:
            say(str(session.last_run))
    if is_interrupted:
        return INTERRUPTED
    if lines.problem is not None:
        raise lines.problem
    return SOME_FAILED if lines.failed else SUCCESS


def _checksums(flags: list[str], items: list[Any]) -> Checksums:
    """Return the checksums: those of the flags, or those that the items bring, which are taken out of them.

    Raises:
        ConfigurationError: There are both.
    """
    own = [item.pop("sha256", None) if isinstance(item, dict) else None for item in items]
    if all(checksum is None for checksum in own):
        return flags[0] if len(flags) == 1 else flags or None
    if flags:
        raise ConfigurationError("sha256 is given both by --sha256 and in the input.", "sha256")
    return own


class _FileLines:
    """Prints a line on stdout for each file.

    Attributes:
        failed: How many files failed.
        problem: Why stdout can no longer be written to; the files are downloaded all the same.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.problem: OSError | None = None

    def show(self, result: Result[Any]) -> None:
        """Print a result."""
        line, is_success = line_of(result)
        self.failed += not is_success
        if self.problem is None:
            try:
                print(line, flush=True)
            except OSError as error:
                self.problem = error
