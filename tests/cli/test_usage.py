"""How a command is called, and what is said of a wrong call."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from parallel_requests.cli import main
from parallel_requests.cli.flags import _FLAGS
from parallel_requests.options import Settings
from tests.cli.program import ROOT, SUCCESS, WRONG_USAGE, records, run, values

if TYPE_CHECKING:
    from tests.server.control import Server


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
