"""The program's name, its messages on stderr, and its exit statuses."""

from __future__ import annotations

import os
import sys
from typing import TextIO

PROGRAM = "parallel-requests"

SUCCESS = 0
SOME_FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
READER_GONE = 141  # what a shell shows for any program whose reader has left


def say(line: str) -> None:
    """Print a line on stderr; drop it if stderr cannot be written to."""
    try:
        print(f"{PROGRAM}: {line}", file=sys.stderr)
    except OSError:
        discard_buffer(sys.stderr)


def discard_buffer(stream: TextIO) -> None:
    """Discard what a stream still buffers, so that its flush at exit does not raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
