"""The engine for libcurl: one thread drives all transfers through the multi interface."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import pycurl

from parallel_requests.backends.curl_transfer import Transfer
from parallel_requests.engines.base import EngineThreads, translated
from parallel_requests.engines.curl_drivers import new_driver
from parallel_requests.engines.opening import Opening
from parallel_requests.engines.scheduler import Scheduler
from parallel_requests.exceptions import ParallelRequestsError, RunStoppedError
from parallel_requests.exchange import Reply, Send
from parallel_requests.gates.pacing import Wait
from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.backends.curl import CurlBackend
    from parallel_requests.engines.run import Run, Task

_LONGEST_SLEEP = 60.0
"""Seconds to sleep at most, even if nothing is due."""
_HEAD_CHECK_INTERVAL = 1.0
"""Seconds between two checks for responses that libcurl does not know to be over; they are rare."""
_MAX_STARTS = 256
"""Exchanges started before sockets are served again, or ``concurrency`` if that is more."""


class CurlMultiEngine:
    """Everything happens on one thread; other threads queue commands for it and wake it."""

    def __init__(self, backend: CurlBackend, concurrency: int) -> None:
        """Set up the engine; its thread starts with the first batch.

        Args:
            backend: What configures and reads transfers.
            concurrency: Transfers in flight at most.
        """
        self._backend = backend
        self._scheduler = Scheduler(concurrency, monotonic)
        self._commands: deque[Callable[[], None]] = deque()  # from other threads
        self._lock = Lock()  # guards _thread, _opening, _is_open and _closed
        self._thread: threading.Thread | None = None
        self._opening = Opening()
        self._is_open = self._closed = False
        self._is_wake_due = self._is_sleeping = False
        self._next_head_check = 0.0
        self.threads = EngineThreads()
        self._transfers: dict[Any, Transfer] = {}  # by their easy handles
        self._spare: list[Transfer] = []

    def submit(self, run: Run) -> None:
        """Start a batch."""
        self.threads.check_caller()
        with self._lock:
            if self._closed:
                raise RunStoppedError
            if not self._is_open:
                self._start()
            self._commands.append(lambda: self._scheduler.add(run))
        self.wake()

    def wake(self) -> None:
        """Look at the runs again: one has been fed, or has room for more."""
        self._is_wake_due = True
        if self._is_sleeping:
            try:
                self._wake_writer.send(b"\0")
            except BlockingIOError:
                return  # many wake-ups are unread already
            except OSError:
                if self._wake_writer.fileno() >= 0:  # not closed, so it is what a signal handler raised
                    raise

    def stop(self, run: Run, reason: ParallelRequestsError) -> None:
        """End a batch: send no more of it, and abort what is in flight."""
        run.policy.end(reason)
        self._commands.append(lambda: self._break_off(run, reason))
        self.wake()

    def close(self) -> None:
        """End everything and release threads and sockets.

        Called on the engine's own thread, by a hook, it does not wait for the end.
        """
        with self._lock:
            self._closed = True
            thread = self._thread
        for run in self._scheduler.unfinished():
            run.policy.end(RunStoppedError())  # at once, as it also ends the decoding of a body
        self.wake()
        if thread is not None and not self.threads.is_worker():
            thread.join()

    def _start(self) -> None:
        """Start the thread, and wait until it is ready."""
        if self._opening.is_over:  # and has failed
            self._opening = Opening()
        self._opening.make(self._work, "parallel-requests-curl")

    # On the engine's thread.

    def _work(self, opening: Opening) -> None:
        self._thread = threading.current_thread()  # here, as a Ctrl-C may interrupt `_start`
        try:
            self._open()
        except BaseException as error:  # noqa: BLE001 - raised again when a batch is submitted
            opening.end(OSError(str(error)) if isinstance(error, pycurl.error) else error)
            return
        self._is_open = True
        opening.end()
        self.threads.enter()
        try:
            while True:
                self._is_wake_due = False
                while self._commands:
                    self._commands.popleft()()
                if self._closed:
                    break
                if not self._scheduler.in_flight:
                    self._backend.connections.retire_idle()
                self._fill()
                self._driver.perform()
                self._requeue_unconnected()
                if not self._take_finished():
                    self._sleep()
                    if (now := monotonic()) >= self._next_head_check:
                        self._next_head_check = now + _HEAD_CHECK_INTERVAL
                        self._end_endless()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for a batch
            self._scheduler.break_down(error)
        finally:
            self._shut_down()
            self.threads.leave()

    def _open(self) -> None:
        """Open what the thread uses; not sooner, as a process forked before must not share it."""
        with contextlib.ExitStack() as on_failure:
            self._wake_reader, self._wake_writer = map(on_failure.enter_context, socket.socketpair())
            self._wake_reader.setblocking(False)
            self._wake_writer.setblocking(False)
            self._multi = cast("Any", pycurl.CurlMulti())
            self._multi.setopt(pycurl.M_MAXCONNECTS, self._backend.connections.most_idle)
            self._driver = new_driver(self._multi, self._wake_reader, self._scheduler.concurrency)
            self._backend.connections.bind()
            on_failure.pop_all()

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
            task.run.complete(effect)

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
        """Add the transfers that wait for a connection once more, whenever one has come up.

        If it turns out that it cannot be shared, libcurl would let them wait until the first request on
        it is answered.
        """
        for transfer in self._backend.connections.unconnected():
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
                if transfer.can_begin_again(code):
                    self._multi.remove_handle(easy)
                    transfer.begin_again()
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

    def _end_endless(self) -> None:
        """Fail the transfers with a malformed head for which libcurl would wait for more."""
        for transfer in [transfer for transfer in self._transfers.values() if transfer.why_endless()]:
            self._end(transfer, transfer.failure(pycurl.E_OK, ""))

    def _sleep(self) -> None:
        """Sleep until there is something to do for a socket, a timer or another thread."""
        seconds = _HEAD_CHECK_INTERVAL if self._scheduler.in_flight else _LONGEST_SLEEP
        if (timer := self._scheduler.next_timer()) is not None:
            seconds = min(seconds, max(0.0, timer - monotonic()))
        self._is_sleeping = True
        if self._is_wake_due or self._scheduler.has_work():
            seconds = 0.0
        self._driver.wait(seconds, self._scheduler.in_flight)
        self._is_sleeping = False

    def _shut_down(self) -> None:
        with self._lock:
            self._closed = True  # even if a bug ended the thread: no later batch must wait for it
        while self._commands:
            self._commands.popleft()()
        for run in self._scheduler.unfinished():
            reason = RunStoppedError()
            run.policy.end(reason)
            self._break_off(run, reason)
        while self._scheduler.has_work():
            self._fill()
        self._release_resources()

    def _release_resources(self) -> None:
        for easy in self._transfers:
            easy.close()
        self._multi.close()  # before the driver: to close TLS connections, it has their sockets watched
        self._driver.close()
        self._backend.connections.release()
        self._wake_writer.close()  # first, as `wake` expects no other end to be closed
        self._wake_reader.close()
