"""Which cookies a server may set: stricter than the standard library, and as strict as browsers."""

from __future__ import annotations

import re
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from parallel_requests.header_fields import is_utf8

if TYPE_CHECKING:
    from http.cookiejar import Cookie
    from urllib.request import Request

_LARGEST: Final = 4_096
"""Characters of a name and its value together, as in browsers (RFC 6265bis, 5.6)."""
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REGISTRIES: Final = frozenset({"ac", "co", "com", "edu", "gov", "mil", "net", "org"})
"""Second-level labels that countries register names under, such as ``co.uk``; a stand-in for the list of
public suffixes, which the standard library does not have."""


class CookiePolicy(DefaultCookiePolicy):
    """Prevents a host from setting cookies for the hosts of other owners.

    A cookie that names no domain goes back to its host alone (RFC 6265, 5.3).
    """

    def __init__(self) -> None:
        super().__init__(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)

    def set_ok_name(self, cookie: Cookie, request: Request) -> bool:
        """Whether a cookie can be sent back, and keeps to the rules of its prefix (RFC 6265bis, 5.6)."""
        pair = cookie.name + (cookie.value or "")
        if len(pair) > _LARGEST or _CONTROLS.search(pair) or not is_utf8(pair):
            return False
        name, is_safe = cookie.name.lower(), cookie.secure and request.type == "https"
        if name.startswith("__secure-") and not is_safe:
            return False
        if name.startswith("__host-") and not (
            is_safe and cookie.path == "/" and not cookie.domain_specified
        ):
            return False
        return super().set_ok_name(cookie, request)

    def set_ok_domain(self, cookie: Cookie, request: Request) -> bool:
        """Whether all hosts of the cookie's domain have one owner, as far as is known."""
        host = urlsplit(request.full_url).hostname or ""
        if cookie.domain_specified and not _has_one_owner(cookie.domain.strip("."), host):
            return False
        return super().set_ok_domain(cookie, request)


def _has_one_owner(domain: str, host: str) -> bool:
    labels = domain.split(".")
    if labels[-1].isdigit():  # part of an IP address is not a domain
        return domain == host
    return len(labels) > 2 or (len(labels) == 2 and not (len(labels[1]) == 2 and labels[0] in _REGISTRIES))
