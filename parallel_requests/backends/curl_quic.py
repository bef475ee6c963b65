"""What libcurl does not report about QUIC: which hosts still respond over it, and which sockets it uses."""

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
"""Seconds without incoming data after which libcurl gives up a QUIC connection."""


class QuicReach:
    """Which hosts to reach over QUIC, in a session with HTTP/3.

    A QUIC connection whose server has vanished looks alive to libcurl, and every call on it would time out.
    So a host that did not respond is reached over TCP until libcurl has given the connection up.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._answered: dict[str, float] = {}  # by authority, when
        self._silent: dict[str, float] = {}

    def version_for(self, request: Request) -> int:
        """Return the HTTP version to request; libcurl falls back from it on its own.

        Through a proxy it is not HTTP/3, as few proxies can carry QUIC.
        """
        since = self._silent.get(request.authority)
        if request.proxy or (since is not None and self._clock() - since < _IDLE):
            return int(pycurl.CURL_HTTP_VERSION_2TLS)
        return int(pycurl.CURL_HTTP_VERSION_3)

    def note_response(self, authority: str) -> None:
        """Note that a host has responded over QUIC."""
        self._answered[authority] = self._clock()

    def note_silence(self, authority: str, began: float) -> None:
        """Note that an attempt timed out; if others got a response since it began, the host is just slow."""
        if self._answered.get(authority, -math.inf) < began:
            self._silent[authority] = self._clock()


def udp_port(descriptor: int) -> int | None:
    """Return the local port of a UDP socket, 0 if it is not bound yet; None if it is not a UDP socket."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return int(copy.getsockname()[1]) if copy.type == socket.SOCK_DGRAM else None
    except OSError:  # closed meanwhile
        return None
