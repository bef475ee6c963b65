"""The waits that servers ask for: what is understood, and what is ignored."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.gates.rate_limit_headers import parse_delay, parse_quota
from parallel_requests.models import Headers
from tests.unit.driving import WALL_TIME

if TYPE_CHECKING:
    from collections.abc import Iterator


def wall_clock() -> float:
    return WALL_TIME


# -- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        (formatdate(WALL_TIME + 90, usegmt=True), 90.0),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),  # RFC 850
        ("Tue Nov 14 22:14:20 2023", 60.0),  # asctime, which is GMT though it does not say so
    ],
)
def test_retry_after_is_read_in_both_forms(value: str, seconds: float) -> None:
    assert parse_delay(value, wall_clock) == pytest.approx(seconds)


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is not GMT."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "<+0545>-05:45")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
@pytest.mark.parametrize("date", ["Tue Nov 14 22:14:20 2023", "Tue, 14 Nov 2023 22:14:20 GMT"])
def test_a_date_is_in_gmt_wherever_the_client_is(date: str) -> None:
    assert parse_delay(date, wall_clock) == pytest.approx(60.0)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "abc",
        "-1",
        "+5",
        "1e3",
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "9" * 5_000,
        "9" * 17,
        "1,2",
        "12 seconds",
        "Wed, 21 Oct 1999 07:28:00 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Wed, 99 Foo 2099 99:99:99 GMT",
        "Fri, 31 Dec 0000 00:00:00 GMT",
        "Fri, 31 Dec 99999 23:59:59 GMT",
        "1 Jan 2099 00:00:00 +99999999999999999",
        "\x00",
    ],
)
def test_nonsense_is_ignored(value: str) -> None:
    assert parse_delay(value, wall_clock) is None


@given(
    st.text(max_size=50)
    | st.from_regex(r"\A[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{1,6} [\d:]{1,9} ?[A-Z+-]{0,5}\d*\Z")
)
def test_whatever_a_server_sends_is_a_delay_or_nothing(value: str) -> None:
    seconds = parse_delay(value, wall_clock)
    assert seconds is None or 0.0 <= seconds < float("inf")


# -- quotas


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        # The draft, one member a quota.
        ({"RateLimit": '"default";r=0;t=30'}, 30.0),
        ({"RateLimit": '"default";r=50;t=30'}, None),
        ({"RateLimit": '"burst";r=5;t=1, "daily";r=0;t=60'}, 60.0),
        ({"RateLimit": '"a";r=0;t=5, "b";r=0;t=9'}, 9.0),
        ({"RateLimit": '"a";r=0;t=9, "b";r=0;t=5'}, 9.0),
        ({"RateLimit": '"a";r=0;t=0'}, 0.0),
        ({"RateLimit": '"default";t=30;r=0'}, 30.0),
        ({"RateLimit": '"default";r=0'}, None),
        ({"RateLimit": '"default";t=30'}, None),
        # Its earlier forms.
        ({"RateLimit": "limit=10, remaining=0, reset=7"}, 7.0),
        ({"RateLimit": "limit=10, remaining=3, reset=7"}, None),
        ({"RateLimit-Limit": "10", "RateLimit-Remaining": "0", "RateLimit-Reset": "4"}, 4.0),
        ({"RateLimit-Remaining": "1", "RateLimit-Reset": "4"}, None),
        # What most servers send.
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "12"}, 12.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(WALL_TIME) + 60)}, 60.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(WALL_TIME) - 60)}, None),
        ({"X-RateLimit-Remaining": "9", "X-RateLimit-Reset": "12"}, None),
        ({"X-RateLimit-Remaining": "0 ", "X-RateLimit-Reset": "12 "}, 12.0),
        ({"X-Rate-Limit-Remaining": "0", "X-Rate-Limit-Reset": "3"}, 3.0),
        ({"X-RateLimit-Remaining": "0.0", "X-RateLimit-Reset": "12"}, 12.0),
        ({"X-RateLimit-Remaining": "0.5", "X-RateLimit-Reset": "12"}, None),
        # Nonsense.
        ({"RateLimit": "r=-1;t=x"}, None),
        ({"RateLimit": ";;;,,,==="}, None),
        ({"RateLimit": '"default";r=0.5;t=30'}, None),
        ({"RateLimit": '"default";r=00000000001;t=30'}, None),
        ({"RateLimit": '"default";r=0;t=99999999999'}, None),
        ({"X-RateLimit-Remaining": "none", "X-RateLimit-Reset": "12"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "soon"}, None),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "9" * 5_000}, None),
        ({"X-RateLimit-Remaining": "0"}, None),
    ],
)
def test_a_spent_quota_is_a_wait_in_every_dialect(fields: dict[str, str], seconds: float | None) -> None:
    assert parse_quota(Headers(fields), wall_clock) == seconds


@given(
    st.dictionaries(
        st.sampled_from(["ratelimit", "x-ratelimit-remaining", "x-ratelimit-reset"]), st.text(max_size=40)
    )
)
def test_whatever_quota_a_server_sends_is_a_delay_or_nothing(fields: dict[str, str]) -> None:
    seconds = parse_quota(Headers(fields), wall_clock)
    assert seconds is None or 0.0 <= seconds < float("inf")
