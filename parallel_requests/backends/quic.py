"""What libcurl does not tell of QUIC: which hosts still answer over it, and which sockets are its own."""

from __future__ import annotations

import math
import os
import socket
from time import monotonic
from typing import TYPE_CHECKING

import pycurl

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.models import Request

_IDLE = 120.0
"""Seconds after which libcurl gives up a QUIC connection on which nothing has come in."""


class QuicReach:
    """Which hosts to ask over QUIC, in a session that may.

    A QUIC connection whose server is gone without a word looks alive to libcurl, and every call on it
    would time out. So a host that was silent is asked over TCP until libcurl has given the connection up.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._answered: dict[str, float] = {}  # by authority, when
        self._silent: dict[str, float] = {}

    def version_for(self, request: Request) -> int:
        """Return the version of HTTP to ask for; libcurl falls back from it by itself.

        Proxies carry TCP: libcurl might ask one to carry QUIC, and few know how.
        """
        since = self._silent.get(request.authority)
        if request.proxy or (since is not None and self._clock() - since < _IDLE):
            return int(pycurl.CURL_HTTP_VERSION_2TLS)
        return int(pycurl.CURL_HTTP_VERSION_3)

    def note_answer(self, authority: str) -> None:
        """Note that a host has answered over QUIC."""
        self._answered[authority] = self._clock()

    def note_silence(self, authority: str, began: float) -> None:
        """Note that an attempt has timed out unanswered; where others were answered meanwhile, it is slow."""
        if self._answered.get(authority, -math.inf) < began:
            self._silent[authority] = self._clock()


def udp_port(descriptor: int) -> int | None:
    """Return the local port of a UDP socket, 0 where it has none yet; None for what is no UDP socket."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return int(copy.getsockname()[1]) if copy.type == socket.SOCK_DGRAM else None
    except OSError:  # closed meanwhile
        return None
