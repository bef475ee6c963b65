"""Files: complete or not there, resumed, checked, and never outside their folder."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import (
    BodyTooLarge,
    ConfigurationError,
    Download,
    DownloadError,
    HTTPStatusError,
    ParallelRequests,
    ParallelSession,
    PartialFailureError,
    ProtocolError,
    Response,
    RetryExhaustedError,
    RetryPolicy,
    RunStoppedError,
    TruncatedBody,
    download,
)
from parallel_requests.part_files import PartFile
from tests.failures import partial_failure
from tests.polling import until
from tests.server.content import content, content_sha256
from tests.server.faults import close, read_request, repeat, response, rst, send, stall, trickle, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.destinations import Existing
    from parallel_requests.models import Attempt, Request
    from tests.server.control import Server
    from tests.server.faults import Connection, FaultServer, Step

QUICK = RetryPolicy(max_retries=2, backoff_factor=0.01)
BODY = content(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
ROOT = Path(__file__).parents[1]


@pytest.fixture
def session(open_session: Callable[..., ParallelSession]) -> ParallelSession:
    """A session over each backend."""
    return open_session(retry=QUICK)


@pytest.fixture
def fast() -> Iterator[ParallelSession]:
    """A session over any backend, for tests that do not depend on it."""
    with ParallelSession(retry=QUICK) as opened:
        yield opened


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def visible(folder: Path) -> list[str]:
    """The files in a folder that are not hidden."""
    return [name for name in names(folder) if not name.startswith(".")]


def head(*lines: str, status: str = "200 OK") -> bytes:
    """The bytes of a head."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def whole(body: bytes = BODY, etag: str = '"one"') -> bytes:
    """The bytes of a complete response."""
    return response(body, f"ETag: {etag}")


def rest(start: int, body: bytes = BODY, etag: str = '"one"') -> bytes:
    """The bytes of a 206 response with the rest."""
    span = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
    return response(body[start:], f"ETag: {etag}", span, status="206 Partial Content")


def cut(at: int, etag: str = '"one"') -> bytes:
    """The bytes of a response that ends too soon."""
    return head(f"Content-Length: {len(BODY)}", f"ETag: {etag}") + BODY[:at]


def descriptors(folder: Path) -> int:
    """Descriptors of this process that are open on files in a folder, moved and removed ones too."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += link.readlink().is_relative_to(folder)
    return count


# -- the main job


def test_many_urls_become_a_file_each(session: ParallelSession, server: Server, tmp_path: Path) -> None:
    sizes = [0, 1, 65_536, 300_000, 1_000_000]
    urls = [server.url(f"/range/{size}?seed={size}") for size in sizes]
    files = session.download(urls, tmp_path)
    assert [file.path for file in files] == [tmp_path / str(size) for size in sizes]
    assert [file.size for file in files] == sizes
    assert {file.status for file in files} == {"downloaded"}
    for file, size in zip(files, sizes, strict=True):
        assert file.path.read_bytes() == content(size, size)
        assert file.result.ok
        assert file.result.value is file
    assert names(tmp_path) == sorted(map(str, sizes))
    assert session.last_run.bytes_received == sum(sizes)
    assert session.last_run.connections == server.stats().connections
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}
    assert {entry.headers["accept-encoding"] for entry in server.log()} == {"identity"}


def test_one_url_gives_one_file_and_keys_a_dict(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    assert fast.download(server.url("/range/10"), tmp_path / "a" / "b").path == tmp_path / "a" / "b" / "10"
    by_key = fast.download([server.url("/range/20"), server.url("/range/30")], tmp_path, keys=["x", "y"])
    assert {key: file.size for key, file in by_key.items()} == {"x": 20, "y": 30}


def test_lazy_keys_that_do_not_differ_lose_no_file(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    urls = [server.url("/range/20"), server.url("/range/30")]
    failure = partial_failure(lambda: fast.download(urls, tmp_path, keys=iter("xx")))
    assert [result.ok for result in failure.results] == [True, False]
    assert "key" in str(failure.exceptions[0])


def test_given_paths_are_used_as_they_are(fast: ParallelSession, server: Server, tmp_path: Path) -> None:
    paths: list[str | Path] = [tmp_path / "new" / "deep" / "one.bin", str(tmp_path / "two.bin")]
    files = fast.download((server.url(f"/range/{size}") for size in (10, 20)), paths)
    assert [file.path for file in files] == list(map(Path, paths))
    assert Path(paths[1]).read_bytes() == content(20)
    assert server.stats().requests == 2


@pytest.mark.parametrize("short", ["to", "sha256"])
def test_a_list_that_ends_before_a_lazy_input_fails_the_items_left_over_only(
    fast: ParallelSession, server: Server, tmp_path: Path, short: str
) -> None:
    paths = [tmp_path / name for name in ("one", "two", "three")]
    columns: dict[str, Any] = {"to": paths, "sha256": [content_sha256(10), None, None]}
    columns[short] = columns[short][:1]
    urls = (server.url(f"/range/{size}") for size in (10, 20, 30))
    failure = partial_failure(lambda: fast.download(urls, **columns))
    assert [result.ok for result in failure.results] == [True, False, False]
    assert {getattr(error, "field_name", None) for error in failure.exceptions} == {short}
    assert names(tmp_path) == ["one"]
    assert server.stats().requests == 1


def test_the_function_and_the_coroutine_do_the_same(server: Server, tmp_path: Path) -> None:
    url = server.url("/range/1000")
    file = download(url, tmp_path / "sync", backend="urllib3")
    assert isinstance(file, Download)

    async def fetch() -> list[Download]:
        async with ParallelRequests() as client:
            return await client.download([url, server.url("/range/2000")], tmp_path / "async")

    assert [file.size for file in asyncio.run(fetch())] == [1000, 2000]


def test_wrong_options_are_refused_before_anything_is_sent(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    urls = [server.url("/range/1"), server.url("/range/2")]
    occupied = tmp_path / "file"
    occupied.write_text("")
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (tmp_path, {"sha256": "abc"}),
        (tmp_path, {"sha256": [DIGEST]}),
        (tmp_path, {"existing": "ask"}),
        (tmp_path, {"stream_callback": print}),
        (tmp_path, {"chunk_size": 1}),
        (tmp_path, {"parse_processes": 1}),
        (tmp_path, {"raise_for_status": False}),
        ([tmp_path / "one"], {}),
        ([tmp_path / "one", tmp_path / "one"], {}),
        ([tmp_path / "one", "nul\0"], {}),
        (occupied / "below", {}),
        (7, {}),
    ]
    for to, options in wrong:
        with pytest.raises(ConfigurationError):
            fast.download(urls, to, **options)
    assert server.stats().requests == 0


def test_progress_counts_bytes(session: ParallelSession, server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    session.download(
        [server.url(f"/range/{size}") for size in (300_000, 500_000)],
        tmp_path,
        progress=lambda completed, total: seen.append((completed, total)),
    )
    assert seen[-1] == (800_000, 800_000)
    assert [completed for completed, _ in seen] == sorted(completed for completed, _ in seen)


def test_progress_has_no_total_if_none_is_announced(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    file = session.download(
        server.url("/stream-bytes/300000"),
        tmp_path,
        progress=lambda completed, total: seen.append((completed, total)),
    )
    assert file.path.read_bytes() == BODY
    assert seen[-1] == (300_000, None)


def test_a_progress_bar_counts_bytes(
    fast: ParallelSession, server: Server, tmp_path: Path, capsys: Any
) -> None:
    fast.download([server.url("/range/300000")], tmp_path, progress=True)
    assert "300k/300k" in capsys.readouterr().err


def test_a_progress_bar_without_tqdm_is_refused_before_anything_is_sent(
    fast: ParallelSession, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for call in (fast.get, lambda urls, **options: fast.download(urls, tmp_path, **options)):
        with pytest.raises(ConfigurationError, match=r"parallel-requests\[progress\]") as caught:
            call([server.url("/range/10")], progress=True)
        assert caught.value.config_key == "progress"
    assert server.stats().requests == 0


# -- failures


def test_failures_lose_nothing(session: ParallelSession, server: Server, tmp_path: Path) -> None:
    urls = [server.url("/range/10"), server.url("/status/404"), "ftp://nowhere", server.url("/range/20")]
    with pytest.raises(PartialFailureError) as caught:
        session.download(urls, tmp_path)
    results = caught.value.results
    assert [result.ok for result in results] == [True, False, False, True]
    assert isinstance(results[1].error, HTTPStatusError)
    assert names(tmp_path) == ["10", "20"]
    assert session.download(urls, tmp_path, return_none_on_failure=True)[1:3] == [None, None]


def test_an_export_that_is_not_ready_after_the_last_retry_gives_no_file(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    def is_not_ready(outcome: Response | Exception) -> bool:
        return isinstance(outcome, Response) and outcome.status_code == 202

    url = server.url("/status-seq/export?seq=202,202,202,202,202,200")
    with pytest.raises(RetryExhaustedError, match="answered 202 Accepted"):
        session.download(url, [tmp_path / "export"], retry_on=is_not_ready)
    assert names(tmp_path) == []
    file = session.download(url, [tmp_path / "export"], retry_on=is_not_ready)
    assert file.result.retries == 2
    assert json.loads(file.path.read_bytes())["count"] == 6


def test_a_redirect_that_is_not_followed_gives_no_file(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match="answered 302, which is not a file"):
        fast.download(server.url("/redirect/1"), tmp_path, follow_redirects=False)
    assert names(tmp_path) == []


def test_a_redirect_is_followed(session: ParallelSession, server: Server, tmp_path: Path) -> None:
    file = session.download(server.url("/redirect-to?url=/range/1000"), tmp_path)
    assert file.path.name == "redirect-to"
    assert file.path.read_bytes() == content(1000)


def test_a_body_that_is_too_large_gives_no_file(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(BodyTooLarge):
        session.download(server.url("/range/300000"), tmp_path, max_response_size=100_000)
    assert not [name for name in names(tmp_path) if not name.startswith(".")]


def test_a_file_that_cannot_be_written_fails_its_item_only(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    in_the_way = tmp_path / "way"
    in_the_way.write_text("")
    paths = [in_the_way / "one", tmp_path / "two"]
    with pytest.raises(PartialFailureError) as caught:
        session.download([server.url("/range/10"), server.url("/range/20")], paths)
    [error] = caught.value.exceptions
    assert isinstance(error, DownloadError)
    assert error.path == str(paths[0])
    assert paths[1].read_bytes() == content(20)
    assert server.stats().requests == 2, "to try again would not help"


def test_a_folder_of_that_name_is_in_the_way(fast: ParallelSession, server: Server, tmp_path: Path) -> None:
    (tmp_path / "10").mkdir()
    with pytest.raises(DownloadError):
        fast.download(server.url("/range/10"), tmp_path)


@pytest.mark.parametrize("end", [close, rst])
def test_row_32_a_failed_download_leaves_no_file_and_no_descriptor(
    session: ParallelSession,
    fault_server: Callable[..., FaultServer],
    tmp_path: Path,
    end: Callable[[], Any],
) -> None:
    server = fault_server([read_request(), send(head("Content-Length: 100") + bytes(50)), end()])
    with pytest.raises(RetryExhaustedError) as caught:
        session.download(server.url("/file"), tmp_path)
    assert isinstance(caught.value.last_error, TruncatedBody)
    assert len(server.requests) == 3
    assert names(tmp_path) == [], "without a validator there is nothing to go on from"
    assert descriptors(tmp_path) == 0


def test_a_deadline_leaves_a_result_for_every_url(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    urls = [server.url("/hang")] * 100
    with pytest.raises(PartialFailureError) as caught:
        session.download(urls, tmp_path, deadline=0.2)
    assert [result.index for result in caught.value.results] == list(range(100))
    assert session.last_run.total == 100


# -- the same file twice at once


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


# -- resuming


def test_a_retry_requests_the_missing_part(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000)), close()], [read_request(), send(rest(100_000))]
    )
    file = session.download(server.url("/file.bin"), tmp_path, sha256=DIGEST)
    assert (file.status, file.sha256, file.size) == ("resumed", DIGEST, len(BODY))
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=100000-"]
    assert server.requests[1].headers["if-range"] == '"one"'
    assert names(tmp_path) == ["file.bin"]
    assert descriptors(tmp_path) == 0


def test_the_next_call_requests_the_missing_part(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000)), close()], [read_request(), send(rest(100_000))]
    )
    with pytest.raises(TruncatedBody):
        session.download(server.url("/file.bin"), tmp_path, retry=RetryPolicy(max_retries=0))
    assert [name for name in names(tmp_path) if not name.startswith(".")] == []
    file = session.download(server.url("/file.bin"), tmp_path)
    assert file.status == "resumed"
    assert file.path.read_bytes() == BODY
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=100000-"]


OTHER = content(200_000, seed=5)
REFUSALS = {
    "ranges_are_ignored": [whole()],
    "changed": [whole(OTHER, '"two"')],
    "416": [response(b"no", status="416 Range Not Satisfiable"), whole()],
    "another_part": [rest(99_999), whole()],
    "no_content_range": [response(BODY[100_000:], status="206 Partial Content"), whole()],
    "changed_and_yet_206": [rest(100_000, etag='"two"'), whole()],
    "another_length": [rest(100_000, BODY + b"more"), whole()],
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_resumed_starts_over(
    case: str, session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    answers = [send(cut(100_000)), close()]
    scripts = [[read_request(), *answers]]
    scripts += [[read_request(), send(answer), close()] for answer in REFUSALS[case]]
    server = fault_server(*scripts)
    file = session.download(server.url("/file"), tmp_path)
    assert file.path.read_bytes() == (OTHER if case == "changed" else BODY)
    assert file.status == "downloaded"
    ranges = [request.headers.get("range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", None][: len(ranges)]
    assert names(tmp_path) == ["file"]


def test_what_is_there_after_a_part_that_did_not_fit_is_resumed(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000)), close()],
        [read_request(), send(rest(99_999)), close()],
        [read_request(), send(cut(150_000)), close()],
        [read_request(), send(response(b"busy", status="503 Service Unavailable")), close()],
        [read_request(), send(rest(150_000))],
    )
    retry = RetryPolicy(max_retries=3, backoff_factor=0.01)
    assert fast.download(server.url("/file"), tmp_path, retry=retry).path.read_bytes() == BODY
    ranges = [request.headers.get("range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", None, "bytes=150000-", "bytes=150000-"]


def test_a_new_version_may_be_shorter_than_the_beginning_of_the_old_one(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(250_000)), close()], [read_request(), send(whole(OTHER, '"two"'))]
    )
    assert fast.download(server.url("/file"), tmp_path).path.read_bytes() == OTHER


NO_RANGE = [read_request(), send(response(b"no", status="416 Range Not Satisfiable")), close()]


@pytest.mark.parametrize("refusal", [[], [NO_RANGE]], ids=["another version", "416"])
def test_a_beginning_that_took_the_place_of_another_is_resumed_by_the_next_call(
    refusal: list[list[Step]],
    fast: ParallelSession,
    fault_server: Callable[..., FaultServer],
    tmp_path: Path,
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000)), close()],
        *refusal,
        [read_request(), send(cut(150_000, '"two"')), close()],
        [read_request(), send(rest(150_000, etag='"two"'))],
    )
    with pytest.raises(RetryExhaustedError):
        fast.download(server.url("/file"), tmp_path, retry=RetryPolicy(max_retries=1, backoff_factor=0.01))
    file = fast.download(server.url("/file"), tmp_path)
    assert (file.status, file.path.read_bytes()) == ("resumed", BODY)
    conditions = [(item.headers.get("range"), item.headers.get("if-range")) for item in server.requests]
    assert conditions[:2] == [(None, None), ("bytes=100000-", '"one"')]
    assert conditions[-1] == ("bytes=150000-", '"two"')


def chunked(at: int) -> bytes:
    """The bytes of a response of unknown length that ends too soon."""
    return head("Transfer-Encoding: chunked", 'ETag: "one"') + b"%x\r\n" % at + BODY[:at] + b"\r\n"


def piece(content_range: str, body: bytes) -> bytes:
    """The bytes of a 206 response."""
    return response(body, 'ETag: "one"', f"Content-Range: {content_range}", status="206 Partial Content")


def test_a_file_of_unknown_length_is_resumed(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    missing = piece("bytes 100000-299999/*", BODY[100_000:])
    server = fault_server([read_request(), send(chunked(100_000)), close()], [read_request(), send(missing)])
    file = session.download(server.url("/file"), tmp_path)
    assert (file.status, file.path.read_bytes()) == ("resumed", BODY)


def test_a_part_need_not_repeat_the_etag(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    span = f"Content-Range: bytes 100000-{len(BODY) - 1}/{len(BODY)}"
    server = fault_server(
        [read_request(), send(cut(100_000)), close()],
        [read_request(), send(response(BODY[100_000:], span, status="206 Partial Content"))],
    )
    file = fast.download(server.url("/file"), tmp_path)
    assert (file.status, file.path.read_bytes()) == ("resumed", BODY)


def test_a_part_of_what_is_missing_is_not_taken_for_all_of_it(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(chunked(100_000)), close()],
        [read_request(), send(piece("bytes 100000-199999/300000", BODY[100_000:200_000])), close()],
        [read_request(), send(whole())],
    )
    file = fast.download(server.url("/file"), tmp_path)
    assert (file.status, file.path.read_bytes()) == ("downloaded", BODY)
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=100000-", None]


def test_a_part_that_nobody_asked_for_is_an_error(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([repeat(read_request(), send(rest(100_000)))])
    with pytest.raises(ProtocolError):
        fast.download(server.url("/file"), tmp_path)
    assert len(server.requests) == 1
    assert names(tmp_path) == []


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Let writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_after_a_full_disk_the_next_call_requests_the_missing_part(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([read_request(), send(whole())], [read_request(), send(rest(100_000))])
    with no_file_longer_than(100_000), pytest.raises(DownloadError, match="could not be written"):
        session.download(server.url("/file"), tmp_path)
    assert visible(tmp_path) == []
    file = session.download(server.url("/file"), tmp_path)
    assert (file.status, file.path.read_bytes()) == ("resumed", BODY)
    assert server.requests[1].headers["range"] == "bytes=100000-"
    assert names(tmp_path) == ["file"]
    assert descriptors(tmp_path) == 0


def test_a_full_disk_keeps_nothing_that_no_later_call_can_continue(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([repeat(read_request(), send(whole()))])
    with no_file_longer_than(0), pytest.raises(DownloadError, match="could not be written"):
        session.download(server.url("/file"), tmp_path)
    assert names(tmp_path) == []


def test_an_etag_that_is_not_utf8_is_not_sent_back(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000, etag='"\xff"')), close()],
        [read_request(), send(whole(etag='"\xff"')), close()],
    )
    assert session.download(server.url("/file"), tmp_path).path.read_bytes() == BODY
    assert "range" not in server.requests[1].headers


def test_a_complete_part_file_costs_one_byte(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000)), close()],
        [read_request(), send(rest(len(BODY) - 1)), close()],
    )
    with pytest.raises(TruncatedBody):
        fast.download(server.url("/file"), tmp_path, max_retries=0, retry=None)
    [partial] = tmp_path.glob(".*.part")
    partial.write_bytes(BODY)
    assert fast.download(server.url("/file"), tmp_path).path.read_bytes() == BODY
    assert server.requests[1].headers["range"] == f"bytes={len(BODY) - 1}-"


@pytest.mark.parametrize(
    "headers",
    [
        ('ETag: W/"weak"',),
        (
            'ETag: W/"weak"',
            "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT",
            "Date: Mon, 01 Jan 2024 00:05:00 GMT",
        ),
        ("Accept-Ranges: none", 'ETag: "one"'),
        ("Content-Encoding: identity",),
        ("Last-Modified: Mon, 01 Jan 2024 00:00:30 GMT", "Date: Mon, 01 Jan 2024 00:00:31 GMT"),
        ("Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT (\xff)", "Date: Mon, 01 Jan 2024 00:05:00 GMT"),
    ],
)
def test_without_a_strong_validator_the_whole_file_is_requested_again(
    headers: tuple[str, ...], fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    first = head(f"Content-Length: {len(BODY)}", *headers) + BODY[:1000]
    server = fault_server([read_request(), send(first), close()], [read_request(), send(whole())])
    assert fast.download(server.url("/file"), tmp_path).path.read_bytes() == BODY
    assert "range" not in server.requests[1].headers


def test_a_date_is_a_validator_if_it_is_old_enough(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    modified = "Mon, 01 Jan 2024 00:00:00 GMT"
    dates = (f"Last-Modified: {modified}", "Date: Mon, 01 Jan 2024 00:05:00 GMT")
    first = head(f"Content-Length: {len(BODY)}", *dates) + BODY[:1000]
    server = fault_server([read_request(), send(first), close()], [read_request(), send(rest(1000))])
    assert fast.download(server.url("/file"), tmp_path).status == "resumed"
    assert server.requests[1].headers["if-range"] == modified


def test_dates_that_cannot_be_compared_do_no_harm(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    dates = ("Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", "Date: Mon, 01 Jan 2024 00:05:00 -0000")
    server = fault_server([read_request(), send(response(BODY, *dates))])
    assert fast.download(server.url("/file"), tmp_path).path.read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_coded_response_is_decoded_and_not_resumed(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    file = session.download(
        server.url("/bomb?mib=1"), tmp_path, progress=lambda done, total: seen.append((done, total))
    )
    assert file.path.read_bytes() == bytes(1 << 20)
    assert seen[-1] == (1 << 20, None), "what is announced is the length of the coded body"


def test_a_coded_response_that_breaks_off_is_requested_again_as_a_whole(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    coded = gzip.compress(BODY)
    first = head(f"Content-Length: {len(coded)}", 'ETag: "one"', "Content-Encoding: gzip") + coded[:-1000]
    server = fault_server([read_request(), send(first), close()], [read_request(), send(whole())])
    assert session.download(server.url("/file"), tmp_path).path.read_bytes() == BODY
    assert "range" not in server.requests[1].headers


def test_progress_reaches_the_total_if_a_part_is_resumed(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    seen: list[tuple[int, int | None]] = []
    server = fault_server(
        [read_request(), send(cut(100_000)), close()], [read_request(), send(rest(100_000))]
    )
    fast.download(server.url("/f"), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(BODY), len(BODY))


# -- checksums


def test_checksums_are_taken_in_every_form(fast: ParallelSession, server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"/range/{size}") for size in (1000, 2000)]
    sums = [content_sha256(1000), content_sha256(2000)]
    given: list[Any] = [sums, [sums[0].upper(), None], dict(zip(urls, sums, strict=True)), True]
    for number, sha256 in enumerate(given):
        files = fast.download(urls, tmp_path / str(number), sha256=sha256)
        assert files[0].sha256 == sums[0]
    assert fast.download(urls[0], tmp_path / "none").sha256 is None


@pytest.mark.parametrize("written", ["{url}#part", "HTTP{rest}", "http://me:hush@{place}"])
def test_a_checksum_by_url_is_found_however_the_url_is_written(
    fast: ParallelSession, server: Server, tmp_path: Path, written: str
) -> None:
    url = server.url("/range/1000")
    place = url.removeprefix("http://")
    url = written.format(url=url, rest=url.removeprefix("http"), place=place)
    with pytest.raises(DownloadError, match="SHA-256"):
        fast.download(url, tmp_path, sha256={url: "0" * 64})
    assert fast.download(url, tmp_path, sha256={url: content_sha256(1000)}).sha256 == content_sha256(1000)


def test_a_checksum_for_an_invalid_url_is_refused(fast: ParallelSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="sha256") as caught:
        fast.download([], tmp_path, sha256={"file.bin": "0" * 64})
    assert caught.value.config_key == "sha256"


def test_a_checksum_of_no_url_of_a_list_is_refused(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    known, unknown = server.url("/range/1000"), server.url("/range/1001?token=hush")
    sha256 = {known: content_sha256(1000), unknown: content_sha256(1001)}
    given: list[Any] = [known, [known], (known,), {known}, [{"url": known}]]
    for urls in given:
        with pytest.raises(ConfigurationError, match=r"/range/1001\?token=\*\*\*,? which is not") as caught:
            fast.download(urls, tmp_path, sha256=sha256)
        assert caught.value.config_key == "sha256"
    more = {server.url(f"/range/{size}"): content_sha256(size) for size in (1002, 1003)}
    with pytest.raises(ConfigurationError, match=r"/range/1001\?token=\*\*\* \(and 2 more\),? which is not"):
        fast.download(known, tmp_path, sha256={**more, **sha256})
    assert server.stats().requests == 0
    assert fast.download(known, tmp_path, sha256={known: content_sha256(1000)}).sha256


def test_a_checksum_is_found_by_the_url_with_its_params(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    sha256, items = {server.url("/range/1000?page=2"): "0" * 64}, [server.url("/range/1000")]
    with pytest.raises(PartialFailureError, match="SHA-256"):
        fast.download(items, tmp_path, sha256=sha256, params={"page": 2}, keys=iter("a"))
    with pytest.raises(ConfigurationError, match="sha256"):
        fast.download(items, tmp_path, sha256=sha256)


def test_a_checksum_of_no_url_of_a_lazy_input_is_warned_of_at_its_end(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    known, unknown = server.url("/range/1000"), server.url("/range/1001?token=hush")
    sha256 = {known: content_sha256(1000), unknown: content_sha256(1001)}
    with pytest.warns(UserWarning, match=r"sha256 has .*/range/1001\?token=\*\*\*"):
        (file,) = fast.download(iter([known]), tmp_path, sha256=sha256)
    assert file.sha256 == content_sha256(1000)
    assert len(fast.download(iter([known, unknown]), tmp_path, sha256=sha256)) == 2


@pytest.mark.parametrize("given", ["of_all", "in_order", "by_url"])
def test_verifying_a_file_delays_no_other(
    given: str,
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    is_verifying, other_is_there = threading.Event(), threading.Event()
    digest = hashlib.file_digest

    def answer(connection: Connection) -> None:
        if connection.read_request().target == "/other":
            connection.wait(is_verifying)
        connection.send(whole())

    def slow_digest(file: Any, name: str) -> Any:
        is_verifying.set()
        assert other_is_there.wait(5.0)
        return digest(file, name)

    def tell(request: Request, _attempt: Attempt) -> None:
        if request.index == 1:
            other_is_there.set()

    monkeypatch.setattr(hashlib, "file_digest", slow_digest)
    server = fault_server([repeat(answer)])
    urls = [server.url("/slow"), server.url("/other")]
    forms: dict[str, Any] = {"of_all": DIGEST, "in_order": [DIGEST, None], "by_url": {urls[0]: DIGEST}}
    files = open_session(concurrency=2).download(urls, tmp_path, sha256=forms[given], on_attempt=tell)
    assert files[0].sha256 == DIGEST


def test_a_wrong_checksum_gives_no_file(session: ParallelSession, server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="SHA-256") as caught:
        session.download(server.url("/range/1000"), tmp_path, sha256="0" * 64)
    assert caught.value.path == str(tmp_path / "1000")
    assert names(tmp_path) == []
    assert server.stats().requests == 1


# -- what is there already


def test_a_resumed_file_with_a_wrong_checksum_leaves_nothing(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000)), close()], [read_request(), send(rest(100_000))]
    )
    with pytest.raises(TruncatedBody):
        fast.download(server.url("/file"), tmp_path, retry=RetryPolicy(max_retries=0))
    with pytest.raises(DownloadError, match="SHA-256"):
        fast.download(server.url("/file"), tmp_path, sha256="0" * 64)
    assert names(tmp_path) == []


def test_existing_files_are_skipped_kept_or_replaced(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    url, file = server.url("/range/1000"), tmp_path / "1000"
    file.write_bytes(b"old")
    skipped = fast.download(url, tmp_path)
    assert (skipped.status, skipped.size) == ("skipped", 3)
    assert (skipped.result.attempts, skipped.result.elapsed) == (0, 0.0)
    assert (fast.last_run.total, fast.last_run.succeeded) == (1, 1)
    assert server.stats().requests == 0
    kept = fast.download(url, tmp_path, existing="keep")
    assert (kept.status, kept.path) == ("downloaded", tmp_path / "1000 (2)")
    assert file.read_bytes() == b"old"
    replaced = fast.download(url, tmp_path, existing="replace")
    assert replaced.path == file
    assert file.read_bytes() == content(1000)
    assert fast.download([url], [file], existing="keep")[0].path == tmp_path / "1000 (3)"


def test_a_given_checksum_decides_whether_a_file_is_skipped(
    fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    url, file = server.url("/range/1000"), tmp_path / "1000"
    file.write_bytes(b"old")
    assert fast.download(url, tmp_path, sha256=content_sha256(1000)).status == "downloaded"
    for given in (content_sha256(1000), True):
        skipped = fast.download(url, tmp_path, sha256=given)
        assert (skipped.status, skipped.sha256) == ("skipped", content_sha256(1000))
    assert fast.download(url, tmp_path).sha256 is None
    assert file.read_bytes() == content(1000)


def test_skipped_items_keep_their_places(fast: ParallelSession, server: Server, tmp_path: Path) -> None:
    (tmp_path / "20").write_bytes(b"")
    seen: list[int] = []
    files = fast.download(
        [server.url(f"/range/{size}") for size in (10, 20, 30)],
        tmp_path,
        on_result=lambda result: seen.append(result.index),
    )
    assert [file.status for file in files] == ["downloaded", "skipped", "downloaded"]
    assert sorted(seen) == [0, 1, 2]


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_what_an_interrupted_download_has_skipped_is_kept(
    error: type[BaseException], fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    def urls() -> Iterator[str]:
        for size in (10, 20):
            (tmp_path / str(size)).touch()
            yield server.url(f"/range/{size}")
        raise error

    with pytest.raises(error) as caught:
        fast.download(urls(), tmp_path)
    assert [result.value.status for result in caught.value.results] == ["skipped", "skipped"]  # type: ignore[attr-defined]
    assert (fast.last_run.total, fast.last_run.succeeded) == (2, 2)


# -- names


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


def named(disposition: str, body: bytes = b"body") -> bytes:
    """The bytes of a response that names its file."""
    return response(body, f"Content-Disposition: {disposition}")


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


def test_whatever_ends_a_download_costs_one_item(
    fast: ParallelSession, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = PartFile.finish

    def fail(part: PartFile, *arguments: Any) -> Download:
        if part.destination.path.name == "0":
            raise RuntimeError("unforeseen")
        return finish(part, *arguments)

    monkeypatch.setattr(PartFile, "finish", fail)
    with pytest.raises(PartialFailureError) as info:
        fast.download([server.url("/range/10")] * 3, [tmp_path / str(number) for number in range(3)])
    [failed] = info.value.failed
    assert failed.index == 0
    assert str(failed.error) == f"The file {tmp_path}/0 could not be finished: RuntimeError: unforeseen"
    assert visible(tmp_path) == ["1", "2"]


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


def place_of_note(folder: Path, url: str) -> Path:
    """The path of the record beside the first unfinished file of a URL."""
    mark = hashlib.sha256(f"GET {url} 1".encode()).hexdigest()[:16]
    return folder / f".{url.rpartition('/')[2]}.{mark}.json"


@pytest.mark.parametrize(
    "note",
    [
        "",
        "7",
        "[" * 100_000,
        '{"name": ""}',
        '{"name": 5}',
        '{"name": ".."}',
        '{"name": "../outside"}',
        '{"validator": 5, "size": 100}',
        r'{"validator": "\"one\"\r\nX-Own: 1", "size": 100}',
        r'{"validator": "\u20ac", "size": 100}',
        r'{"validator": "\"one\"", "size": 0}',
        json.dumps({"name": "n" * 300}),
        json.dumps({"validator": '"one"', "size": len(BODY), "padding": "x" * 100_000}),
    ],
    ids=lambda note: note[:40],
)
def test_an_invalid_record_is_ignored(
    note: str, session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    server = fault_server([repeat(read_request(), send(whole()))])
    place = place_of_note(folder, server.url("/file"))
    place.write_text(note)
    place.with_suffix(".part").write_bytes(bytes(20))
    file = session.download(server.url("/file"), folder)
    assert (file.status, file.path.read_bytes()) == ("downloaded", BODY)
    [request] = server.requests
    assert not {"range", "if-range", "x-own"} & set(request.headers)
    assert names(folder) == ["file"]


def test_a_record_without_a_part_file_is_ignored(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([repeat(read_request(), send(whole()))])
    note = place_of_note(tmp_path, server.url("/file"))
    note.write_text(json.dumps({"validator": '"one"', "size": len(BODY)}))
    assert fast.download(server.url("/file"), tmp_path).status == "downloaded"
    assert "range" not in server.requests[0].headers
    assert names(tmp_path) == ["file"]


def test_a_path_that_is_too_long_fails_only_its_own_item(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([repeat(read_request(), send(whole()))])
    paths = [tmp_path / ("n" * 300), tmp_path / "good"]
    with pytest.raises(PartialFailureError) as raised:
        fast.download([server.url("/bad"), server.url("/good")], paths)
    assert [type(result.error) for result in raised.value.results] == [DownloadError, type(None)]
    assert paths[1].read_bytes() == BODY


def test_a_record_that_a_crash_left_half_written_is_replaced(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(
        [read_request(), send(cut(100_000)), close()], [read_request(), send(rest(100_000))]
    )
    place_of_note(tmp_path, server.url("/file")).with_suffix(".draft").write_text('{"valid')
    with pytest.raises(TruncatedBody):
        fast.download(server.url("/file"), tmp_path, retry=RetryPolicy(max_retries=0))
    assert fast.download(server.url("/file"), tmp_path).status == "resumed"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_something_else_in_the_place_of_a_record_does_no_harm(
    make: Callable[[Path], None],
    fast: ParallelSession,
    fault_server: Callable[..., FaultServer],
    tmp_path: Path,
) -> None:
    server = fault_server([repeat(read_request(), send(whole()))])
    make(place_of_note(tmp_path, server.url("/file")))
    assert fast.download(server.url("/file"), tmp_path).path.read_bytes() == BODY


# -- stopping


def test_closing_the_session_leaves_no_descriptor(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    sent, never = threading.Event(), threading.Event()

    def tell(_connection: Any) -> None:
        sent.set()

    server = fault_server([read_request(), send(cut(100_000)), tell, wait(never)])

    def close_when_sent() -> None:
        sent.wait()
        session.close()

    closer = threading.Thread(target=close_when_sent)
    closer.start()
    with pytest.raises((RunStoppedError, PartialFailureError)):
        session.download([server.url("/a"), server.url("/b")], tmp_path)
    closer.join()
    assert descriptors(tmp_path) == 0
    assert not [name for name in names(tmp_path) if not name.startswith(".")]


def test_a_stop_ends_the_search_for_existing_files(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("one", "two", "three")]
    for path in paths:
        path.write_bytes(content(10))
    failure = partial_failure(
        lambda: session.download(
            [server.url("/range/10")] * 3, paths, on_result=lambda _: session.close(), sha256=True
        )
    )
    assert [type(result.error) for result in failure.results] == [type(None), *[RunStoppedError] * 2]
    assert server.stats().requests == 0


def test_cancelling_the_await_stops_the_work(
    fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    sent, never = threading.Event(), threading.Event()

    def tell(_connection: Any) -> None:
        sent.set()

    server = fault_server([read_request(), send(cut(100_000)), tell, wait(never)])

    async def fetch() -> None:
        async with ParallelRequests() as client:
            work = asyncio.ensure_future(client.download(server.url("/file"), tmp_path))
            await asyncio.get_running_loop().run_in_executor(None, sent.wait)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(fetch())
    assert descriptors(tmp_path) == 0


def test_a_cancelled_await_keeps_the_finished_files(
    server: Server, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    stalled = fault_server([read_request(), stall()])
    urls = [*(server.url(f"/range/{size}") for size in range(1, 6)), stalled.url("/file")]

    async def fetch() -> None:
        async with ParallelRequests() as client:
            work = asyncio.ensure_future(client.download(urls, tmp_path))
            await asyncio.to_thread(until, lambda: len(finished_in(tmp_path)) == 5 and stalled.requests)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert [result.index for result in client.last_run.results] == list(range(5))
            assert {result.unwrap().size for result in client.last_run.results} == set(range(1, 6))

    asyncio.run(fetch())


PROGRAM = """
import sys
from parallel_requests import download
folder, *urls = sys.argv[1:]
download(urls, [f"{folder}/{n}" for n in range(len(urls))], concurrency=4, timeout=None)
"""


def test_killed_halfway_and_started_again_it_fetches_what_is_missing(
    server: Server, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    count, size = 60, 1 << 20
    slow = fault_server(
        [read_request(), send(cut(290_000)), trickle(BODY[290_000:], 0.05)],
        [read_request(), respond_with_rest],
    )
    urls = [slow.url("/slow"), *(server.url(f"/range/{size}?seed={number}") for number in range(1, count))]
    digests = [DIGEST, *(content_sha256(size, number) for number in range(1, count))]
    mark = hashlib.sha256(f"GET {urls[0]} 1".encode()).hexdigest()[:16]
    note, partial = tmp_path / f".{mark}.json", tmp_path / f".{mark}.part"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), *urls]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment) as victim:
        try:
            until(lambda: len(finished_in(tmp_path)) >= count // 2 and note.exists())
        finally:
            victim.send_signal(signal.SIGKILL)
    finished = finished_in(tmp_path)
    assert "0" not in finished
    kept = partial.stat().st_size
    server.reset()
    subprocess.run(command, check=True, env=environment)
    fetched = {entry.query.removeprefix("seed=") for entry in server.log()}
    assert fetched == set(map(str, range(1, count))) - finished
    assert len(server.log()) == len(fetched)
    assert slow.requests[1].headers["range"] == f"bytes={kept}-"
    assert names(tmp_path) == sorted(map(str, range(count)))
    for number, digest in enumerate(digests):
        assert hashlib.sha256((tmp_path / str(number)).read_bytes()).hexdigest() == digest


def finished_in(folder: Path) -> set[str]:
    """The files that are complete."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def respond_with_rest(connection: Any) -> None:
    """Send the range that the last request asks for."""
    connection.send(rest(int(connection.server.requests[-1].headers["range"].strip("bytes=-"))))
