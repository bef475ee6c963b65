"""What a Request is to libcurl: the options of an easy handle that follow from it alone."""

from __future__ import annotations

import functools
import math
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pycurl

from parallel_requests.backends.base import split_proxy

if TYPE_CHECKING:
    from parallel_requests.models import Request

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
"""Methods whose requests have no Content-Length if there is no body (RFC 9110, 8.6)."""
REPLAYABLE = _WITHOUT_BODY | {"PUT"}
"""Methods whose requests libcurl may send again on its own."""

_OF_SERVER = (pycurl.SSL_VERIFYPEER, pycurl.SSL_VERIFYHOST, pycurl.CAINFO, pycurl.CAPATH)
_OF_PROXY = (
    pycurl.PROXY_SSL_VERIFYPEER,
    pycurl.PROXY_SSL_VERIFYHOST,
    pycurl.PROXY_CAINFO,
    pycurl.PROXY_CAPATH,
)
"""The options that say whose certificates are trusted."""
_SOCKS5_AUTH = 267
"""``CURLOPT_SOCKS5_AUTH``, which pycurl has no name for."""


def milliseconds(seconds: float | None) -> int:
    """Return a limit as libcurl takes it; rounded up, so that it is never early."""
    return 0 if seconds is None else max(1, math.ceil(seconds * 1000))


def header_lines(request: Request) -> list[bytes]:
    """Return the headers as libcurl takes them."""
    given = {name.lower() for name in request.headers}
    own = [f"{name}: {value}" if value else f"{name};" for name, value in request.headers.items()]
    # A name without a value prevents libcurl from adding that header itself.
    unwanted = ["accept", "user-agent"]
    if request.proxy:
        unwanted.append("proxy-connection")
    if request.content is not None or request.method not in _WITHOUT_BODY:
        unwanted += ["expect", "content-type"]
    kept_out = [f"{name}:" for name in unwanted if name not in given]
    return [line.encode("latin-1") for line in own + kept_out]


def size_without_url(request: Request, lines: list[bytes]) -> int:
    """Return the approximate size of a request in HTTP/1.1 less the length of its URL, in bytes.

    The path and the host, which make up the URL, are sent once each.
    """
    start_line = len(request.method) + len(" / HTTP/1.1\r\nHost: \r\n") - len("http://")
    fields = sum([len(line) + 2 for line in lines if not line.endswith(b":")])
    return start_line + fields + 2 + len(request.content or b"")


def choose_method(easy: Any, request: Request) -> None:
    """Set the method and the body, so that libcurl replays only what may be sent twice."""
    method, content = request.method, request.content
    if method == "HEAD":
        easy.setopt(pycurl.NOBODY, 1)
        return
    if content is None:
        if method != "GET":
            easy.setopt(pycurl.CUSTOMREQUEST, method)
        if method not in REPLAYABLE:
            easy.setopt(pycurl.FRESH_CONNECT, 1)  # or libcurl might replay it on its own
        if method not in _WITHOUT_BODY:
            easy.setopt(pycurl.POSTFIELDS, "")
        return
    easy.setopt(pycurl.POST, 1)
    easy.setopt(pycurl.CUSTOMREQUEST, method)
    easy.setopt(pycurl.POSTFIELDSIZE_LARGE, len(content))
    if method in REPLAYABLE:
        easy.setopt(pycurl.POSTFIELDS, content)
    else:
        # libcurl cannot rewind this, and so never replays the request on its own.
        easy.setopt(pycurl.READFUNCTION, BytesIO(content).read)


def choose_proxy(easy: Any, request: Request) -> None:
    """Set the proxy, and how to log in to it."""
    proxy, authorization = request.proxy or "", request.proxy_authorization
    if proxy and authorization is not None and not proxy.startswith("socks"):
        proxy, _ = split_proxy(proxy, authorization)
        easy.setopt(pycurl.PROXYHEADER, [f"Proxy-Authorization: {authorization}".encode("latin-1")])
        # Not sent, as that header is; but libcurl distinguishes tunnels by it.
        easy.setopt(pycurl.PROXYUSERNAME, authorization.encode("latin-1"))
    easy.setopt(pycurl.PROXY, proxy.encode())
    if proxy.startswith("socks5"):
        # Or a proxy could ask for the user's Kerberos ticket, and libcurl would wait for it, blocking.
        easy.setopt(_SOCKS5_AUTH, pycurl.HTTPAUTH_BASIC)
    if proxy.startswith("http:"):
        easy.setopt(pycurl.PROXYPORT, 80)  # the default if the URL names no port; that of libcurl is 1080


def choose_trust(easy: Any, request: Request) -> None:
    """Set which certificates are trusted: those of the server, and of a proxy that is reached over TLS."""
    if request.url.startswith("https:"):
        _trust(easy, request.verify, _OF_SERVER)
    if request.proxy and request.proxy.startswith("https:"):
        _trust(easy, request.verify, _OF_PROXY)


def _trust(easy: Any, verify: bool | str, options: tuple[int, int, int, int]) -> None:
    check, check_name, file, folder = options
    if verify is False:
        easy.setopt(check, 0)
        easy.setopt(check_name, 0)
        return
    bundle = verify if isinstance(verify, str) else _default_bundle()
    chosen, other = (folder, file) if Path(bundle).is_dir() else (file, folder)
    easy.setopt(chosen, os.fsencode(bundle))
    easy.unsetopt(other)  # libcurl may be built with a default, which would be trusted as well


@functools.cache
def _default_bundle() -> str:
    import certifi

    return certifi.where()
