"""What may go wrong and what is promised then, by the numbers in names of tests and fault cases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.server.fault_cases import FAULT_CASES

PROMISES = {
    0: "whatever comes over the wire is one typed error on one item, or the right response",
    1: "a body shorter than its Content-Length is truncated, in content, stream and file, and retried",
    2: "a chunked body that ends too soon is truncated; one with an invalid chunk size is not retried",
    3: "a compressed body that ends too soon is truncated, whatever its length says",
    5: "informational responses are skipped, and the connection stays in step",
    6: "an invalid or conflicting Content-Length is a protocol error, and its connection is not reused",
    7: "a server that trickles is cut off at the timeout",
    8: "a server that stalls is cut off at the timeout, and the call is retried",
    9: "a wait beyond the cap or the deadline fails at once, with the response",
    10: "a kept-alive connection that was just closed costs one free replay, of a POST if that is allowed",
    11: "a reset in the middle of a body truncates it",
    12: "a refused connection is retried, a name that is not found once",
    13: "a certificate that cannot be trusted ends the call, without a retry or a fallback",
    14: "the connect part of the timeout covers the TLS handshake",
    17: "many hosts and few workers neither hang nor open more connections than they use",
    18: "a redirect loop, or too many redirects, is an error with their history",
    20: "credentials stay with their origin: headers, cookies, and what the caller calls secret",
    21: "redirects lead to http and https only, and not to private addresses where that is forbidden",
    22: "the environment names proxies and CAs; explicit options win, and .netrc is read only if asked for",
    24: "verified connections and unverified ones are never taken for one another",
    25: "a proxy that refuses is a proxy error; the next one is tried, and never a direct connection",
    26: "what is not a URL fails its own item",
    27: "nothing is sent of a request with an invalid header or method",
    28: "a Retry-After that makes no sense is ignored",
    29: "the size of a body is limited as it is decoded, a redirect's too, and so is the memory it takes",
    30: "JSON that cannot be decoded is an error with the body kept",
    32: "a file is inside its folder, complete, and under a safe name",
    33: "a parse process that dies, or a value that cannot be pickled, costs one item",
    34: "a stop takes less than a second, sends nothing more, and keeps what finished",
    36: "an outage is not amplified by retries",
    37: "a POST whose response was lost is sent once",
    38: "duplicates of a URL are told apart",
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
