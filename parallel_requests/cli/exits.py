"""What the program is called, says on stderr, and exits with."""

from __future__ import annotations

import os
import sys
from typing import TextIO

PROGRAM = "parallel-requests"

FINE = 0
SOME_FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
READER_GONE = 141  # what a shell shows for any program whose reader has left


def say(line: str) -> None:
    """Print a line on stderr; where it cannot be written, nobody wants it."""
    try:
        print(f"{PROGRAM}: {line}", file=sys.stderr)
    except OSError:
        drop_what_is_buffered(sys.stderr)


def drop_what_is_buffered(stream: TextIO) -> None:
    """Keep the flush of a stream at exit from raising again: what is left has nowhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
