"""What users of requests already have: mocks, adapters, hooks, auth."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("requests")

import requests
import responses
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth

from parallel_requests import exceptions
from parallel_requests.backends.requests import RequestsBackend
from parallel_requests.session import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.control import Server
    from tests.server.faults import FaultServer
    from tests.server.tls import Certificates


@responses.activate
def test_users_mocks_with_responses_work() -> None:
    responses.get("http://mocked.example/users", json={"name": "one"})
    responses.post(
        "http://mocked.example/users",
        json={"id": 7},
        status=201,
        match=[responses.matchers.json_params_matcher({"name": "two"})],
    )
    responses.get("http://mocked.example/down", body=requests.ConnectionError("down"))
    with ParallelSession(backend="requests", max_retries=0) as session:
        assert session.request(["http://mocked.example/users"] * 3) == [{"name": "one"}] * 3
        created = session.post("http://mocked.example/users", json={"name": "two"}, return_type="response")
        assert (created.status_code, created.json()) == (201, {"id": 7})
        with pytest.raises(exceptions.BackendError, match="down"):
            session.request("http://mocked.example/down")
    assert len(responses.calls) == 5


@responses.activate
@pytest.mark.parametrize("kind", [requests.Timeout, requests.ReadTimeout, requests.ConnectTimeout])
def test_a_timeout_that_a_mock_raises_is_a_timeout(kind: type[Exception]) -> None:
    responses.get("http://mocked.example/slow", body=kind("too slow"))
    session = ParallelSession(backend="requests", max_retries=0)
    with session, pytest.raises(exceptions.RequestTimeout, match="too slow"):
        session.request("http://mocked.example/slow")


def test_a_mounted_adapter_is_used(server: Server) -> None:
    class Stamping(HTTPAdapter):
        def add_headers(self, request: Any, **kwargs: Any) -> None:
            request.headers["X-Stamp"] = "stamped"

    with requests.Session() as mine:
        mine.mount("http://", Stamping())
        with ParallelSession(backend=RequestsBackend(session=mine)) as session:
            assert session.request(server.url("/headers"))["headers"]["X-Stamp"] == "stamped"


def test_hooks_and_auth_are_used(server: Server) -> None:
    seen: list[int] = []

    def hook(response: requests.Response, *args: object, **kwargs: object) -> None:
        seen.append(response.status_code)

    with requests.Session() as mine:
        mine.auth = ("user", "password")
        mine.hooks["response"].append(hook)
        with ParallelSession(backend=RequestsBackend(session=mine)) as session:
            assert session.request(server.url("/basic-auth/user/password"))["authenticated"]
            told = session.request(server.url("/bearer"), headers={"Authorization": "Bearer own"})
            assert told["token"] == "own"
    assert seen == [200, 200]


def test_auth_may_answer_a_challenge(fault_server: Callable[..., FaultServer]) -> None:
    from tests.server.faults import read_request, response, send

    challenge = response(
        b"", 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"', status="401 Unauthorized"
    )
    server = fault_server([read_request(), send(challenge), read_request(), send(response(b'"in"'))])
    with requests.Session() as mine:
        mine.auth = HTTPDigestAuth("user", "password")
        with ParallelSession(backend=RequestsBackend(session=mine)) as session:
            assert session.request(server.url()) == "in"
    assert server.requests[1].headers["authorization"].startswith('Digest username="user"')


def test_the_sessions_auth_stays_with_its_origin(fault_server: Callable[..., FaultServer]) -> None:
    from tests.server.faults import read_request, redirect, repeat, response, send

    elsewhere = fault_server([repeat(read_request(), send(response(b"1")))])
    server = fault_server([read_request(), redirect(f"http://127.0.0.1:{elsewhere.port}/")])
    with requests.Session() as mine:
        mine.auth = ("user", "password")
        with ParallelSession(backend=RequestsBackend(session=mine)) as session:
            assert session.request(server.url()) == 1
    assert "authorization" in server.requests[0].headers
    assert "authorization" not in elsewhere.requests[0].headers


def test_the_sessions_client_certificate_is_shown(
    fault_server: Callable[..., FaultServer], certificates: Certificates
) -> None:
    from tests.server.faults import read_request, response, send

    identity, ca_file = certificates.good, str(certificates.ca_file)
    asking = identity.server_context()
    asking.verify_mode = ssl.CERT_REQUIRED
    asking.load_verify_locations(ca_file)
    server = fault_server([read_request(), send(response(b'"known"'))], tls=asking)
    with requests.Session() as mine:
        mine.cert = (str(identity.certificate), str(identity.key))
        with ParallelSession(backend=RequestsBackend(session=mine), verify_ssl=ca_file) as session:
            assert session.request(server.url()) == "known"


def test_the_users_session_is_not_closed(server: Server) -> None:
    closed: list[bool] = []

    class Noting(HTTPAdapter):
        def close(self) -> None:
            closed.append(True)
            super().close()

    with requests.Session() as mine:
        mine.mount("http://", Noting())
        with ParallelSession(backend=RequestsBackend(session=mine)) as session:
            session.request(server.url("/static"))
        assert not closed
