"""Bodies, whatever backend hands over their bytes."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from parallel_requests.backends.body import Body
from parallel_requests.exceptions import RequestTimeout, TruncatedBody
from parallel_requests.exchange import Send
from parallel_requests.gates.pacing import Pacer
from parallel_requests.models import Headers, Request
from parallel_requests.policy import Policy
from tests.unit.clock import ManualClock


def new_body(fields: dict[str, str], *, timeout: float | None = None, **options: Any) -> Body:
    policy = Policy(**options)
    send = Send(Request("http://a.test/"), timeout, policy, began_at=policy.pacer.clock())
    return Body(send, 200, Headers(fields))


def test_a_body_shorter_than_announced_is_truncated() -> None:
    body = new_body({"content-length": "5"})
    body.feed(b"1234")
    with pytest.raises(TruncatedBody):
        body.finish()


def test_an_empty_body_may_have_a_content_coding() -> None:
    assert new_body({"content-length": "0", "content-encoding": "gzip"}).finish() == b""


def test_decoding_ends_with_the_time_of_its_attempt() -> None:
    clock = ManualClock()
    body = new_body({"content-encoding": "gzip"}, timeout=1.0, pacer=Pacer(clock=clock))
    coded = gzip.compress(b"whole")
    body.feed(coded[:-1])
    clock.advance(1.0)
    with pytest.raises(RequestTimeout):
        body.feed(coded[-1:])
