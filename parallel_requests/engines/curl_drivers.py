"""How libcurl's transfers are advanced, and how their sockets are waited for: by ``select`` or ``epoll``."""

from __future__ import annotations

import functools
import select
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import pycurl

if TYPE_CHECKING:
    import socket

_SELECT_MAX_CONCURRENCY = 256
"""Up to here ``perform`` with ``select`` costs less per call than ``socket_action`` with ``epoll`` (16
against 19 microseconds at 20 in flight); with more in flight it costs more."""
_SELECT_MAX_DESCRIPTOR = 1024
"""``FD_SETSIZE``: ``select`` only takes descriptors below it."""


class Driver(Protocol):
    """Advances transfers, and waits for their sockets and for the engine's wake_reader."""

    def perform(self) -> None:
        """Advance what can be advanced without waiting."""

    def wait(self, seconds: float, in_flight: int, /) -> None:
        """Wait until something happens, but no longer than some seconds, with so many transfers in flight."""

    def close(self) -> None:
        """Release what it has opened."""


def new_driver(multi: Any, wake_reader: socket.socket, concurrency: int) -> Driver:
    """Return the driver that costs least.

    Args:
        multi: The ``CurlMulti`` whose transfers it advances.
        wake_reader: A socket that becomes readable when it has to stop waiting.
        concurrency: Transfers in flight at most.
    """
    can_select = concurrency <= _SELECT_MAX_CONCURRENCY and wake_reader.fileno() < _SELECT_MAX_DESCRIPTOR
    if can_select or not hasattr(select, "epoll"):
        return _SelectDriver(multi, wake_reader)
    return _EpollDriver(multi, wake_reader)


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

    def __init__(self, multi: Any, wake_reader: socket.socket) -> None:
        self._multi = multi
        self._wake_reader = wake_reader
        self._used: dict[int, int] = {}  # descriptor → events libcurl waits for
        self._open()
        self._timer_at: float | None = None  # when libcurl's own timer is due
        multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)

    def perform(self) -> None:
        """Start what was added, and serve libcurl's own timer."""
        if self._timer_at is not None and self._timer_at <= monotonic():
            self._timer_at = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)

    def wait(self, seconds: float, _in_flight: int) -> None:
        """Sleep until something happens, and advance the transfers it concerns."""
        if self._timer_at is not None:
            seconds = min(seconds, max(0.0, self._timer_at - monotonic()))
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

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_at = None if milliseconds < 0 else monotonic() + milliseconds / 1000

    def _watch(self, what: int, descriptor: int, *_context: object) -> None:
        """Keep track of which sockets libcurl waits for.

        A socket that it no longer waits for stays registered, as most are used again at once. A closed
        one has left epoll by itself, and its number may belong to another socket by now.
        """
        if what == pycurl.POLL_REMOVE:
            self._used.pop(descriptor, None)
            return
        self._used[descriptor] = mask = select.EPOLLIN | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        try:
            self._epoll.modify(descriptor, mask)
        except FileNotFoundError:
            self._epoll.register(descriptor, mask)


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
