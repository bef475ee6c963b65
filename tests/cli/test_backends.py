"""``backends``: what is installed, and what it can do."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

import parallel_requests
from parallel_requests.backends.base import Capabilities
from parallel_requests.backends.registry import BACKEND_NAMES, backend_class, is_installed
from parallel_requests.cli import main
from tests.cli.program import SUCCESS, WRONG_USAGE, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.control import Server


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
