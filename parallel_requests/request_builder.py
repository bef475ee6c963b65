"""A URL and the options for it → a Request: its headers, its body, its credentials and its proxy."""

from __future__ import annotations

import os
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from parallel_requests.checks import is_timeout
from parallel_requests.encoding import add_params, encode_body, to_utf8
from parallel_requests.environment import Environment, Netrc
from parallel_requests.exceptions import ConfigurationError, ValidationError
from parallel_requests.gates.rotation import Rotation
from parallel_requests.header_fields import (
    TOKEN,
    add_cookies,
    check_cookies,
    find_field,
    merge_headers,
    pop_field,
    take_framing,
)
from parallel_requests.models import Request
from parallel_requests.urls import check_proxy, split_user_info
from parallel_requests.user_agents import BROWSER_USER_AGENTS, USER_AGENT
from parallel_requests.values import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from parallel_requests.options import Settings

_CONNECT_TIMEOUT = 10.0
"""Seconds."""


class RequestBuilder:
    """Makes the Requests of one call; what is the same for all of them is prepared once.

    Attributes:
        settings: The options of the call.
        proxies: The rotation of its proxies, if there is one.
    """

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        *,
        accept_encoding: str = "gzip, deflate",
        cookies: Mapping[str, str] | None = None,
        proxies: Rotation | None = None,
        lacking_for_socks: Callable[[], str | None] | None = None,
    ) -> None:
        """Prepare what is the same for all items.

        Args:
            settings: The options of the call; of those that may differ per URL, `build` gets the values.
            environment: Proxies and CA bundles to fall back on.
            accept_encoding: The content codings that can be decoded.
            cookies: The cookies set on the session.
            proxies: The rotation to go on with. Default: a new one of the ``proxies`` in the options.
            lacking_for_socks: Says why SOCKS proxies cannot be used, or returns None if they can.

        Raises:
            ConfigurationError: An option that applies to all items is wrong.
        """
        self.settings = settings
        self._environment = environment
        self._session_cookies = dict(cookies or {})
        self._lacking_for_socks = lacking_for_socks
        self._netrc = Netrc() if settings.auth == "netrc" else None
        self.proxies = self._new_rotation() if proxies is None else proxies
        self._user_agents = (
            Rotation(settings.user_agents or BROWSER_USER_AGENTS, at_random=True)
            if settings.random_user_agent
            else None
        )
        self._accept_encoding = accept_encoding
        verify = settings.verify_ssl
        self._verify: bool | str = verify if isinstance(verify, bool) else os.fspath(verify)
        if settings.verify_ssl is True and environment.ca_bundle:
            self._verify = environment.ca_bundle

    @property
    def varies(self) -> bool:
        """Whether the Requests of two plain URLs may differ in more than the URL."""
        return bool(
            self.settings.params
            or self.proxies
            or self._user_agents
            or self._netrc
            or (self.settings.proxy is None and self._environment.has_proxies)
        )

    def build(self, url: str, options: Mapping[str, Any], authority: str) -> Request:
        """Return the Request of a URL.

        Args:
            url: The URL, checked; it may have credentials.
            options: The values for it of the options that may differ per URL.
            authority: That of the URL.

        Raises:
            ValidationError: An option is wrong.
        """
        method = _check_method(options["method"])
        user_agent = USER_AGENT if self._user_agents is None else self._user_agents.next()
        headers = {"User-Agent": user_agent, "Accept": "*/*"}
        unwanted = merge_headers(headers, options["headers"])
        self._accept_codings(headers)
        url, credentials = split_user_info(url)
        self._authorize(headers, url, credentials)
        content = encode_body(options["json"], options["data"], headers)
        take_framing(headers, content)
        own_cookies = {} if options["cookies"] is None else check_cookies(options["cookies"])
        add_cookies(headers, {**self._session_cookies, **own_cookies})
        connect, total = _timeouts(options["timeout"])
        proxy_authorization = pop_field(headers, "proxy-authorization")
        for name in unwanted:
            pop_field(headers, name)
        return Request(
            url=add_params(url, options["params"]),
            method=method,
            headers=headers,
            content=content,
            timeout=total,
            connect_timeout=connect,
            proxy=self._proxy_for(url, options["proxy"]),
            verify=self._verify,
            authority=authority,
            proxy_authorization=proxy_authorization,
        )

    def _accept_codings(self, headers: dict[str, str]) -> None:
        if find_field(headers, "accept-encoding") is None:
            # Of a compressed body, a part could not be decompressed.
            is_partial = find_field(headers, "range") is not None
            headers["Accept-Encoding"] = "identity" if is_partial else self._accept_encoding

    def _authorize(self, headers: dict[str, str], url: str, credentials: tuple[str, str] | None) -> None:
        if find_field(headers, "authorization") is not None:
            return
        if credentials is None and isinstance(self.settings.auth, tuple):
            credentials = self.settings.auth
        if credentials is None and self._netrc is not None:
            credentials = self._netrc.credentials_for(urlsplit(url).hostname or "")
        if credentials is not None:
            pair = to_utf8(":".join(credentials), "auth")
            headers["Authorization"] = f"Basic {b64encode(pair).decode('ascii')}"

    def _proxy_for(self, url: str, proxy: object) -> str | None:
        if proxy is False:
            return None
        if proxy is not None:
            return self._check_proxy(proxy)
        if self.proxies is not None:
            return self.proxies.next()
        return self.environment_proxy(url)

    def environment_proxy(self, url: str) -> str | None:
        """Return the proxy that the environment names for a URL, or None.

        Raises:
            ValidationError: It cannot be used.
        """
        proxy = self._environment.proxy_for(url)
        if proxy is None:
            return None
        try:
            return self._check_proxy(proxy)
        except ValidationError as error:
            reason = error.message
        raise ValidationError(f"the proxy that the environment names cannot be used: {reason}", "trust_env")

    def _check_proxy(self, proxy: object) -> str:
        checked = check_proxy(proxy)
        if self._lacking_for_socks is not None and checked.startswith("socks"):
            lacking = self._lacking_for_socks()
            if lacking is not None:
                raise ValidationError(lacking, "proxy")
        return checked

    def _new_rotation(self) -> Rotation | None:
        settings = self.settings
        if not settings.proxies:
            if settings.random_proxy:
                raise ConfigurationError("random_proxy needs proxies to choose from.", "proxies")
            return None
        try:
            proxies = [self._check_proxy(proxy) for proxy in settings.proxies]
        except ValidationError as error:
            wrong = ConfigurationError(str(error), "proxies")
        else:
            return Rotation(proxies, at_random=settings.random_proxy)
        raise wrong


def _check_method(method: object) -> str:
    if not isinstance(method, str) or not TOKEN.fullmatch(method):
        raise ValidationError(f"method must be an HTTP method such as 'GET', not {shown(method)}.", "method")
    if method.upper() == "CONNECT":
        raise ValidationError("CONNECT opens a tunnel and is not a request; use proxy= instead.", "method")
    return method.upper()


def _timeouts(timeout: object) -> tuple[float | None, float | None]:
    """Return the seconds to connect, and for everything."""
    if not is_timeout(timeout):
        raise ValidationError(
            f"timeout must be seconds above 0, a (connect, total) pair or None, not {shown(timeout)}.",
            "timeout",
        )
    if isinstance(timeout, tuple):
        return timeout
    total: Any = timeout
    return (None if total is None else min(total, _CONNECT_TIMEOUT)), total
