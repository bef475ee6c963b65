"""The connections of libcurl: how many there are, who waits for one, which must not be used again."""

from __future__ import annotations

import itertools
import select
from typing import TYPE_CHECKING, Any

import pycurl

from parallel_requests.backends.curl_idle_connections import IdleConnections
from parallel_requests.backends.curl_quic import QuicReach

if TYPE_CHECKING:
    from parallel_requests.backends.curl_transfer import Transfer

_POOL_SIZE = 128
"""Transfers that share a connection pool. libcurl searches a pool from its start, past all busy connections:
with 1,000 in flight that was a fifth of the cost of a call, with 3,000 half of it."""


class CurlConnections:
    """What the transfers of a session have to know of each other's connections.

    Used on the engine's thread only, but for ``opened``.

    Attributes:
        opened: How many have been opened so far.
        most_idle: How many of a pool are kept for later.
        quic: Which hosts to reach over QUIC; None if HTTP/3 must not be used.
    """

    def __init__(self, concurrency: int, *, may_use_quic: bool) -> None:
        """Set up; nothing is opened yet.

        Args:
            concurrency: Transfers in flight at most.
            may_use_quic: Whether HTTP/3 may be used.
        """
        self.opened = 0
        self.most_idle = max(100, 4 * min(concurrency, _POOL_SIZE))
        self.quic = QuicReach() if may_use_quic else None
        self._idle: IdleConnections | None = None  # while bound, if this system has epoll
        self._unconnected: set[Transfer] = set()  # over https, and without a connection yet
        self._has_connected = False  # whether one of them got one since the engine last asked
        self._has_pools = concurrency > _POOL_SIZE
        self._pool: Any = None
        self._places = itertools.cycle(range(_POOL_SIZE))

    def bind(self) -> None:
        """Open what only the engine's thread uses; called on it, before the first transfer."""
        self._idle = IdleConnections() if hasattr(select, "epoll") else None

    def release(self) -> None:
        """Close that again; called on the same thread, once all easy handles are closed."""
        self._pool = None
        if self._idle is not None:
            self._idle.close()

    def join_pool(self, easy: Any) -> None:
        """Assign a new easy handle to a connection pool; without one, it uses that of the multi handle."""
        if not self._has_pools:
            return
        if next(self._places) == 0 or self._pool is None:
            self._pool = pycurl.CurlShare()
            self._pool.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_CONNECT)
        easy.setopt(pycurl.SHARE, self._pool)

    def add_unconnected(self, transfer: Transfer) -> None:
        """Note that a transfer has no connection yet, and may share one that comes up."""
        self._unconnected.add(transfer)

    def discard_unconnected(self, transfer: Transfer) -> None:
        """Note that it opens one of its own, or needs none any more."""
        self._unconnected.discard(transfer)

    def note_connected(self, transfer: Transfer) -> None:
        """Note that it has one, which others may be waiting for."""
        self._unconnected.discard(transfer)
        self._has_connected = True

    def unconnected(self) -> list[Transfer]:
        """Return the transfers without a connection if one has come up since the last time, else none."""
        if not self._has_connected:
            return []
        self._has_connected = False
        return list(self._unconnected)

    def note_opened(self, descriptor: int, *, is_plain: bool) -> None:
        """Count a connection that is being opened, and watch its socket; ``is_plain`` says it has no TLS."""
        self.opened += 1
        if self._idle is not None:
            self._idle.add(descriptor, is_plain=is_plain)

    def retire_idle(self) -> None:
        """Shut down the idle ones that must not be used again; no transfer may be in flight."""
        if self._idle is not None:
            self._idle.retire()
