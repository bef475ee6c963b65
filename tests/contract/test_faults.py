"""One fault becomes one typed error on one item, retried or not as promised."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import ReturnType, exceptions
from parallel_requests.backends.body import ACCEPT_ENCODING
from tests.server.fault_cases import FAULT_CASES, FaultCase
from tests.server.faults import FaultServer, read_request, repeat, response, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests.models import Result
    from parallel_requests.session import ParallelSession
    from tests.server.control import Server
    from tests.server.tls import Certificates

_QUICK = 0.2
"""The timeout of calls that run into it."""
_PATIENCE = 0.25
"""Seconds an attempt may last beyond its timeout."""
_MORE_THAN_ONE_ATTEMPT = frozenset({18, 20, 25})
"""Rows that redirect; and whether a proxy that refuses is asked again is up to the retry policy."""
_SECRETS = ("secret-token", "secret-cookie")


def call(session: ParallelSession, case: FaultCase, url: str, options: dict[str, Any]) -> Result[Any]:
    """The Result of one call; JSON is decoded only where the fault is in the JSON."""
    return_type = ReturnType.JSON if case.error == "DecodeError" else ReturnType.CONTENT
    data = "something" if case.method == "POST" else None
    [result] = session.iter_results([url], method=case.method, data=data, return_type=return_type, **options)
    return result


@pytest.mark.parametrize("case", FAULT_CASES, ids=str)
def test_a_fault_is_one_typed_error(
    case: FaultCase, open_session: Callable[..., ParallelSession], certificates: Certificates
) -> None:
    if case.coding is not None and case.coding not in ACCEPT_ENCODING:
        pytest.skip(f"{case.coding} is not announced here")
    timeout = _QUICK if case.error == "RequestTimeout" else case.timeout
    with case.server(certificates) as server:
        options: dict[str, Any] = {
            "timeout": timeout,
            "verify_ssl": str(certificates.ca_file),
            **case.options,
        }
        if case.as_proxy:
            options["proxy"] = server.url()
        session = open_session()
        for _ in range(case.warm_up):
            session.get(server.url(), return_type="content")
        began = time.monotonic()
        result = call(session, case, case.url(server), options)
        took = time.monotonic() - began
        sent = len(server.requests) - case.warm_up
        connections = server.connections

    if case.error is None:
        assert result.error is None
        assert result.value == case.body
    else:
        error = result.error
        if isinstance(error, exceptions.RetryExhaustedError):
            assert error.__cause__ is error.last_error
            error = error.last_error  # type: ignore[assignment]
        assert isinstance(error, getattr(exceptions, case.error)), repr(error)
        assert not any(secret in str(error) for secret in _SECRETS)
    assert result.attempts == (2 if case.retried else result.attempts)
    if case.error == "RequestTimeout":
        assert took <= result.attempts * (timeout + _PATIENCE)
    if not case.retried and case.row not in _MORE_THAN_ONE_ATTEMPT:
        assert result.attempts == 1
        assert sent <= 1
    if case.row == 5:
        assert connections == 1, "informational answers are no reason to give a connection up"
    if case.row == 20:
        assert [set(request.headers) & {"authorization", "cookie"} for request in server.requests] == [
            {"authorization", "cookie"},
            set(),
        ]


def test_a_refused_connection(session: ParallelSession) -> None:
    from tests.server.faults import refusing_port

    with refusing_port() as port:
        [result] = session.iter_results([f"http://127.0.0.1:{port}/"])
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert type(result.error.last_error) is exceptions.ConnectError
    assert result.attempts == 2


def test_a_name_that_does_not_exist(session: ParallelSession) -> None:
    [result] = session.iter_results(["http://no-such-host.invalid/"])
    assert isinstance(result.error, exceptions.RetryExhaustedError)
    assert isinstance(result.error.last_error, exceptions.DNSError)
    assert result.attempts == 2


def test_an_address_this_machine_does_not_speak_is_passed_over(
    session: ParallelSession, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an IPv6 one is where there is no IPv6: the name's next address is the one to connect to."""
    look_up = socket.getaddrinfo

    def with_a_strange_one_first(*arguments: Any, **options: Any) -> list[Any]:
        found = look_up(*arguments, **options)
        return [(socket.AF_APPLETALK, *found[0][1:]), *found]

    with pytest.raises(OSError, match="not supported"):
        socket.socket(socket.AF_APPLETALK, socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", with_a_strange_one_first)
    assert session.request(server.url("/id/1")) == {"id": 1}


def test_a_process_without_a_socket_left(backend: str, open_session: Callable[..., ParallelSession]) -> None:
    # libcurl does not tell why there is no connection.
    kind = exceptions.ConnectError if backend == "curl" else exceptions.ResourceExhausted
    answers = [repeat(read_request(), send(response(b"fine")))]
    with FaultServer(answers) as known, FaultServer(answers) as other:
        session = open_session(max_retries=0, retry=None)
        session.get(known.url(), return_type="content")
        with every_descriptor_taken():
            [result] = session.iter_results([other.url()], return_type="content")
        assert type(result.error) is kind
        assert other.connections == 0
        assert session.get(other.url(), return_type="content") == b"fine"


@contextlib.contextmanager
def every_descriptor_taken() -> Iterator[None]:
    """Let this process open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    with contextlib.ExitStack() as taken:
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.callback(os.close, os.dup(0))
        yield
