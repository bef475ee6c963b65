"""How a name is connected to that has several addresses, of which some may be dead."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from parallel_requests.backends.wire import Wire

_HEAD_START = 0.25
"""Seconds after which the next address is tried as well (RFC 8305, 5)."""


class ConnectRace:
    """Connects to the address of a name that answers first, as RFC 8305 ("Happy Eyeballs") says.

    One after the other, an address that drops all packets would take the whole time there is to connect.
    """

    def __init__(
        self,
        found: Sequence[tuple[Any, ...]],
        open_socket: Callable[..., socket.socket],
        wire: Wire,
        seconds: float | None,
    ) -> None:
        """Set up; nothing is opened yet.

        Args:
            found: What ``socket.getaddrinfo`` returned.
            open_socket: Opens a socket, given family, kind and protocol.
            wire: Told how to abort the sockets that are connecting.
            seconds: How long it may take altogether; None for no limit.
        """
        self._untried = deque(_alternating(found))
        self._open_socket = open_socket
        self._wire = wire
        self._deadline = None if seconds is None else monotonic() + seconds
        self._connecting: list[socket.socket] = []
        self._failure: OSError | None = None

    def run(self) -> socket.socket:
        """Return a socket that is connected.

        Raises:
            TimeoutError: None was in time, or the attempt has been cut.
            OSError: No address could be connected to; this is the error of the first one, as the system sorts
                them by how well it can reach them.
        """
        self._wire.uses(self._abort)
        try:
            while self._untried or self._connecting:
                self._check_time()
                connected = self._try_next() or self._wait()
                if connected is not None:
                    self._connecting.remove(connected)
                    return connected
        finally:
            for sock in self._connecting:
                sock.close()
        failure = self._failure or OSError("the name has no address")
        try:
            raise failure
        finally:
            del failure, self._failure  # its traceback would keep this frame alive

    def _check_time(self) -> None:
        if self._wire.is_cut():  # checked first: a socket that is not connecting yet cannot be shut down
            raise TimeoutError("the attempt was ended")
        if self._seconds_left() == 0:
            raise TimeoutError("no address answered in time")

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def _try_next(self) -> socket.socket | None:
        """Begin to connect to the next address; return the socket if it is connected at once."""
        if not self._untried:
            return None
        *kind, _, place = self._untried.popleft()
        try:
            sock = self._open_socket(*kind)  # fails if this machine has no IPv6, say
        except OSError as error:
            self._note(error)
            return None
        try:
            has_rivals = self._untried or self._connecting
            sock.settimeout(0.0 if has_rivals else self._seconds_left())
            self._connecting.append(sock)
            sock.connect(place)
        except BlockingIOError:
            return None
        except OSError as error:
            self._give_up(sock, error)
            return None
        return sock

    def _wait(self) -> socket.socket | None:
        """Return a socket that has connected; None if it is time for the next address."""
        if not self._connecting:
            return None
        seconds = self._seconds_left()
        if self._untried:
            seconds = _HEAD_START if seconds is None else min(seconds, _HEAD_START)
        with selectors.DefaultSelector() as selector:
            for sock in self._connecting:
                selector.register(sock, selectors.EVENT_WRITE)
            ready = {key.fileobj for key, _ in selector.select(seconds)}
        self._check_time()
        for sock in [sock for sock in self._connecting if sock in ready]:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error:
                return sock
            self._give_up(sock, OSError(error, os.strerror(error)))
        return None

    def _give_up(self, sock: socket.socket, error: OSError) -> None:
        self._connecting.remove(sock)
        sock.close()
        self._note(error)

    def _note(self, error: OSError) -> None:
        if self._failure is None:
            self._failure = error.with_traceback(None)  # or it would keep a frame, and so its socket, alive

    def _abort(self) -> None:
        for sock in list(self._connecting):
            with contextlib.suppress(OSError):  # it is not connecting yet, or is closed already
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _alternating(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the addresses so that their families alternate: often only one of the two is dead."""
    by_family: dict[int, list[tuple[Any, ...]]] = {}
    for entry in found:
        by_family.setdefault(entry[0], []).append(entry)
    rounds = itertools.zip_longest(*by_family.values())
    return [entry for entries in rounds for entry in entries if entry is not None]
