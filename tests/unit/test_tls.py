"""Whom ``verify_ssl`` trusts: the system's CAs, certifi's if there are none, those of a file or folder."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING

import pytest

from parallel_requests.backends.tls import ssl_context
from parallel_requests.exceptions import TLSError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.tls import Certificates


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where OpenSSL would look for the system's CAs: in a file ``cert.pem`` and a folder ``certs``."""
    file, folder = str(tmp_path / "cert.pem"), str(tmp_path / "certs")
    paths = ssl.DefaultVerifyPaths(file, folder, "SSL_CERT_FILE", file, "SSL_CERT_DIR", folder)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    return tmp_path


def trusted(context: ssl.SSLContext) -> int:
    """The number of loaded CAs; those in a folder are loaded when they are needed."""
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    return context.cert_store_stats()["x509_ca"]


def test_the_systems_file_is_trusted(system: Path, certificates: Certificates) -> None:
    (system / "cert.pem").write_bytes(certificates.ca_file.read_bytes())
    assert trusted(ssl_context(True)) == 1


def test_the_systems_folder_is_trusted(system: Path, certificates: Certificates) -> None:
    (system / "certs").mkdir()
    (system / "certs" / "ca.pem").write_bytes(certificates.ca_file.read_bytes())
    assert trusted(ssl_context(True)) == 0


@pytest.mark.parametrize("has_folder", [False, True])
def test_certifi_is_trusted_if_the_system_has_no_cas(system: Path, has_folder: bool) -> None:
    pytest.importorskip("certifi")
    if has_folder:
        (system / "certs").mkdir()
    assert trusted(ssl_context(True)) > 50


def test_without_certifi_openssl_looks_for_cas(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "certifi", None)
    trusted(ssl_context(True))


def test_a_file_that_has_gone_is_a_tls_error(tmp_path: Path) -> None:
    with pytest.raises(TLSError, match=r"gone\.pem cannot be read"):
        ssl_context(str(tmp_path / "gone.pem"))


def test_certificates_are_not_checked_if_switched_off() -> None:
    context = ssl_context(False)
    assert context.verify_mode == ssl.CERT_NONE
    assert not context.check_hostname
