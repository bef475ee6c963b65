"""The same file twice at once."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from parallel_requests import Download, ParallelSession, RetryPolicy, TruncatedBody
from tests.downloads.files import (
    BODY,
    cut,
    descriptors,
    named,
    names,
    respond_with_rest,
    rest,
    visible,
    whole,
)
from tests.polling import until
from tests.server.faults import close, read_request, repeat, response, send, wait

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parallel_requests.destinations import Existing
    from tests.server.control import Server
    from tests.server.faults import FaultServer, Step


def in_two_halves(answer: bytes, at: int, then: threading.Event) -> list[Step]:
    """The steps of a response whose second half is sent when the test says so."""
    return [read_request(), send(answer[:-at]), wait(then), send(answer[-at:])]


def begun(
    pool: ThreadPoolExecutor,
    session: ParallelSession,
    url: str,
    to: Path | list[Path],
    existing: Existing = "skip",
) -> Future[Download]:
    """Start a download, and return once it has written something."""
    has_written = threading.Event()
    file: Future[Download] = pool.submit(
        session.download,
        url,
        to,
        existing=existing,
        progress=lambda done, _: has_written.set() if done else None,
    )
    assert has_written.wait(10)
    return file


def test_two_simultaneous_downloads_of_one_file_do_not_disturb_each_other(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    first_goes_on, second_breaks_off = threading.Event(), threading.Event()
    server = fault_server(
        in_two_halves(whole(), 100_000, first_goes_on),
        [read_request(), send(cut(200_000)), wait(second_breaks_off), close()],
        [read_request(), send(whole())],
    )
    with ThreadPoolExecutor(2) as pool:
        first = begun(pool, session, server.url("/file"), tmp_path)
        second = begun(pool, session, server.url("/file"), tmp_path)
        first_goes_on.set()
        assert first.result(10).path.read_bytes() == BODY
        second_breaks_off.set()
        assert second.result(10).path.read_bytes() == BODY
    assert [request.headers.get("range") for request in server.requests] == [None, None, None]
    assert names(tmp_path) == ["file"]
    assert descriptors(tmp_path) == 0


def test_only_one_of_two_downloads_resumes_a_part_file(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    first_goes_on = threading.Event()
    server = fault_server(
        [read_request(), send(cut(100_000)), close()],
        in_two_halves(rest(100_000), 100_000, first_goes_on),
        [read_request(), respond_with_rest, close()],
        [read_request(), send(whole())],
    )
    with pytest.raises(TruncatedBody):
        session.download(server.url("/file"), tmp_path, retry=RetryPolicy(max_retries=0))
    with ThreadPoolExecutor(1) as pool:
        first = begun(pool, session, server.url("/file"), tmp_path)
        second = session.download(server.url("/file"), tmp_path, existing="replace")
        assert (second.status, second.path.read_bytes()) == ("downloaded", BODY)
        first_goes_on.set()
        assert first.result(10).path.read_bytes() == BODY
    assert "range" not in server.requests[3].headers, "the second one starts over at once"
    assert names(tmp_path) == ["file"]
    assert descriptors(tmp_path) == 0


def test_what_the_first_of_two_downloads_leaves_is_resumed_by_the_next_call(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    first_breaks_off = threading.Event()
    part = rest(100_000)[:-100_000]
    server = fault_server(
        [read_request(), send(cut(100_000)), close()],
        [read_request(), send(part), wait(first_breaks_off), close()],
        [read_request(), respond_with_rest, close()],
        [read_request(), send(whole())],
        [read_request(), send(rest(200_000))],
    )
    once = RetryPolicy(max_retries=0)
    with pytest.raises(TruncatedBody):
        session.download(server.url("/file"), tmp_path, retry=once)
    with ThreadPoolExecutor(1) as pool, ParallelSession(backend=session.backend.name, retry=once) as other:
        first = begun(pool, other, server.url("/file"), tmp_path)
        session.download(server.url("/file"), tmp_path).path.unlink()
        first_breaks_off.set()
        with pytest.raises(TruncatedBody):
            first.result(10)
    assert session.download(server.url("/file"), tmp_path).path.read_bytes() == BODY
    assert server.requests[-1].headers["range"] == "bytes=200000-"
    assert names(tmp_path) == ["file"]


CALLED_REPORT = b'Content-Disposition: attachment; filename="report.pdf"\r\n'


@pytest.mark.parametrize("existing", ["skip", "keep"])
def test_two_downloads_with_the_same_server_name_are_numbered(
    existing: Existing, session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    first_goes_on, second_goes_on = threading.Event(), threading.Event()
    answers = [
        response(body).replace(b"\r\n\r\n", b"\r\n" + CALLED_REPORT + b"\r\n", 1)
        for body in (BODY, BODY[::-1])
    ]
    server = fault_server(
        in_two_halves(answers[0], 100_000, first_goes_on),
        in_two_halves(answers[1], 100_000, second_goes_on),
    )
    with ThreadPoolExecutor(2) as pool:
        first = begun(pool, session, server.url("/get?id=1"), tmp_path, existing)
        second = begun(pool, session, server.url("/get?id=2"), tmp_path, existing)
        second_goes_on.set()
        assert second.result(10).path == tmp_path / "report.pdf"
        first_goes_on.set()
        assert first.result(10).path == tmp_path / "report (2).pdf"
    assert first.result().path.read_bytes() == BODY
    assert second.result().path.read_bytes() == BODY[::-1]
    assert visible(tmp_path) == ["report (2).pdf", "report.pdf"]
    again = [session.download(server.url(f"/get?id={n}"), tmp_path) for n in (1, 2)]
    assert [(file.path, file.status) for file in again] == [
        (file.result().path, "skipped") for file in (first, second)
    ]
    assert len(server.requests) == 2
    assert descriptors(tmp_path) == 0


def test_many_downloads_with_the_same_server_name_are_all_kept(
    fast: ParallelSession, server: Server, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    named_alike = fault_server([repeat(read_request(), send(named('attachment; filename="report.pdf"')))])
    with ThreadPoolExecutor(8) as pool:
        urls = [named_alike.url(f"/get?id={number}") for number in range(200)]
        files = list(pool.map(lambda url: fast.download(url, tmp_path), urls))
    assert len({file.path for file in files}) == len(visible(tmp_path)) == 200
    assert not list(tmp_path.glob(".*.part"))


def test_a_file_that_appears_meanwhile_is_kept(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    goes_on = threading.Event()
    server = fault_server(in_two_halves(whole(), 100_000, goes_on))
    place = tmp_path / "paper.txt"
    with ThreadPoolExecutor(1) as pool:
        file = begun(pool, session, server.url("/file"), [place], "keep")
        place.write_bytes(b"mine")
        goes_on.set()
        downloaded = file.result(10)
    assert downloaded.path == tmp_path / "paper (2).txt"
    assert (downloaded.path.read_bytes(), place.read_bytes()) == (BODY, b"mine")
    assert names(tmp_path) == ["paper (2).txt", "paper.txt"]


def test_a_file_that_has_to_give_way_takes_no_place_that_another_will_have(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    has_written = threading.Event()
    answer = named('attachment; filename="report.pdf"', BODY)

    def take_its_place(_: object) -> None:
        assert has_written.wait(10)
        (tmp_path / "report.pdf").write_bytes(b"mine")

    first = fault_server([read_request(), send(answer[:-100_000]), take_its_place, send(answer[-100_000:])])
    second = fault_server(
        [read_request(), lambda _: until(lambda: len(visible(tmp_path)) == 2), send(response(b"other"))]
    )
    files = fast.download(
        [first.url("/get"), second.url("/report%20(2).pdf")],
        tmp_path,
        progress=lambda done, _: has_written.set() if done else None,
    )
    assert [file.path.name for file in files] == ["report (3).pdf", "report (2).pdf"]
    assert [file.path.read_bytes() for file in files] == [BODY, b"other"]
    assert (tmp_path / "report.pdf").read_bytes() == b"mine"


@pytest.mark.parametrize("existing", ["skip", "keep"])
def test_all_files_are_kept_on_a_file_system_without_links(
    existing: Existing,
    fast: ParallelSession,
    fault_server: Callable[..., FaultServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links on this file system")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "report.pdf").write_bytes(b"mine")
    server = fault_server([repeat(read_request(), send(named('attachment; filename="report.pdf"')))])
    urls = [server.url(f"/get?id={number}") for number in range(2)]
    files = fast.download(urls, tmp_path, existing=existing)
    assert sorted(file.path.name for file in files) == ["report (2).pdf", "report (3).pdf"]
    assert (tmp_path / "report.pdf").read_bytes() == b"mine"
