"""Which certificates are trusted, and TLS sockets whose handshake can be aborted."""

from __future__ import annotations

import errno
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parallel_requests.backends.sockets import WatchedSocket
from parallel_requests.exceptions import TLSError
from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def ssl_context(verify: bool | str, uses: Callable[[Any], object] | None = None) -> ssl.SSLContext:
    """Return a client context.

    Args:
        verify: True trusts the system's CAs, a path those of that file or folder, False anybody.
        uses: Called with each socket before its handshake.

    Raises:
        TLSError: The CA file or folder does not exist or cannot be read.
        OSError: It contains no CAs, or no file descriptor is left to read it.
    """
    try:
        context = _context_of(verify)
    except (FileNotFoundError, PermissionError) as error:
        reason = f"the CAs of {verify} cannot be read ({error})"
    else:
        # Set by Python before 3.11.4: a body cut off by somebody else would look complete (RFC 9112, 9.8).
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        # As libcurl does, and Python from 3.13 on: an intermediate CA that is given is trusted by itself.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if uses is not None:
            context.sslsocket_class = _watched_class(uses)
        _settle(context)
        return context
    raise TLSError(f"No certificate can be checked: {reason}.")


def _context_of(verify: bool | str) -> ssl.SSLContext:
    if verify is False:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if verify is True:
        return _trusting_the_system()
    if Path(verify).is_dir():
        return ssl.create_default_context(capath=verify)
    return ssl.create_default_context(cafile=verify)


def _trusting_the_system() -> ssl.SSLContext:
    """Trust the system's CAs, or certifi's if the system has none.

    The paths are explicit, as OpenSSL would otherwise read the environment, which is done elsewhere.
    """
    if sys.platform == "win32":
        return ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    file, folder = Path(paths.openssl_cafile), Path(paths.openssl_capath)
    cafile = str(file) if file.is_file() else None
    capath = str(folder) if folder.is_dir() else None
    if cafile is None and (capath is None or not any(folder.iterdir())):
        try:
            import certifi
        except ImportError:
            return ssl.create_default_context()
        cafile = certifi.where()
    return ssl.create_default_context(cafile=cafile, capath=capath)


def _settle(context: ssl.SSLContext) -> None:
    """Keep connections, which several threads open at the same time, from changing their context.

    urllib3 sets the protocols to offer for each connection, which frees those that another thread may be
    copying: a handshake is malformed now and then, or the process crashes
    (https://github.com/python/cpython/issues/141012). So only the first connection chooses them.
    urllib3-future adds the system's CAs where none has been read yet, as is so with those of a folder.
    """
    choose, chosen = context.set_alpn_protocols, False
    lock = Lock()  # guards chosen

    def choose_once(alpn_protocols: Iterable[str]) -> None:
        nonlocal chosen
        with lock:
            if not chosen:
                choose(alpn_protocols)
                chosen = True

    def add_none(purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        """Do nothing, in place of ``load_default_certs``."""

    context.set_alpn_protocols = choose_once  # type: ignore[method-assign]
    context.load_default_certs = add_none  # type: ignore[method-assign]


def _watched_class(uses: Callable[[Any], object]) -> type[ssl.SSLSocket]:
    """Return a socket class that reports itself before its handshake.

    That happens while the socket is being created, when nothing else has a reference to it.
    """

    class WatchedSSLSocket(WatchedSocket, ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            uses(self)
            super().do_handshake(block)

        def recv(self, *args: Any) -> bytes:
            """Receive; if that fails while the socket is being created, close it, as Python would not."""
            try:
                return super().recv(*args)
            except OSError:
                if not hasattr(self, "_connected"):  # the connection was reset before TLS could begin
                    self.close()
                raise

        def send(self, data: Any, flags: int = 0) -> int:
            """Send, as any TLS socket does.

            Raises:
                BrokenPipeError: The peer has hung up. urllib3 then reads what it has sent before, such as why
                    it takes no more of a body, as it does without TLS.
            """
            try:
                sent: int = super().send(data, flags)
            except ssl.SSLEOFError as error:
                raise BrokenPipeError(errno.EPIPE, str(error)) from error
            return sent

    return WatchedSSLSocket
