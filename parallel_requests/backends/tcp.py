"""What the system knows about a TCP connection, and no HTTP library asks for."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

KEEPALIVE_IDLE = 60
"""Seconds of silence after which the system probes whether the peer is still there."""
KEEPALIVE_INTERVAL = 15
"""Seconds between two probes; after nine in vain, the system ends the connection."""

_RETRANSMITS = 2
"""The offset of ``tcpi_retransmits`` in Linux's ``struct tcp_info``, a byte."""
_TOO_MANY_RETRANSMITS = 2
"""In a row and in vain. The first comes after 0.2 s, or more on a slow path, the second after twice that."""


def keepalive_options() -> list[tuple[int, int, int]]:
    """Return the socket options that have connections probed, as level, name and value.

    Probes keep firewalls from forgetting an idle connection. Without them, an attempt without a timeout would
    wait forever for a peer that has vanished.
    """
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if hasattr(socket, "TCP_KEEPIDLE"):
        options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE))
        options.append((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL))
    return options


def shut_down_if_dead(descriptor: int) -> None:
    """Shut down a connection whose peer acknowledges nothing any more, so that no other call uses it.

    TCP itself would go on for a quarter of an hour. A peer that is only slow acknowledges what it gets. Only
    Linux says how often something was sent in vain.

    Args:
        descriptor: Its socket.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as copy:
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RETRANSMITS + 1)
        if info[_RETRANSMITS] >= _TOO_MANY_RETRANSMITS:
            copy.shutdown(socket.SHUT_RDWR)
