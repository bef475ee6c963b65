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

_LONGEST_SLEEP = 60.0
"""Seconds to sleep at most, even if nothing is due."""
_SWITCH_CHECK_INTERVAL = 1.0
"""Seconds between two checks for responses that libcurl does not know to be over; they are rare."""
_MAX_STARTS = 256
"""Exchanges started before sockets are served again, or ``concurrency`` if that is more."""
_SELECT_MAX_CONCURRENCY = 256
"""Up to here ``perform`` with ``select`` costs less per call than ``socket_action`` with ``epoll`` (16
against 19 microseconds at 20 in flight). With more in flight it costs more, and ``select`` cannot take
descriptors above its limit."""
_SELECT_MAX_DESCRIPTOR = 1024
"""``FD_SETSIZE``: ``select`` only takes descriptors below it."""

Command: TypeAlias = Callable[[], None]


class CurlMultiEngine:
    """Everything happens on one thread; other threads queue commands for it and wake it."""

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
        self._scheduler = Scheduler(concurrency, clock)
        self._commands: deque[Command] = deque()
        self._lock = threading.Lock()  # guards _thread and _closed
        self._thread: threading.Thread | None = None
        self._closed = False
        self._is_wake_due = self._is_sleeping = False
        self._next_switch_check = 0.0
        self.threads = EngineThreads()
        self._transfers: dict[Any, Transfer] = {}  # by their easy handles
        self._spare: list[Transfer] = []

    def submit(self, run: Run) -> None:
        """Start a batch."""
        self.threads.check_caller()
        with self._lock:
            if self._closed:
                raise RunStoppedError
            if self._thread is None:
                self._start()
            self._commands.append(lambda: self._scheduler.add(run))
        self.wake()

    def wake(self) -> None:
        """Look at the runs again: one has been fed, or has room for more."""
        self._is_wake_due = True
        if self._is_sleeping:
            # It would block if many wake-ups are unread already; any other error means that it is closed.
            with contextlib.suppress(OSError):
                self._wake_writer.send(b"\0")

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: send no more of it, and abort what is in flight."""
        run.policy.stop = reason
        self._commands.append(lambda: self._break_off(run, reason))
        self.wake()

    def close(self) -> None:
        """End everything and release threads and sockets.

        Called on the engine's own thread, by a hook, it does not wait for the end.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        self.wake()
        if thread is not None and not self.threads.is_worker():
            thread.join()

    def _start(self) -> None:
        """Open what the thread uses; only now, as a process forked before must not share it."""
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
            self._release_resources()
            raise
        self._thread = thread

    def _work(self) -> None:
        self.threads.enter()
        self._thread = threading.current_thread()  # a Ctrl-C may have interrupted `_start` before it could
        try:
            while True:
                self._is_wake_due = False
                while self._commands:
                    self._commands.popleft()()
                if self._closed:
                    break
                self._fill()
                self._driver.perform()
                if self._backend.has_connected:
                    self._requeue_unconnected()
                if not self._take_finished():
                    self._sleep()
                    if (now := self._clock()) >= self._next_switch_check:
                        self._next_switch_check = now + _SWITCH_CHECK_INTERVAL
                        self._end_switched()
        finally:
            self._shut_down()
            self.threads.leave()

    def _fill(self) -> None:
        """Start exchanges in the free slots, but not so many in a row that sockets have to wait."""
        for _ in range(max(_MAX_STARTS, self._scheduler.concurrency)):
            task = self._scheduler.take()
            if task is None:
                return
            self._advance(task, None)

    def _advance(self, task: Task, reply: Reply | None) -> None:
        """Drive an exchange until it is on the wire, parked or done."""
        effect = task.advance(reply)
        if type(effect) is Send:
            if task.gate is not None:
                self._scheduler.passed_gate(task)
            self._begin(task, effect)
        elif type(effect) is Wait:
            self._scheduler.park(task, effect)
        else:
            self._scheduler.finish(task)
            task.run.complete(effect)  # type: ignore[arg-type]

    def _begin(self, task: Task, send: Send) -> None:
        transfer = self._spare.pop() if self._spare else self._new_transfer()
        transfer.task = task
        try:
            transfer.prepare(send)
            self._multi.add_handle(transfer.easy)
        except Exception as error:  # noqa: BLE001 - a request that libcurl does not take costs this one item
            self._discard(transfer)
            self._advance(task, translated(self._backend, error, send.request))

    def _new_transfer(self) -> Transfer:
        transfer = Transfer(self._backend)
        self._transfers[transfer.easy] = transfer
        return transfer

    def _discard(self, transfer: Transfer) -> None:
        del self._transfers[transfer.easy]
        transfer.clear()
        transfer.easy.close()

    def _requeue_unconnected(self) -> None:
        """Add the transfers that wait for a connection once more, now that one has come up.

        If it turns out that it cannot be shared, libcurl would let them wait until the first request on
        it is answered.
        """
        self._backend.has_connected = False
        for transfer in list(self._backend.unconnected):
            self._multi.remove_handle(transfer.easy)
            transfer.shorten()
            self._multi.add_handle(transfer.easy)

    def _take_finished(self) -> bool:
        """Reply to the exchanges whose transfers have ended; return False if none has."""
        has_any = False
        more = 1
        while more:
            more, succeeded, failed = self._multi.info_read()
            for easy in succeeded:
                has_any = True
                transfer = self._transfers[easy]
                try:
                    reply: Reply = transfer.response()
                except Exception as error:  # noqa: BLE001 - a response that cannot be read costs this one item
                    reply = translated(self._backend, error, transfer.send.request)
                self._end(transfer, reply)
            for easy, code, message in failed:
                has_any = True
                transfer = self._transfers[easy]
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
        self._scheduler.slot_freed(send.request.authority)

    def _break_off(self, run: Run, reason: ParallelRequestsError) -> None:
        self._scheduler.end_run(run)
        for transfer in [transfer for transfer in self._transfers.values() if transfer.carries(run)]:
            self._end(transfer, reason)

    def _end_switched(self) -> None:
        """Fail the transfers whose server has switched protocols: libcurl would wait for more."""
        for transfer in [transfer for transfer in self._transfers.values() if transfer.has_switched()]:
            self._end(transfer, transfer.failure(pycurl.E_OK, ""))

    def _sleep(self) -> None:
        """Sleep until there is something to do for a socket, a timer or another thread."""
        timer = self._scheduler.next_timer()
        seconds = _LONGEST_SLEEP if timer is None else max(0.0, timer - self._clock())
        if self._scheduler.in_flight:
            seconds = min(seconds, _SWITCH_CHECK_INTERVAL)
        self._is_sleeping = True
        if self._is_wake_due or self._scheduler.has_work():
            seconds = 0.0
        self._driver.wait(min(seconds, _LONGEST_SLEEP), self._scheduler.in_flight)
        self._is_sleeping = False

    def _shut_down(self) -> None:
        with self._lock:
            self._closed = True  # even if a bug ended the thread: no later batch must wait for it
        while self._commands:
            self._commands.popleft()()
        for run in self._scheduler.unfinished():
            reason = RunStoppedError()
            run.policy.stop = reason
            self._break_off(run, reason)
        while self._scheduler.has_work():
            self._fill()
        self._release_resources()

    def _release_resources(self) -> None:
        for easy in self._transfers:
            easy.close()
        self._multi.close()  # before the driver: to close TLS connections, it has their sockets watched
        self._driver.close()
        self._wake_reader.close()
        self._wake_writer.close()


class _Driver(Protocol):
    """Advances transfers, and waits for their sockets and for the engine's wake_reader."""

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
        """Advance every transfer."""
        self._multi.perform()

    def wait(self, seconds: float, in_flight: int) -> None:
        """Sleep until something happens."""
        readable, writable, broken = self._multi.fdset()
        hint = self._multi.timeout()
        if hint >= 0:
            seconds = min(seconds, hint / 1000)
        if len(readable) + len(writable) < in_flight:
            seconds = min(seconds, 0.01)  # polled: a name being resolved, or a descriptor too high for select
        ready, _, _ = select.select(readable + self._wake_descriptors, writable, broken, seconds)
        if self._wake_descriptors[0] in ready:
            _drain(self._wake_reader)

    def close(self) -> None:
        """Do nothing: it owns no resources."""


class _EpollDriver:
    """``socket_action`` on the sockets that ``epoll`` reports."""

    def __init__(self, multi: Any, wake_reader: socket.socket, clock: Callable[[], float]) -> None:
        self._multi = multi
        self._wake_reader = wake_reader
        self._clock = clock
        self._used: dict[int, int] = {}  # descriptor → events libcurl waits for
        self._open()
        self._timer_at: float | None = None  # when libcurl's own timer is due
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def perform(self) -> None:
        """Start what was added, and serve libcurl's own timer."""
        if self._timer_at is not None and self._timer_at <= self._clock():
            self._timer_at = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def wait(self, seconds: float, _in_flight: int) -> None:
        """Sleep until something happens, and advance the transfers it concerns."""
        if self._timer_at is not None:
            seconds = min(seconds, max(0.0, self._timer_at - self._clock()))
        used, socket_action = self._used, self._multi.socket_action
        for descriptor, events in self._epoll.poll(seconds):
            if descriptor in used:
                socket_action(descriptor, _action(events))
            elif descriptor == self._wake_reader.fileno():
                _drain(self._wake_reader)
            else:
                self._unregister(descriptor)

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()

    def _open(self) -> None:
        self._epoll = select.epoll()
        self._epoll.register(self._wake_reader.fileno(), select.EPOLLIN)
        for descriptor, mask in self._used.items():
            self._epoll.register(descriptor, mask)
        self._registered = set(self._used)

    def _unregister(self, descriptor: int) -> None:
        """Stop watching an idle socket, as its server has closed it.

        If libcurl has closed it as well, it can no longer be unregistered; but while a child process
        holds a copy, epoll goes on reporting it. Only a new epoll instance ends that.
        """
        try:
            self._epoll.unregister(descriptor)
        except OSError:
            self._epoll.close()
            self._open()
        else:
            self._registered.discard(descriptor)

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_at = None if milliseconds < 0 else self._clock() + milliseconds / 1000

    def _watch(self, what: int, descriptor: int, *_context: object) -> None:
        """Keep track of which sockets libcurl waits for.

        A socket that it no longer waits for stays registered, as most are used again at once. A closed
        one has left epoll by itself, and its number may belong to another socket by now.
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
    """Translate epoll events for libcurl, which finds out about errors by reading."""
    readable = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
    writable = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
    return int(readable | writable)


def _drain(wake_reader: socket.socket) -> None:
    try:
        while wake_reader.recv(4096):
            pass
    except BlockingIOError:
        return
