"""What a download leaves when it breaks off, and what a later attempt or call makes of it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parallel_requests import (
    DownloadError,
    ParallelSession,
    ProtocolError,
    RetryExhaustedError,
    RetryPolicy,
    TruncatedBody,
)
from tests.downloads.files import (
    BODY,
    CUT_THEN_REST,
    DIGEST,
    cut,
    descriptors,
    head,
    names,
    rest,
    visible,
    whole,
)
from tests.server.content import content
from tests.server.faults import close, read_request, repeat, response, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server.control import Server
    from tests.server.faults import FaultServer, Step


# -- what is requested


def test_a_retry_requests_the_missing_part(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(*CUT_THEN_REST)
    file = session.download(server.url("/file.bin"), tmp_path, sha256=DIGEST)
    assert (file.status, file.sha256, file.size) == ("resumed", DIGEST, len(BODY))
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=100000-"]
    assert server.requests[1].headers["if-range"] == '"one"'
    assert names(tmp_path) == ["file.bin"]
    assert descriptors(tmp_path) == 0


def test_the_next_call_requests_the_missing_part(
    session: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(*CUT_THEN_REST)
    with pytest.raises(TruncatedBody):
        session.download(server.url("/file.bin"), tmp_path, retry=RetryPolicy(max_retries=0))
    assert visible(tmp_path) == []
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
    server = fault_server(*CUT_THEN_REST)
    fast.download(server.url("/f"), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(BODY), len(BODY))


# -- the record beside it


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


def test_a_record_that_a_crash_left_half_written_is_replaced(
    fast: ParallelSession, fault_server: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = fault_server(*CUT_THEN_REST)
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
