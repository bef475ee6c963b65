"""Ctrl-C, readers that leave, and streams that are closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.program import (
    INTERRUPTED,
    PATIENCE,
    READER_GONE,
    SOME_FAILED,
    SUCCESS,
    WRONG_USAGE,
    records,
    start,
    values,
)
from tests.polling import until

if TYPE_CHECKING:
    from tests.server.control import Server


def test_ctrl_c_keeps_finished_results_and_starts_nothing_more(server: Server) -> None:
    urls = [server.url("/id/1"), server.url("/id/2"), *[server.url("/delay/60")] * 8]
    with start("fetch", "--concurrency", "4", *urls) as process:
        assert process.stdout is not None
        first = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        rest, told = process.stdout.read(), process.stderr.read()
    assert process.returncode == INTERRUPTED
    assert sorted(record["value"]["id"] for record in first) == [1, 2]
    assert rest == ""
    assert "interrupted" in told
    assert "Traceback" not in told
    assert server.stats().requests <= 2 + 4


def test_ctrl_c_prints_results_held_back_for_their_order(server: Server) -> None:
    urls = [server.url(path) for path in ("/id/0", "/hang", "/id/1", "/id/2", "/id/3")]
    with start("fetch", "--ordered", "--concurrency", "2", *urls) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["index"] == 0
        until(lambda: 3 in server.ids())  # which had to wait for the place of /id/1
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert {"id": 1} in [record.get("value") for record in records(rest)]


@pytest.mark.parametrize("command", ["fetch", "download"])
def test_ctrl_c_while_waiting_for_input(command: str) -> None:
    with start(command, "-", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        # The process reads only once it is up: this much is more than a pipe holds.
        process.stdin.write("# nothing\n" * 20_000)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert "Traceback" not in told


def test_a_closed_pipe_ends_it_quietly(server: Server) -> None:
    with start("fetch", "-", "--concurrency", "4", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(f"{server.url(f'/id/{number}')}\n" for number in range(1_000)))
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.wait(timeout=PATIENCE)
        assert process.stderr is not None
        told = process.stderr.read()
    assert process.returncode == READER_GONE
    assert "Traceback" not in told
    assert "Exception ignored" not in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("command", [["fetch"], ["download", "--to"]])
def test_results_that_cannot_be_written_are_an_error_not_a_traceback(
    command: list[str], server: Server, tmp_path: Path
) -> None:
    folder = [str(tmp_path)] if command[-1] == "--to" else []
    with (
        Path("/dev/full").open("w") as full,
        start(*command, *folder, server.url("/id/1"), stdout=full) as process,
    ):
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == SOME_FAILED
    assert "parallel-requests: error: " in told
    assert "No space left" in told
    assert "Traceback" not in told
    assert "Exception ignored" not in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_table_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full, start("backends", stdout=full) as process:
        _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == SOME_FAILED
    assert told == "parallel-requests: error: [Errno 28] No space left on device\n"


def test_a_table_into_a_closed_pipe_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed, start("backends", stdout=closed) as process:
        _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told) == (READER_GONE, "")


def without(*names: str) -> Any:
    """Close these descriptors in a process just before it becomes the program."""

    def close_them() -> None:
        for name in names:
            os.close({"stdin": 0, "stdout": 1, "stderr": 2}[name])

    return close_them


@pytest.mark.parametrize("closed", [["stdout"], ["stderr"], ["stdout", "stderr"]], ids="_and_".join)
@pytest.mark.parametrize("command", [["fetch"], ["download", "--to"], ["backends"]], ids=lambda it: it[0])
def test_a_closed_stream_is_no_reason_to_fail(
    command: list[str], closed: list[str], server: Server, tmp_path: Path
) -> None:
    arguments = {"fetch": [server.url("/id/1")], "download": [str(tmp_path), server.url("/id/1")]}
    with start(*command, *arguments.get(command[0], []), preexec_fn=without(*closed)) as process:
        shown, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, "Traceback" in told) == (SUCCESS, False)
    assert (shown == "") is ("stdout" in closed)
    if command[0] != "backends":
        assert [record["index"] for record in records(shown)] == ([] if "stdout" in closed else [0])


def test_a_closed_stdin_is_an_error() -> None:
    with start("fetch", "-", preexec_fn=without("stdin")) as process:
        assert process.stderr is not None
        told = process.stderr.read()
    assert (process.returncode, told) == (
        WRONG_USAGE,
        "parallel-requests: error: cannot read -: stdin is closed.\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_summary_that_cannot_be_written_is_no_reason_to_fail(server: Server) -> None:
    with Path("/dev/full").open("w") as full, start("fetch", server.url("/id/1"), stderr=full) as process:
        shown, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, values(shown)) == (SUCCESS, [{"id": 1}])
