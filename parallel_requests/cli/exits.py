"""What the program is called, says on stderr, and exits with."""

from __future__ import annotations

import sys

PROGRAM = "parallel-requests"

FINE = 0
SOME_FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
READER_GONE = 141  # what a shell shows for any program whose reader has left


def say(line: str) -> None:
    """Print a line on stderr."""
    print(f"{PROGRAM}: {line}", file=sys.stderr)
