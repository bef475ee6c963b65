"""A certificate authority for the tests, and certificates good and bad."""

from __future__ import annotations

import datetime as dt
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path

# The hosts of the reference documents, so that their URLs verify through a proxy.
PLAYED_HOSTS = ("httpbin.org", "api.github.com", "api.example.com")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1", *(f"127.0.0.{n}" for n in range(2, 65)))


@dataclass(frozen=True)
class Identity:
    """A certificate chain and its key, as PEM files."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """A TLS context for a server that shows this identity."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.set_alpn_protocols(["http/1.1"])
        return context


@dataclass(frozen=True)
class Certificates:
    """Identities to serve with.

    Attributes:
        ca_file: The authority that signed all but ``unknown_ca``.
        good: For the loopback addresses, localhost and ``PLAYED_HOSTS``.
        unknown_ca: For the same names, from an authority nobody trusts.
        wrong_host: For another name.
        expired: For the right names, in the past.
    """

    ca_file: Path
    good: Identity
    unknown_ca: Identity
    wrong_host: Identity
    expired: Identity


def issue_certificates(folder: Path) -> Certificates:
    """Make an authority and its certificates, as PEM files in ``folder``."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    names = (*_LOCAL_NAMES, *PLAYED_HOSTS)
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    expired = authority.issue_cert(*names, not_before=yesterday - dt.timedelta(days=30), not_after=yesterday)
    return Certificates(
        ca_file=ca_file,
        good=_write(folder, "good", authority.issue_cert(*names)),
        unknown_ca=_write(folder, "unknown_ca", trustme.CA().issue_cert(*names)),
        wrong_host=_write(folder, "wrong_host", authority.issue_cert("elsewhere.example")),
        expired=_write(folder, "expired", expired),
    )


def _write(folder: Path, name: str, leaf: trustme.LeafCert) -> Identity:
    identity = Identity(folder / f"{name}.pem", folder / f"{name}.key")
    identity.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(identity.key)
    return identity
