"""What users' tests put in place of the network: mocks, guards against real calls, name look-ups."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests.exceptions import RequestTimeout
from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from tests.server.control import Server

on_threads = pytest.mark.parametrize(
    "backend",
    [pytest.param("niquests", marks=pytest.mark.niquests), "requests", "urllib3"],
    indirect=True,
)

PROGRAM = """
import socket
import sys

from parallel_requests import parallel_requests

backend, url, *order = sys.argv[1:]
is_free = socket.socket


class IsBlocked(socket.socket):
    def __new__(cls, *arguments, **options):
        raise RuntimeError("it is blocked")


for name in order:
    socket.socket = globals()[name]
    try:
        print(parallel_requests(url, backend=backend, max_retries=0))
    except Exception as error:  # urllib3-future opens a socket while it is imported
        print("it is blocked" in str(error))
"""


@pytest.mark.parametrize("order", [("IsBlocked", "is_free"), ("is_free", "IsBlocked")], ids=" then ".join)
@on_threads
def test_sockets_are_blocked_while_a_test_blocks_them_and_no_longer(
    order: tuple[str, ...], backend: str, server: Server
) -> None:
    """As pytest-socket does, which may be in place when a backend is first used."""
    command = [sys.executable, "-c", PROGRAM, backend, server.url("/id/1"), *order]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    outcomes = {"is_free": "{'id': 1}", "IsBlocked": "True"}
    assert done.stdout.splitlines() == [outcomes[name] for name in order]


@on_threads
def test_a_timeout_holds_on_a_connection_opened_before_sockets_were_blocked(
    backend: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blocked(socket.socket):
        pass

    with ParallelSession(backend=backend, concurrency=1, max_retries=0) as session:
        session.get(server.url("/id/1"))
        monkeypatch.setattr(socket, "socket", Blocked)
        with pytest.raises(RequestTimeout):
            session.get(server.url("/hang"), timeout=0.3)
        assert server.stats().connections == 1


@on_threads
def test_a_name_look_up_of_the_users_is_used(
    backend: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One written for requests may take positional arguments only."""
    look_up = socket.getaddrinfo
    asked: list[Any] = []

    def pinned(*arguments: Any) -> list[Any]:
        asked.append(arguments[0])
        return look_up("127.0.0.1", *arguments[1:])

    monkeypatch.setattr(socket, "getaddrinfo", pinned)
    _, port = server.address
    with ParallelSession(backend=backend) as session:
        assert session.get(f"http://pinned.test:{port}/id/1") == {"id": 1}
    assert asked == ["pinned.test"]
