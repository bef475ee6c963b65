"""Fixtures every test may use: backends, servers, certificates, a clean environment, a leak check."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from parallel_requests.backends.registry import BACKEND_NAMES, is_installed
from parallel_requests.session import ParallelSession
from tests.lateness import Lateness
from tests.leaks import Census
from tests.server.control import Server
from tests.server.faults import FaultServer
from tests.server.proxy import Proxy
from tests.server.socks import SocksProxy
from tests.server.tls import Certificates, issue_certificates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY_HOSTS = tuple(f"127.0.0.{number}" for number in range(2, 32))
SERVER_FIXTURES = frozenset({"server", "tls_server", "h2_server", "h3_server", "many_hosts"})
ENVIRONMENT_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NETRC",
)

# Always the same examples, however long they take. To look for others: --hypothesis-profile default
settings.register_profile(
    "steady", database=None, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


# -- around every test


def pytest_configure() -> None:
    """Let Ctrl-C work in the programs that tests start, even if the tests run in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind."""
    before = Census.take()
    yield
    leftovers = before.leftovers()
    assert not leftovers, f"left behind: {', '.join(leftovers)}"


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Keep the machine's proxies and CA bundles out of all tests and servers; a test may set its own."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ENVIRONMENT_VARIABLES:
            environment.delenv(name, raising=False)
            environment.delenv(name.lower(), raising=False)
        yield


@pytest.fixture(autouse=True)
def fresh_counts(request: pytest.FixtureRequest) -> None:
    """Reset the counts of the servers that a test uses."""
    for name in SERVER_FIXTURES.intersection(request.fixturenames):
        request.getfixturevalue(name).reset()


@pytest.fixture
def lateness() -> Iterator[Lateness]:
    """How late this process ran because of the machine."""
    with Lateness() as measured:
        yield measured


# -- backends, and sessions over them


@pytest.fixture(
    params=[
        # Installed in the second environment alone, which runs what is marked so.
        pytest.param(name, marks=pytest.mark.niquests) if name == "niquests" else name
        for name in BACKEND_NAMES
        if is_installed(name)
    ]
)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend: of each one installed in turn, or of those a test is parametrised with."""
    name: str = request.param
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def open_session(backend: str) -> Iterator[Callable[..., ParallelSession]]:
    """``open_session(**options)`` opens a session over the backend; it is closed with the test."""
    with contextlib.ExitStack() as opened:

        def start(**options: Any) -> ParallelSession:
            return opened.enter_context(ParallelSession(**{"backend": backend, **options}))

        yield start


@pytest.fixture(params=["uvloop", "asyncio"])
def loop_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test on uvloop's event loop, and on the standard library's; to be taken before a session."""
    kind: str = request.param
    if kind == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)
    else:
        pytest.importorskip("uvloop")
    return kind


# -- servers in processes of their own, one of each kind a session


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority of our own, with good and bad certificates."""
    return issue_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Plain HTTP/1.1."""
    with Server() as running:
        yield running


@pytest.fixture(scope="session")
def tls_server(certificates: Certificates) -> Iterator[Server]:
    """HTTP/1.1 over TLS; trust its ``ca_file``."""
    with Server(identity=certificates.good, ca_file=certificates.ca_file) as running:
        yield running


@pytest.fixture(scope="session")
def h2_server(certificates: Certificates) -> Iterator[Server]:
    """HTTP/2 over TLS, and HTTP/1.1 for clients without it; trust its ``ca_file``."""
    with Server("tests.server.h2", identity=certificates.good, ca_file=certificates.ca_file) as running:
        yield running


@pytest.fixture(scope="session")
def h3_server(certificates: Certificates) -> Iterator[Server]:
    """HTTP/3 over QUIC only; trust its ``ca_file``."""
    with Server("tests.server.h3", identity=certificates.good, ca_file=certificates.ca_file) as running:
        yield running


@pytest.fixture(scope="session")
def many_hosts() -> Iterator[Server]:
    """Plain HTTP/1.1 on 30 addresses, one base URL each in ``urls``."""
    with Server(addresses=MANY_HOSTS) as running:
        yield running


# -- servers in threads, one a call, ended with the test


@pytest.fixture
def fault_server() -> Iterator[Callable[..., FaultServer]]:
    """``fault_server(script, ...)`` starts a FaultServer."""
    with contextlib.ExitStack() as running:

        def start(*scripts: Any, **options: Any) -> FaultServer:
            return running.enter_context(FaultServer(*scripts, **options))

        yield start


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """``proxy(credentials=..., resolve=...)`` starts a forward proxy."""
    with contextlib.ExitStack() as running:

        def start(**options: Any) -> Proxy:
            return running.enter_context(Proxy(**options))

        yield start


@pytest.fixture
def socks_proxy() -> Iterator[Callable[..., SocksProxy]]:
    """``socks_proxy(credentials=..., resolve=..., refusal=...)`` starts a SOCKS proxy."""
    with contextlib.ExitStack() as running:

        def start(**options: Any) -> SocksProxy:
            return running.enter_context(SocksProxy(**options))

        yield start
