"""The engine for libcurl: one thread drives all transfers through the multi interface."""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import pycurl

from parallel_requests.backends.transfer import Transfer
from parallel_requests.engines.base import EngineThreads, translated
from parallel_requests.engines.scheduler import Scheduler
from parallel_requests.exceptions import ParallelRequestsError, RunStoppedError
from parallel_requests.exchange import Reply, Send
from parallel_requests.gates.pacing import Wait

if TYPE_CHECKING:
    from parallel_requests.backends.curl import CurlBackend
    from parallel_requests.engines.run import Run, Task

logger = logging.getLogger("parallel_requests")

_LONGEST_REST = 60.0
"""Seconds between two looks at timers that nobody calls for."""
_LOOK_EVERY = 1.0
"""Seconds between two looks for answers that libcurl does not know to be over; they are rare."""
_LONGEST_ROW = 256
"""Exchanges started before sockets are looked at again, or ``concurrency`` where that is more."""
_SELECT_MAX_CONCURRENCY = 256
"""Up to here ``perform`` and ``select`` cost less a call than ``socket_action`` and ``epoll``
(16 against 19 microseconds at 20 in flight); with more, and with file descriptors that ``select``
cannot take, it is the other way round."""
_SELECT_MAX_DESCRIPTOR = 1024
"""``FD_SETSIZE``: ``select`` takes what is below."""

Order: TypeAlias = Callable[[], None]


class CurlMultiEngine:
    """Everything happens on one thread; other threads leave orders and wake it."""

    def __init__(
        self, backend: CurlBackend, concurrency: int, clock: Callable[[], float] = monotonic
    ) -> None:
        """Set up the engine; its thread starts with the first batch.

        Args:
            backend: What configures and reads transfers.
            concurrency: Transfers in flight at most.
            clock: The clock of the pacer.
        """
        self._backend = backend
        self._clock = clock
        self._scheduler = Scheduler(concurrency)
        self._orders: deque[Order] = deque()
        self._lock = threading.Lock()  # guards _thread and _closed
        self._thread: threading.Thread | None = None
        self._closed = False
        self._wanted = self._resting = False
        self._next_look = 0.0
        self.threads = EngineThreads()
        self._transfers: list[Transfer] = []
        self._spare: list[Transfer] = []

    def submit(self, run: Run) -> None:
        """Start a batch."""
        self.threads.check_caller()
        with self._lock:
            if self._closed:
                raise RunStoppedError
            if self._thread is None:
                self._start()
            self._orders.append(lambda: self._scheduler.add(run))
        self.wake()

    def wake(self) -> None:
        """Look at the runs again: one was fed, or has room."""
        self._wanted = True
        if self._resting:
            # Blocked: it has been called often enough. Any other error: it has been closed.
            with contextlib.suppress(OSError):
                self._wake_writer.send(b"\0")

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: nothing of it is sent any more, what is in flight is broken off."""
        run.policy.stop = reason
        self._orders.append(lambda: self._break_off(run, reason))
        self.wake()

    def close(self) -> None:
        """End everything and give back the thread and the sockets.

        Called on the engine's own thread, from a hook, it does not wait for the end.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        self.wake()
        if thread is not None and not self.threads.is_worker():
            thread.join()

    def _start(self) -> None:
        """Open what belongs to the thread, not before it is needed: processes must not share it."""
        concurrency = self._scheduler.concurrency
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._multi = cast("Any", pycurl.CurlMulti())
        self._multi.setopt(pycurl.M_MAXCONNECTS, self._backend.max_idle)
        can_select = (
            concurrency <= _SELECT_MAX_CONCURRENCY and self._wake_reader.fileno() < _SELECT_MAX_DESCRIPTOR
        )
        self._driver: _Driver = (
            _SelectDriver(self._multi, self._wake_reader)
            if can_select or not hasattr(select, "epoll")
            else _EpollDriver(self._multi, self._wake_reader, self._clock)
        )
        thread = threading.Thread(target=self._work, name="parallel-requests-curl")
        try:
            thread.start()
        except RuntimeError:  # no thread is left
            self._give_back()
            raise
        self._thread = thread

    def _work(self) -> None:
        self.threads.enter()
        self._thread = threading.current_thread()  # a Ctrl-C may have kept who started it from noting it
        try:
            while True:
                self._wanted = False
                while self._orders:
                    self._orders.popleft()()
                if self._closed:
                    break
                self._fill()
                self._driver.perform()
                if self._backend.has_connected:
                    self._look_again()
                if not self._harvest():
                    self._rest()
                    if (now := self._clock()) >= self._next_look:
                        self._next_look = now + _LOOK_EVERY
                        self._end_switched()
        finally:
            self._shut_down()
            self.threads.leave()

    def _fill(self) -> None:
        """Start exchanges in the free slots; a long row of items that end at once in several goes."""
        take, clock = self._scheduler.take, self._clock
        for _ in range(max(_LONGEST_ROW, self._scheduler.concurrency)):
            task = take(clock())
            if task is None:
                return
            self._advance(task, None)

    def _advance(self, task: Task, reply: Reply | None) -> None:
        """Drive an exchange until it is on the wire, parked or done."""
        effect = task.advance(reply)
        if type(effect) is Send:
            if task.lane is not None:
                self._scheduler.passed(task)
            self._begin(task, effect)
        elif type(effect) is Wait:
            self._scheduler.park(task, effect, self._clock())
        else:
            self._scheduler.finish(task)
            task.run.complete(effect)  # type: ignore[arg-type]

    def _begin(self, task: Task, send: Send) -> None:
        transfer = self._spare.pop() if self._spare else self._new_transfer()
        transfer.task = task
        try:
            transfer.prepare(send)
            self._multi.add_handle(transfer.easy)
        except Exception as error:  # noqa: BLE001 - what libcurl cannot be given costs this one item
            self._discard(transfer)
            self._advance(task, translated(self._backend, error, send.request))

    def _new_transfer(self) -> Transfer:
        transfer = Transfer(self._backend)
        self._transfers.append(transfer)
        return transfer

    def _discard(self, transfer: Transfer) -> None:
        self._transfers.remove(transfer)
        transfer.clear()
        transfer.easy.close()

    def _look_again(self) -> None:
        """Add those again that wait for a connection to come up, now that one has.

        libcurl lets them wait until the first request on it is answered, where it turns out that it
        cannot be shared.
        """
        self._backend.has_connected = False
        for transfer in list(self._backend.unconnected):
            self._multi.remove_handle(transfer.easy)
            transfer.shorten()
            self._multi.add_handle(transfer.easy)

    def _harvest(self) -> bool:
        """Take the transfers that have ended; False where there was none."""
        has_any = False
        more = 1
        while more:
            more, succeeded, failed = self._multi.info_read()
            for easy in succeeded:
                has_any = True
                transfer: Transfer = easy.transfer
                try:
                    reply: Reply = transfer.answer()
                except Exception as error:  # noqa: BLE001 - what an answer is not costs this one item
                    reply = translated(self._backend, error, transfer.send.request)
                self._end(transfer, reply)
            for easy, code, message in failed:
                has_any = True
                transfer = easy.transfer
                if transfer.has_lost_race(code):
                    self._multi.remove_handle(easy)
                    transfer.leave_quic()
                    self._multi.add_handle(easy)
                else:
                    self._end(transfer, transfer.failure(code, message))
        return has_any

    def _end(self, transfer: Transfer, reply: Reply) -> None:
        """Take a transfer off the wire and give its exchange the reply."""
        task, send = transfer.task, transfer.send
        self._multi.remove_handle(transfer.easy)
        transfer.clear()
        self._spare.append(transfer)
        self._advance(task, reply)
        self._scheduler.left(send.request.origin)

    def _break_off(self, run: Run, reason: ParallelRequestsError) -> None:
        self._scheduler.end_run(run)
        for transfer in [transfer for transfer in self._transfers if transfer.carries(run)]:
            self._end(transfer, reason)

    def _end_switched(self) -> None:
        """End the transfers whose server goes on in another protocol: libcurl would wait for more."""
        for transfer in [transfer for transfer in self._transfers if transfer.has_switched()]:
            self._end(transfer, transfer.failure(pycurl.E_OK, ""))

    def _rest(self) -> None:
        """Sleep until a socket, a timer or another thread calls."""
        timer = self._scheduler.next_timer()
        seconds = _LONGEST_REST if timer is None else max(0.0, timer - self._clock())
        if self._scheduler.in_flight:
            seconds = min(seconds, _LOOK_EVERY)
        self._resting = True
        if self._wanted or self._scheduler.has_work():
            seconds = 0.0
        self._driver.wait(min(seconds, _LONGEST_REST), self._scheduler.in_flight)
        self._resting = False

    def _shut_down(self) -> None:
        with self._lock:
            self._closed = True  # also where it ends by a bug: who comes now must not wait for ever
        while self._orders:
            self._orders.popleft()()
        for run in self._scheduler.unfinished():
            reason = RunStoppedError()
            run.policy.stop = reason
            self._break_off(run, reason)
        while self._scheduler.has_work():
            self._fill()
        self._give_back()

    def _give_back(self) -> None:
        for transfer in self._transfers:
            transfer.easy.close()
        self._multi.close()  # which says good-bye on TLS connections, and has their sockets watched for that
        self._driver.close()
        self._wake_reader.close()
        self._wake_writer.close()


class _Driver(Protocol):
    """Moves transfers on, and waits for their sockets and for the engine's wake_reader."""

    def perform(self) -> None: ...
    def wait(self, seconds: float, in_flight: int, /) -> None: ...
    def close(self) -> None: ...


class _SelectDriver:
    """``perform`` over all transfers, ``select`` over their sockets."""

    def __init__(self, multi: Any, wake_reader: socket.socket) -> None:
        self._multi = multi
        self._wake_reader = wake_reader
        self._wake_descriptors = [wake_reader.fileno()]

    def perform(self) -> None:
        """Move every transfer on."""
        self._multi.perform()

    def wait(self, seconds: float, in_flight: int) -> None:
        """Sleep until something happens."""
        readable, writable, broken = self._multi.fdset()
        hint = self._multi.timeout()
        if hint >= 0:
            seconds = min(seconds, hint / 1000)
        if len(readable) + len(writable) < in_flight:
            seconds = min(seconds, 0.01)  # a name being resolved, or a descriptor select cannot take
        ready, _, _ = select.select(readable + self._wake_descriptors, writable, broken, seconds)
        if self._wake_descriptors[0] in ready:
            _drain(self._wake_reader)

    def close(self) -> None:
        """Nothing of its own to give back."""


class _EpollDriver:
    """``socket_action`` on the sockets that ``epoll`` names."""

    def __init__(self, multi: Any, wake_reader: socket.socket, clock: Callable[[], float]) -> None:
        self._multi = multi
        self._wake_reader = wake_reader
        self._clock = clock
        self._used: dict[int, int] = {}  # descriptor → events libcurl waits for
        self._open()
        self._alarm: float | None = None
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_alarm)

    def perform(self) -> None:
        """Start what was added, and serve libcurl's own timer."""
        if self._alarm is not None and self._alarm <= self._clock():
            self._alarm = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def wait(self, seconds: float, _in_flight: int) -> None:
        """Sleep until something happens, and move on the transfers it happened to."""
        if self._alarm is not None:
            seconds = min(seconds, max(0.0, self._alarm - self._clock()))
        used, socket_action = self._used, self._multi.socket_action
        for descriptor, events in self._epoll.poll(seconds):
            if descriptor in used:
                socket_action(descriptor, _action(events))
            elif descriptor == self._wake_reader.fileno():
                _drain(self._wake_reader)
            else:
                self._let_go(descriptor)

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()

    def _open(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(self._wake_reader.fileno(), select.EPOLLIN)
        for descriptor, mask in self._used.items():
            self._epoll.register(descriptor, mask)
        self._registered = set(self._used)

    def _let_go(self, descriptor: int) -> None:
        """Follow an idle socket no longer: its server has closed it.

        One that libcurl has closed meanwhile cannot be unregistered; where a child process holds a copy
        of it, epoll would tell of it without end.
        """
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            self._epoll.close()
            self._open()
        else:
            self._registered.discard(descriptor)

    def _set_alarm(self, milliseconds: int) -> None:
        self._alarm = None if milliseconds < 0 else self._clock() + milliseconds / 1000

    def _watch(self, what: int, descriptor: int, *_context: object) -> None:
        """Follow which sockets libcurl waits for.

        A socket it lets go of stays registered: most are used again at once. One that was closed has
        left epoll by itself, and its number may be that of another by now.
        """
        if what == pycurl.POLL_REMOVE:
            self._used.pop(descriptor, None)
            return
        self._used[descriptor] = mask = select.EPOLLIN | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        if descriptor in self._registered:
            try:
                self._epoll.modify(descriptor, mask)
            except FileNotFoundError:
                self._epoll.register(descriptor, mask)
        else:
            self._epoll.register(descriptor, mask)
            self._registered.add(descriptor)


@functools.cache
def _action(events: int) -> int:
    """Return what libcurl calls a set of epoll's events; errors are found by reading."""
    readable = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
    writable = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
    return int(readable | writable)


def _drain(wake_reader: socket.socket) -> None:
    try:
        while wake_reader.recv(4096):
            pass
    except BlockingIOError:
        return
