"""The command line: ``parallel-requests fetch``, ``download`` and ``backends``.

A subcommand is a function of the parsed arguments that returns the exit status.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import sys
import warnings
from dataclasses import fields
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, TextIO, TypeAlias

from parallel_requests._version import __version__
from parallel_requests.backends.base import (
    BACKEND_NAMES,
    ENTRY_POINT_GROUP,
    Capabilities,
    backend_class,
    is_installed,
)
from parallel_requests.exceptions import ConfigurationError
from parallel_requests.models import Response, Result, ReturnType
from parallel_requests.options import OPTION_NAMES, Settings
from parallel_requests.part_files import Download
from parallel_requests.redaction import redact
from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tqdm import tqdm

    from parallel_requests.stats import RunStats

_PROGRAM = "parallel-requests"

_FINE = 0
_SOME_FAILED = 1
_WRONG_USAGE = 2
_INTERRUPTED = 130
_READER_GONE = 141  # what a shell shows for any program whose reader has left


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit status: 0, 1 where a call failed or a result could not be written, 2 for wrong usage,
        130 after Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except ConfigurationError as error:
        _say(f"error: {error}")
        return _WRONG_USAGE
    except BrokenPipeError:
        _drop_what_is_buffered()
        return _READER_GONE
    except OSError as error:
        _drop_what_is_buffered()
        _say(f"error: {error}")
        return _SOME_FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="Many HTTP calls at once.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_fetch(commands)
    _add_download(commands)
    _add_backends(commands)
    return parser


def _drop_what_is_buffered() -> None:
    """Keep the flush of stdout at exit from raising again: what is left has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    print(f"{_PROGRAM}: {line}", file=sys.stderr)


# -- options, as the library documents them


def _timeout(text: str) -> float | tuple[float | None, float | None] | None:
    try:
        match [None if part.strip().lower() == "none" else float(part) for part in text.split(",")]:
            case [total]:
                return total
            case [connect, total]:
                return connect, total
    except ValueError:
        pass  # told below, like too many parts
    raise argparse.ArgumentTypeError(f"must be SECONDS, CONNECT,TOTAL seconds or none, not {text!r}")


def _rate_limit(text: str) -> float | dict[str, float]:
    try:
        if "=" not in text:
            return float(text)
        pairs = (part.rpartition("=") for part in text.split(","))
        return {host.strip(): float(rate) for host, _, rate in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be RATE or HOST=RATE,... not {text!r}") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be 'Name: value'")
    return name.strip(), value.strip()


def _json_text(text: str) -> str:
    try:
        json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be JSON: {error}") from None
    return text


_FLAGS: dict[str, dict[str, Any]] = {
    "backend": {"metavar": "NAME"},
    "concurrency": {"type": int, "metavar": "N"},
    "concurrency_per_host": {"type": int, "metavar": "N"},
    "rate_limit": {"type": _rate_limit, "metavar": "RATE|HOST=RATE,..."},
    "rate_limit_burst": {"type": int, "metavar": "N"},
    "max_retries": {"type": int, "metavar": "N", "flag": "--retries"},
    "timeout": {"type": _timeout, "metavar": "SECONDS|CONNECT,TOTAL"},
    "deadline": {"type": float, "metavar": "SECONDS"},
    "http2": {"action": argparse.BooleanOptionalAction},
    "http3": {"action": argparse.BooleanOptionalAction},
    "proxy": {"metavar": "URL"},
    "trust_env": {"action": argparse.BooleanOptionalAction},
    "follow_redirects": {"action": argparse.BooleanOptionalAction},
    "max_redirects": {"type": int, "metavar": "N"},
    "max_response_size": {"type": int, "metavar": "BYTES"},
    "debug": {"action": "store_true"},
}
"""The options a command line has a use for; names, defaults and meanings are those of `Settings`."""


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the library; those that are not given stay absent."""
    known = {field.name: field for field in fields(Settings)}
    group = parser.add_argument_group("options of the library")
    for name, how in _FLAGS.items():
        arguments = {"flag": f"--{name.replace('_', '-')}", **how}
        flag = arguments.pop("flag")
        text = f"{known[name].metadata['doc']} Default: {known[name].default}.".replace("%", "%%")
        group.add_argument(flag, dest=name, default=argparse.SUPPRESS, help=text, **arguments)
    group.add_argument(
        "--header",
        dest="headers",
        action="append",
        type=_header,
        default=argparse.SUPPRESS,
        metavar="'NAME: VALUE'",
        help="A request header; may be given several times.",
    )
    checks = group.add_mutually_exclusive_group()
    checks.add_argument(
        "--insecure",
        dest="verify_ssl",
        action="store_false",
        default=argparse.SUPPRESS,
        help="Do not check certificates.",
    )
    checks.add_argument(
        "--ca-file",
        dest="verify_ssl",
        default=argparse.SUPPRESS,
        metavar="FILE",
        help="The CA bundle to trust.",
    )


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given, as the library takes them."""
    options = {name: value for name, value in vars(arguments).items() if name in OPTION_NAMES}
    if "headers" in options:
        options["headers"] = dict(options["headers"])
    return options


@contextlib.contextmanager
def _session(options: dict[str, Any]) -> Iterator[ParallelSession]:
    """Open a session, and say its warnings in one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        session = ParallelSession(**options)
    for warning in caught:
        _say(f"warning: {warning.message}")
    with session:
        yield session


# -- fetch


class _Commands(Protocol):
    def add_parser(self, name: str, **kwargs: Any) -> argparse.ArgumentParser: ...


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("urls", nargs="*", metavar="URL", help="a URL, or - for those on stdin")
    parser.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="FILE",
        help="take URLs from a file, one a line, or from stdin (-); empty lines and # comments are skipped",
    )


def _add_fetch(commands: _Commands) -> None:
    parser = commands.add_parser(
        "fetch",
        help="fetch URLs, one line of JSON for each",
        description=(
            "Fetch URLs in parallel. Each result is one line of JSON on stdout, as soon as it is there: "
            "index, url, status, attempts, elapsed, and value or error."
        ),
        epilog="Exit status: 0, 1 where a call failed, 2 for wrong usage, 130 after Ctrl-C.",
    )
    _add_input(parser)
    parser.add_argument("--ordered", action="store_true", help="keep the order of the input")
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
        help="HTTP method; default: GET, or POST where there is a body",
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
    _add_options(parser)
    parser.set_defaults(run=fetch)


def fetch(arguments: argparse.Namespace) -> int:
    """Fetch URLs and print a line for each; at most twice ``--concurrency`` are open at any time.

    Raises:
        ConfigurationError: There is no input, it cannot be read, or an option is wrong.
        OSError: Stdout cannot be written to: its disk is full, its reader has left.
    """
    options = _options(arguments)
    if arguments.json_text is not None:
        options["data"] = arguments.json_text.encode()
        options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
    if "data" in options:
        options.setdefault("method", "POST")
    with contextlib.ExitStack() as resources:
        sources = _sources(arguments, resources)
        session = resources.enter_context(_session(options))
        report = resources.enter_context(_Report(_count(sources), quiet=arguments.quiet))
        results = session.iter_results(
            itertools.chain.from_iterable(sources),
            return_type=ReturnType(arguments.return_type),
            ordered=arguments.ordered,
        )
        try:
            for result in results:
                report.show(result)
        except KeyboardInterrupt:
            _say("interrupted")
            results.close()
            for result in session.last_run.results:
                report.show(result)
            return _INTERRUPTED
        finally:
            report.summarize(session.last_run)
    return _SOME_FAILED if report.failed else _FINE


class _Lines:
    """The URLs in a text file, or on stdin: one a line, without empty lines and comments."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            url = line.strip()
            if url and not url.startswith("#"):
                yield url

    def count(self) -> int | None:
        """Return how many there are, or None where that cannot be known beforehand."""
        if not self._file.seekable():
            return None
        start = self._file.tell()
        count = sum(1 for _ in self)
        self._file.seek(start)
        return count


_Source: TypeAlias = _Lines | list[str]


def _sources(arguments: argparse.Namespace, resources: contextlib.ExitStack) -> list[_Source]:
    if not arguments.input and not arguments.urls:
        raise ConfigurationError("there is nothing to fetch: name URLs, or a file of them with -i.")

    def lines(name: str) -> _Lines:
        return _Lines(resources.enter_context(_open(name)))

    return [*map(lines, arguments.input), *(lines(url) if url == "-" else [url] for url in arguments.urls)]


def _open(name: str) -> TextIO:
    # What is not UTF-8 is no URL: it is carried along, and refused as that one item.
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


def _count(sources: Iterable[_Source]) -> int | None:
    total = 0
    for source in sources:
        count = source.count() if isinstance(source, _Lines) else len(source)
        if count is None:
            return None
        total += count
    return total


class _Report:
    """Results on stdout; on stderr a progress bar, or a summary where there can be none.

    Attributes:
        failed: How many results were failures.
    """

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self.failed = 0
        self._quiet = quiet
        self._bar = None if quiet or not sys.stderr.isatty() else _new_bar(total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, result: Result[Any]) -> None:
        """Print a result."""
        line, is_fine = _line(result)
        self.failed += not is_fine
        if self._bar is None:
            print(line, flush=True)
            return
        with self._bar.external_write_mode(sys.stdout):
            print(line, flush=True)
        self._bar.set_postfix(failed=self.failed, refresh=False)
        self._bar.update()

    def summarize(self, stats: RunStats) -> None:
        """Say what the run came to, where no bar has shown it."""
        if self._bar is None and not self._quiet:
            _say(str(stats))


def _new_bar(total: int | None) -> tqdm[NoReturn] | None:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, unit="call", file=sys.stderr)


def _line(result: Result[Any]) -> tuple[str, bool]:
    """Return a result as one line of JSON, and whether it is a success."""
    record: dict[str, Any] = {
        "index": result.index,
        "url": redact(str(result.request.url)),
        "status": None if result.response is None else result.response.status_code,
        "attempts": result.attempts,
        "elapsed": round(result.elapsed, 6),
    }
    if result.error is None:
        try:
            return json.dumps({**record, "value": _plain(result.value)}, allow_nan=False), True
        except (ValueError, RecursionError) as error:  # NaN, or nested beyond reason
            failure: Exception = error
    else:
        failure = result.error
    record["error"] = {"type": type(failure).__name__, "message": str(failure)}
    return json.dumps(record), False


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Download):
        return {"path": str(value.path), "size": value.size, "sha256": value.sha256, "status": value.status}
    if isinstance(value, Response):
        return {
            "url": redact(value.url),
            "http_version": value.http_version,
            "reason": value.reason,
            "headers": dict(value.headers),
            "text": value.text,
        }
    return value


# -- download


def _add_download(commands: _Commands) -> None:
    parser = commands.add_parser(
        "download",
        help="download URLs into files, one line of JSON for each",
        description=(
            "Download URLs in parallel, each into a file of its own. What broke off is resumed, by this call "
            "or the next. Each file is one line of JSON on stdout, as soon as it is there: index, url, "
            "status, attempts, elapsed, and value (path, size, sha256, status) or error."
        ),
        epilog="Exit status: 0, 1 where a file failed, 2 for wrong usage, 130 after Ctrl-C.",
    )
    _add_input(parser)
    parser.add_argument("--to", default=".", metavar="FOLDER", help="where the files go; default: here")
    parser.add_argument(
        "--sha256",
        action="append",
        default=[],
        metavar="HEX",
        help="the checksum of the file; given several times, of one URL after the other",
    )
    parser.add_argument(
        "--existing",
        choices=["skip", "replace", "keep"],
        default="skip",
        help="a file that is there: skip it, replace it, or keep both and number the new one; default: skip",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary on stderr")
    _add_options(parser)
    parser.set_defaults(run=download)


def download(arguments: argparse.Namespace) -> int:
    """Download URLs and print a line for each file.

    Raises:
        ConfigurationError: There is no input, it cannot be read, or an option is wrong.
        OSError: Stdout cannot be written to: its disk is full, its reader has left.
    """
    checksums: list[str] = arguments.sha256
    with contextlib.ExitStack() as resources:
        urls = list(itertools.chain.from_iterable(_sources(arguments, resources)))
        session = resources.enter_context(_session(_options(arguments)))
        lines = _FileLines()
        try:
            session.download(
                urls,
                arguments.to,
                sha256=checksums[0] if len(checksums) == 1 else checksums or None,
                existing=arguments.existing,
                return_none_on_failure=True,
                on_result=lines.show,
                progress=not arguments.quiet and sys.stderr.isatty() and find_spec("tqdm") is not None,
            )
        except KeyboardInterrupt:
            _say("interrupted")
            return _INTERRUPTED
        finally:
            if not arguments.quiet:
                _say(str(session.last_run))
    if lines.problem is not None:
        raise lines.problem
    return _SOME_FAILED if lines.failed else _FINE


class _FileLines:
    """A line on stdout for each file.

    Attributes:
        failed: How many were failures.
        problem: Why no more can be written to stdout; the files are fetched all the same.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.problem: OSError | None = None

    def show(self, result: Result[Any]) -> None:
        """Print a result."""
        line, is_fine = _line(result)
        self.failed += not is_fine
        if self.problem is None:
            try:
                print(line, flush=True)
            except OSError as error:
                self.problem = error


# -- backends


def _add_backends(commands: _Commands) -> None:
    parser = commands.add_parser(
        "backends",
        help="show which HTTP libraries are installed, and what they can do",
        description="Show which HTTP libraries are installed, what they can do, and which one auto takes.",
    )
    parser.set_defaults(run=backends)


def backends(_arguments: argparse.Namespace) -> int:
    """Print what is known of every backend."""
    abilities = [field.name for field in fields(Capabilities)]
    titles = [name.replace("_", " ").replace("http", "HTTP/") for name in abilities]
    names = [*BACKEND_NAMES, *sorted(point.name for point in metadata.entry_points(group=ENTRY_POINT_GROUP))]
    table = [["backend", *titles, "version"], *(_backend_row(name, abilities) for name in names)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()
    print(f"auto takes: {backend_class('auto').name}")
    print(f"urllib3: {_urllib3_verdict()}")
    return _FINE


def _backend_row(name: str, abilities: Iterable[str]) -> list[str]:
    unknown = ["-" for _ in abilities]
    if name in BACKEND_NAMES and not is_installed(name):
        return [name, *unknown, "not installed"]
    try:
        backend = backend_class(name)
    except ImportError as error:
        return [name, *unknown, f"cannot be imported: {error}"]
    marks = ["yes" if getattr(backend.capabilities, ability) else "no" for ability in abilities]
    return [name, *marks, backend.version()]


def _urllib3_verdict() -> str:
    """Say whether ``import urllib3`` gives the real one: urllib3-future installs itself in its place."""
    version = backend_class("urllib3").version()
    try:
        future = metadata.version("urllib3-future")
    except metadata.PackageNotFoundError:
        future = None
    if version == future:
        return f"not the real one; urllib3-future {version}, which niquests brings, has taken its place"
    return f"the real one, {version}"
