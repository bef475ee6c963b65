"""What a session keeps between calls: cookies and connections; and that nothing outlives it."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

import pytest

from parallel_requests import exceptions
from parallel_requests.aio import ParallelRequests
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.session import ParallelSession
from tests.failures import partial_failure
from tests.leaks import open_sockets, timers_of_connections_to
from tests.polling import until
from tests.server.faults import close, read_request, repeat, response, send, stall

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.control import Server
    from tests.server.faults import Connection, FaultServer
    from tests.server.tls import Certificates

ROOT = Path(__file__).parents[2]
GOOD = [repeat(read_request(), send(response(b"ok")))]


def test_cookies_last_across_batches(session: ParallelSession, server: Server) -> None:
    session.set_cookies({"own": "1"})
    session.request(server.url("/cookies/set?theirs=2"))
    assert session.request(server.url("/cookies"))["cookies"] == {"own": "1", "theirs": "2"}
    told = session.request([server.url("/cookies")] * 3)
    assert [answer["cookies"] for answer in told] == [{"own": "1", "theirs": "2"}] * 3
    session.reset_cookies()
    assert session.request(server.url("/cookies"))["cookies"] == {}


def test_the_cookie_that_was_set_last_is_sent(session: ParallelSession, server: Server) -> None:
    session.request(server.url("/cookies/set?theme=light&seen=yes"))
    session.set_cookies({"theme": "dark"})
    assert session.request(server.url("/cookies"))["cookies"] == {"theme": "dark", "seen": "yes"}
    session.request(server.url("/cookies/set?theme=light"))
    assert session.request(server.url("/cookies"))["cookies"] == {"theme": "light", "seen": "yes"}


def test_cookies_stay_with_their_session(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    first, second = open_session(), open_session()
    first.request(server.url("/cookies/set?a=1"))
    assert second.request(server.url("/cookies"))["cookies"] == {}


@pytest.mark.parametrize("headers", [{}, {"Connection": "keep-alive"}, {"Connection": "close-to-you"}])
def test_connections_are_kept(session: ParallelSession, server: Server, headers: dict[str, str]) -> None:
    for _ in range(5):
        session.request(server.url("/conn"), headers=headers)
    assert server.stats().connections == 1


@pytest.mark.parametrize("header", [{"Connection": "close"}, {"connection": "TE, Close"}])
@pytest.mark.parametrize("body", [b"ok", b""])
def test_a_connection_is_not_kept_if_the_request_says_so(
    session: ParallelSession, fault_server: Callable[..., FaultServer], header: dict[str, str], body: bytes
) -> None:
    server = fault_server([repeat(read_request(), send(response(body)))])
    for _ in range(3):
        assert session.get(server.url(), headers=header, return_type="content") == body
    assert server.connections == 3
    for _ in range(3):
        session.get(server.url(), return_type="content")
    assert server.connections == 4


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_system_notices_if_the_peer_of_a_connection_vanishes(
    scheme: str,
    open_session: Callable[..., ParallelSession],
    fault_server: Callable[..., FaultServer],
    certificates: Certificates,
) -> None:
    """That takes minutes; so what is tested is when it will look."""
    server = fault_server(GOOD, tls=certificates.good.server_context() if scheme == "https" else None)
    open_session(verify_ssl=str(certificates.ca_file)).get(server.url(), return_type="content")
    [(timer, seconds)] = timers_of_connections_to(server.port)
    assert timer == "keepalive"
    assert 0 < seconds <= 60


def test_a_call_that_fails_keeps_no_other_from_using_an_idle_connection(
    open_session: Callable[..., ParallelSession], fault_server: Callable[..., FaultServer]
) -> None:
    """A server that limits connections, or a firewall, might not let another one through."""
    both_are_open = threading.Barrier(2)

    def answer_all_but_one(connection: Connection) -> None:
        connection.read_request()
        both_are_open.wait(10)
        connection.send(response(b"fine"))
        while connection.read_request().target != "/never":
            connection.send(response(b"fine"))

    server = fault_server([answer_all_but_one, stall()])
    session = open_session(concurrency=2, retry=RetryPolicy(max_retries=0))
    session.get([server.url()] * 2, return_type="content")
    with pytest.raises(exceptions.RequestTimeout):
        session.get(server.url("/never"), timeout=0.3)
    assert session.get(server.url(), return_type="content") == b"fine"
    assert server.connections == 2


def test_a_connection_with_an_unread_body_is_not_used_again(session: ParallelSession, server: Server) -> None:
    with pytest.raises(exceptions.BodyTooLarge):
        session.request(server.url("/stream-bytes/300000"), return_type="content", max_response_size=1_000)
    assert session.request(server.url("/id/5")) == {"id": 5}


def test_a_cookie_that_is_not_utf8_fails_no_later_call(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    cookies = "Set-Cookie: good=1", "Set-Cookie: bad=\xff\xfe", "Set-Cookie: \xe9=1"
    server = fault_server([repeat(read_request(), send(response(b"ok", *cookies)))])
    for _ in range(2):
        assert session.request(server.url(), return_type="content") == b"ok"
    assert server.requests[1].headers["cookie"] == "good=1"


def test_alt_svc_does_not_send_later_calls_to_another_port(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    elsewhere = fault_server([repeat(read_request(), send(response(b"elsewhere")))])
    services = ", ".join(f'{name}=":{elsewhere.port}"; ma=86400' for name in ("h2c", "h2", "h3"))
    server = fault_server([read_request(), send(response(b"ok", f"Alt-Svc: {services}")), close()], GOOD)
    for _ in range(3):
        assert session.request(server.url(), return_type="content") == b"ok"
    assert elsewhere.connections == 0


def test_closing_closes_every_socket_without_the_garbage_collector(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    before = open_sockets()
    gc.disable()
    try:
        session = open_session(max_retries=0, retry=None)
        with pytest.raises(exceptions.PartialFailureError):
            session.request([*[server.url("/delay/0.05")] * 20, server.url("/hang")], timeout=0.3)
        session.close()
        assert open_sockets() == before
    finally:
        gc.enable()


def test_closing_leaves_no_thread(open_session: Callable[..., ParallelSession], server: Server) -> None:
    sessions = [open_session() for _ in range(20)]
    before = set(threading.enumerate())
    for session in sessions:
        session.request([server.url("/id/1")] * 2)
        session.close()
        assert set(threading.enumerate()) == before


def test_failures_are_freed_without_the_garbage_collector(backend: str, server: Server) -> None:
    def failures(session: ParallelSession) -> list[ref[BaseException]]:
        try:
            session.request([server.url("/html"), server.url("/status/404")])
        except exceptions.PartialFailureError as failure:
            return [ref(error) for error in (failure, *failure.exceptions)]
        raise AssertionError("nothing failed")

    gc.disable()
    try:
        with ParallelSession(backend=backend) as session:
            freed = failures(session)
            assert len(freed) == 3
            until(lambda: not any(reference() for reference in freed))
    finally:
        gc.enable()


def test_a_closed_session_sends_nothing(session: ParallelSession, server: Server, tmp_path: Path) -> None:
    failure = partial_failure(lambda: session.request([server.url("/status/404")]))
    session.close()
    with pytest.raises(exceptions.RunStoppedError):
        session.request([server.url("/id/1")])
    with pytest.raises(exceptions.RunStoppedError):
        next(session.iter_results([server.url("/id/1")]))
    with pytest.raises(exceptions.RunStoppedError):
        session.retry_failed(failure)
    with pytest.raises(exceptions.RunStoppedError):
        session.download([server.url("/id/1")], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    session.close()
    assert server.stats().requests == 1


def test_a_client_gives_its_session_to_synchronous_code(backend: str, server: Server) -> None:
    with ParallelRequests(backend=backend) as session:
        assert session.request(server.url("/id/1")) == {"id": 1}
    with pytest.raises(exceptions.RunStoppedError):
        session.request(server.url("/id/2"))


def test_a_session_left_open_gives_a_warning_and_is_closed(
    backend: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if warnings are errors, as in these tests: a thread left behind would block the exit."""
    session = ParallelSession(backend=backend)
    session.request(server.url("/id/1"))
    with pytest.warns(ResourceWarning, match=f"backend={backend} .* was not closed") as warned:
        del session
    assert warned[0].filename == __file__, "it shows where the session was dropped"
    session = ParallelSession(backend=backend)
    session.request(server.url("/id/2"))
    raised: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_type))
    del session
    assert raised == [ResourceWarning]


def test_a_loop_keeps_its_session_open(backend: str, server: Server) -> None:
    results = ParallelSession(backend=backend).iter_results(server.url(f"/id/{n}") for n in range(3))
    with pytest.warns(ResourceWarning, match="was not closed"):  # at the end of the loop
        assert sorted(result.unwrap()["id"] for result in results) == [0, 1, 2]


def test_a_session_is_not_copied(backend: str, server: Server) -> None:
    """A copy that is collected would close what the session still uses."""
    client = ParallelRequests(backend=backend)
    with client as session:
        for own in (session, client):
            for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match=f"{type(own).__name__} cannot be copied .* open another"):
                    duplicate(own)
        gc.collect()
        assert session.request(server.url("/id/1")) == {"id": 1}


def run_script(script: str, *arguments: str) -> None:
    """Run a Python script in a process of its own, which has to succeed."""
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, timeout=40, cwd=ROOT)


FORK = """
import os, signal, sys, warnings
from parallel_requests import ParallelSession, RunStoppedError
warnings.simplefilter("ignore", DeprecationWarning)
backend, url = sys.argv[1:]
used, unused = (ParallelSession(backend=backend) for _ in range(2))
used.request(url)
child = os.fork()
if not child:
    signal.alarm(30)
    assert unused.request([url] * 5) == [{"id": 1}] * 5
    try:
        used.request(url)
    except RunStoppedError:
        sys.exit(unused.close())
    sys.exit("a session of the parent was used")
_, status = os.waitpid(child, 0)
assert status == 0, status
assert used.request([url] * 5) == unused.request([url] * 5) == [{"id": 1}] * 5
used.close()
unused.close()
"""


def test_a_forked_child_never_uses_a_connection_of_its_parents(backend: str, server: Server) -> None:
    run_script(FORK, backend, server.url("/id/1"))


FORK_TO_PARSE = """
import os, signal, sys, threading, warnings
from parallel_requests import ParallelSession, RunStoppedError
warnings.simplefilter("ignore", DeprecationWarning)
backend, url = sys.argv[1:]
session = ParallelSession(backend=backend)
session.request(url)
child = os.fork()
if not child:
    signal.alarm(30)
    for options in ({"parse_processes": 1}, {"parse_func": str}):
        try:
            session.request(url, **options)
        except RunStoppedError:
            continue
        os._exit(1)
    os._exit(threading.active_count() - 1)
_, status = os.waitpid(child, 0)
assert status == 0, status
session.close()
"""


def test_a_forked_child_starts_no_parser_in_a_session_of_its_parents(backend: str, server: Server) -> None:
    """The child's own end would wait for it, as only the parent closes the session."""
    run_script(FORK_TO_PARSE, backend, server.url("/id/1"))


FORK_UNDER_WAY = """
import json, os, signal, sys, urllib.request, warnings
from parallel_requests import ParallelSession
warnings.simplefilter("ignore", DeprecationWarning)
backend, server = sys.argv[1:]
session = ParallelSession(backend=backend, max_retries=0)
others = f"{server}/together?count=3&key={os.getpid()}"
results = session.iter_results([f"{server}/id/1", others, others])
assert next(results).ok

def in_flight():
    with urllib.request.urlopen(f"{server}/_control/stats") as answer:
        return json.load(answer)["in_flight"]

while in_flight() < 2:
    pass
for how in ("close", "forget", "exit"):
    child = os.fork()
    if not child:
        signal.alarm(30)
        if how == "close":
            session.close()
        elif how == "forget":
            del results, session
        os._exit(0) if how != "exit" or backend == "aiohttp" else sys.exit()  # uvloop crashes in sys.exit()
    _, status = os.waitpid(child, 0)
    assert status == 0, (how, status)
assert session.request(others) == {}
assert [result.value for result in results] == [{}, {}]
session.close()
"""


def test_a_forked_child_does_not_interrupt_its_parents_batch(backend: str, server: Server) -> None:
    run_script(FORK_UNDER_WAY, backend, server.url(""))


FORK_WHILE_PROGRESS_IS_SHOWN = """
import os, signal, sys, threading, warnings
from tqdm import tqdm
from parallel_requests import ParallelSession
warnings.simplefilter("ignore", DeprecationWarning)
backend, url = sys.argv[1:]
is_shown, may_go_on = threading.Event(), threading.Event()

def show(bar, count):
    bar.n += count
    if bar.n == 2:
        is_shown.set()
        may_go_on.wait()

tqdm.update = show
with ParallelSession(backend=backend, concurrency=1) as session:
    results = session.iter_results([url] * 2, progress=True)
    assert next(results).ok
    is_shown.wait()
    child = os.fork()
    if not child:
        signal.alarm(30)
        del results
        os._exit(0)
    _, status = os.waitpid(child, 0)
    may_go_on.set()
    assert status == 0, status
    assert [result.value for result in results] == [{"id": 1}]
"""


def test_a_forked_child_drops_a_batch_whose_progress_is_being_shown(backend: str, server: Server) -> None:
    run_script(FORK_WHILE_PROGRESS_IS_SHOWN, backend, server.url("/id/1"))


FORK_IN_THE_INPUT = """
import os, signal, sys, warnings
from parallel_requests import ParallelSession
warnings.simplefilter("ignore", DeprecationWarning)
backend, url = sys.argv[1:]

def inputs():
    yield from [url] * 100
    child = os.fork()
    if not child:
        signal.alarm(30)
        raise KeyboardInterrupt
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    yield url

with ParallelSession(backend=backend) as session:
    try:
        assert session.request(inputs()) == [{"id": 1}] * 101
    except KeyboardInterrupt as ctrl_c:  # the child's
        os._exit(len(ctrl_c.results))
"""


def test_a_forked_child_that_is_interrupted_has_no_results(backend: str, server: Server) -> None:
    run_script(FORK_IN_THE_INPUT, backend, server.url("/id/1"))


FORK_IN_THE_LOOP = """
import os, signal, sys, warnings
from parallel_requests import ParallelSession, RunStoppedError
warnings.simplefilter("ignore", DeprecationWarning)
backend, url = sys.argv[1:]
with ParallelSession(backend=backend) as session:
    results = session.iter_results(url for _ in range(100))
    assert next(results).ok
    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            next(results)
        except RunStoppedError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    assert [result.value for result in results] == [{"id": 1}] * 99
"""


def test_a_forked_child_cannot_go_on_with_a_loop_of_its_parents(backend: str, server: Server) -> None:
    run_script(FORK_IN_THE_LOOP, backend, server.url("/id/1"))
