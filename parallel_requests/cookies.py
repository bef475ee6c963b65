"""The cookies that servers set, kept for a session."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

from parallel_requests.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Collection
    from http.client import HTTPResponse
    from http.cookiejar import Cookie, CookieJar

    from parallel_requests.models import Headers

_MOST_SITES: Final = 10_000
"""Sites whose cookies are kept. RFC 6265, 6.1 has clients keep 3,000 cookies at least."""
_MOST_OF_A_DOMAIN: Final = 180
"""Cookies that are kept per domain, as in browsers; RFC 6265, 6.1 asks for at least 50."""


class CookieStore:
    """A thread-safe jar (RFC 6265) that costs nothing while empty.

    Each site has a jar of its own, as the whole jar is searched for every request. Beyond 10,000 sites,
    the least recently used one is dropped, and beyond 180 cookies of a domain the oldest ones.

    Attributes:
        is_empty: Whether no server has set a cookie.
    """

    def __init__(self) -> None:
        self.is_empty = True
        self._jars: OrderedDict[str, CookieJar] = OrderedDict()  # by site, the one used last at the end
        self._lock = Lock()  # guards _jars and is_empty

    def header_for(self, url: str, own: str | None) -> str | None:
        """Return the Cookie header for a URL.

        Args:
            url: Where the request goes.
            own: The Cookie header of the request so far, if any; cookies that servers set win over it.
        """
        from urllib.request import Request as UrllibRequest

        carrier = UrllibRequest(url)  # noqa: S310 - opens nothing
        site = _site_of(url)
        with self._lock:
            jar = self._jars.get(site)
            if jar is None:
                return own
            self._jars.move_to_end(site)
            jar.add_cookie_header(carrier)
        stored = carrier.get_header("Cookie")
        if not own or not stored:
            return stored or own
        names = {pair.partition("=")[0].strip() for pair in stored.split(";")}
        kept = [pair.strip() for pair in own.split(";") if pair.partition("=")[0].strip() not in names]
        return "; ".join([*kept, stored])

    def absorb(self, url: str, headers: Headers) -> None:
        """Store the cookies that the ``Set-Cookie`` fields of a response set."""
        from email.message import Message
        from http.cookiejar import CookieJar
        from urllib.request import Request as UrllibRequest

        from parallel_requests.cookie_policy import CookiePolicy

        carrier = UrllibRequest(url)  # noqa: S310 - opens nothing
        message = Message()
        for value in headers.get_all("set-cookie"):
            message.add_header("Set-Cookie", value)
        if "set-cookie" not in message:
            return
        site = _site_of(url)
        with self._lock:
            jar = self._jars.pop(site, None)
            if jar is None:
                jar = CookieJar(CookiePolicy())
            # ``info`` is all that a jar calls of a response.
            jar.extract_cookies(cast("HTTPResponse", SimpleNamespace(info=lambda: message)), carrier)
            _drop_surplus(jar)
            if len(jar) > 0:
                self._jars[site] = jar
            if len(self._jars) > _MOST_SITES:
                self._jars.popitem(last=False)
            self.is_empty = not self._jars

    def forget(self, names: Collection[str]) -> None:
        """Forget the cookies of these names, whichever server set them."""
        with self._lock:
            for jar in self._jars.values():
                for cookie in [cookie for cookie in jar if cookie.name in names]:
                    jar.clear(cookie.domain, cookie.path, cookie.name)

    def clear(self) -> None:
        """Forget every cookie."""
        with self._lock:
            self._jars.clear()
            self.is_empty = True


def _site_of(url: str) -> str:
    """Return the part of a host name that hosts sharing cookies share: the last two labels."""
    return ".".join((urlsplit(url).hostname or "").rsplit(".", 2)[-2:])


def _drop_surplus(jar: CookieJar) -> None:
    """Drop the oldest cookies of each domain that has too many."""
    by_domain: dict[str, list[Cookie]] = {}
    for cookie in jar:
        by_domain.setdefault(cookie.domain, []).append(cookie)
    for cookies in by_domain.values():
        for cookie in cookies[:-_MOST_OF_A_DOMAIN]:
            jar.clear(cookie.domain, cookie.path, cookie.name)
