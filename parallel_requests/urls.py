"""Checking, normalising and classifying URLs."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from parallel_requests.exceptions import ValidationError
from parallel_requests.redaction import redact

if TYPE_CHECKING:
    from urllib.parse import SplitResult

# The common case, recognised in one match: an ASCII host name or IPv4 address, no user info, no default
# port, nothing to percent-encode, no empty query.
_PLAIN = re.compile(
    r"https?://([a-z0-9_-]{1,63}+(?:\.[a-z0-9_-]{1,63}+)*+"
    r"(?::(?:[1-5][0-9]{4}|[1-9][0-9]{0,3}+)(?<!:80)(?<!:443))?)"
    r"(?:[/?][!$&-;=?-Z_a-z~]*+(?:%[0-9A-F]{2}[!$&-;=?-Z_a-z~]*+)*+(?<!\?))?"
)
_HOST = re.compile(r"(?:[a-z0-9_~-]{1,63}\.)*[a-z0-9_~-]{1,63}\.?")
_BRACKETED = re.compile(r"\[[^]]*:[^]]*\](?::.*)?")
_PROXY = re.compile(r"(https?|socks4a?|socks5h?)://[^\s/?#]+/?", re.IGNORECASE)
_UNSAFE = re.compile(r"[\x00-\x20\x7f]")
DEFAULT_PORTS = {"http": 80, "https": 443}
_KEPT_IN_USER_INFO = "!$%&'()*+,:;=~"
_KEPT_IN_TARGET = "!$%&'()*+,/:;=?@~"
_EMBEDS_IPV4 = (
    ipaddress.IPv6Network("::/96"),
    ipaddress.IPv6Network("::ffff:0:0/96"),
    ipaddress.IPv6Network("64:ff9b::/96"),
)
"""IPv6 networks whose last 32 bits are an IPv4 address: RFC 4291, 2.5.5, and NAT64 (RFC 6052)."""
_PERCENT = re.compile("%([0-9A-Fa-f]{2})?")


def check_url(url: object) -> tuple[str, str]:
    """Return the URL in the form in which it is sent, and its authority: host and non-default port.

    Names beyond ASCII become IDNA, other characters that RFC 3986 does not allow are percent-encoded,
    escapes are put in upper case, a fragment and an empty query are dropped. User information stays in
    the URL.

    Raises:
        ValidationError: It is not an absolute http or https URL; the message says what is wrong.
    """
    if type(url) is str and (match := _PLAIN.fullmatch(url)) is not None:
        return url, match[1]
    if not isinstance(url, str):
        given = "None" if url is None else type(url).__name__  # not quoted, as it may hold credentials
        raise ValidationError(f"url must be a str, not {given}.", "url")
    try:
        return _normalise(url)
    except ValidationError:
        raise
    except ValueError:  # its message may quote a password
        pass
    raise _invalid(url, "its host, its port or an escape in it is not valid")


def check_proxy(proxy: object) -> str:
    """Return the URL of a proxy in the form that every backend accepts.

    Raises:
        ValidationError: It is not valid; the message does not quote it, as it may contain a password.
    """
    if isinstance(proxy, str) and _PROXY.fullmatch(proxy):
        try:
            parts = urlsplit(proxy)
            return f"{parts.scheme}://{_normalise_authority(proxy, parts)}"
        except ValueError:  # its message may quote a password
            pass
    raise ValidationError(
        "proxy must be a URL such as 'http://host:port' (http, https, socks4, socks4a, socks5 or socks5h); "
        "what is special in its user name and password is percent-encoded.",
        "proxy",
    )


def percent_encode(text: str) -> str:
    """Percent-encode what cannot be in a path or query; existing escapes are kept, in upper case."""
    escaped = _PERCENT.sub(lambda found: found[0].upper() if found[1] else "%25", text)
    return quote(escaped, safe=_KEPT_IN_TARGET)


def split_user_info(url: str) -> tuple[str, tuple[str, str] | None]:
    """Split a URL into the URL without user information, and the user and password, unless both are empty."""
    parts = urlsplit(url)
    user_info, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = user_info.partition(":")
    clean = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return clean, (unquote(user), unquote(password)) if user or password else None


def _invalid(url: str, reason: str) -> ValidationError:
    return ValidationError(f"url {redact(url)!r} cannot be sent: {reason}.", "url")


def _normalise(url: str) -> tuple[str, str]:
    if not url.strip():
        raise _invalid(url, "it is empty")
    if url != url.strip():
        raise _invalid(url, "there is a space or a line break around it; strip() it")
    if _UNSAFE.search(url):
        raise _invalid(url, "it has a space or a control character; percent-encode it (%20)")
    parts = urlsplit(url)
    if parts.scheme not in DEFAULT_PORTS:
        raise _invalid(url, "it must start with http:// or https://")
    authority = _normalise_authority(url, parts)
    path, query = percent_encode(parts.path), percent_encode(parts.query)
    return (
        urlunsplit((parts.scheme, authority, path, query, "")),
        authority.rpartition("@")[2].removesuffix(f":{DEFAULT_PORTS[parts.scheme]}"),
    )


def _normalise_authority(url: str, parts: SplitResult) -> str:
    """Return user information, host and port of a URL.

    Raises:
        ValueError: One of them is not valid.
    """
    host, port = _normalise_host(url, parts.hostname), parts.port
    if port == 0:
        raise _invalid(url, "nothing listens on port 0")
    user_info, at, place = parts.netloc.rpartition("@")
    if "[" in place and not _BRACKETED.fullmatch(place):
        raise ValueError("urlsplit() drops what is beside the brackets")
    host_and_port = host if port is None else f"{host}:{port}"
    return f"{quote(user_info, safe=_KEPT_IN_USER_INFO)}{at}{host_and_port}"


def _normalise_host(url: str, host: str | None) -> str:
    if not host:
        raise _invalid(url, "it names no host; an IPv6 address needs brackets")
    if ":" in host:
        if "%" in host:
            raise _invalid(url, "it names a network interface, which a request cannot choose")
        return f"[{ipaddress.IPv6Address(host)}]"
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise _invalid(url, "its host name has a character or a length that cannot be there")
    return host


def is_private(host: str) -> bool:
    """Whether a host is an address that is not reachable from the public internet, or ``localhost``.

    Short and numeric forms, such as ``127.1`` or ``2130706433``, are addresses as well.
    """
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host if ":" in host else socket.inet_aton(host))
    except (ValueError, OSError):
        return False
    return _is_internal(address)


def _is_internal(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local:
            return True
        embedded = address.sixtofour
        if any(address in network for network in _EMBEDS_IPV4):
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if embedded is not None:
            return _is_internal(embedded)
    return not address.is_global or address.is_multicast
