"""What the system knows about a TCP connection, and no HTTP library asks for."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

_RETRANSMITS = 2
"""The offset of ``tcpi_retransmits`` in Linux's ``struct tcp_info``, a byte."""
_TOO_MANY_RETRANSMITS = 2
"""In a row and in vain. The first comes after 0.2 s, or more on a slow path, the second after twice that."""


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
