"""``parallel-requests fetch``: URLs to lines of JSON."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn, Self

from parallel_requests.cli.exits import INTERRUPTED, SOME_FAILED, SUCCESS, say
from parallel_requests.cli.failures import Failures
from parallel_requests.cli.flags import add_options, given_options, open_session
from parallel_requests.cli.inputs import add_input, count_urls, item_of, open_sources
from parallel_requests.cli.records import line_of
from parallel_requests.models import Result, ReturnType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tqdm import tqdm

    from parallel_requests.planning import Item
    from parallel_requests.stats import RunStats

HELP = "fetch URLs, and print one line of JSON for each"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command, and add its arguments."""
    parser.description = (
        "Fetch URLs in parallel. Each result is printed as one line of JSON as soon as it is there: "
        "index, url, status, attempts, elapsed, and value or error; key and meta if the input has them."
    )
    parser.epilog = "Exit status: 0, 1 if a call failed, 2 for wrong usage, 130 after Ctrl-C."
    add_input(parser)
    parser.add_argument("--ordered", action="store_true", help="keep the order of the input")
    parser.add_argument(
        "--failed",
        metavar="FILE",
        help="write the input lines of calls that failed, or that Ctrl-C prevented, to a file; fetch them "
        "again with -i FILE",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary on stderr")
    parser.add_argument(
        "--return-type",
        choices=["json", "text", "content", "response"],
        default="json",
        help="what value is: the JSON, the text, the bytes in Base64, or the whole response; default: json",
    )
    parser.add_argument(
        "-X",
        "--method",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="HTTP method; default: GET, or POST if there is a body",
    )
    body = parser.add_mutually_exclusive_group()
    body.add_argument(
        "--data", default=argparse.SUPPRESS, metavar="TEXT", help="the body of every request, as text"
    )
    body.add_argument(
        "--json",
        dest="json_text",
        type=_json_text,
        metavar="JSON",
        help="the body of every request, sent as application/json",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def _json_text(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON: {error}") from None
    return text


def run(arguments: argparse.Namespace) -> int:
    """Fetch URLs and print a line for each; at most twice ``--concurrency`` are open at any time.

    Raises:
        ConfigurationError: There is no input, it cannot be read, or an option is wrong.
        OSError: Stdout cannot be written to: its disk is full, say, or its reader has left.
    """
    options = given_options(arguments)
    if arguments.json_text is not None:
        options["data"] = arguments.json_text.encode()
        options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
    if "data" in options:
        options.setdefault("method", "POST")
    with contextlib.ExitStack() as resources:
        sources = open_sources(arguments, resources)
        session = resources.enter_context(open_session(options))
        total = count_urls(sources)
        lines: Iterator[str] = itertools.chain.from_iterable(sources)
        failures = None
        if arguments.failed is not None:
            failures = resources.enter_context(Failures(arguments.failed, sources))
            lines = failures.watch()
        report = resources.enter_context(_Report(total, failures, quiet=arguments.quiet))
        results = session.iter_results(
            _items(lines, posts_bodies="method" not in options),
            return_type=ReturnType(arguments.return_type),
            ordered=arguments.ordered,
        )
        try:
            for result in results:
                report.show(result)
        except KeyboardInterrupt:
            say("interrupted")
            results.close()
            for result in session.last_run.results:
                report.show(result)
            return INTERRUPTED
        finally:
            report.summarize(session.last_run)
    return SOME_FAILED if report.failed else SUCCESS


def _items(lines: Iterable[str], *, posts_bodies: bool) -> Iterator[Item]:
    """Yield the lines as items; those with a body are sent by POST, unless they say otherwise."""
    for line in lines:
        item: Any = item_of(line)
        if posts_bodies and isinstance(item, dict) and not item.keys().isdisjoint({"json", "data"}):
            item.setdefault("method", "POST")
        yield item


class _Report:
    """Prints results on stdout and, on stderr, a progress bar or a summary.

    Attributes:
        failed: How many results were failures.
    """

    def __init__(self, total: int | None, failures: Failures | None, *, quiet: bool) -> None:
        self.failed = 0
        self._failures = failures
        self._quiet = quiet
        self._bar = None if quiet or not sys.stderr.isatty() else _new_bar(total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, result: Result[Any]) -> None:
        """Print a result."""
        line, is_success = line_of(result)
        self.failed += not is_success
        self._print(line)
        if self._failures is not None:
            self._failures.settle(result.index, is_success=is_success)

    def _print(self, line: str) -> None:
        if self._bar is None:
            print(line, flush=True)
            return
        with self._bar.external_write_mode(sys.stdout):
            print(line, flush=True)
        self._bar.set_postfix(failed=self.failed, refresh=False)
        self._bar.update()

    def summarize(self, stats: RunStats) -> None:
        """Print the statistics of the run, unless a progress bar has shown them."""
        if self._bar is None and not self._quiet:
            say(str(stats))


def _new_bar(total: int | None) -> tqdm[NoReturn] | None:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="call", file=sys.stderr)
