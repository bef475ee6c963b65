"""What lasts from one call to the next: cookies, connections; and what redirects keep."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from parallel_requests import exceptions
from parallel_requests.aio import ParallelRequests
from parallel_requests.session import ParallelSession
from tests.leaks import open_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.server.control import Server


def test_cookies_last_across_batches(session: ParallelSession, server: Server) -> None:
    session.set_cookies({"own": "1"})
    session.request(server.url("/cookies/set?theirs=2"))
    assert session.request(server.url("/cookies"))["cookies"] == {"own": "1", "theirs": "2"}
    told = session.request([server.url("/cookies")] * 3)
    assert [answer["cookies"] for answer in told] == [{"own": "1", "theirs": "2"}] * 3
    session.reset_cookies()
    assert session.request(server.url("/cookies"))["cookies"] == {}


def test_cookies_stay_with_their_session(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    first, second = open_session(), open_session()
    first.request(server.url("/cookies/set?a=1"))
    assert second.request(server.url("/cookies"))["cookies"] == {}


def test_connections_are_kept(session: ParallelSession, server: Server) -> None:
    for _ in range(5):
        session.request(server.url("/conn"))
    assert server.stats().connections == 1


def test_a_connection_with_an_unread_body_is_not_used_again(session: ParallelSession, server: Server) -> None:
    with pytest.raises(exceptions.BodyTooLarge):
        session.request(server.url("/stream-bytes/300000"), return_type="content", max_response_size=1_000)
    assert session.request(server.url("/id/5")) == {"id": 5}


def test_closing_gives_every_socket_back(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    before = open_sockets()
    session = open_session()
    session.request([server.url("/delay/0.05")] * 20)
    session.close()
    assert open_sockets() <= before


def test_a_closed_session_sends_nothing(session: ParallelSession, server: Server) -> None:
    session.close()
    with pytest.raises(exceptions.RunStoppedError):
        session.request([server.url("/id/1")])
    with pytest.raises(exceptions.RunStoppedError):
        next(session.iter_results([server.url("/id/1")]))
    session.close()
    assert server.stats().requests == 0


def test_a_client_hands_out_its_session_where_nothing_can_be_awaited(backend: str, server: Server) -> None:
    with ParallelRequests(backend=backend) as session:
        assert session.request(server.url("/id/1")) == {"id": 1}
    with pytest.raises(exceptions.RunStoppedError):
        session.request(server.url("/id/2"))


def test_a_session_that_was_left_open_is_told_of_and_closed(
    backend: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where warnings are errors, as in these tests, too; a thread left behind would hold up the exit."""
    session = ParallelSession(backend=backend)
    session.request(server.url("/id/1"))
    with pytest.warns(ResourceWarning, match=f"backend={backend} .* was not closed"):
        del session
    session = ParallelSession(backend=backend)
    session.request(server.url("/id/2"))
    raised: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_type))
    del session
    assert raised == [ResourceWarning]


def test_redirects_are_followed(session: ParallelSession, server: Server) -> None:
    response = session.request(server.url("/redirect/3"), return_type="response")
    assert response.url == server.url("/get")
    assert [past.status_code for past in response.history] == [302, 302, 302]
    assert session.request(server.url("/absolute-redirect/2"), return_type="response").url == server.url(
        "/get"
    )


def test_redirects_are_left_alone_where_told_so(session: ParallelSession, server: Server) -> None:
    response = session.request(server.url("/redirect/1"), return_type="response", follow_redirects=False)
    assert response.status_code == 302
    assert response.headers["location"] == "/get"


def test_too_many_redirects(session: ParallelSession, server: Server) -> None:
    with pytest.raises(exceptions.RedirectError) as refused:
        session.request(server.url("/redirect/9"), max_redirects=3)
    assert len(refused.value.history) == 4


@pytest.mark.parametrize(
    ("status", "method", "body"), [(302, "GET", ""), (303, "GET", ""), (307, "POST", "x")]
)
def test_what_a_redirected_post_becomes(
    session: ParallelSession, server: Server, status: int, method: str, body: str
) -> None:
    url = server.url(f"/redirect-to?url=/anything&status_code={status}")
    told = session.post(url, data="x")
    assert (told["method"], told["data"]) == (method, body)
