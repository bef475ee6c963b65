"""Where a redirect leads, and what must not be sent there."""

from __future__ import annotations

import dataclasses
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from parallel_requests.exceptions import RedirectError, ValidationError
from parallel_requests.redaction import redact
from parallel_requests.urls import DEFAULT_PORTS, check_url, is_private, split_user_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.models import Request, Response

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
_OF_THE_BODY = frozenset({"content-type", "content-encoding"})


@dataclass(frozen=True, slots=True)
class RedirectRules:
    """Which redirects are followed.

    Attributes:
        limit: How many are followed at most.
        allow_private_hosts: Whether one may lead to a private address.
        secret_headers: Lower-case names of headers that stay within their origin.
        proxy_for: Returns the environment's proxy for a URL; None if the environment names no proxy.
    """

    limit: int = 20
    allow_private_hosts: bool = True
    secret_headers: frozenset[str] = frozenset()
    proxy_for: Callable[[str], str | None] | None = None


def next_hop(
    request: Request, response: Response, history: tuple[Response, ...], rules: RedirectRules
) -> Request | None:
    """Return the request a redirect asks for (RFC 9110, 15.4); None if it names no location.

    Args:
        request: What was redirected.
        response: The redirect.
        history: All redirects so far, this one included.
        rules: Which redirects to follow.

    Raises:
        RedirectError: It must not be followed.
    """
    location = response.headers.get_all("location")
    if not location:
        return None
    if len(history) > rules.limit:
        raise _refusal(request, f"more than {rules.limit} redirects", history)
    try:
        url, authority = check_url(urljoin(request.url, _reference(location[0])))
    except ValueError as error:  # from check_url, or because the Location cannot be read or joined
        is_checked = isinstance(error, ValidationError)
        reason = str(error).removesuffix(".") if is_checked else "its Location is not a URL"
    else:
        url, _ = split_user_info(url)
        return _moved(request, response, (url, authority), history, rules)
    raise _refusal(request, f"a redirect that cannot be followed: {reason}", history)


def _reference(location: str) -> str:
    """Return the URL that a Location, read as Latin-1, stands for; bytes that are not UTF-8 are escaped.

    Raises:
        ValueError: It has characters beyond Latin-1: which bytes were sent is unknown.
    """
    sent = location.encode("latin-1")
    try:
        reference = sent.decode()
    except UnicodeDecodeError:
        reference = quote(sent, safe=string.printable)
    return reference.strip().replace(" ", "%20")


def _moved(
    request: Request,
    response: Response,
    target: tuple[str, str],
    history: tuple[Response, ...],
    rules: RedirectRules,
) -> Request:
    """Return the request to send to a redirect's target.

    Raises:
        RedirectError: The target is a loop or a private address, or cannot be reached.
    """
    url, authority = target
    method, content = request.method, request.content
    if _becomes_get(method, response.status_code):
        method, content = "GET", None
    if _is_loop(url, method, history):
        raise _refusal(request, f"a redirect loop at {redact(url)}", history)
    host = urlsplit(url).hostname or ""
    if not rules.allow_private_hosts and is_private(host):
        raise _refusal(request, f"a redirect to the private address {host}", history)
    headers = _headers_for(url, request, rules, has_lost_body=content is None and request.content is not None)
    try:
        proxy = _proxy_to(url, request, rules)
    except ValidationError as error:
        raise _refusal(request, f"{redact(url)}, but {error.message.removesuffix('.')}", history) from None
    return dataclasses.replace(
        request,
        url=url,
        authority=authority,
        method=method,
        content=content,
        headers=headers,
        proxy=proxy,
        proxy_authorization=request.proxy_authorization if proxy == request.proxy else None,
    )


def _becomes_get(method: str, status_code: int) -> bool:
    """Whether a redirect is followed with GET, and without the body."""
    if status_code == 303:
        return method != "HEAD"
    return status_code in (301, 302) and method == "POST"


def _is_loop(url: str, method: str, history: tuple[Response, ...]) -> bool:
    """Whether this was requested before, and no redirect has set a cookie that could change the response."""
    was_asked = any(past.url == url and past.request.method == method for past in history)
    return was_asked and not any("set-cookie" in past.headers for past in history)


def _headers_for(url: str, request: Request, rules: RedirectRules, *, has_lost_body: bool) -> dict[str, str]:
    """Return the headers that may be sent on to a redirect's target."""
    dropped: frozenset[str] = frozenset({"host"})
    if has_lost_body:
        dropped |= _OF_THE_BODY
    if not is_same_origin(url, request.url):
        dropped |= _CREDENTIALS | rules.secret_headers
    return {name: value for name, value in request.headers.items() if name.lower() not in dropped}


def _proxy_to(url: str, request: Request, rules: RedirectRules) -> str | None:
    """Return the proxy through which to reach a redirect's target.

    Raises:
        ValidationError: The environment names a proxy that cannot be used.
    """
    if rules.proxy_for is None:
        return request.proxy
    try:
        is_of_environment = request.proxy == rules.proxy_for(request.url)
    except ValidationError:  # so the proxy in use is not the environment's
        is_of_environment = False
    return rules.proxy_for(url) if is_of_environment else request.proxy


def is_same_origin(url: str, other: str) -> bool:
    """Whether two URLs agree in scheme, host and port (RFC 6454)."""
    return _origin_of(url) == _origin_of(other)


def _origin_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


def _refusal(request: Request, what: str, history: tuple[Response, ...]) -> RedirectError:
    return RedirectError(
        f"{redact(history[0].url)} leads to {what}; it is not followed.", url=request.url, history=history
    )
