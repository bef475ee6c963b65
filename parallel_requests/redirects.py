"""Where a redirect leads, and what must not go there."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from parallel_requests.exceptions import RedirectError, ValidationError
from parallel_requests.redaction import redact
from parallel_requests.urls import DEFAULT_PORTS, check_url, is_private, split_user_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.models import Request, Response

REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
_CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
_OF_THE_BODY = frozenset({"content-length", "content-type", "content-encoding", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class RedirectRules:
    """How far redirects are followed.

    Attributes:
        limit: Redirects at most.
        allow_private_hosts: Whether one may lead to a private address.
        secret_headers: Lower-case names of headers that stay within their origin.
        proxy_for: Tells the environment's proxy for a URL; None where none is named there.
    """

    limit: int = 20
    allow_private_hosts: bool = True
    secret_headers: frozenset[str] = frozenset()
    proxy_for: Callable[[str], str | None] | None = None


def next_hop(
    request: Request, response: Response, history: tuple[Response, ...], rules: RedirectRules
) -> Request | None:
    """Return the request a redirect asks for (RFC 9110, 15.4); None where it names no place.

    Args:
        request: What was redirected.
        response: The redirect.
        history: All redirects so far, this one included.
        rules: How far to follow.

    Raises:
        RedirectError: It must not be followed.
    """
    location = response.headers.get_all("location")
    if not location:
        return None
    if len(history) > rules.limit:
        raise _refusal(request, f"more than {rules.limit} redirects", history)
    target = location[0].encode("latin-1", "replace").decode("utf-8", "replace").strip().replace(" ", "%20")
    try:
        url, authority = check_url(urljoin(request.url, target))
    except ValueError as error:  # ours, or that of a target that cannot even be joined
        reason = str(error) if isinstance(error, ValidationError) else "its Location is not a URL"
    else:
        url, _ = split_user_info(url)
        return _moved(request, response, (url, authority), history, rules)
    raise _refusal(request, f"a redirect that cannot be followed: {reason}", history)


def _moved(
    request: Request,
    response: Response,
    target: tuple[str, str],
    history: tuple[Response, ...],
    rules: RedirectRules,
) -> Request:
    url, authority = target
    method, content = request.method, request.content
    if (response.status_code == 303 and method != "HEAD") or (
        response.status_code in (301, 302) and method == "POST"
    ):
        method, content = "GET", None
    if any(past.url == url and past.request.method == method for past in history) and not _sets_cookie(
        history
    ):
        raise _refusal(request, f"a redirect loop at {redact(url)}", history)
    host = urlsplit(url).hostname or ""
    if not rules.allow_private_hosts and is_private(host):
        raise _refusal(request, f"a redirect to the private address {host}", history)
    dropped: frozenset[str] = frozenset({"host"})
    if content is None and request.content is not None:
        dropped |= _OF_THE_BODY
    if not is_same_origin(url, request.url):
        dropped |= _CREDENTIALS | rules.secret_headers
    headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
    try:
        proxy = _proxy_to(url, request, rules)
    except ValidationError as error:
        raise _refusal(request, f"{redact(url)}, but {error.message}", history) from None
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


def _proxy_to(url: str, request: Request, rules: RedirectRules) -> str | None:
    """Return the proxy on the way to where a request is redirected.

    Raises:
        ValidationError: The one the environment names cannot be used.
    """
    if rules.proxy_for is None:
        return request.proxy
    try:
        is_of_environment = request.proxy == rules.proxy_for(request.url)
    except ValidationError:  # so the caller has named the way
        is_of_environment = False
    return rules.proxy_for(url) if is_of_environment else request.proxy


def is_same_origin(url: str, other: str) -> bool:
    """Whether two URLs agree in scheme, host and port (RFC 6454)."""
    return _origin_of(url) == _origin_of(other)


def _origin_of(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)


def _sets_cookie(history: tuple[Response, ...]) -> bool:
    return any("set-cookie" in past.headers for past in history)


def _refusal(request: Request, what: str, history: tuple[Response, ...]) -> RedirectError:
    return RedirectError(
        f"{redact(history[0].url)} leads to {what}; it is not followed.", url=request.url, history=history
    )
