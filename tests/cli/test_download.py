"""``download``: files, and a line for each."""

from __future__ import annotations

import hashlib
import json
import signal
from typing import TYPE_CHECKING

import pytest

from parallel_requests.cli import main
from tests.cli.program import (
    INTERRUPTED,
    PATIENCE,
    SOME_FAILED,
    SUCCESS,
    WRONG_USAGE,
    records,
    run,
    start,
    values,
)
from tests.server.content import content_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.control import Server


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
