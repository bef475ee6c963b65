"""The process a contender runs in: one JSON command a line on stdin, one JSON answer a line on stdout.

A command carries `url`, `n`, `concurrency`, `reading` ("json" or "content"), `fresh_client` and
`expected`. The answer carries `seconds` (wall clock), `cpu_seconds` (user and system, of this process)
and `max_rss_kib`. The process lives as long as its stdin is open, so that a harness can take a round
from each contender in turn.

Only the standard library is used: the environment belongs to the contender.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.scenes import Reading


class Client(Protocol):
    """What a contender has to offer."""

    def fetch(self, urls: list[str], reading: Reading) -> Sequence[object]:
        """Fetch all URLs and return the decoded values, or the bodies, in order."""

    def close(self) -> None:
        """Close every connection."""


class Rounds:
    """Runs rounds, keeping one client open for each concurrency.

    Args:
        open_client: Makes a client for a given concurrency.
    """

    def __init__(self, open_client: Callable[[int], Client]) -> None:
        self._open_client = open_client
        self._kept: dict[int, Client] = {}

    def run(self, command: dict[str, Any]) -> dict[str, float]:
        """Measure one round.

        Args:
            command: See the module.

        Returns:
            The answer to the command.

        Raises:
            ValueError: An answer is missing, or is not the one the server gave.
        """
        urls = [command["url"]] * command["n"]
        concurrency = command["concurrency"]
        if not command["fresh_client"] and concurrency not in self._kept:
            self._kept[concurrency] = self._open_client(concurrency)
        gc.collect()
        cpu_before, started = _cpu_seconds(), time.perf_counter()
        if command["fresh_client"]:
            with closing(self._open_client(concurrency)) as client:
                values = client.fetch(urls, command["reading"])
        else:
            values = self._kept[concurrency].fetch(urls, command["reading"])
        seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - cpu_before
        _check(values, command)
        max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "max_rss_kib": max_rss}

    def close(self) -> None:
        """Close every client that was kept."""
        for client in self._kept.values():
            client.close()


def serve(open_client: Callable[[int], Client]) -> None:
    """Answer commands until stdin ends.

    Args:
        open_client: Makes a client for a given concurrency.
    """
    _allow_many_sockets()
    answers = _claim_stdout()
    with closing(Rounds(open_client)) as rounds:
        for line in sys.stdin:
            print(json.dumps(rounds.run(json.loads(line))), file=answers, flush=True)


def _check(values: Sequence[object], command: dict[str, Any]) -> None:
    if len(values) != command["n"]:
        raise ValueError(f"{len(values)} answers to {command['n']} calls")
    expected = command["expected"]
    for value in values:
        seen = value if command["reading"] == "json" else len(value)  # type: ignore[arg-type]
        if seen != expected:
            raise ValueError(f"got {seen!r:.200}, not {expected!r}")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _allow_many_sockets() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _claim_stdout() -> TextIO:
    """Keep stdout for answers: what a library prints goes to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers
