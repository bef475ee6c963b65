"""What may go wrong and what is promised then, by the numbers in names of tests and fault cases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.server.fault_cases import FAULT_CASES

PROMISES = {
    0: "whatever comes over the wire is one typed error on one item, or the right answer",
    1: "a body short of its Content-Length is cut, in content, stream and file, and asked for again",
    2: "a chunked body that ends too soon is cut; one with a wrong size is malformed, not asked for again",
    3: "a compressed body that ends too soon is cut, whatever its length says",
    5: "interim answers are passed over, and the connection stays in step",
    6: "a wrong or contradictory length is malformed, and its connection is not used again",
    7: "a server that trickles is left at the timeout",
    8: "a server that falls silent is left at the timeout, and asked again",
    9: "a wait beyond the cap or the deadline fails at once, with the answer",
    10: "a kept connection the server has just closed costs one free replay, of a POST if that is allowed",
    11: "a reset in the middle of a body cuts it",
    12: "a refused connection is tried again, a name that is not found once more",
    13: "a certificate that is not to be trusted ends the call, and nothing is tried in its place",
    14: "the handshake is in the part of the timeout that is for connecting",
    17: "many hosts and few workers neither hang nor open more connections than they use",
    18: "redirects in a circle, or too many of them, are an error with their history",
    20: "credentials stay with their origin: headers, cookies, and what the caller calls secret",
    21: "redirects lead to http and https alone, and not inside where that is forbidden",
    22: "the environment names proxies and authorities; explicit options win, and .netrc waits to be asked",
    24: "connections that were checked and those that were not are never taken for one another",
    25: "a proxy that refuses is the proxy's error; the next one is tried, and never none",
    26: "what is no URL fails its own item",
    27: "a header or method that cannot be sent is not sent in part",
    28: "a Retry-After that makes no sense is not gone by",
    29: "a body is bounded as it is decoded, a redirect's too, and so is the memory it takes",
    30: "JSON that cannot be decoded is an error with the body kept",
    32: "a file lies inside its folder, whole, under a safe name",
    33: "a parse process that dies, or a value that cannot travel, costs one item",
    34: "a stop is over within a second, begins nothing more, and keeps what finished",
    36: "an outage is not multiplied by retries",
    37: "a POST whose answer was lost is sent once",
    38: "the same URL more than once is told apart",
}
_ROW = re.compile(r"^def test_row_(\d+)_", re.MULTILINE)


@pytest.mark.parametrize("row", PROMISES)
def test_every_promise_has_a_test(row: int) -> None:
    assert row in {case.row for case in FAULT_CASES} | rows_of_tests()


def test_every_row_number_in_a_test_name_is_a_promise() -> None:
    assert {case.row for case in FAULT_CASES} | rows_of_tests() <= set(PROMISES)


def rows_of_tests() -> set[int]:
    """The numbers in names of tests."""
    files = Path(__file__).parent.rglob("test_*.py")
    return {int(row) for file in files for row in _ROW.findall(file.read_text(encoding="utf-8"))}
