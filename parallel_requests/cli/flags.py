"""The library's options as flags of a command line, and the session that is opened with them."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from typing import TYPE_CHECKING, Any

from parallel_requests.cli.exits import say
from parallel_requests.options import OPTION_FIELDS, OPTION_NAMES
from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Iterator


def _timeout(text: str) -> float | tuple[float | None, float | None] | None:
    try:
        match [None if part.strip().lower() == "none" else float(part) for part in text.split(",")]:
            case [total]:
                return total
            case [connect, total]:
                return connect, total
    except ValueError:
        pass  # reported below, like too many parts
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


_FLAGS: dict[str, dict[str, Any]] = {
    "backend": {"metavar": "NAME"},
    "concurrency": {"type": int, "metavar": "N"},
    "concurrency_per_host": {"type": int, "metavar": "N"},
    "rate_limit": {
        "type": _rate_limit,
        "metavar": "RATE|HOST=RATE,...",
        "help": "Maximum attempts per second; or HOST=RATE for some hosts, and *=RATE for all together.",
    },
    "rate_limit_per_host": {
        "type": float,
        "metavar": "RATE",
        "help": "Maximum attempts per second to each host that --rate-limit does not name.",
    },
    "rate_limit_burst": {"type": int, "metavar": "N"},
    "max_retries": {"type": int, "metavar": "N", "flags": ["--retries", "--max-retries"]},
    "timeout": {
        "type": _timeout,
        "metavar": "SECONDS|CONNECT,TOTAL",
        "help": "Seconds for one whole attempt, or those to connect and in total; none waits forever.",
    },
    "deadline": {"type": float, "metavar": "SECONDS"},
    "http2": {
        "action": argparse.BooleanOptionalAction,
        "help": "Warn if the backend does not support HTTP/2, or never use it. Default: use it if possible.",
    },
    "http3": {"action": argparse.BooleanOptionalAction},
    "proxy": {"metavar": "URL", "help": "Proxy URL, in place of the environment's (see --no-trust-env)."},
    "trust_env": {"action": argparse.BooleanOptionalAction},
    "follow_redirects": {"action": argparse.BooleanOptionalAction},
    "max_redirects": {"type": int, "metavar": "N"},
    "max_response_size": {"type": int, "metavar": "BYTES"},
    "debug": {"action": "store_true"},
}
"""The options that are useful on a command line; names, defaults and meanings are those of `Settings`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the library; those that are not given stay absent."""
    group = parser.add_argument_group("options of the library")
    for name, how in _FLAGS.items():
        option = OPTION_FIELDS[name]
        text, default = how.get("help", option.metadata["doc"]), option.default
        if default is not None:
            text += f" Default: {default}."
        arguments = {"flags": [f"--{name.replace('_', '-')}"], **how, "help": text.replace("%", "%%")}
        group.add_argument(*arguments.pop("flags"), dest=name, default=argparse.SUPPRESS, **arguments)
    group.add_argument(
        "-H",
        "--header",
        dest="headers",
        action="append",
        type=_header,
        default=argparse.SUPPRESS,
        metavar="'NAME: VALUE'",
        help="A request header; may be given several times, and values of one name are joined.",
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


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were given, as the library takes them."""
    options = {name: value for name, value in vars(arguments).items() if name in OPTION_NAMES}
    if "headers" in options:
        options["headers"] = _joined(options["headers"])
    return options


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    """Return each name once, with its values joined (RFC 9110, 5.2; for cookies RFC 6265, 5.4)."""
    joined: dict[str, str] = {}
    for name, value in headers:
        known = next((other for other in joined if other.lower() == name.lower()), None)
        if known is None:
            joined[name] = value
        else:
            joined[known] += f"{'; ' if known.lower() == 'cookie' else ', '}{value}"
    return joined


@contextlib.contextmanager
def open_session(options: dict[str, Any]) -> Iterator[ParallelSession]:
    """Open a session, and print its warnings, one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        session = ParallelSession(**options)
    for warning in caught:
        say(f"warning: {warning.message}")
    with session:
        yield session
