"""Bodies, whatever backend hands over their bytes."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest

from parallel_requests.backends.body import Body
from parallel_requests.exceptions import ProtocolError, RequestTimeout, TruncatedBody
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


PLAIN = bytes(range(256)) * 100
CODED = {
    "gzip": ("gzip", gzip.compress(PLAIN)),
    "deflate": ("deflate", zlib.compress(PLAIN)),
    "raw deflate": ("deflate", zlib.compress(PLAIN, wbits=-zlib.MAX_WBITS)),
}


@pytest.mark.parametrize("case", CODED)
def test_a_coded_body_may_come_byte_by_byte(case: str) -> None:
    coding, coded = CODED[case]
    body = new_body({"content-encoding": coding})
    for number in range(len(coded)):
        body.feed(coded[number : number + 1])
    assert body.finish() == PLAIN


@pytest.mark.parametrize("case", CODED)
def test_a_coded_body_of_one_byte_is_truncated(case: str) -> None:
    coding, coded = CODED[case]
    body = new_body({"content-encoding": coding})
    body.feed(coded[:1])
    with pytest.raises(TruncatedBody):
        body.finish()


def test_after_its_first_bytes_a_deflated_body_is_not_taken_for_a_raw_one() -> None:
    body = new_body({"content-encoding": "deflate"})
    body.feed(CODED["deflate"][1][:-4])  # only its checksum is missing
    with pytest.raises(ProtocolError):
        body.feed(CODED["raw deflate"][1])


def test_decoding_ends_with_the_time_of_its_attempt() -> None:
    clock = ManualClock()
    body = new_body({"content-encoding": "gzip"}, timeout=1.0, pacer=Pacer(clock=clock))
    coded = gzip.compress(b"whole")
    body.feed(coded[:-1])
    clock.advance(1.0)
    with pytest.raises(RequestTimeout):
        body.feed(coded[-1:])
