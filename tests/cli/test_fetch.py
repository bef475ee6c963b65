"""``fetch``: where URLs come from, what is printed, and what is kept of failures."""

from __future__ import annotations

import base64
import importlib.util
import json
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.program import (
    INTERRUPTED,
    PATIENCE,
    SOME_FAILED,
    SUCCESS,
    WRONG_USAGE,
    records,
    run,
    run_on_a_terminal,
    start,
    values,
)
from tests.polling import until
from tests.server.control import together
from tests.server.faults import read_request, refusing_port, response, send, wait

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.server.control import Server
    from tests.server.faults import FaultServer


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
