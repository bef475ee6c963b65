"""SOCKS proxies for urllib3 and the libraries based on it: PySocks sockets that connect through one.

The libraries' own SOCKS connection classes are not used: they do not expose the socket while they
connect, so an attempt could not be aborted while a proxy hangs.
"""

from __future__ import annotations

import functools
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from parallel_requests.backends.sockets import WatchedSocket
from parallel_requests.urls import split_user_info

if TYPE_CHECKING:
    from collections.abc import Callable

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

    def sockets_to(self, target: tuple[str, int]) -> Callable[..., Any]:
        """Return a socket factory; its sockets connect to a target through the proxy.

        Raises:
            TargetNotFound: From the socket's ``connect``: the name of the target has no address.
            SocksError: Likewise: the proxy did not connect to it.
        """
        return functools.partial(_socket_class(), proxy=self, target=target)


@functools.cache
def _socket_class() -> Any:
    import socks

    class SocksSocket(WatchedSocket, socks.socksocket):  # type: ignore[misc]
        def __init__(self, *args: Any, proxy: SocksProxy, target: tuple[str, int]) -> None:
            super().__init__(*args)
            self._through, self._target = proxy, target

        def connect(self, place: Any) -> None:
            proxy = self._through
            version = socks.SOCKS4 if proxy.version == 4 else socks.SOCKS5
            self.set_proxy(version, *place[:2], proxy.resolves_names, proxy.user, proxy.password)
            try:
                super().connect(self._target, catch_errors=True)  # those of the socket, then, are let through
            except socket.gaierror as error:
                self.close()
                raise TargetNotFound(str(error)) from error
            except socks.ProxyError as error:
                self.close()
                raise SocksError(str(error)) from error

    return SocksSocket
