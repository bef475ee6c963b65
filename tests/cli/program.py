"""Runs commands, and reads what they print."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import termios
from pathlib import Path
from typing import TYPE_CHECKING, Any

import parallel_requests

if TYPE_CHECKING:
    from collections.abc import Iterator


ROOT = Path(parallel_requests.__file__).parents[1]
PROGRAM = [sys.executable, "-c", "import sys; from parallel_requests.cli import main; sys.exit(main())"]
PATIENCE = 40.0
"""Seconds a program may take to end; far more than it does, as the machine may be busy."""
SUCCESS, SOME_FAILED, WRONG_USAGE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*PROGRAM, *arguments], cwd=ROOT, text=True, **{**pipes, **options})


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)


def run_on_a_terminal(*arguments: str) -> tuple[str, str]:
    """Run a command whose stderr is a terminal; return its stdout, and what the terminal shows."""
    terminal, its_end = os.openpty()
    termios.tcsetwinsize(its_end, (24, 100))
    with start(*arguments, stderr=its_end) as process:
        output, _ = process.communicate()
    os.close(its_end)
    return output, "".join(read_all(terminal))


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def values(output: str) -> list[Any]:
    return [record["value"] for record in records(output)]


def read_all(terminal: int) -> Iterator[str]:
    with open(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):  # Linux ends it so
        while chunk := file.read(65_536):
            yield chunk.decode()
