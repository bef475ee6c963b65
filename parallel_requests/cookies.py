"""The cookies servers set, kept for a session and shared by all of its backends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from email.message import Message
    from http.client import HTTPResponse
    from http.cookiejar import CookieJar

    from parallel_requests.models import Headers


class CookieStore:
    """A thread-safe jar (RFC 6265, by the standard library's policy) that costs nothing while empty.

    Attributes:
        is_empty: Whether no server has set a cookie.
    """

    def __init__(self) -> None:
        self.is_empty = True
        self._jar: CookieJar | None = None
        self._lock = threading.Lock()  # guards _jar and is_empty

    def header_for(self, url: str, own: str | None) -> str | None:
        """Return the Cookie header for a URL.

        Args:
            url: Where the request goes.
            own: The header the caller's cookies make; a cookie the server set since then wins.
        """
        with self._lock:
            if self._jar is None:
                return own
            from urllib.request import Request as UrllibRequest

            carrier = UrllibRequest(url)  # noqa: S310 - opens nothing
            self._jar.add_cookie_header(carrier)
        stored = carrier.get_header("Cookie")
        if not own or not stored:
            return stored or own
        names = {pair.partition("=")[0].strip() for pair in stored.split(";")}
        kept = [pair.strip() for pair in own.split(";") if pair.partition("=")[0].strip() not in names]
        return "; ".join([*kept, stored])

    def absorb(self, url: str, headers: Headers) -> None:
        """Keep what the ``Set-Cookie`` fields of an answer say."""
        from email.message import Message
        from http.cookiejar import CookieJar, DefaultCookiePolicy
        from urllib.request import Request as UrllibRequest

        question = UrllibRequest(url)  # noqa: S310 - opens nothing
        message = Message()
        for value in headers.get_all("set-cookie"):
            message.add_header("Set-Cookie", value)
        if "set-cookie" not in message:
            return
        with self._lock:
            if self._jar is None:
                # A cookie that names no domain goes back to its host alone (RFC 6265, 5.3).
                policy = DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)
                self._jar = CookieJar(policy)
            self._jar.extract_cookies(cast("HTTPResponse", _Answer(message)), question)
            self.is_empty = len(self._jar) == 0

    def clear(self) -> None:
        """Forget every cookie."""
        with self._lock:
            self._jar = None
            self.is_empty = True


class _Answer:
    """What ``CookieJar`` needs of an answer."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def info(self) -> Message:
        return self._message
