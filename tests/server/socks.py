"""A SOCKS proxy on the standard library: CONNECT of versions 4, 4a and 5 (RFC 1928, RFC 1929)."""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from socketserver import BaseRequestHandler
from typing import TYPE_CHECKING, Any, cast

from tests.server.proxy import UPSTREAM_SECONDS, AnyProxy, relay

if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_ALLOWED, REFUSED = 0x02, 0x05
"""Why it may refuse a target, to version 5; version 4 has one code for all."""

_NO_AUTHENTICATION, _USER_AND_PASSWORD, _NONE_OF_THEM = 0x00, 0x02, 0xFF
_IPV4, _NAME, _IPV6 = 0x01, 0x03, 0x04
_GRANTED_4, _REJECTED_4 = 0x5A, 0x5B
_NOWHERE = bytes(6)
_NAME_FOLLOWS = b"\x00\x00\x00"
"""What the address of version 4a begins with; its last byte is not 0."""


@dataclass(frozen=True)
class Greeting:
    """Who a client said it was, and what it asked for.

    Attributes:
        version: 4 or 5.
        credentials: The user and the password it sent; version 4 has no password.
        host: Where it wants to go; empty if it was refused before it said so.
        port: The port there.
        is_name: Whether the host came as a name rather than as an address.
    """

    version: int
    credentials: tuple[str, str] | None
    host: str = ""
    port: int = 0
    is_name: bool = False


class SocksProxy(AnyProxy):
    """A SOCKS proxy.

    Args:
        credentials: ``(user, password)`` it wants to hear; None asks for none. Version 4 has the user alone.
        resolve: As `AnyProxy` takes it.
        refusal: The code it refuses every target with, `REFUSED` say; None lets them through.

    Attributes:
        greetings: One for each connection that said something.
    """

    def __init__(
        self,
        *,
        credentials: tuple[str, str] | None = None,
        resolve: Mapping[str, tuple[str, int]] | None = None,
        refusal: int | None = None,
    ) -> None:
        self.credentials = credentials
        self.refusal = refusal
        self.greetings: list[Greeting] = []
        super().__init__(_Handler, resolve)

    def url(self, scheme: str = "socks5h", user_info: str = "") -> str:
        """The proxy URL; user information is percent-encoded, and ends with an at sign."""
        return f"{scheme}://{user_info}127.0.0.1:{self.port}"


class _Handler(BaseRequestHandler):
    request: socket.socket

    @property
    def _proxy(self) -> SocksProxy:
        return cast("SocksProxy", cast("Any", self.server).proxy)

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(EOFError):
            version = self._read(1)[0]
            (self._serve_4 if version == 4 else self._serve_5)()

    def _serve_5(self) -> None:
        offered = self._read(self._read(1)[0])
        wanted = _NO_AUTHENTICATION if self._proxy.credentials is None else _USER_AND_PASSWORD
        if wanted not in offered:
            self._proxy.greetings.append(Greeting(5, None))
            self.request.sendall(bytes([5, _NONE_OF_THEM]))
            return
        self.request.sendall(bytes([5, wanted]))
        told = None
        if wanted == _USER_AND_PASSWORD:
            self._read(1)
            told = self._read_text(), self._read_text()
            is_right = told == self._proxy.credentials
            self.request.sendall(bytes([1, not is_right]))
            if not is_right:
                self._proxy.greetings.append(Greeting(5, told))
                return
        _version, _connect, _reserved, kind = self._read(4)
        host = self._read_host(kind)
        (port,) = struct.unpack(">H", self._read(2))
        self._proxy.greetings.append(Greeting(5, told, host, port, kind == _NAME))

        def answer(code: int) -> bytes:
            return bytes([5, code, 0, _IPV4]) + _NOWHERE

        self._connect(host, port, granted=answer(0), refused=answer(self._proxy.refusal or REFUSED))

    def _serve_4(self) -> None:
        _connect, port = struct.unpack(">BH", self._read(3))
        address = self._read(4)
        user = self._read_line()
        is_name = address.startswith(_NAME_FOLLOWS) and address[3] != 0
        host = self._read_line() if is_name else socket.inet_ntoa(address)
        self._proxy.greetings.append(Greeting(4, (user, "") if user else None, host, port, is_name))
        granted, rejected = (bytes([0, code]) + _NOWHERE for code in (_GRANTED_4, _REJECTED_4))
        if self._proxy.credentials is not None and user != self._proxy.credentials[0]:
            self.request.sendall(rejected)
            return
        self._connect(host, port, granted=granted, refused=rejected)

    def _connect(self, host: str, port: int, *, granted: bytes, refused: bytes) -> None:
        if self._proxy.refusal is not None:
            self.request.sendall(refused)
            return
        try:
            upstream = socket.create_connection(self._proxy.upstream(host, port), UPSTREAM_SECONDS)
        except OSError:
            self.request.sendall(refused)
            return
        with upstream:
            self.request.sendall(granted)
            relay(self.request, upstream)

    def _read_host(self, kind: int) -> str:
        if kind == _NAME:
            return self._read_text()
        family, size = (socket.AF_INET, 4) if kind == _IPV4 else (socket.AF_INET6, 16)
        return socket.inet_ntop(family, self._read(size))

    def _read_text(self) -> str:
        return self._read(self._read(1)[0]).decode()

    def _read_line(self) -> str:
        line = b""
        while not line.endswith(b"\x00"):
            line += self._read(1)
        return line[:-1].decode()

    def _read(self, size: int) -> bytes:
        """Return exactly so many bytes.

        Raises:
            EOFError: The client has left.
        """
        data = b""
        while len(data) < size:
            received = self.request.recv(size - len(data))
            if not received:
                raise EOFError
            data += received
        return data
