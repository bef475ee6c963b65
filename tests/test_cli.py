"""The command line, as a process of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import parallel_requests
from parallel_requests.backends.base import Capabilities
from parallel_requests.backends.registry import BACKEND_NAMES, backend_class, is_installed
from parallel_requests.cli import main
from parallel_requests.cli.flags import _FLAGS
from parallel_requests.options import Settings
from tests.polling import until
from tests.server.content import content_sha256
from tests.server.control import together
from tests.server.faults import read_request, refusing_port, response, send, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server.control import Server
    from tests.server.faults import FaultServer

ROOT = Path(parallel_requests.__file__).parents[1]
PROGRAM = [sys.executable, "-c", "import sys; from parallel_requests.cli import main; sys.exit(main())"]
PATIENCE = 40.0
"""Seconds a program may take to end; far more than it does, as the machine may be busy."""
SUCCESS, SOME_FAILED, WRONG_USAGE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


@pytest.fixture(autouse=True)
def buffered_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what a command prints buffered, as it is for users."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


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


# -- where the URLs come from


def test_urls_as_arguments(server: Server) -> None:
    done = run("fetch", "--ordered", server.url("/id/1"), server.url("/id/2"))
    assert done.returncode == SUCCESS
    assert values(done.stdout) == [{"id": 1}, {"id": 2}]
    assert sorted(server.ids()) == [1, 2]


def test_urls_from_a_file_without_empty_lines_and_comments(server: Server, tmp_path: Path) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_text(f"\ufeff{server.url('/id/1')}\n\n# not this one\n  {server.url('/id/2')}  \r\n", "utf-8")
    done = run("fetch", "-i", str(urls), "--ordered", server.url("/id/3"))
    assert [(record["index"], record["value"]["id"]) for record in records(done.stdout)] == [
        (0, 1),
        (1, 2),
        (2, 3),
    ]
    assert done.returncode == SUCCESS


@pytest.mark.parametrize("arguments", [["-i", "-"], ["-"]])
def test_urls_from_stdin(server: Server, arguments: list[str]) -> None:
    done = run("fetch", *arguments, stdin=f"{server.url('/id/1')}\n{server.url('/id/2')}")
    assert done.returncode == SUCCESS
    assert sorted(value["id"] for value in values(done.stdout)) == [1, 2]


def test_stdin_is_streamed_through(server: Server) -> None:
    """An endless input is read only as far as there is room."""
    with start("fetch", "-", "--concurrency", "5", "-q") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        number = 0
        for _ in range(20):
            for _ in range(50):
                number += 1
                process.stdin.write(f"{server.url(f'/id/{number}')}\n")
            process.stdin.flush()
            for _ in range(30):
                assert json.loads(process.stdout.readline())["status"] == 200
        process.stdin.close()
        assert len(records(process.stdout.read())) == number - 20 * 30
    assert process.returncode == SUCCESS
    assert sorted(server.ids()) == list(range(1, number + 1))
    assert server.stats().max_in_flight <= 5


def test_a_line_may_be_a_json_object(server: Server) -> None:
    lines = [
        {"url": server.url("/anything"), "json": {"n": 1}, "key": "first", "meta": {"row": 7}},
        {"url": server.url("/anything"), "method": "PUT", "data": "x", "headers": {"X-One": "1"}},
        {"url": server.url("/anything"), "params": {"q": "bread"}, "timeout": [5, 30]},
        server.url("/anything"),
    ]
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    done = run("fetch", "-", "--ordered", stdin=text)
    assert done.returncode == SUCCESS, done.stdout + done.stderr
    first, second, third, plain = records(done.stdout)
    assert (first["key"], first["meta"]) == ("first", {"row": 7})
    assert (first["value"]["method"], first["value"]["json"]) == ("POST", {"n": 1})
    assert (second["value"]["method"], second["value"]["data"]) == ("PUT", "x")
    assert second["value"]["headers"]["X-One"] == "1"
    assert third["value"]["args"] == {"q": "bread"}
    assert third["value"]["method"] == plain["value"]["method"] == "GET"
    assert not {"key", "meta"} & {*second, *third, *plain}


def test_a_line_that_is_no_request_fails_alone(server: Server, tmp_path: Path) -> None:
    failed = tmp_path / "failed.jsonl"
    lines = [
        '{"url": "http://h/", "headers": {"Authorization": "hush"}',
        '{"url": ' + "[" * 100_000,
        '{"uri": "http://h/"}',
        json.dumps({"url": server.url("/status-seq/line?seq=500,200"), "key": 1}),
        server.url("/id/1"),
    ]
    arguments = ["--retries", "0", "--failed", str(failed), "--ordered"]
    done = run("fetch", "-", *arguments, stdin="\n".join(lines))
    assert done.returncode == SOME_FAILED
    broken, deep, misspelt, unavailable, fine = records(done.stdout)
    assert "is not JSON" in broken["error"]["message"]
    assert "is not JSON" in deep["error"]["message"]
    assert "hush" not in done.stdout + done.stderr
    assert "uri" in misspelt["error"]["message"]
    assert (unavailable["key"], unavailable["status"]) == (1, 500)
    assert fine["value"] == {"id": 1}
    assert failed.read_text().splitlines() == lines[:4]
    again = run("fetch", "-", "--retries", "0", stdin=failed.read_text().splitlines()[3])
    assert [record["key"] for record in records(again.stdout)] == [1]
    assert again.returncode == SUCCESS


# -- what comes out


def test_each_result_is_one_line(server: Server) -> None:
    done = run("fetch", server.url("/id/7?token=hidden"))
    (record,) = records(done.stdout)
    assert set(record) == {"index", "url", "status", "attempts", "elapsed", "value"}
    assert record["url"].endswith("/id/7?token=***")
    assert (record["index"], record["status"], record["attempts"]) == (0, 200, 1)
    assert 0 < record["elapsed"] < 30
    assert "1 of 1 succeeded" in done.stderr
    assert "hidden" not in done.stdout + done.stderr


def test_results_are_printed_as_they_complete_unless_ordered(
    server: Server, fault_server: Callable[..., FaultServer]
) -> None:
    may_respond = threading.Event()
    late = fault_server([read_request(), wait(may_respond), send(response(b"1"))])
    with start("fetch", "--backend", "urllib3", late.url(), server.url("/id/2")) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["index"] == 1
        may_respond.set()
        assert json.loads(process.stdout.readline())["index"] == 0
    late_first = [server.url("/id/1?delay=0.5"), server.url("/id/2")]
    assert [value["id"] for value in values(run("fetch", "--ordered", *late_first).stdout)] == [1, 2]


def test_any_failure_makes_the_exit_status_1(server: Server) -> None:
    done = run("fetch", "--ordered", server.url("/id/1"), server.url("/status/404"), "ftp://host/", "http://")
    fine, missing, *wrong = records(done.stdout)
    assert done.returncode == SOME_FAILED
    assert fine["value"] == {"id": 1}
    assert (missing["status"], missing["error"]["type"]) == (404, "HTTPStatusError")
    assert "404" in missing["error"]["message"]
    for record in wrong:
        assert (record["status"], record["attempts"], record["error"]["type"]) == (None, 0, "ValidationError")


def test_each_return_type_fits_into_a_line(server: Server) -> None:
    def value(kind: str) -> Any:
        return values(run("fetch", "--return-type", kind, server.url("/static")).stdout)[0]

    assert value("json")["name"] == "static"
    assert json.loads(value("text"))["name"] == "static"
    assert json.loads(base64.b64decode(value("content")))["name"] == "static"
    response = value("response")
    assert json.loads(response["text"])["name"] == "static"
    assert response["url"] == server.url("/static")
    assert response["headers"]["content-type"] == "application/json"
    assert (response["http_version"], response["reason"]) == ("HTTP/1.1", "OK")


def test_a_value_that_json_cannot_express_is_an_error(fault_server: Callable[..., FaultServer]) -> None:
    """``NaN`` is accepted by Python's decoder, but the line would not be JSON."""
    body = b'{"n":NaN}'
    server = fault_server([read_request(), send(response(body))])
    done = run("fetch", server.url())
    (record,) = records(done.stdout)
    assert done.returncode == SOME_FAILED
    assert record["error"]["type"] == "ValueError"


def test_quiet_prints_nothing_on_stderr(server: Server) -> None:
    assert run("fetch", "-q", server.url("/id/1")).stderr == ""


@pytest.mark.skipif(importlib.util.find_spec("tqdm") is None, reason="the bar is tqdm's")
def test_a_progress_bar_is_shown_if_stderr_is_a_terminal(server: Server, tmp_path: Path) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_text(f"# one alone\n\n{server.url('/id/2')}\n")
    output, shown = run_on_a_terminal("fetch", server.url("/id/1"), "-i", str(listed))
    assert "2/2" in shown
    assert "failed=0" in shown
    assert "succeeded" not in shown, "it replaces the summary"
    assert len(records(output)) == 2
    output, shown = run_on_a_terminal("download", server.url("/range/2000"), "--to", str(tmp_path))
    assert "2.00k/2.00k" in shown
    assert len(records(output)) == 1


@pytest.mark.parametrize("command", [["fetch"], ["download", "--to"]], ids=lambda it: it[0])
def test_quiet_shows_no_progress_bar(command: list[str], server: Server, tmp_path: Path) -> None:
    folder = [str(tmp_path)] * (len(command) - 1)
    output, shown = run_on_a_terminal(*command, *folder, "-q", server.url("/id/1"))
    assert shown == ""
    assert len(records(output)) == 1


# -- options


def test_method_headers_and_body_reach_the_server(server: Server) -> None:
    given = ["--header", "X-One: 1", "--header", "X-Two: a: b", "--header", "X-ONE: 2", "--json", "[1, 2]"]
    (answer,) = values(run("fetch", *given, server.url("/anything")).stdout)
    assert (answer["method"], answer["json"]) == ("POST", [1, 2])
    assert answer["headers"]["Content-Type"] == "application/json"
    assert (answer["headers"]["X-One"], answer["headers"]["X-Two"]) == ("1, 2", "a: b")

    (answer,) = values(run("fetch", "-X", "PUT", "--data", "some text", server.url("/anything")).stdout)
    assert (answer["method"], answer["data"]) == ("PUT", "some text")


def test_a_body_is_sent_by_post_unless_a_method_is_given(server: Server) -> None:
    (answer,) = values(run("fetch", "--json", "[1, 2]", server.url("/anything")).stdout)
    assert (answer["method"], answer["json"]) == ("POST", [1, 2])
    lines = [{"url": server.url("/anything"), "data": "x"}, {"url": server.url("/anything"), "json": {}}]
    text = "\n".join(map(json.dumps, lines))
    assert [value["method"] for value in values(run("fetch", "-", stdin=text).stdout)] == ["POST"] * 2
    assert [value["method"] for value in values(run("fetch", "-X", "PUT", "-", stdin=text).stdout)] == [
        "PUT"
    ] * 2


def test_cookies_given_one_by_one_are_one_header(server: Server) -> None:
    given = ["--header", "Cookie: a=1", "--header", "cookie: b=2"]
    [record] = records(run("fetch", *given, server.url("/cookies")).stdout)
    assert record["value"] == {"cookies": {"a": "1", "b": "2"}}


def test_headers_given_override_those_that_json_adds(server: Server) -> None:
    given = ["--json", "{}", "--header", "Content-Type: application/merge-patch+json", "-X", "PATCH"]
    (answer,) = values(run("fetch", *given, server.url("/anything")).stdout)
    assert answer["method"] == "PATCH"
    assert answer["headers"]["Content-Type"] == "application/merge-patch+json"
    (answer,) = values(run("fetch", "--data", "some text", server.url("/anything")).stdout)
    assert (answer["method"], answer["data"]) == ("POST", "some text")


def test_retries_can_be_switched_off(server: Server) -> None:
    (record,) = records(run("fetch", "--retries", "0", server.url("/status/503")).stdout)
    assert record["attempts"] == 1
    assert server.stats().requests == 1


def test_concurrency_limits_the_calls_in_flight(server: Server) -> None:
    urls = [server.url(together(3))] * 12
    assert run("fetch", "--backend", "urllib3", "--concurrency", "3", *urls).returncode == SUCCESS
    assert server.stats().max_in_flight == 3


def test_a_rate_limit_spreads_the_calls(server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(8)]
    done = run("fetch", "--rate-limit", "20", "--rate-limit-burst", "1", *urls)
    arrivals = server.arrivals()
    assert done.returncode == SUCCESS
    assert len(arrivals) == 8
    assert arrivals[-1] - arrivals[0] > 0.3


def test_a_rate_limit_of_one_host_spreads_its_calls(server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(8)]
    limits = "elsewhere.test=0.001, 127.0.0.1 = 20"
    assert run("fetch", "--rate-limit", limits, "--rate-limit-burst", "1", *urls).returncode == SUCCESS
    arrivals = server.arrivals()
    assert len(arrivals) == 8
    assert arrivals[-1] - arrivals[0] > 0.3


def test_limits_are_taken_as_numbers(server: Server) -> None:
    per_host = ["--concurrency-per-host", "2", "--rate-limit-per-host", "50", "--rate-limit-burst", "3"]
    given = [*per_host, "--max-redirects", "0", "--max-response-size", "2", "--retries", "0", "--ordered"]
    urls = [server.url("/bytes/2"), server.url("/bytes/3"), server.url("/redirect/1")]
    fits, too_large, redirected = records(run("fetch", "--return-type", "content", *given, *urls).stdout)
    assert len(base64.b64decode(fits["value"])) == 2
    assert too_large["error"]["type"] == "BodyTooLarge"
    assert redirected["error"]["type"] == "RedirectError"


def test_a_proxy_can_be_named(server: Server) -> None:
    with refusing_port() as port:
        proxy = f"http://127.0.0.1:{port}"
        (record,) = records(run("fetch", "--proxy", proxy, "--retries", "0", server.url("/id/1")).stdout)
    assert record["error"]["type"] == "ProxyError"
    assert server.stats().requests == 0


def test_timeout_and_deadline_end_what_takes_longer(server: Server) -> None:
    (record,) = records(run("fetch", "--timeout", "0.2", "--retries", "0", server.url("/delay/20")).stdout)
    assert "RequestTimeout" in record["error"]["type"]
    given = ["--timeout", "None, 0.2", "--retries", "0"]
    (record,) = records(run("fetch", *given, server.url("/delay/20")).stdout)
    assert "RequestTimeout" in record["error"]["type"]
    assert run("fetch", "--timeout", "20,none", server.url("/id/1")).returncode == SUCCESS
    assert run("fetch", "--timeout", "none", server.url("/id/1")).returncode == SUCCESS
    (record,) = records(run("fetch", "--deadline", "0.2", server.url("/delay/20")).stdout)
    assert record["error"]["type"] == "DeadlineExceededError"


def test_certificates_are_checked_by_the_system_cas_a_file_or_not_at_all(tls_server: Server) -> None:
    url = tls_server.url("/id/1")
    (record,) = records(run("fetch", "--retries", "0", url).stdout)
    assert record["error"]["type"] == "TLSError"
    assert run("fetch", "--ca-file", str(tls_server.ca_file), url).returncode == SUCCESS
    assert run("fetch", "--insecure", url).returncode == SUCCESS


def test_every_backend_can_be_chosen(server: Server, backend: str) -> None:
    done = run("fetch", "--backend", backend, server.url("/headers"))
    assert done.returncode == SUCCESS
    assert server.stats().by_path == {"/headers": 1}


def test_a_warning_is_one_line(server: Server) -> None:
    done = run("fetch", "--http2", "--backend", "urllib3", "-q", server.url("/id/1"))
    assert done.returncode == SUCCESS
    assert done.stderr.startswith("parallel-requests: warning: http2=True has no effect")
    assert done.stderr.count("\n") == 1


# -- wrong usage


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fetch"], "there is nothing to fetch"),
        (["fetch", "-i", "/no/such/file"], "cannot read /no/such/file: No such file"),
        (["fetch", __file__], f"{__file__} is a file; read URLs from it with -i {__file__}"),
        (["fetch", "--concurrency", "0", "http://h/"], "concurrency must be"),
        (["fetch", "--backend", "nope", "http://h/"], "There is no backend 'nope'"),
        (["fetch", "--ca-file", "/no/such/file", "http://h/"], "verify_ssl must be"),
        (["fetch", "--timeout", "1,2,3", "http://h/"], "--timeout: must be SECONDS"),
        (["fetch", "--timeout", "soon", "http://h/"], "--timeout: must be SECONDS"),
        (["fetch", "--rate-limit", "host=fast", "http://h/"], "--rate-limit: must be RATE"),
        (["fetch", "--header", "no-colon", "http://h/"], "--header: must be 'Name: value'"),
        (["fetch", "--json", "{", "http://h/"], "--json: must be JSON"),
        (["fetch", "--return-type", "stream", "http://h/"], "invalid choice"),
        (["download", "--existing", "ask", "http://h/"], "invalid choice"),
        (["fetch", "--json", "{}", "--data", "x", "http://h/"], "not allowed with"),
        (["fetch", "--no-such-option", "http://h/"], "unrecognized arguments"),
        (["fitch"], "invalid choice"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_usage_is_reported_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main(arguments)
    except SystemExit as exit_:  # argparse's own
        status = exit_.code
    lines = capsys.readouterr().err.splitlines()
    assert status == WRONG_USAGE
    assert told in lines[-1]
    assert lines[-1].startswith("parallel-requests")


@pytest.mark.parametrize(
    ("command", "flag", "meant"),
    [
        ("fetch", "--concurency", "--concurrency"),
        ("fetch", "--follow-redirekts=no", "--follow-redirects"),
        ("download", "--sha265", "--sha256"),
        ("download", "--existng", "--existing"),
        ("fetch", "--zzz", None),
        ("backends", "--verbose", None),
    ],
)
def test_an_unknown_flag_gets_the_usage_of_its_command_and_a_hint(
    command: str, flag: str, meant: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main([command, flag, "5"])
    told = capsys.readouterr().err
    assert raised.value.code == WRONG_USAGE
    assert told.startswith(f"usage: parallel-requests {command} ")
    last = told.splitlines()[-1]
    assert last.startswith(f"parallel-requests {command}: error: unrecognized arguments: {flag}")
    assert last.partition("; ")[2] == (f"did you mean {meant}?" if meant else "")


def test_help_names_the_default_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["fetch", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    shown = re.findall(r"Default: (.+?)\.(?: |$)", text)
    shown.remove("use it if possible")  # as None says of http2
    defaults = {field.name: field.default for field in fields(Settings)}
    assert shown == [str(defaults[name]) for name in _FLAGS if defaults[name] is not None]


@pytest.mark.parametrize("command", ["fetch", "download", "backends"])
def test_help_names_flags_and_not_the_options_they_stand_for(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert re.findall(r"\w+_\w+", capsys.readouterr().out) == []


@pytest.mark.parametrize("command", ["fetch", "download"])
def test_help_on_a_terminal_limited_to_ascii(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run(command, "--help")
    assert (done.returncode, done.stderr) == (SUCCESS, "")
    assert "--concurrency" in done.stdout


# -- being stopped


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


# -- backends


def test_backends_shows_what_is_installed() -> None:
    done = run("backends")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert done.returncode == SUCCESS
    for name in BACKEND_NAMES:
        if is_installed(name):
            assert backend_class(name).version() in rows[name]
        else:
            assert "not installed" in rows[name]
    assert f"auto takes: {backend_class('auto').name}" in done.stdout


def test_backends_shows_what_each_can_do_in_columns() -> None:
    titles, *rows = run("backends").stdout.splitlines()
    for name in filter(is_installed, BACKEND_NAMES):
        [row] = [row for row in rows if row.startswith(f"{name} ")]
        backend = backend_class(name)
        assert row[titles.index("version") :] == backend.version()
        for ability in fields(Capabilities):
            title = ability.name.replace("_", " ").replace("http", "HTTP/")
            mark = row[titles.index(title) :].split()[0]
            assert mark == ("yes" if getattr(backend.capabilities, ability.name) else "no"), title


def test_a_backend_that_cannot_be_imported_is_reported_and_auto_takes_the_next(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pycurl.py").write_text("raise ImportError('libcurl is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    why = "backend 'curl' cannot be imported: libcurl is missing."
    following = next(name for name in BACKEND_NAMES if name != "curl" and is_installed(name))
    done = run("backends")
    assert (done.returncode, done.stderr) == (SUCCESS, "")
    assert f"auto takes: {following}\n" in done.stdout
    [row] = [row for row in done.stdout.splitlines() if row.startswith("curl ")]
    assert row.split()[:2] == ["curl", "-"]
    assert row.endswith(why)
    done = run("fetch", server.url("/id/1"))
    assert done.returncode == SUCCESS
    assert done.stderr.startswith(f"parallel-requests: warning: {why}")
    assert len(done.stderr.splitlines()) == 2
    done = run("fetch", "--backend", "curl", server.url("/id/1"))
    assert (done.returncode, done.stderr) == (WRONG_USAGE, f"parallel-requests: error: {why}\n")
    assert run("fetch", "--backend", "urllib3", server.url("/id/1")).returncode == SUCCESS


def test_an_entry_point_that_leads_nowhere_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "broken-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[parallel_requests.backends]\nbroken = json:NoSuchBackend\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run("backends")
    assert (done.returncode, done.stderr) == (SUCCESS, "")
    assert "backend 'broken' cannot be imported: module 'json' has no attribute" in done.stdout
    done = run("fetch", "--backend", "broken", "http://127.0.0.1:1/")
    assert done.returncode == WRONG_USAGE
    assert "Traceback" not in done.stderr


@pytest.mark.niquests
@pytest.mark.skipif(not is_installed("niquests"), reason="niquests takes the place of urllib3")
def test_backends_reports_that_urllib3_is_replaced() -> None:
    version = backend_class("urllib3").version()
    assert f"not the real one; urllib3-future {version}" in run("backends").stdout


@pytest.mark.skipif(is_installed("niquests"), reason="niquests takes the place of urllib3")
def test_backends_reports_that_urllib3_is_the_real_one() -> None:
    version = backend_class("urllib3").version()
    assert f"urllib3: the real one, {version}" in run("backends").stdout


def test_the_version_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"parallel-requests {parallel_requests.__version__}\n"


# -- download


def test_download_writes_files_and_a_line_for_each(server: Server, tmp_path: Path) -> None:
    urls = [server.url("/range/1000"), server.url("/range/2000")]
    listed = tmp_path / "urls.txt"
    listed.write_text("\n".join(urls))
    folder = tmp_path / "files"
    first, second = (["--sha256", content_sha256(size)] for size in (1000, 2000))
    done = run("download", "-i", str(listed), "--to", str(folder), *second, *first)
    assert done.returncode == SOME_FAILED
    assert {record["error"]["type"] for record in records(done.stdout)} == {"DownloadError"}
    assert list(folder.iterdir()) == []
    done = run("download", *urls, "--to", str(folder), *first, *second, "--header", "X-One: 1")
    assert done.returncode == SUCCESS, done.stderr
    assert [entry.headers["x-one"] for entry in server.log()[-2:]] == ["1", "1"]
    told = sorted(values(done.stdout), key=lambda value: int(value["size"]))
    assert [value["path"] for value in told] == [str(folder / "1000"), str(folder / "2000")]
    assert {path.stat().st_size for path in folder.iterdir()} == {1000, 2000}
    done = run("download", urls[0], "--to", str(folder), "--existing", "keep")
    assert values(done.stdout)[0]["path"] == str(folder / "1000 (2)")
    done = run("download", urls[0], "--to", str(folder), "--existing", "replace")
    told = values(done.stdout)
    assert [(value["path"], value["status"]) for value in told] == [(str(folder / "1000"), "downloaded")]
    done = run("download", *urls, "--to", str(folder), "-q")
    assert {value["status"] for value in values(done.stdout)} == {"skipped"}
    assert done.stderr == ""


def test_download_writes_to_the_current_folder_unless_another_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["download", "-q", server.url("/range/10")]) == SUCCESS
    assert [path.name for path in tmp_path.iterdir()] == ["10"]


def test_one_checksum_applies_to_every_file(server: Server, tmp_path: Path) -> None:
    urls = [server.url("/range/1000"), server.url("/range/1000?again"), server.url("/range/2000")]
    assert run("download", urls[0], "--to", str(tmp_path / "first")).returncode == SUCCESS
    checksum = hashlib.sha256((tmp_path / "first" / "1000").read_bytes()).hexdigest()
    done = run("download", *urls, "--to", str(tmp_path / "second"), "--sha256", checksum)
    told = sorted(records(done.stdout), key=lambda record: int(record["index"]))
    assert [record.get("value", {}).get("sha256") for record in told] == [checksum, checksum, None]
    assert done.returncode == SOME_FAILED
    assert "2 of 3 succeeded" in done.stderr


def test_ctrl_c_ends_a_download(server: Server, tmp_path: Path) -> None:
    with start("download", server.url("/range/1000"), server.url("/hang"), "--to", str(tmp_path)) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["value"]["size"] == 1000
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert {record["error"]["type"] for record in records(rest)} <= {"RunStoppedError"}
    assert "interrupted" in told
    assert "Traceback" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["1000"]


def test_each_file_may_have_a_checksum_of_its_own(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"/range/{size}") for size in (1000, 2000, 3000)]
    assert run("download", urls[0], "--to", str(tmp_path / "first")).returncode == SUCCESS
    checksum = hashlib.sha256((tmp_path / "first" / "1000").read_bytes()).hexdigest()
    lines = [
        {"url": urls[0], "sha256": checksum, "key": "right"},
        {"url": urls[1], "sha256": "0" * 64},
        {"url": urls[2]},
    ]
    text = "\n".join(map(json.dumps, lines))
    done = run("download", "-", "--to", str(tmp_path / "second"), stdin=text)
    told = sorted(records(done.stdout), key=lambda record: int(record["index"]))
    assert done.returncode == SOME_FAILED
    assert (told[0]["key"], told[0]["value"]["sha256"]) == ("right", checksum)
    assert told[1]["error"]["type"] == "DownloadError"
    assert told[2]["value"]["sha256"] is None


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ({"sha256": "nonsense"}, []),
        ({"sha256": 5}, []),
        ({"sha256": "0" * 64}, ["--sha256", "1" * 64]),
        ({}, ["--sha256", "nonsense"]),
    ],
)
def test_download_refuses_what_makes_no_sense(
    server: Server, tmp_path: Path, line: dict[str, object], arguments: list[str]
) -> None:
    text = json.dumps({"url": server.url("/range/1"), **line})
    done = run("download", "-", "--to", str(tmp_path), *arguments, stdin=text)
    assert done.returncode == WRONG_USAGE
    (told,) = done.stderr.splitlines()
    assert "sha256" in told
    assert server.stats().requests == 0


def test_the_summary_of_a_download_counts_what_was_skipped(server: Server, tmp_path: Path) -> None:
    there, failing = server.url("/range/1000"), server.url("/status/404")
    assert run("download", there, "--to", str(tmp_path), "-q").returncode == SUCCESS
    done = run("download", there, failing, "--to", str(tmp_path))
    assert done.returncode == SOME_FAILED
    (told,) = done.stderr.splitlines()
    assert "1 of 2 succeeded" in told
    assert ", 1 attempt, " in told


# -- what failed, for another run


def test_what_failed_can_be_fed_again_as_it_came(server: Server, tmp_path: Path) -> None:
    once = server.url("/status-seq/again?seq=500,200&token=hush#part")
    lines = [server.url("/id/1"), once, "no url", "http://me:hush@[::1", server.url("/id/2")]
    listed, failed = tmp_path / "urls.txt", tmp_path / "failed.txt"
    listed.write_bytes("\n".join(["# ids", *lines, ""]).encode() + b"http://h\xff/\n")
    done = run("fetch", "-i", str(listed), "--retries", "0", "--failed", str(failed), "-q", "--ordered")
    assert done.returncode == SOME_FAILED
    assert failed.read_bytes().splitlines() == [*(line.encode() for line in lines[1:4]), b"http://h\xff/"]
    again = run("fetch", "-i", str(failed), "--retries", "0", "--failed", str(tmp_path / "left.txt"), "-q")
    assert sum("value" in record for record in records(again.stdout)) == 1
    assert len((tmp_path / "left.txt").read_bytes().splitlines()) == 3
    assert "hush" not in done.stdout + done.stderr + again.stdout + again.stderr


def test_where_nothing_fails_the_file_of_failures_is_empty(server: Server, tmp_path: Path) -> None:
    failed = tmp_path / "failed.txt"
    failed.write_text("of an earlier run\n")
    done = run("fetch", *(server.url(f"/id/{number}") for number in range(50)), "--failed", str(failed))
    assert done.returncode == SUCCESS
    assert failed.read_text() == ""
    assert run("fetch", "-i", str(failed)).returncode == SUCCESS


def test_what_was_under_way_at_ctrl_c_can_be_fed_again(server: Server, tmp_path: Path) -> None:
    failed = tmp_path / "failed.txt"
    urls = [server.url(path) for path in ("/id/1", "/status/404", "/hang?n=1", "/hang?n=2")]
    with start("fetch", *urls, "--ordered", "--failed", str(failed)) as process:
        until(lambda: server.stats().requests == 4 and failed.read_text())  # then /id/1 is settled, too
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert sorted(failed.read_text().splitlines()) == sorted(urls[1:])


def test_what_ctrl_c_left_unread_can_be_fed_again(server: Server, tmp_path: Path) -> None:
    first, second, failed = (tmp_path / name for name in ("first.txt", "second.jsonl", "failed.txt"))
    paths = ["/id/1", "/status/404", *(f"/hang?n={number}" for number in range(100))]
    lines = [server.url(path) for path in paths]
    more = [json.dumps({"url": server.url("/hang"), "key": number}) for number in range(10)]
    first.write_text("\n".join(["# ids", *lines, ""]))
    second.write_text("\n".join(more))
    arguments = ["-i", str(first), "-i", str(second), server.url("/id/2"), "--failed", str(failed)]
    with start("fetch", *arguments, "--ordered", "--concurrency", "2", stdin=subprocess.DEVNULL) as process:
        until(lambda: server.stats().requests == 4 and failed.read_text())  # then /id/1 is settled, too
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED
    assert failed.read_text().splitlines() == [*lines[1:], *more, server.url("/id/2")]


def test_what_a_pipe_would_still_bring_is_not_waited_for(server: Server, tmp_path: Path) -> None:
    failed = tmp_path / "failed.txt"
    with start("fetch", "-", "--failed", str(failed)) as process:
        assert process.stdin is not None
        process.stdin.write(f"{server.url('/hang')}\n")
        process.stdin.flush()
        until(lambda: server.stats().requests == 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=PATIENCE) == INTERRUPTED
    assert failed.read_text().splitlines() == [server.url("/hang")]


@pytest.mark.parametrize("name", ["urls.txt", "folder", "missing/failed.txt", "f" * 300])
def test_failures_that_cannot_be_kept_are_refused_beforehand(
    server: Server, tmp_path: Path, name: str
) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_text(server.url("/id/1"))
    (tmp_path / "folder").mkdir()
    done = run("fetch", "-i", str(listed), "--failed", str(tmp_path / name))
    assert done.returncode == WRONG_USAGE
    assert f"{name}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert listed.read_text() == server.url("/id/1")
    assert server.stats().requests == 0


def test_failures_are_not_kept_in_the_file_on_stdin(server: Server, tmp_path: Path) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_text(server.url("/id/1"))
    with listed.open() as stdin, start("fetch", "-", "--failed", str(listed), stdin=stdin) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == WRONG_USAGE
    assert "which is an input" in said
    assert listed.read_text() == server.url("/id/1")


def test_it_also_runs_as_a_module(server: Server) -> None:
    command = [sys.executable, "-m", "parallel_requests", "fetch", server.url("/static")]
    fetched = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert fetched.returncode == SUCCESS, fetched.stderr
    assert [record["status"] for record in records(fetched.stdout)] == [200]
    helped = subprocess.run([*command[:3], "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert helped.stdout.startswith("usage: parallel-requests ")


def test_flags_by_the_names_people_try_first(server: Server) -> None:
    fetched = run("fetch", server.url("/get"), "-H", "X-Team: maps", "--max-retries", "0")
    assert fetched.returncode == SUCCESS, fetched.stderr
    assert values(fetched.stdout)[0]["headers"]["X-Team"] == "maps"
