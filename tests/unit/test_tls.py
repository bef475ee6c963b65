"""Whom ``verify_ssl`` trusts: the system, certifi or what is given; and that no TLS socket is left behind."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
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


def test_the_first_connection_chooses_the_protocols_that_all_others_offer(certificates: Certificates) -> None:
    """Setting them again would free what another thread, about to connect, may just be copying."""
    context = ssl_context(str(certificates.ca_file))
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.set_alpn_protocols(["spdy/3"])
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(received, sent, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    client_hello = sent.read()
    assert b"\x02h2\x08http/1.1" in client_hello
    assert b"spdy" not in client_hello


def test_a_connection_adds_no_cas(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    context = ssl_context(str(tmp_path))
    context.load_default_certs()
    assert trusted(context) == 0


def test_a_connection_that_is_reset_before_tls_begins_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    descriptor = client.fileno()
    select.select([client], [], [])
    with pytest.raises(ConnectionError) as caught:
        ssl_context(verify=False, uses=id).wrap_socket(client)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    del caught  # its traceback has kept the socket from being closed by the garbage collector
