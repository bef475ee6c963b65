"""What files are called, and that none is ever written outside its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parallel_requests import DownloadError, ParallelSession, RetryPolicy, TruncatedBody
from tests.downloads.files import BODY, cut, named, names, rest, visible, whole
from tests.server.content import content
from tests.server.faults import close, read_request, repeat, response, send

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.control import Server
    from tests.server.faults import FaultServer

ROOT = Path(__file__).parents[2]


def test_two_urls_of_one_name_do_not_collide(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    urls = [server.url(f"/range/1000?seed={seed}") for seed in (1, 2, 3)] * 2
    files = session.download(urls, tmp_path)
    assert [file.path.name for file in files] == ["1000", *(f"1000 ({n})" for n in range(2, 7))]
    assert [file.path.read_bytes() for file in files] == [content(1000, seed) for seed in (1, 2, 3)] * 2


def test_files_kept_beside_others_are_numbered_in_the_order_of_their_urls(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "1000").write_bytes(b"mine")
    urls = [server.url(f"/range/1000?seed={seed}") for seed in range(5)]
    files = fast.download(urls, tmp_path, existing="keep")
    assert [file.path.name for file in files] == [f"1000 ({number})" for number in range(2, 7)]
    assert (tmp_path / "1000").read_bytes() == b"mine"


DISPOSITIONS = {
    'attachment; filename="report.pdf"': "report.pdf",
    "attachment; filename*=UTF-8''na%C3%AFve%20plan.txt": "naïve plan.txt",
    "attachment; filename=\"old.txt\"; filename*=UTF-8''new.txt": "new.txt",
    'attachment; filename="../../etc/passwd"': "passwd",
    'attachment; filename="..\\\\..\\\\boot.ini"': "boot.ini",
    'attachment; filename="/etc/shadow"': "shadow",
    "attachment; filename*=UTF-8''..%2F..%2Fup.txt": "up.txt",
    "attachment; filename*=UTF-8''a%00b.txt": "ab.txt",
    'attachment; filename="CON.txt"': "_CON.txt",
    'attachment; filename=".bashrc"': "bashrc",
    'attachment; filename="a:b|c?.txt"': "a_b_c_.txt",
    'attachment; filename="dots...  "': "dots",
    f'attachment; filename="{"x" * 400}.tar.gz"': "x" * 173 + ".tar.gz",
    'attachment; filename=".."': "file",
    'attachment; filename=""': "file",
    "inline": "file",
    "attachment; filename*=nonsense''%ff%fe": "file",
    "attachment; filename*=undefined''%00.txt": "file",
    "attachment; filename*=%00''a.txt": "file",
    "attachment; filename*1=nonsense; filename*=a": "file",
    'attachment; FileName="Mixed.txt"': "Mixed.txt",
}


@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_row_32_names_from_the_server_are_made_safe(
    disposition: str, fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    server = fault_server([repeat(read_request(), send(named(disposition)))])
    file = fast.download(server.url("/file"), folder)
    assert file.path.parent == folder
    if "nonsense" not in disposition:  # what becomes of that differs among versions of Python
        assert file.path.name == DISPOSITIONS[disposition]
    assert file.path.read_bytes() == b"body"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.txt", "b.txt"),
        ("/..%2F..%2Fescape.txt", "escape.txt"),
        ("/%2e%2e", "download"),
        ("/a%00b", "ab"),
        ("/aux.c", "_aux.c"),
        ("/con%20.txt", "_con .txt"),
        ("/", "download"),
        ("/na%C3%AFve?x=y/z", "naïve"),
        ("/.htaccess", "htaccess"),
        ("/%E2%80%AEtxt.exe", "txt.exe"),
        ("/" + "y" * 500, "y" * 180),
        ("/y." + "z" * 500, "y." + "z" * 178),
    ],
)
def test_row_32_names_from_urls_are_made_safe(
    path: str, name: str, fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([repeat(read_request(), send(response(b"body")))])
    assert fast.download(server.url(path), tmp_path / "folder").path == tmp_path / "folder" / name
    assert names(tmp_path) == ["folder"]


NOT_IN_ASCII = """\
import sys
from parallel_requests import ConfigurationError, ParallelSession
with ParallelSession() as session:
    for url in sys.argv[1:]:
        print(session.download(url, "folder").path.name)
    try:
        session.download([url], ["na\\xefve"])
    except ConfigurationError as error:
        print(error.config_key)
"""


def test_row_32_names_the_file_system_cannot_encode(
    fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    disposition = named("attachment; filename*=UTF-8''na%C3%AFve%20plan.txt")
    server = fault_server(
        [read_request(), send(response(b"body")), close()], [read_request(), send(disposition), close()]
    )
    in_ascii = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", NOT_IN_ASCII, server.url("/na%C3%AFve"), server.url("/get")],
        cwd=tmp_path,
        env={**os.environ, **in_ascii},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout.split("\n"), done.stderr) == (["na_ve", "na_ve plan.txt", "to", ""], "")
    assert visible(tmp_path / "folder") == ["na_ve", "na_ve plan.txt"]


def test_a_name_from_the_server_never_overwrites_a_file(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    (tmp_path / "report.pdf").write_bytes(b"mine")
    server = fault_server([repeat(read_request(), send(named('attachment; filename="report.pdf"')))])
    urls = [server.url(f"/get?id={number}") for number in range(3)]
    files = fast.download(urls, tmp_path)
    assert sorted(file.path.name for file in files) == [f"report ({number}).pdf" for number in (2, 3, 4)]
    assert (tmp_path / "report.pdf").read_bytes() == b"mine"
    again = fast.download(urls, tmp_path)
    assert [file.path for file in again] == [file.path for file in files], "each finds its own"
    assert {file.status for file in again} == {"skipped"}
    assert len(server.requests) == 3
    assert fast.download(urls[0], tmp_path, existing="replace").path == tmp_path / "report.pdf"


def test_a_name_from_the_server_that_is_that_of_the_url_gets_no_number(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([read_request(), send(named('attachment; filename="report.pdf"'))])
    assert fast.download(server.url("/report.pdf"), tmp_path).path == tmp_path / "report.pdf"


def test_a_name_from_the_server_does_not_change_a_given_path(
    fast: ParallelSession,
    fault_server: Callable[..., FaultServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    server = fault_server([read_request(), send(named('attachment; filename="report.pdf"'))])
    [file] = fast.download([server.url("/get")], ["mine.pdf"])
    assert file.path == Path("mine.pdf")
    assert names(tmp_path) == ["mine.pdf"]


def test_a_file_named_by_the_server_is_skipped_by_later_calls(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    (tmp_path / "report.pdf").write_bytes(b"mine")
    name = b'Content-Disposition: attachment; filename="report.pdf"\r\nETag'
    server = fault_server(
        [read_request(), send(cut(100_000).replace(b"ETag", name)), close()],
        [read_request(), send(rest(100_000).replace(b"ETag", name)), close()],
    )
    file = fast.download(server.url("/get"), tmp_path)
    assert (file.status, file.path.name) == ("resumed", "report (2).pdf")
    again = fast.download(server.url("/get"), tmp_path)
    assert (again.status, again.path) == ("skipped", file.path)
    renamed = file.path.rename(tmp_path / "get")
    again = fast.download(server.url("/get"), tmp_path)
    assert (again.status, again.path) == ("skipped", renamed), "under the name in its URL, too"


def test_row_32_links_are_never_written_through(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_bytes(b"precious")
    folder.mkdir()
    (folder / "file").symlink_to(outside)
    server = fault_server(
        [read_request(), send(cut(100_000)), close()], [repeat(read_request(), send(whole()))]
    )
    with pytest.raises(TruncatedBody):
        fast.download(server.url("/file"), folder, existing="replace", retry=RetryPolicy(max_retries=0))
    for hidden in [*folder.glob(".*.part"), *folder.glob(".*.json")]:
        hidden.unlink()
        hidden.symlink_to(outside)
    file = fast.download(server.url("/file"), folder, existing="replace")
    assert file.path.read_bytes() == BODY
    assert not file.path.is_symlink()
    assert outside.read_bytes() == b"precious"
    assert "range" not in server.requests[1].headers


def test_row_32_a_link_that_appears_meanwhile_is_not_written_through(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_bytes(b"precious")

    def put_a_link_there(_: object) -> None:
        [partial] = folder.glob(".*.part")
        partial.unlink()
        partial.symlink_to(outside)

    server = fault_server(
        [read_request(), send(cut(100_000)), close()],
        [read_request(), put_a_link_there, send(rest(100_000))],
    )
    with pytest.raises(DownloadError, match="could not be resumed"):
        fast.download(server.url("/file"), folder)
    assert outside.read_bytes() == b"precious"
    assert visible(folder) == []


def test_a_hard_link_is_never_written_through(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_bytes(bytes(50))
    server = fault_server(
        [read_request(), send(cut(100_000)), close()], [repeat(read_request(), send(whole()))]
    )
    with pytest.raises(TruncatedBody):
        fast.download(server.url("/file"), folder, retry=RetryPolicy(max_retries=0))
    [partial] = folder.glob(".*.part")
    partial.unlink()
    partial.hardlink_to(outside)
    assert fast.download(server.url("/file"), folder).path.read_bytes() == BODY
    assert outside.read_bytes() == bytes(50)
