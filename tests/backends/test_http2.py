"""HTTP/2 through curl and niquests: few connections, and no call waits for the response of another."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingAckReceived, StreamReset
from h2.settings import SettingCodes
from hyperframe.frame import SettingsFrame, WindowUpdateFrame

from parallel_requests import exceptions
from parallel_requests.gates.backoff import RetryPolicy
from tests.lateness import fits
from tests.leaks import open_sockets
from tests.polling import until
from tests.server.control import together
from tests.server.faults import linger, notify_end, read_request, response, send, stall, within_tls
from tests.server.h2_faults import (
    FallSilent,
    HangUp,
    Pause,
    Vanish,
    allow_one_stream,
    announce_no_window,
    go_away,
    good_answer,
    h2_context,
    speak_h2,
    take_any_amount,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from h2.connection import H2Connection
    from h2.events import Event

    from parallel_requests.models import Result
    from parallel_requests.session import ParallelSession
    from tests.lateness import Lateness
    from tests.server.control import Server
    from tests.server.faults import FaultServer
    from tests.server.h2_faults import Answer
    from tests.server.tls import Certificates

    OpenSession = Callable[..., ParallelSession]
    Play = Callable[..., FaultServer]


pytestmark = pytest.mark.parametrize(
    "backend", ["curl", pytest.param("niquests", marks=pytest.mark.niquests)], indirect=True
)


@pytest.fixture
def open_session(open_session: OpenSession, certificates: Certificates) -> OpenSession:
    """``open_session(**options)`` opens a session that trusts our authority, and does not retry."""
    return functools.partial(open_session, max_retries=0, verify_ssl=certificates.ca_file)


@pytest.fixture
def session(open_session: OpenSession) -> ParallelSession:
    return open_session()


def test_a_hundred_calls_share_one_connection(session: ParallelSession, h2_server: Server) -> None:
    responses = session.request([h2_server.url(together(20))] * 100, return_type="response")
    assert {response.http_version for response in responses} == {"HTTP/2"}
    assert fits(session, [h2_server.url("/conn?delay=0.2")] * 100, within=1.5 * 5 * 0.2)
    stats = h2_server.stats()
    assert stats.connections == 1
    assert stats.max_in_flight == 20


def test_requesting_http2_gives_no_warning(open_session: OpenSession, h2_server: Server) -> None:
    assert open_session(http2=True).get(h2_server.url("/conn"))["http_version"] == "2"


def test_the_version_is_reported(session: ParallelSession, h2_server: Server) -> None:
    assert session.request(h2_server.url("/get"), return_type="response").http_version == "HTTP/2"


def test_the_reason_phrase_that_http2_lacks_is_filled_in(session: ParallelSession, h2_server: Server) -> None:
    assert session.request(h2_server.url("/get"), return_type="response").reason == "OK"
    with pytest.raises(exceptions.HTTPStatusError, match="answered 404 Not Found"):
        session.get(h2_server.url("/status/404"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_http2_is_spoken_through_a_proxy(
    session: ParallelSession, fault_server: Play, certificates: Certificates, scheme: str
) -> None:
    target = within_tls(h2_context(certificates.good), speak_h2(good_answer))
    proxy = fault_server(
        [read_request(), send(b"HTTP/1.1 200 OK\r\n\r\n"), target],
        tls=certificates.good.server_context() if scheme == "https" else None,
    )
    for _ in range(2):
        answer = session.get(
            "https://localhost/", return_type="response", proxy=f"{scheme}://localhost:{proxy.port}"
        )
        assert answer.http_version == "HTTP/2"


def test_http2_can_be_switched_off(open_session: OpenSession, h2_server: Server) -> None:
    session = open_session(http2=False)
    responses = session.request([h2_server.url(together(20))] * 40, return_type="response")
    assert {response.http_version for response in responses} == {"HTTP/1.1"}
    assert h2_server.stats().max_in_flight == 20


def test_http11_over_tls_reaches_a_hundred_connections(open_session: OpenSession, tls_server: Server) -> None:
    open_session(concurrency=100).request([tls_server.url(together(100))] * 200)
    stats = tls_server.stats()
    assert stats.max_in_flight == 100
    assert stats.connections <= 100


@pytest.mark.parametrize("path", ["/hang", "/slow-body?bytes=1000&interval=0.1"])
def test_a_slow_response_delays_no_other(
    session: ParallelSession, h2_server: Server, lateness: Lateness, path: str
) -> None:
    urls = [h2_server.url(path), *[h2_server.url(f"/id/{number}?delay=0.01") for number in range(100)]]
    results = list(
        session.iter_results(urls, timeout=[1.0, *[None] * 100], return_type="content", ordered=True)
    )
    assert isinstance(results[0].error, exceptions.RequestTimeout)
    assert [result.value for result in results[1:]] == [b'{"id": %d}' % number for number in range(100)]
    assert max(result.elapsed for result in results[1:]) < 0.9 + lateness.slack()
    until(lambda: h2_server.stats().in_flight == 0)  # the server is told
    assert session.request(h2_server.url("/id/7")) == {"id": 7}
    assert h2_server.stats().connections == 1, "the others' connection outlives a timeout"


def test_calls_that_wait_longer_delay_neither_a_response_nor_a_timeout(
    session: ParallelSession, h2_server: Server, lateness: Lateness
) -> None:
    hanging = h2_server.url("/hang")
    urls = [*[hanging] * 5, *[hanging] * 5, h2_server.url("/id/1?delay=0.2")]
    results = list(session.iter_results(urls, timeout=[*[2.0] * 5, *[0.4] * 5, None], ordered=True))
    assert {type(result.error) for result in results[:10]} == {exceptions.RequestTimeout}
    assert results[10].value == {"id": 1}
    assert max(result.elapsed for result in results[5:]) < 1.5 + lateness.slack()


def test_bodies_do_not_get_mixed_up(session: ParallelSession, h2_server: Server) -> None:
    from tests.server.content import content

    urls = [h2_server.url(f"/bytes/{20_000 + 1_000 * seed}?seed={seed}") for seed in range(60)]
    bodies = session.request(urls, return_type="content")
    assert bodies == [content(20_000 + 1_000 * seed, seed) for seed in range(60)]
    told = session.post(
        [h2_server.url(f"/id/{number}") for number in range(60)],
        json=[{"id": number} for number in range(60)],
    )
    assert told == [{"id": number} for number in range(60)]
    assert h2_server.stats().mismatched_ids == 0


def test_content_codings_are_decoded(session: ParallelSession, h2_server: Server) -> None:
    assert session.get(h2_server.url("/gzip"))["gzipped"] is True


def test_closing_stops_within_a_second(
    open_session: OpenSession, h2_server: Server, lateness: Lateness
) -> None:
    session = open_session(concurrency=10)
    results: list[object] = []
    caller = threading.Thread(
        target=lambda: results.extend(session.iter_results([h2_server.url("/hang")] * 30, timeout=None))
    )
    caller.start()
    until(lambda: h2_server.stats().in_flight == 10)
    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began < 1.0 + lateness.slack()
    assert len(results) == 30


# -- what goes wrong

_PATIENCE = 0.25
"""Seconds an attempt may last beyond its timeout."""
ONE_QUICK_RETRY = RetryPolicy(max_retries=1, backoff_factor=0.01)
_HEALTHY = [speak_h2(good_answer)]


def close_the_door(protocol: H2Connection, stream: int, _path: str) -> None:
    """Answer, and allow no further stream."""
    protocol.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 0})
    good_answer(protocol, stream)


def sets_with_data(event: threading.Event) -> Callable[[H2Connection, Event], None]:
    """Return an ``on_other`` that sets an event once a part of a body has come."""

    def look_at(_protocol: H2Connection, came: Event) -> None:
        if isinstance(came, DataReceived):
            event.set()

    return look_at


@pytest.fixture
def play(fault_server: Play, certificates: Certificates) -> Play:
    """``play(script, ...)`` starts a FaultServer that speaks HTTP/2."""
    return functools.partial(fault_server, tls=h2_context(certificates.good))


@pytest.mark.parametrize(
    "code", [ErrorCodes.NO_ERROR, ErrorCodes.INTERNAL_ERROR, ErrorCodes.CANCEL, ErrorCodes.ENHANCE_YOUR_CALM]
)
def test_a_reset_stream_is_truncated(open_session: OpenSession, play: Play, code: ErrorCodes) -> None:
    def answer(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/reset":
            protocol.reset_stream(stream, code)
        else:
            good_answer(protocol, stream)

    server = play([speak_h2(answer)])
    urls = [server.url("/reset"), *[server.url("/")] * 10]
    results = list(
        open_session(retry=ONE_QUICK_RETRY).iter_results(urls, return_type="content", ordered=True)
    )
    assert isinstance(results[0].error, exceptions.RetryExhaustedError)
    assert isinstance(results[0].error.last_error, exceptions.TruncatedBody)
    assert results[0].attempts == 2
    assert [result.value for result in results[1:]] == [b"ok"] * 10
    [posted] = open_session(retry=ONE_QUICK_RETRY).iter_results(urls[:1], method="POST", data="x")
    assert isinstance(posted.error, exceptions.TruncatedBody)
    assert sum(request.method == "POST" for request in server.requests) == 1
    assert server.connections == 2, "one a session: the others on it do not suffer"


def test_a_stream_that_is_reset_in_its_body_costs_no_other_call(session: ParallelSession, play: Play) -> None:
    streams: dict[str, int] = {}

    def reset_one_of_two(protocol: H2Connection, stream: int, path: str) -> None:
        streams[path] = stream
        protocol.send_headers(stream, [(":status", "200")])
        protocol.send_data(stream, b"ok")
        if len(streams) == 2:
            protocol.reset_stream(streams["/reset"], ErrorCodes.INTERNAL_ERROR)
            raise Pause(is_reset, lambda: protocol.send_data(streams["/"], b"", end_stream=True))

    is_reset = threading.Event()
    server = play([speak_h2(reset_one_of_two)])
    for result in session.iter_results(
        [server.url("/reset"), server.url("/")], method="POST", data="x", return_type="content"
    ):
        if is_reset.is_set():
            assert result.value == b"ok"
        else:
            assert isinstance(result.error, exceptions.TruncatedBody)
            is_reset.set()
    assert server.connections == 1


def test_a_server_that_wants_http11_after_all_gets_it_or_is_a_protocol_error(
    backend: str, session: ParallelSession, play: Play
) -> None:
    def refuse(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.reset_stream(stream, ErrorCodes.HTTP_1_1_REQUIRED)

    server = play([speak_h2(refuse)], [read_request(), send(response(b"ok"))])
    [result] = session.iter_results([server.url("/")], return_type="content")
    if backend == "curl":
        assert result.unwrap() == b"ok"
    else:
        assert isinstance(result.error, exceptions.ProtocolError)
        assert "it wants HTTP/1.1" in str(result.error)


def test_calls_wait_for_the_first_connection_rather_than_open_more(
    session: ParallelSession, fault_server: Play, certificates: Certificates
) -> None:
    target = within_tls(h2_context(certificates.good), *_HEALTHY)
    server = fault_server([lambda connection: connection.pause(0.3), target])
    urls = [f"https://localhost:{server.port}/"] * 20
    assert session.get(urls, return_type="content") == [b"ok"] * 20
    assert server.connections == 1


def test_an_empty_data_frame_does_not_end_a_body(session: ParallelSession, play: Play) -> None:
    def answer(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", "200")])
        protocol.send_data(stream, b"ab")
        protocol.send_data(stream, b"")
        protocol.send_data(stream, b"", pad_length=7)
        protocol.send_data(stream, b"cd", end_stream=True)

    server = play([speak_h2(answer)])
    assert session.get(server.url("/"), return_type="content") == b"abcd"


def test_a_connection_that_is_lost_cuts_all_its_calls(session: ParallelSession, play: Play) -> None:
    def answer(protocol: H2Connection, stream: int, _path: str) -> None:
        if stream == 1:
            protocol.send_headers(stream, [(":status", "200")])
            protocol.send_data(stream, b"begun")
        elif stream == 5:
            raise HangUp

    server = play([speak_h2(answer)], _HEALTHY)
    results = list(session.iter_results([server.url("/")] * 3, method="POST", data="x", timeout=30))
    for result in results:
        assert type(result.error) is exceptions.TruncatedBody, "it may have been received"
        assert "None" not in str(result.error)
    assert session.get([server.url("/")] * 3, return_type="content") == [b"ok"] * 3
    assert server.connections == 2


def test_calls_on_a_connection_that_tls_ends_in_good_order_are_retried(
    open_session: OpenSession, fault_server: Play, certificates: Certificates
) -> None:
    def leave(_protocol: H2Connection, stream: int, _path: str) -> None:
        if stream == 5:
            raise HangUp

    context = h2_context(certificates.good)
    server = fault_server(
        [within_tls(context, speak_h2(leave), notify_end())], [within_tls(context, *_HEALTHY)]
    )
    session = open_session(retry=ONE_QUICK_RETRY)
    urls = [f"https://localhost:{server.port}/"] * 3
    assert session.get(urls, return_type="content") == [b"ok"] * 3
    assert [request.connection for request in server.requests] == [0, 0, 0, 1, 1, 1]


def test_no_more_of_a_body_is_sent_than_the_server_takes(session: ParallelSession, play: Play) -> None:
    server = play([speak_h2(good_answer, begin=announce_no_window)])
    assert session.put([server.url("/")] * 3, data=b"x" * 40_000, return_type="content") == [b"ok"] * 3
    with pytest.raises(exceptions.RequestTimeout):
        session.put(server.url("/"), data=b"x" * 200_000, timeout=0.5)


def test_a_connection_that_is_silently_dead_costs_one_timeout(open_session: OpenSession, play: Play) -> None:
    def answer_and_vanish(protocol: H2Connection, stream: int, path: str) -> None:
        good_answer(protocol, stream, path)
        raise Vanish

    server = play([speak_h2(answer_and_vanish)], [speak_h2(good_answer)])
    session = open_session(retry=RetryPolicy(max_retries=1, backoff_factor=0.01))
    assert session.get(server.url(), return_type="content") == b"ok"
    results = list(session.iter_results([server.url()] * 3, return_type="content", timeout=4))
    # By a retry or, if another call has given the connection up already, by a replay.
    assert [result.value for result in results] == [b"ok"] * 3
    assert server.connections == 2


def test_a_connection_is_kept_that_only_one_call_has_timed_out_on(
    open_session: OpenSession, play: Play
) -> None:
    def answer_all_but_one(protocol: H2Connection, stream: int, path: str) -> None:
        if path != "/never":
            good_answer(protocol, stream, path)

    server = play([speak_h2(answer_all_but_one)])
    session = open_session(retry=RetryPolicy(max_retries=1, backoff_factor=0.01))
    with pytest.raises(exceptions.RetryExhaustedError):
        session.get(server.url("/never"), timeout=0.5)
    assert session.get(server.url(), return_type="content") == b"ok"
    assert server.connections == 1


def test_early_hints_do_not_block_other_streams(session: ParallelSession, play: Play) -> None:
    def answer(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/hints":
            protocol.send_headers(stream, [(":status", "103")])
        else:
            good_answer(protocol, stream)

    server = play([speak_h2(answer)])
    urls = [server.url("/hints"), *[server.url("/")] * 10]
    results = list(
        session.iter_results(urls, timeout=[1.0, *[None] * 10], return_type="content", ordered=True)
    )
    assert isinstance(results[0].error, exceptions.RequestTimeout)
    assert [result.value for result in results[1:]] == [b"ok"] * 10


def send_less_than_announced(protocol: H2Connection, stream: int, _path: str) -> None:
    """Announce a length, and send less: in HTTP/2 a fault of the whole connection."""
    protocol.send_headers(stream, [(":status", "200"), ("content-length", "5")])
    protocol.send_data(stream, b"ok", end_stream=True)


def test_an_error_that_ends_a_connection_is_not_a_timeout(session: ParallelSession, play: Play) -> None:
    server = play([speak_h2(send_less_than_announced)])
    [result] = session.iter_results([server.url("/")], timeout=5.0)
    assert isinstance(result.error, exceptions.TruncatedBody)
    assert re.search("Expected 5 bytes|HTTP messaging rule", str(result.error)), "it says why"


@pytest.mark.parametrize("status", ["abc", "99999"])
def test_an_invalid_status_is_a_protocol_error(open_session: OpenSession, play: Play, status: str) -> None:
    def answer(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", status)], end_stream=True)

    server = play([speak_h2(answer)])
    [result] = open_session(retry=ONE_QUICK_RETRY).iter_results([server.url("/")])
    assert isinstance(result.error, exceptions.ProtocolError)
    assert result.attempts == 1


def test_replays_are_counted(open_session: OpenSession, play: Play) -> None:
    def refuse(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.reset_stream(stream, ErrorCodes.REFUSED_STREAM)

    server = play([speak_h2(refuse)])
    session = open_session()
    [result] = session.iter_results([server.url("/")], return_type="content")
    assert isinstance(result.error, exceptions.TruncatedBody)
    assert result.attempts == len(server.requests)
    assert session.last_run.attempts == len(server.requests)


def test_a_goaway_on_an_open_connection_delays_nobody(
    open_session: OpenSession, play: Play, lateness: Lateness
) -> None:
    def leave(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/first":
            good_answer(protocol, stream)
        elif path == "/last":
            protocol.close_connection(last_stream_id=stream)
            raise FallSilent

    server = play([speak_h2(leave)], _HEALTHY)
    session = open_session()
    assert session.get(server.url("/first"), return_type="content") == b"ok"
    urls = [*[server.url("/")] * 19, server.url("/last")]
    results = list(session.iter_results(urls, timeout=1.0, return_type="content"))
    assert {type(result.error) for result in results} <= {type(None), exceptions.RequestTimeout}
    assert max(result.elapsed for result in results) <= 1.0 + _PATIENCE + lateness.slack()
    assert session.get([server.url("/")] * 20, return_type="content") == [b"ok"] * 20
    assert server.connections == 2


def serve_the_first_of_three(protocol: H2Connection, stream: int, _path: str) -> None:
    """Once three streams are open, say that only the first is served, and serve it."""
    if stream == 5:
        go_away(protocol, last_stream=1)
        good_answer(protocol, 1)


def shut_down_after_the_first_of_three(protocol: H2Connection, stream: int, _path: str) -> None:
    """Do what Apache does on a graceful restart: announce the end, leave streams out with an error, close."""
    if stream == 5:
        good_answer(protocol, 1)
        go_away(protocol, last_stream=(1 << 31) - 1)
        go_away(protocol, last_stream=1, code=0xFFFFFC7A)
        raise HangUp


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("leave", [serve_the_first_of_three, shut_down_after_the_first_of_three])
def test_what_a_goaway_leaves_out_is_sent_again_at_once(
    open_session: OpenSession, play: Play, leave: Answer, method: str
) -> None:
    """POSTs, too, as they were not received."""
    server = play([speak_h2(leave), linger()], _HEALTHY)
    urls, data = [server.url("/")] * 3, "x" if method == "POST" else None
    with open_session() as session:
        results = list(session.iter_results(urls, method=method, data=data, timeout=5, return_type="content"))
        assert [result.value for result in results] == [b"ok"] * 3
        assert sorted(result.attempts for result in results) == [1, 2, 2]
        assert session.last_run.retries == 0
    assert [request.connection for request in server.requests] == [0, 0, 0, 1, 1]


def leave_at_once(protocol: H2Connection) -> None:
    protocol.initiate_connection()
    go_away(protocol, last_stream=0)


def announce_the_end(protocol: H2Connection) -> None:
    protocol.initiate_connection()
    go_away(protocol, last_stream=(1 << 31) - 1)


def leave_with_an_error(protocol: H2Connection) -> None:
    protocol.initiate_connection()
    go_away(protocol, last_stream=0, code=ErrorCodes.ENHANCE_YOUR_CALM)


def leave_and_go_on(protocol: H2Connection) -> None:
    leave_at_once(protocol)
    protocol._prepare_for_sending([SettingsFrame(0)])


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("begin", [leave_at_once, announce_the_end, leave_with_an_error, leave_and_go_on])
def test_a_server_that_goes_away_as_it_is_connected_to_costs_no_call(
    open_session: OpenSession, play: Play, begin: Callable[[H2Connection], None], method: str
) -> None:
    """As lighttpd does if it is shut down just then."""
    server = play([speak_h2(good_answer, begin=begin)], _HEALTHY)
    urls, data = [server.url("/")] * 5, "x" if method == "POST" else None
    with open_session() as session:
        results = list(session.iter_results(urls, method=method, data=data, timeout=5, return_type="content"))
        assert [result.value for result in results] == [b"ok"] * 5
        assert max(result.attempts for result in results) <= 2
        assert session.last_run.retries == 0
    assert server.connections <= 2


def test_a_goaway_costs_nothing_that_is_still_served(open_session: OpenSession, play: Play) -> None:
    """Go's server ends the connection if a stream is reset that it leaves out."""
    have_come_again = threading.Event()

    def leave(protocol: H2Connection, stream: int, _path: str) -> None:
        if stream == 5:
            go_away(protocol, last_stream=1)
            raise Pause(have_come_again, lambda: protocol.ping(bytes(8)))

    def serve_the_first(protocol: H2Connection, event: Event) -> None:
        if isinstance(event, StreamReset):
            raise HangUp
        if isinstance(event, PingAckReceived):  # it follows all that was sent before
            good_answer(protocol, 1)

    def answer(protocol: H2Connection, stream: int, path: str) -> None:
        good_answer(protocol, stream)
        if stream == 3:
            have_come_again.set()

    server = play([speak_h2(leave, on_other=serve_the_first)], [speak_h2(answer)])
    urls = [server.url("/")] * 3
    results = list(
        open_session().iter_results(urls, method="POST", data="x", timeout=5, return_type="content")
    )
    assert [result.value for result in results] == [b"ok"] * 3
    assert [request.connection for request in server.requests] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("code", [ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.INTERNAL_ERROR])
def test_a_post_that_the_server_has_reset_is_not_sent_again(
    open_session: OpenSession, play: Play, code: ErrorCodes
) -> None:
    def reset(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.reset_stream(stream, code)

    server = play([speak_h2(reset)], _HEALTHY)
    with pytest.raises(exceptions.TruncatedBody):
        open_session().post(server.url("/"), data="x", timeout=5)
    assert len(server.requests) == 1


def test_a_body_that_goes_on_after_a_goaway_is_not_cut(open_session: OpenSession, play: Play) -> None:
    has_begun, may_go_on = threading.Event(), threading.Event()

    def begin_and_leave(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", "200")])
        protocol.send_data(stream, b"one ")
        go_away(protocol, last_stream=stream)
        raise Pause(may_go_on, lambda: protocol.send_data(stream, b"two", end_stream=True))

    def receive(chunk: bytes) -> None:
        chunks.append(chunk)
        has_begun.set()

    server = play([speak_h2(begin_and_leave)], _HEALTHY)
    session = open_session()
    chunks: list[bytes] = []
    caller = threading.Thread(
        target=lambda: session.get(server.url("/"), return_type="stream", stream_callback=receive)
    )
    caller.start()
    assert has_begun.wait(5)
    assert session.get(server.url("/"), return_type="content") == b"ok"
    may_go_on.set()
    caller.join()
    assert b"".join(chunks) == b"one two"


def test_a_response_without_a_body_may_come_with_a_goaway(session: ParallelSession, play: Play) -> None:
    def answer_and_leave(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", "204")], end_stream=True)
        go_away(protocol, last_stream=stream)

    server = play([speak_h2(answer_and_leave)])
    assert session.post(server.url("/"), data="x", return_type="response").status_code == 204
    assert len(server.requests) == 1


def test_a_call_that_ends_after_a_goaway_costs_none_that_is_still_served(
    session: ParallelSession, play: Play
) -> None:
    """Neither one whose response has no body, nor one that times out in its body."""
    streams: dict[str, int] = {}
    has_ended = threading.Event()

    def leave(protocol: H2Connection, stream: int, path: str) -> None:
        streams[path] = stream
        if len(streams) == 3:
            go_away(protocol, last_stream=5)
            protocol.send_headers(streams["/empty"], [(":status", "204")], end_stream=True)
            raise Pause(has_ended, lambda: protocol.send_headers(streams["/stalls"], [(":status", "200")]))

    def answer_late(protocol: H2Connection, event: Event) -> None:
        if isinstance(event, StreamReset):
            good_answer(protocol, streams["/late"])

    server = play([speak_h2(leave, on_other=answer_late)])
    urls = [server.url(path) for path in ("/empty", "/stalls", "/late")]
    calls = session.iter_results(urls, method="POST", data="x", timeout=[10, 0.5, 10], return_type="content")
    assert next(calls).value == b""
    has_ended.set()
    stalled, late = sorted(calls, key=attrgetter("index"))
    assert isinstance(stalled.error, exceptions.RequestTimeout)
    assert late.value == b"ok"
    assert len(server.requests) == 3


def hit_an_error(protocol: H2Connection, _stream: int) -> None:
    go_away(protocol, last_stream=3, code=ErrorCodes.INTERNAL_ERROR)
    protocol._prepare_for_sending([WindowUpdateFrame(0, window_increment=1)])


def be_malformed(protocol: H2Connection, stream: int) -> None:
    send_less_than_announced(protocol, stream, "")


@pytest.mark.parametrize("fail", [hit_an_error, be_malformed])
def test_an_error_of_a_connection_costs_no_response_that_arrives_just_before_it(
    session: ParallelSession, play: Play, fail: Callable[[H2Connection, int], None]
) -> None:
    streams: dict[str, int] = {}

    def answer_and_fail(protocol: H2Connection, stream: int, path: str) -> None:
        streams[path] = stream
        if len(streams) == 2:
            good_answer(protocol, streams["/answered"])
            fail(protocol, streams["/failed"])

    server = play([speak_h2(answer_and_fail)])
    urls = [server.url("/answered"), server.url("/failed")]
    answered, failed = session.iter_results(
        urls, method="POST", data="x", timeout=[10, 0.5], return_type="content", ordered=True
    )
    assert answered.value == b"ok"
    # libcurl waits for the server, which has not said that it does not serve that one.
    assert isinstance(failed.error, exceptions.TruncatedBody | exceptions.RequestTimeout)
    assert len(server.requests) == 2


def test_a_head_that_is_not_valid_leaves_no_connection_behind(open_session: OpenSession, play: Play) -> None:
    def contradict(protocol: H2Connection, stream: int, _path: str) -> None:
        lengths = [("content-length", "5"), ("content-length", "6")]
        protocol.send_headers(stream, [(":status", "200"), *lengths])

    server = play([speak_h2(contradict)])
    before = open_sockets()
    with open_session() as session, pytest.raises(exceptions.ProtocolError):
        session.get(server.url("/"))
    until(lambda: open_sockets() == before)


def test_a_saturated_connection_is_replaced(open_session: OpenSession, play: Play) -> None:
    server = play([speak_h2(close_the_door)], _HEALTHY)
    session = open_session()
    assert session.get(server.url("/"), return_type="content") == b"ok"
    assert session.get([server.url("/")] * 40, timeout=5, return_type="content") == [b"ok"] * 40
    assert [request.connection for request in server.requests] == [0, *[1] * 40]


def test_waiting_for_a_connection_ends_with_the_timeout(
    open_session: OpenSession, play: Play, lateness: Lateness
) -> None:
    server = play([speak_h2(close_the_door)], [stall()])
    session = open_session()
    assert session.get(server.url("/"), return_type="content") == b"ok"
    results = list(session.iter_results([server.url("/")] * 20, timeout=0.5))
    assert {type(result.error) for result in results} == {exceptions.RequestTimeout}
    assert max(result.elapsed for result in results) <= 0.5 + _PATIENCE + lateness.slack()


def test_closing_ends_an_upload_that_the_server_does_not_take(
    open_session: OpenSession, play: Play, lateness: Lateness
) -> None:
    has_data = threading.Event()
    server = play([speak_h2(good_answer, on_other=sets_with_data(has_data))])
    session = open_session()
    results: list[Result[object]] = []

    def upload() -> None:
        many = [server.url("/")] * 5
        results.extend(session.iter_results(many, method="POST", data=b"x" * 300_000, timeout=None))

    caller = threading.Thread(target=upload)
    caller.start()
    has_data.wait()
    began = time.monotonic()
    session.close()
    caller.join()
    assert time.monotonic() - began < 1.0 + lateness.slack()
    assert {type(result.error) for result in results} == {exceptions.RunStoppedError}


def test_an_upload_that_times_out_costs_no_other_call_its_response(
    session: ParallelSession, play: Play
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def answer_late(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/late":
            is_asked.set()
            raise Pause(may_answer, lambda: good_answer(protocol, stream))
        good_answer(protocol, stream)

    server = play([speak_h2(answer_late)], _HEALTHY)
    assert session.get(server.url("/"), return_type="content") == b"ok"
    with ThreadPoolExecutor(1) as caller:
        late = caller.submit(session.post, server.url("/late"), data="x", return_type="content")
        assert is_asked.wait(5)
        [result] = session.iter_results([server.url("/")], method="POST", data=b"x" * 300_000, timeout=0.5)
        assert isinstance(result.error, exceptions.RequestTimeout)
        may_answer.set()
        assert late.result() == b"ok"
    assert [request.target for request in server.requests] == ["/", "/late"]


def test_an_upload_that_the_server_does_not_take_delays_no_other_call(
    session: ParallelSession, play: Play, lateness: Lateness
) -> None:
    has_data = threading.Event()
    server = play([speak_h2(good_answer, on_other=sets_with_data(has_data))])
    with ThreadPoolExecutor(1) as caller:
        upload = caller.submit(lambda: session.post(server.url("/up"), data=b"x" * 300_000, timeout=3))
        assert has_data.wait(5)
        began = time.monotonic()
        assert session.get(server.url("/"), return_type="content", timeout=30) == b"ok"
        assert time.monotonic() - began < 1.0 + lateness.slack()
        with pytest.raises(exceptions.RequestTimeout):
            upload.result()
    assert server.connections == 1


def test_a_body_is_sent_on_after_its_response_has_begun(session: ParallelSession, play: Play) -> None:
    def begin_and_take_it_all(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", "200")])
        protocol.increment_flow_control_window(300_000)
        protocol.increment_flow_control_window(300_000, stream)

    def finish(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_data(stream, b"ok", end_stream=True)

    server = play([speak_h2(finish, at_once=begin_and_take_it_all)])
    assert session.put(server.url("/"), data=b"x" * 300_000, timeout=5, return_type="content") == b"ok"


def test_a_response_to_half_a_body_leaves_room_for_the_next_call(
    session: ParallelSession, play: Play
) -> None:
    def refuse_uploads(protocol: H2Connection, stream: int, path: str) -> None:
        if path == "/up":
            protocol.send_headers(stream, [(":status", "413")], end_stream=True)

    server = play([speak_h2(good_answer, at_once=refuse_uploads, begin=allow_one_stream)])
    refused = session.post(server.url("/up"), data=b"x" * 300_000, timeout=5, return_type="response")
    assert refused.status_code == 413
    assert session.get(server.url("/"), timeout=5, return_type="content") == b"ok"


def test_a_response_to_half_a_body_may_come_with_a_goaway(session: ParallelSession, play: Play) -> None:
    def refuse_and_leave(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", "413")], end_stream=True)
        go_away(protocol, last_stream=stream)

    server = play([speak_h2(good_answer, at_once=refuse_and_leave)])
    refused = session.post(server.url("/"), data=b"x" * 300_000, timeout=5, return_type="response")
    assert refused.status_code == 413


def test_an_upload_that_times_out_while_nothing_is_read_costs_no_other_call(
    session: ParallelSession, play: Play, lateness: Lateness
) -> None:
    is_stuck, may_read = threading.Event(), threading.Event()

    def stop_reading(_protocol: H2Connection, _stream: int, path: str) -> None:
        if path == "/up":
            is_stuck.set()
            may_read.wait(10)

    server = play([speak_h2(good_answer, at_once=stop_reading, begin=take_any_amount)], _HEALTHY)
    assert session.get(server.url("/"), return_type="content") == b"ok"
    with ThreadPoolExecutor(2) as caller:
        much = b"x" * 30_000_000  # more than the system buffers
        uploading = caller.submit(lambda: session.post(server.url("/up"), data=much, timeout=1.0))
        assert is_stuck.wait(5)
        late = caller.submit(lambda: session.post(server.url("/late"), data="x", return_type="content"))
        began = time.monotonic()
        with pytest.raises(exceptions.RequestTimeout):
            uploading.result()
        assert time.monotonic() - began < 1.0 + _PATIENCE + lateness.slack()
        may_read.set()
        assert late.result() == b"ok"
    assert server.connections == 1


def test_what_the_system_takes_no_more_of_is_sent_later(session: ParallelSession, play: Play) -> None:
    """Several uploads together fill the buffers to the last byte, which one does not."""
    is_stuck, may_read = threading.Event(), threading.Event()
    digests: dict[int, Any] = {}

    def stop_reading(_protocol: H2Connection, stream: int, path: str) -> None:
        digests[stream] = hashlib.sha256()
        if path == "/up" and not is_stuck.is_set():
            is_stuck.set()
            may_read.wait(10)

    def receive(_protocol: H2Connection, event: Event) -> None:
        if isinstance(event, DataReceived):
            digests[event.stream_id].update(event.data)

    def answer_with_digest(protocol: H2Connection, stream: int, _path: str) -> None:
        protocol.send_headers(stream, [(":status", "200")])
        protocol.send_data(stream, digests[stream].digest(), end_stream=True)

    step = speak_h2(answer_with_digest, at_once=stop_reading, on_other=receive, begin=take_any_amount)
    server = play([step])
    assert session.get(server.url("/"), return_type="content") == hashlib.sha256().digest()
    bodies = [bytes([number]) * 2_000_000 for number in range(10)]
    with ThreadPoolExecutor(1) as caller:
        uploading = caller.submit(
            session.post, [server.url("/up")] * 10, data=bodies, timeout=30, return_type="content"
        )
        assert is_stuck.wait(5)
        with pytest.raises(exceptions.RequestTimeout):
            session.get(server.url("/late"), timeout=0.5)
        may_read.set()
        assert uploading.result() == [hashlib.sha256(body).digest() for body in bodies]
    assert server.connections == 1
