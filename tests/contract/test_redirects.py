"""Redirects: which are followed, what they keep, and what they must drop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from parallel_requests import exceptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.session import ParallelSession
    from tests.server.control import Server


def test_redirects_are_followed(session: ParallelSession, server: Server) -> None:
    response = session.request(server.url("/redirect/3"), return_type="response")
    assert response.url == server.url("/get")
    assert [past.status_code for past in response.history] == [302, 302, 302]
    assert session.request(server.url("/absolute-redirect/2"), return_type="response").url == server.url(
        "/get"
    )


def test_redirects_are_not_followed_if_switched_off(session: ParallelSession, server: Server) -> None:
    response = session.request(server.url("/redirect/1"), return_type="response", follow_redirects=False)
    assert response.status_code == 302
    assert response.headers["location"] == "/get"


def test_row_18_too_many_redirects_are_an_error_with_their_history(
    session: ParallelSession, server: Server
) -> None:
    with pytest.raises(exceptions.RedirectError) as refused:
        session.request(server.url("/redirect/9"), max_redirects=3)
    assert len(refused.value.history) == 4


@pytest.mark.parametrize(
    ("status", "method", "body"), [(302, "GET", ""), (303, "GET", ""), (307, "POST", "x")]
)
def test_the_status_decides_whether_a_redirected_post_stays_one(
    session: ParallelSession, server: Server, status: int, method: str, body: str
) -> None:
    url = server.url(f"/redirect-to?url=/anything&status_code={status}")
    told = session.post(url, data="x")
    assert (told["method"], told["data"]) == (method, body)


def test_row_21_redirects_to_private_hosts_are_refused_if_forbidden(
    open_session: Callable[..., ParallelSession], server: Server
) -> None:
    session = open_session(allow_private_hosts=False)
    with pytest.raises(exceptions.RedirectError):
        session.request(server.url("/absolute-redirect/1"))
    assert server.stats().requests == 1
