"""Ctrl-C at the wrong moment, or at every moment, which the tests bring about."""

from __future__ import annotations

import contextlib
import dis
import gc
import itertools
import multiprocessing
import pkgutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import ParallelSession
from parallel_requests.backends.aiohttp import AiohttpBackend
from parallel_requests.backends.base import BlockingBackend
from parallel_requests.engines.curl_multi import CurlMultiEngine
from parallel_requests.engines.notifier import Notifier
from parallel_requests.engines.opening import Opening
from parallel_requests.engines.threads import ThreadsEngine
from parallel_requests.stats import RunStats
from tests.polling import until
from tests.unit.driving import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from parallel_requests.exchange import Send
    from parallel_requests.models import Response, Result
    from tests.server.control import Server

PATIENCE = 10.0


class Immediate(BlockingBackend):
    """Responds at once."""

    name = "immediate"

    def send(self, send: Send) -> Response:
        return Answer(200).to(send.request)


def is_watched(frame: Any) -> bool:
    """Whether a frame is one of ours, or of a lock of ours."""
    name = frame.f_code.co_filename
    if "/parallel_requests/" in name:
        return "/backends/" not in name
    return name.endswith("threading.py") and is_watched(frame.f_back)


@pytest.fixture
def nothing_is_collected() -> Iterator[None]:
    """Let the garbage collector end nothing meanwhile: what is raised in a finalizer reaches nobody."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def is_followed_by_check(frame: FrameType) -> bool:
    """Whether Python checks for signals after the call of a C function that a frame has just made.

    It does not if that is the ``__enter__`` of a with statement; except in 3.14, where that is a bug.
    """
    before_call = frame.f_code.co_code[frame.f_lasti - 2]
    return sys.version_info < (3, 15) or dis.opname[before_call] != "LOAD_SPECIAL"


def interrupts_after(count: int) -> Callable[[Any, str, Any], None]:
    """Return a profiler that raises after a number of C calls, after which Python checks for signals."""
    left = iter(range(count))

    def profile(frame: Any, event: str, _: Any) -> None:
        if event != "c_return" or not is_watched(frame) or not is_followed_by_check(frame):
            return
        if next(left, None) is None:
            sys.setprofile(None)
            raise KeyboardInterrupt

    return profile


@pytest.mark.usefixtures("nothing_is_collected")
def test_ctrl_c_at_any_moment_leaves_no_lock_behind() -> None:
    urls = [f"http://127.0.0.1/{number}" for number in range(6)]
    for moment in itertools.count():
        is_over = False
        with ParallelSession(backend=Immediate(), concurrency=2) as session, ThreadPoolExecutor(1) as pool:
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    sys.setprofile(interrupts_after(moment))
                    for _ in session.iter_results(iter(urls)):
                        pass
                    is_over = True
                finally:
                    sys.setprofile(None)
            again = pool.submit(lambda: session.request(urls, return_type="content"))
            assert len(again.result(PATIENCE)) == 6
        if is_over:
            return


def test_ctrl_c_as_a_worker_is_handed_over_leaves_no_lock_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one of ``concurrent.futures``, which uses Conditions."""
    enter = threading.Condition.__enter__

    def interrupted(condition: threading.Condition) -> bool:
        is_entered = enter(condition)
        if sys._getframe(1).f_code.co_name == "add_done_callback":
            monkeypatch.undo()
            raise KeyboardInterrupt
        return is_entered

    monkeypatch.setattr(threading.Condition, "__enter__", interrupted)
    with ParallelSession(backend=Immediate()) as session:
        with contextlib.suppress(KeyboardInterrupt):
            session.request(["http://127.0.0.1/"], return_type="content")
        assert session.request(["http://127.0.0.1/"]) == [{}]


class Interrupts:
    """Raises at the n-th instruction after which Python checks for signals.

    These are calls of C functions, the start and resumption of functions, and the backward jumps of loops, in
    the modules that Results pass through.
    """

    MODULES = frozenset(
        {"batch.py", "collecting.py", "locks.py", "notifier.py", "run.py", "runtime.py", "session.py"}
    )

    def __init__(self, count: int) -> None:
        self._left = count
        self._last: dict[FrameType, str] = {}

    def __enter__(self) -> None:
        sys.settrace(self.trace)
        sys.setprofile(self.profile)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "c_return" and self._watches(frame) and is_followed_by_check(frame):
            self._look()

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if not self._watches(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            last = self._last.get(frame)
            now = self._last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            # It makes no difference that the jump has not run yet.
            if last == "RESUME" or ("JUMP_BACKWARD" in now and "NO_INTERRUPT" not in now):
                self._look()
        return self.trace

    def _watches(self, frame: FrameType) -> bool:
        path = Path(frame.f_code.co_filename)
        return path.name in self.MODULES and "parallel_requests" in path.parts

    def _look(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.__exit__()
            raise KeyboardInterrupt


def indices(results: Iterable[Result[Any]]) -> list[int]:
    return [result.index for result in results]


@pytest.mark.usefixtures("nothing_is_collected")
@pytest.mark.parametrize("ordered", [False, True])
def test_ctrl_c_at_any_moment_loses_and_doubles_no_result_of_a_loop(*, ordered: bool) -> None:
    urls = [f"http://127.0.0.1/{number}" for number in range(4)]
    for moment in itertools.count():
        done: list[Result[Any]] = []
        seen: list[int] = []
        is_over = False
        with ParallelSession(backend=Immediate(), concurrency=2) as session:
            results = session.iter_results(
                iter(urls), ordered=ordered, return_type="content", on_result=done.append
            )
            with contextlib.suppress(KeyboardInterrupt), Interrupts(moment):
                for result in results:
                    seen.append(result.index)  # noqa: PERF401 - one by one, as a loop does
                is_over = True
            handed_over = sorted([*seen, *indices(session.last_run.results)])
            assert handed_over == sorted(indices(result for result in done if result.ok)), moment
        if is_over:
            return


@pytest.mark.usefixtures("nothing_is_collected")
@pytest.mark.parametrize("is_list", [True, False])
def test_ctrl_c_at_any_moment_loses_no_result_of_a_batch(*, is_list: bool) -> None:
    urls = [f"http://127.0.0.1/{number}" for number in range(4)]
    for moment in itertools.count():
        done: list[Result[Any]] = []
        with ParallelSession(backend=Immediate(), concurrency=2) as session:
            try:
                with Interrupts(moment):
                    session.request(
                        urls if is_list else iter(urls), return_type="content", on_result=done.append
                    )
            except KeyboardInterrupt as ctrl_c:
                kept = getattr(ctrl_c, "results", [])  # none if it came before the batch began
                assert indices(kept) == sorted(indices(result for result in done if result.ok)), moment
                assert session.last_run.seconds < PATIENCE
            else:
                return


def test_ctrl_c_while_the_engine_is_closed_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closable(Immediate):
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    def interrupted(engine: ThreadsEngine) -> None:
        monkeypatch.undo()
        engine.close()
        raise KeyboardInterrupt

    backend = Closable()
    session = ParallelSession(backend=backend, parse_processes=1)
    assert session.request(["http://127.0.0.1/"], return_type="text", parse_func=len) == [2]
    monkeypatch.setattr(ThreadsEngine, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.close()
    assert backend.is_closed
    assert not multiprocessing.active_children()


@pytest.fixture
def interrupted_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Ctrl-C come while the last Results are counted."""
    add = RunStats.add

    def interrupted(stats: RunStats, results: list[Result[Any]]) -> None:
        monkeypatch.setattr(RunStats, "add", add)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunStats, "add", interrupted)


@pytest.mark.usefixtures("interrupted_count")
def test_ctrl_c_at_the_end_keeps_finished_results() -> None:
    with ParallelSession(backend=Immediate()) as session:
        with pytest.raises(KeyboardInterrupt) as caught:
            session.request([f"http://127.0.0.1/{number}" for number in range(5)])
        assert [result.index for result in caught.value.results] == list(range(5))  # type: ignore[attr-defined]
        assert len(session.last_run.results) == 5


@pytest.mark.usefixtures("interrupted_count")
def test_ctrl_c_between_results_keeps_finished_results() -> None:
    told: list[int] = []
    with ParallelSession(backend=Immediate(), concurrency=1) as session:
        with pytest.raises(KeyboardInterrupt):
            next(
                session.iter_results(
                    ["http://127.0.0.1/"], on_result=lambda result: told.append(result.index)
                )
            )
        assert [result.index for result in session.last_run.results] == told == [0]


@pytest.mark.parametrize(
    ("backend", "options"),
    [("curl", {}), ("aiohttp", {}), ("urllib3", {"parse_processes": 1})],
    indirect=["backend"],
)
def test_ctrl_c_while_a_thread_of_the_session_starts(
    backend: str, options: dict[str, Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("parallel-requests"):
            started.append(thread)
            monkeypatch.undo()
            raise KeyboardInterrupt

    started: list[threading.Thread] = []
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with ParallelSession(backend=backend, **options) as session:
        with pytest.raises(KeyboardInterrupt):
            session.request(server.url("/id/1"))
        assert session.request(server.url("/id/2")) == {"id": 2}
        assert [thread.name for thread in threading.enumerate()].count(started[0].name) == 1
    assert not started[0].is_alive()


@pytest.mark.parametrize("backend", ["curl", "aiohttp"], indirect=True)
def test_ctrl_c_when_the_thread_of_the_engine_has_not_begun(
    backend: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call cannot know whether there will be a thread."""
    start = threading.Thread.start
    started: list[threading.Thread] = []
    may_begin = threading.Event()

    def interrupted(thread: threading.Thread) -> None:
        run = thread.run

        def begin_late() -> None:
            assert may_begin.wait(PATIENCE)
            run()

        if thread.name.startswith("parallel-requests"):
            started.append(thread)
            thread.run = begin_late  # type: ignore[method-assign]
        start(thread)
        if len(started) == 1:
            raise KeyboardInterrupt
        may_begin.set()

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with ParallelSession(backend=backend) as session:
        with pytest.raises(KeyboardInterrupt):
            session.request(server.url("/id/1"))
        for number in range(2, 5):
            assert session.request(server.url(f"/id/{number}")) == {"id": number}
        until(lambda: [thread.is_alive() for thread in started].count(True) == 1)
    for thread in started:
        thread.join(PATIENCE)
    assert server.ids() == [2, 3, 4]


@pytest.mark.parametrize(
    ("backend", "opening"),
    [("curl", "socket.socketpair"), ("aiohttp", "parallel_requests.engines.event_loop._new_event_loop")],
    indirect=["backend"],
)
def test_sockets_of_the_engine_are_opened_where_no_ctrl_c_can_come_in_between(
    backend: str, opening: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_it = pkgutil.resolve_name(opening)

    def checked() -> object:
        assert threading.current_thread() is not threading.main_thread()
        return open_it()

    monkeypatch.setattr(opening, checked)
    with ParallelSession(backend=backend) as session:
        assert session.request(server.url("/id/1")) == {"id": 1}


@pytest.mark.parametrize("backend", ["curl", "aiohttp"], indirect=True)
@pytest.mark.parametrize("then", ["request", "close"])
def test_ctrl_c_while_waiting_for_the_engine_to_open(
    backend: str, then: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    engine = CurlMultiEngine if backend == "curl" else AiohttpBackend
    opening = "_open" if backend == "curl" else "bind"
    open_it, make, wait_for_it = getattr(engine, opening), Opening.make, Notifier.wait
    join = threading.Thread.join
    openings: list[str] = []

    def open_late(*args: Any) -> None:
        openings.append(threading.current_thread().name)
        assert goes_on.wait(PATIENCE)
        open_it(*args)

    def interrupted(*_: Any) -> bool:
        monkeypatch.setattr(Notifier, "wait", wait_for_it)
        monkeypatch.setattr(Opening, "make", made_again)
        raise KeyboardInterrupt

    def made_again(*args: Any) -> None:
        monkeypatch.setattr(Notifier, "wait", resumed)
        make(*args)

    def resumed(*args: Any) -> bool:
        goes_on.set()
        return wait_for_it(*args)

    def joined(thread: threading.Thread) -> None:
        goes_on.set()
        join(thread)

    monkeypatch.setattr(threading.Thread, "join", joined)
    monkeypatch.setattr(engine, opening, open_late)
    monkeypatch.setattr(Notifier, "wait", interrupted)
    with ParallelSession(backend=backend) as session:
        with pytest.raises(KeyboardInterrupt):
            session.request(server.url("/id/1"))
        if then == "request":
            assert session.request(server.url("/id/2")) == {"id": 2}
            assert server.ids() == [2]
    assert len(openings) == 1


def test_ctrl_c_while_the_parse_pool_is_called(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    send_bytes = Connection.send_bytes

    def interrupted(connection: Connection, *args: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            monkeypatch.undo()
            raise KeyboardInterrupt
        send_bytes(connection, *args)

    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        monkeypatch.setattr(Connection, "send_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.request([server.url("/id/1")])
        assert session.request([server.url("/id/2")]) == [{"id": 2}]
