"""Attempts are ended from outside."""

from __future__ import annotations

import contextlib
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from parallel_requests.engines.watchdog import Flight, Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, of which the second does not block."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield ours, theirs


@contextlib.contextmanager
def open_watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


def test_a_socket_that_an_attempt_gets_after_its_end_is_shut_down_at_once(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = connection
    flight = Flight(None, None)
    flight.cut()
    flight.uses(ours)
    assert theirs.recv(1) == b""


def test_a_function_that_ends_an_attempt_is_called_at_once_after_its_end() -> None:
    calls: list[str] = []
    flight = Flight(None, None)
    flight.cut()
    flight.uses(lambda: calls.append("ended"))
    assert calls == ["ended"]


def test_an_attempt_that_has_ended_by_itself_leaves_its_socket_alone(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = connection
    with open_watchdog() as watchdog:
        flight = watchdog.watch("owner", None)
        flight.uses(ours)
        watchdog.release(flight)
        flight.cut()  # as if it had been found before it was released
        watchdog.cut("owner")
    with pytest.raises(BlockingIOError):
        theirs.recv(1)


def test_only_the_attempts_of_one_owner_are_ended() -> None:
    with open_watchdog() as watchdog:
        flights = [watchdog.watch(owner, None) for owner in ("one", "another", "one")]
        watchdog.cut("one")
        assert [flight.is_cut for flight in flights] == [True, False, True]


def test_closing_ends_every_attempt() -> None:
    with open_watchdog() as watchdog:
        flights = [watchdog.watch("owner", timeout) for timeout in (None, 1e9, 1e8)]
    assert all(flight.is_cut for flight in flights)


def test_it_may_be_closed_on_its_own_thread() -> None:
    is_closed = threading.Event()

    def close() -> None:
        watchdog.close()
        is_closed.set()

    with open_watchdog() as watchdog:
        flight = watchdog.watch("owner", None)
        flight.uses(close)
        flight.deadline = monotonic()
        watchdog.watch("owner", 1e9)  # starts the thread, which ends the first one
        assert is_closed.wait(10)
