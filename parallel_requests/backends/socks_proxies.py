"""SOCKS proxies for urllib3 and the libraries based on it, negotiated with by PySocks.

The libraries' own SOCKS connection classes are not used: they do not expose the socket while they
connect, so an attempt could not be aborted while a proxy hangs.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from parallel_requests.urls import split_user_info

_DEFAULT_PORT = 1080


class SocksError(Exception):
    """A SOCKS proxy did not connect to the target."""


class TargetNotFound(Exception):
    """The name of a target, which has to be resolved locally, has no address."""


@dataclass(frozen=True, slots=True)
class SocksProxy:
    """A SOCKS proxy, and how to talk to it.

    Attributes:
        version: 4 or 5.
        resolves_names: Whether it is given the names of targets, rather than their addresses.
        address: Its host and port.
        user: The user name, or None.
        password: The password, or None.
    """

    version: int
    resolves_names: bool
    address: tuple[str, int]
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Parse the URL of a proxy."""
        bare, credentials = split_user_info(url)
        parts = urlsplit(bare)
        user, password = credentials or ("", "")
        return cls(
            version=int(parts.scheme[len("socks")]),
            resolves_names=parts.scheme in ("socks4a", "socks5h"),
            address=(parts.hostname or "", parts.port or _DEFAULT_PORT),
            user=user or None,
            password=password or None,
        )

    def negotiate(self, sock: socket.socket, target: tuple[str, int]) -> None:
        """Have the proxy, to which a socket is connected, connect it to a target.

        Raises:
            TargetNotFound: The name of the target has no address.
            SocksError: The proxy did not connect to the target.
            OSError: The connection to the proxy has ended, or the timeout of the socket has passed.
        """
        import socks

        version = socks.SOCKS4 if self.version == 4 else socks.SOCKS5
        speaker = socks.socksocket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
        try:
            speaker.settimeout(sock.gettimeout())
            speaker.set_proxy(version, *self.address, self.resolves_names, self.user, self.password)
            # Its own connect() would begin with the connection to the proxy.
            speaker._proxy_negotiators[version](speaker, *target)  # noqa: SLF001
        except socket.gaierror as error:
            raise TargetNotFound(str(error)) from error
        except socks.ProxyError as error:
            raise SocksError(str(error)) from error
        finally:
            speaker.detach()
