"""Files: what a download makes of URLs, what fails, what is checked, and what is left at a stop."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    Response,
    RetryExhaustedError,
    RetryPolicy,
    RunStoppedError,
    TruncatedBody,
    download,
)
from parallel_requests.part_files import PartFile
from tests.downloads.files import (
    BODY,
    CUT_THEN_REST,
    DIGEST,
    cut,
    descriptors,
    head,
    names,
    respond_with_rest,
    visible,
    whole,
)
from tests.failures import partial_failure
from tests.polling import until
from tests.server.content import content, content_sha256
from tests.server.faults import close, read_request, repeat, rst, send, stall, trickle, wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.models import Attempt, Request
    from tests.server.control import Server
    from tests.server.faults import Connection, FaultServer

ROOT = Path(__file__).parents[2]


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


def test_a_path_that_is_too_long_fails_only_its_own_item(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server([repeat(read_request(), send(whole()))])
    paths = [tmp_path / ("n" * 300), tmp_path / "good"]
    with pytest.raises(PartialFailureError) as raised:
        fast.download([server.url("/bad"), server.url("/good")], paths)
    assert [type(result.error) for result in raised.value.results] == [DownloadError, type(None)]
    assert paths[1].read_bytes() == BODY


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
    server = fault_server(*CUT_THEN_REST)
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


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
@pytest.mark.parametrize("existing", ["skip", "replace"])
def test_what_is_no_file_keeps_its_place_and_costs_no_request(
    existing: Literal["skip", "replace"],
    make: Callable[[Path], None],
    fast: ParallelSession,
    server: Server,
    tmp_path: Path,
) -> None:
    taken, free = tmp_path / "taken", tmp_path / "free"
    make(taken)
    before = taken.stat()
    with pytest.raises(PartialFailureError) as raised:
        fast.download([server.url("/range/10"), server.url("/range/20")], [taken, free], existing=existing)
    [failed] = raised.value.failed
    assert (failed.index, failed.attempt) == (0, 0)
    assert isinstance(failed.error, DownloadError)
    assert failed.error.path == str(taken)
    assert (taken.stat().st_mode, taken.stat().st_ino) == (before.st_mode, before.st_ino)
    assert free.read_bytes() == content(20)
    assert server.stats().requests == 1


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_a_file_is_kept_beside_what_is_no_file(
    make: Callable[[Path], None], fast: ParallelSession, server: Server, tmp_path: Path
) -> None:
    taken = tmp_path / "taken"
    make(taken)
    [file] = fast.download([server.url("/range/10")], [taken], existing="keep")
    assert file.path == tmp_path / "taken (2)"


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
