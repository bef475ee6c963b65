"""What the environment says about proxies and CA bundles, and the credentials of a netrc file."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from parallel_requests.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from urllib.parse import SplitResult

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Environment:
    """A snapshot of the environment variables that every backend honours.

    Attributes:
        ca_bundle: The file of trusted CAs that a variable names, or None.
    """

    def __init__(self, *, trust: bool = True, variables: Mapping[str, str] | None = None) -> None:
        """Read the variables.

        Args:
            trust: False ignores them all.
            variables: What to read; default ``os.environ``.
        """
        source = dict(os.environ if variables is None else variables) if trust else {}
        self.ca_bundle = next((source[name] for name in _CA_VARIABLES if source.get(name)), None)
        self._proxies: dict[str, str] = {}
        for name in sorted(source):  # so that the lower-case name, which comes last, wins if both are set
            scheme = name.lower().removesuffix("_proxy")
            if scheme == name.lower() or (name == "HTTP_PROXY" and "REQUEST_METHOD" in source):
                continue  # under CGI, HTTP_PROXY may come from a Proxy header of the client
            if source[name]:
                self._proxies[scheme] = source[name]
            else:
                self._proxies.pop(scheme, None)

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL by its scheme, honouring ``NO_PROXY``."""
        if not self._proxies:
            return None
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme) or self._proxies.get("all")
        if proxy is None or self._is_exempt(parts):
            return None
        scheme, _, place = proxy.rpartition("://")
        return f"{scheme or 'http'}://{place.partition('/')[0]}"  # a path has no meaning there

    def _is_exempt(self, parts: SplitResult) -> bool:
        """Whether ``NO_PROXY`` lists a host: its name, the end of its name, its address or its network."""
        from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

        if proxy_bypass_environment(parts.netloc, self._proxies):
            return True
        try:
            address = ipaddress.ip_address(parts.hostname or "")
        except ValueError:
            return False
        return any(address in network for network in _networks_in(self._proxies.get("no", "")))

    @property
    def has_proxies(self) -> bool:
        """Whether any proxy is named at all."""
        return any(scheme != "no" for scheme in self._proxies)


def _networks_in(names: str) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Yield the networks and addresses in a list that may also contain names."""
    for name in names.split(","):
        with contextlib.suppress(ValueError):
            yield ipaddress.ip_network(name.strip().strip("[]"), strict=False)


class Netrc:
    """The credentials of ``~/.netrc`` (or the file ``NETRC`` names).

    Raises:
        ConfigurationError: The file cannot be read or parsed.
    """

    def __init__(self) -> None:
        import netrc

        path = os.environ.get("NETRC")
        try:
            self._entries = netrc.netrc(path)
        except (OSError, netrc.NetrcParseError) as error:
            reason = str(error)
        else:
            return
        raise ConfigurationError(f"auth='netrc' needs a readable netrc file: {reason}.", "auth")

    def credentials_for(self, host: str) -> tuple[str, str] | None:
        """Return the (user, password) for a host, or None."""
        entry = self._entries.authenticators(host)
        return (entry[0], entry[2] or "") if entry else None
