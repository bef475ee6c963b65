"""The table of wire faults: what is played, and what is promised for it.

Rows are the numbers of ``tests/test_promises.py``; row 0 is the rule over them all.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import brotli  # type: ignore[import-untyped]

from tests.server.content import content
from tests.server.faults import (
    FaultServer,
    Script,
    Step,
    close,
    read_request,
    receive,
    redirect,
    repeat,
    response,
    rst,
    send,
    stall,
    trickle,
)
from tests.server.scenarios import gzip_of_zeros
from tests.server.zstd import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.server.tls import Certificates

FAULTLESS = b'{"ok": true}'
CREDENTIALS = {"Authorization": "Bearer secret-token", "Cookie": "id=secret-cookie", "X-Key": "secret-key"}
"""What row 20 is called with; all of it stays with its origin."""
_MIB = 1 << 20


@dataclass(frozen=True)
class FaultCase:
    """One fault and its promise.

    Attributes:
        row: The number of the promise.
        name: What the test is called.
        scripts: What the server plays, by connection (see ``FaultServer``).
        error: Name of the error's class (or of a base of it); None if the call succeeds.
        retried: Whether an idempotent call is sent again, retries allowed.
        timeout: The timeout to call with, in seconds.
        method: The method to call with.
        options: Further options to call with.
        body: The final body if the call succeeds.
        warm_up: Calls made before, on the same session; they succeed.
        identity: Attribute of ``Certificates`` to serve TLS with; None is plain TCP.
        scheme: The scheme of the URL to call.
        as_proxy: The server is the caller's HTTP proxy, not its target.
        coding: Content coding that a backend must have announced for the case to apply.
    """

    row: int
    name: str
    scripts: tuple[Script, ...]
    error: str | None
    retried: bool
    timeout: float = 5.0
    method: str = "GET"
    options: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    warm_up: int = 0
    identity: str | None = None
    scheme: str = "http"
    as_proxy: bool = False
    coding: str | None = None

    def __str__(self) -> str:
        return f"row{self.row}-{self.name}"

    @contextlib.contextmanager
    def server(self, certificates: Certificates) -> Iterator[FaultServer]:
        """Play this case."""
        tls = getattr(certificates, self.identity).server_context() if self.identity else None
        with FaultServer(*self.scripts, tls=tls) as server:
            yield server

    def url(self, server: FaultServer) -> str:
        """The URL to call: the server's, or a public-looking one behind the server as a proxy."""
        if self.as_proxy:
            return f"{self.scheme}://target.example/"
        return f"{self.scheme}://127.0.0.1:{server.port}/"


def _once(*steps: Step) -> tuple[Script, ...]:
    """Every connection: one request, then these steps."""
    return ((read_request(), *steps),)


def _always(data: bytes) -> tuple[Script, ...]:
    """Every request of every connection gets the same bytes."""
    return ((repeat(read_request(), send(data)),),)


def _first_then_good(data: bytes) -> tuple[Script, ...]:
    """The first request gets these bytes, all others a flawless answer."""
    good = repeat(read_request(), send(response(FAULTLESS)))
    return ((read_request(), send(data), good), (good,))


def _head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")


def _truncated() -> list[FaultCase]:
    half = send(_head("Content-Length: 100") + b"x" * 50)
    chunked = _head("Transfer-Encoding: chunked")
    played: dict[tuple[int, str], tuple[Step, ...]] = {
        (1, "body_shorter_than_content_length"): (half, close()),
        (1, "no_body_where_one_was_promised"): (send(_head("Content-Length: 100")), close()),
        (2, "chunk_cut"): (send(chunked + b"40\r\n" + b"x" * 10), close()),
        (2, "last_chunk_missing"): (send(chunked + b"4\r\nabcd\r\n"), close()),
        (2, "cut_in_a_chunk_size"): (send(chunked + b"4\r\nabcd\r\n0"), close()),
        (2, "cut_before_the_trailer"): (send(chunked + b"4\r\nabcd\r\n0\r\n"), close()),
        (2, "cut_in_the_trailer"): (send(chunked + b"4\r\nabcd\r\n0\r\nX-One: 1\r\n"), close()),
        (0, "cut_in_the_status_line"): (send(b"HTTP/1.1 20"), close()),
        (0, "cut_at_the_end_of_the_status_line"): (send(b"HTTP/1.1 200 OK\r"), close()),
        (11, "reset_in_body"): (half, rst()),
        (11, "reset_in_chunk"): (send(chunked + b"40\r\n" + b"x" * 10), rst()),
        (11, "reset_in_body_without_a_length"): (send(_head("Connection: close") + b"x" * 50), rst()),
    }
    cases = [
        FaultCase(row, name, _once(*steps), "TruncatedBody", retried=True)
        for (row, name), steps in played.items()
    ]
    until_the_end = FaultCase(
        11,
        "reset_in_body_without_a_length_over_tls",
        _once(send(_head("Connection: close") + b"x" * 50), rst()),
        "TruncatedBody",
        retried=True,
        identity="good",
        scheme="https",
    )
    without_close_notify = FaultCase(
        1,
        "body_without_a_length_that_tls_does_not_end",
        _once(send(_head("Connection: close") + b"x" * 50), close()),
        "TruncatedBody",
        retried=True,
        identity="good",
        scheme="https",
    )
    return [*cases, until_the_end, without_close_notify]


def _truncated_codings() -> list[FaultCase]:
    plain = content(3_000)
    encoded = {
        "gzip": gzip.compress(plain, mtime=0),
        "deflate": zlib.compress(plain),
        "br": brotli.compress(plain),
        "zstd": zstd.compress(plain),
    }
    return [
        FaultCase(
            3,
            f"{coding}_stream_cut",
            _always(response(body[: len(body) // 3], f"Content-Encoding: {coding}")),
            "TruncatedBody",
            retried=True,
            coding=coding,
        )
        for coding, body in encoded.items()
    ]


def _coded_in_no_way() -> list[FaultCase]:
    return [
        FaultCase(
            3,
            f"{coding}_that_is_no_such_thing",
            _always(response(b"\xffnothing that any coding knows" * 100, f"Content-Encoding: {coding}")),
            "ProtocolError",
            retried=False,
            coding=coding,
        )
        for coding in ("gzip", "deflate", "br", "zstd")
    ]


def _malformed() -> list[FaultCase]:
    chunked = _head("Transfer-Encoding: chunked")
    played = {
        (2, "bad_chunk_size"): chunked + b"zz\r\nabcd\r\n0\r\n\r\n",
        (2, "bad_size_of_a_later_chunk"): chunked + b"4\r\nabcd\r\nzz\r\nabcd\r\n0\r\n\r\n",
        (2, "missing_chunk_size"): chunked + b"\r\nabcd\r\n0\r\n\r\n",
        (2, "negative_chunk_size"): chunked + b"-4\r\nabcd\r\n0\r\n\r\n",
        (2, "chunk_size_with_a_prefix"): chunked + b"0x4\r\nabcd\r\n0\r\n\r\n",
        (2, "chunk_size_with_an_underscore"): chunked + b"0_4\r\nabcd\r\n0\r\n\r\n",
        (2, "chunk_size_of_30_digits"): chunked + b"F" * 30 + b"\r\nabcd\r\n0\r\n\r\n",
        (2, "chunk_that_goes_on_after_its_size"): chunked + b"4\r\nabcdef0\r\n\r\n",
        (0, "status_that_is_no_number"): _head("Content-Length: 4", status="200OK") + b"abcd",
        (0, "status_of_four_digits"): _head("Content-Length: 4", status="2000 OK") + b"abcd",
        (0, "status_below_100"): _head("Content-Length: 4", status="099 OK") + b"abcd",
        (0, "status_with_a_sign"): _head("Content-Length: 4", status="+200 OK") + b"abcd",
        (0, "not_http_at_all"): b"SSH-2.0-OpenSSH_9.6\r\n",
        (0, "version_of_another_protocol"): b"HTTP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
        (0, "version_in_small_letters"): b"http/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
        (0, "line_that_is_no_header"): _head("nonsense", "Content-Length: 100") + b"abcd",
        (5, "line_that_is_no_header_after_hints"): _head(status="103 Early Hints")
        + _head("nonsense", "Content-Length: 100"),
        (5, "not_http_after_hints"): _head(status="103 Early Hints") + b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        (0, "space_in_the_name_of_a_header"): _head("X One: 1", "Content-Length: 4") + b"abcd",
        (0, "header_without_a_name"): _head(": nonsense", "Content-Length: 4") + b"abcd",
        (0, "nul_in_a_header"): _head("X-One: 1\0", "Content-Length: 4") + b"abcd",
        (0, "more_headers_than_fit"): _head(*[f"X-{number}: {'1' * 100}" for number in range(5_000)]),
        (3, "six_codings_in_one_another"): response(b"abcd", "Content-Encoding: " + ", ".join(["gzip"] * 6)),
        (2, "transfer_coding_nobody_asked_for"): _head("Transfer-Encoding: gzip, chunked")
        + b"4\r\nabcd\r\n0\r\n\r\n",
        (2, "transfer_coding_identity"): _head("Transfer-Encoding: identity") + b"abcd",
        (2, "trailer_that_is_no_header"): chunked + b"4\r\nabcd\r\n0\r\nnonsense\r\n\r\n",
        (6, "negative_content_length"): _head("Content-Length: -5") + b"abcde",
        (6, "content_length_no_number"): _head("Content-Length: five") + b"abcde",
        (6, "conflicting_content_lengths"): _head("Content-Length: 5", "Content-Length: 6") + b"abcde",
        (6, "list_of_content_lengths"): _head("Content-Length: 5, 6") + b"abcde",
        (6, "content_length_of_30_digits"): _head(f"Content-Length: {'9' * 30}") + b"abcd",
        (6, "content_length_of_19_digits"): _head(f"Content-Length: {'9' * 19}") + b"abcd",
        (6, "content_length_in_superscript"): _head("Content-Length: \u00b2") + b"abcd",
    }
    switched = _head("Connection: Upgrade", "Upgrade: other", status="101 Switching Protocols")
    return [
        *(
            FaultCase(row, name, _once(send(data), close()), "ProtocolError", retried=False)
            for (row, name), data in played.items()
        ),
        *(
            FaultCase(row, f"{name}_and_left_open", _always(data), "ProtocolError", retried=False)
            for (row, name), data in played.items()
        ),
        FaultCase(
            5,
            "early_hints_without_end",
            _once(repeat(send(_head(status="103 Early Hints") * 1_000))),
            "ProtocolError",
            retried=False,
        ),
        FaultCase(
            5,
            "early_hints_of_310_kilobytes_and_a_response",
            _once(send(_head(f"Link: <{'x' * 1_000}>", status="103 Early Hints") * 310 + response(b"late"))),
            "ProtocolError",
            retried=False,
        ),
        FaultCase(5, "protocol_switched", _once(send(switched), stall()), "ProtocolError", retried=False),
        FaultCase(
            5,
            "protocol_switched_after_hints",
            _once(send(_head(status="103 Early Hints") + switched), stall()),
            "ProtocolError",
            retried=False,
        ),
        FaultCase(
            5,
            "protocol_switched_and_the_end",
            _once(send(switched + b"more"), close()),
            "ProtocolError",
            retried=False,
        ),
    ]


def _informational() -> list[FaultCase]:
    hints = _head("Link: </style.css>; rel=preload", status="103 Early Hints")
    final = response(b"second")
    played = {
        "early_hints": hints,
        "early_hints_twice": hints + hints,
        "continue_nobody_asked_for": _head(status="100 Continue"),
        "early_hints_1500_times": _head(status="103 Early Hints") * 1_500,
        "early_hints_of_200_kilobytes": _head(f"Link: <{'x' * 1_000}>", status="103 Early Hints") * 200,
    }
    return [
        FaultCase(
            5,
            name,
            (
                (
                    read_request(),
                    send(interim + response(b"first")),
                    repeat(read_request(), send(interim + final)),
                ),
            ),
            None,
            retried=False,
            body=b"second",
            warm_up=1,
        )
        for name, interim in played.items()
    ]


def _slow() -> list[FaultCase]:
    whole = response(b"x" * 100)
    head = _head("Content-Length: 100")
    played: dict[tuple[int, str], tuple[Step, ...]] = {
        (7, "headers_trickled"): (trickle(whole, 0.1),),
        (7, "body_trickled"): (send(head), trickle(b"x" * 100, 0.1)),
        (8, "stall_before_headers"): (stall(),),
        (8, "stall_in_headers"): (send(head[:20]), stall()),
        (8, "stall_in_body"): (send(head + b"x" * 50), stall()),
    }
    cases = [
        FaultCase(row, name, _once(*steps), "RequestTimeout", retried=True, timeout=0.5)
        for (row, name), steps in played.items()
    ]
    silent = FaultCase(
        14,
        "silent_where_tls_is_due",
        ((stall(),),),
        "RequestTimeout",
        retried=True,
        timeout=0.5,
        scheme="https",
    )
    return [*cases, silent]


def _hung_up() -> list[FaultCase]:
    """The peer leaves before TLS is agreed on, so that nothing can have been received."""
    played: dict[str, tuple[Step, ...]] = {
        "at_once": (close(),),
        "at_the_hello": (receive(), close()),
        "by_a_reset": (receive(), rst()),
        "in_good_order": (receive(), send(b"\x15\x03\x03\x00\x02\x01\x00"), close()),  # a close_notify
    }
    return [
        FaultCase(
            14,
            f"{method.lower()}_hung_up_on_{name}",
            (steps,),
            "ConnectError",
            retried=True,
            method=method,
            scheme="https",
        )
        for name, steps in played.items()
        for method in ("GET", "POST")
    ]


def _tls() -> list[FaultCase]:
    return [
        FaultCase(
            13,
            f"certificate_{identity}",
            _always(response(FAULTLESS)),
            "TLSError",
            retried=False,
            identity=identity,
            scheme="https",
        )
        for identity in ("unknown_ca", "wrong_host", "expired")
    ]


def _retry_after() -> list[FaultCase]:
    busy = "503 Service Unavailable"
    too_long = [
        FaultCase(
            9,
            f"retry_after_beyond_the_cap_{status[:3]}",
            _always(response(b"", "Retry-After: 3600", status=status)),
            "RateLimitExceededError",
            retried=False,
        )
        for status in ("429 Too Many Requests", busy)
    ]
    too_long.append(
        FaultCase(
            9,
            "quota_beyond_the_cap",
            _always(
                response(
                    b"",
                    "X-RateLimit-Remaining: 0",
                    "X-RateLimit-Reset: 3600",
                    status="429 Too Many Requests",
                )
            ),
            "RateLimitExceededError",
            retried=False,
        )
    )
    nonsense = {
        "word": "abc",
        "negative": "-1",
        "nan": "nan",
        "inf": "inf",
        "empty": "",
        "5000_digits": "9" * 5_000,
        "date_of_1999": "Fri, 31 Dec 1999 23:59:59 GMT",
        "date_that_is_none": "Fri, 99 Dec 2999 99:99:99 GMT",
    }
    ignored = [
        FaultCase(
            28,
            f"retry_after_{name}",
            _first_then_good(response(b"", f"Retry-After: {value}", status=busy)),
            None,
            retried=True,
            body=FAULTLESS,
        )
        for name, value in nonsense.items()
    ]
    return [*too_long, *ignored]


def _lost_connections() -> list[FaultCase]:
    good = send(response(FAULTLESS))
    used_once: Script = (read_request(), good, read_request(), close())
    healthy: Script = (repeat(read_request(), good),)
    return [
        FaultCase(
            10,
            "kept_connection_closed_under_a_get",
            (used_once, healthy),
            None,
            retried=True,
            body=FAULTLESS,
            warm_up=1,
        ),
        FaultCase(
            10,
            "kept_connection_closed_under_a_post",
            (used_once, healthy),
            "BackendError",
            retried=False,
            method="POST",
            warm_up=1,
        ),
        FaultCase(
            37, "answer_lost_under_a_post", _once(close()), "BackendError", retried=False, method="POST"
        ),
        FaultCase(37, "reset_under_a_post", _once(rst()), "BackendError", retried=False, method="POST"),
        FaultCase(0, "no_answer_at_all", _once(close()), "BackendError", retried=True),
        FaultCase(0, "reset_before_the_answer", _once(rst()), "BackendError", retried=True),
    ]


def _redirects() -> list[FaultCase]:
    refused = {
        (18, "redirect_loop"): "/",
        (21, "redirect_to_file"): "file:///etc/hostname",
        (21, "redirect_to_ftp"): "ftp://127.0.0.1/file",
        (21, "redirect_to_nowhere"): "http://",
    }
    errors = [
        FaultCase(
            row,
            name,
            ((repeat(read_request(), redirect(location)),),),
            "RedirectError",
            retried=False,
        )
        for (row, name), location in refused.items()
    ]
    # Another host name is another origin, on the same port.
    elsewhere: Script = (repeat(read_request(), redirect("http://localhost:{port}/landed")),)
    landed: Script = (repeat(read_request(), send(response(FAULTLESS))),)
    leak = FaultCase(
        20,
        "redirect_to_another_origin",
        (elsewhere, landed),
        None,
        retried=False,
        body=FAULTLESS,
        options={"headers": CREDENTIALS, "secret_headers": ["X-Key"]},
    )
    return [*errors, leak]


def _proxy_faults() -> list[FaultCase]:
    answers = {
        "proxy_wants_credentials": _head(
            'Proxy-Authenticate: Basic realm="proxy"',
            "Content-Length: 0",
            status="407 Proxy Authentication Required",
        ),
        "proxy_forbids": _head("Content-Length: 0", status="403 Forbidden"),
    }
    tunnels = [
        FaultCase(
            25,
            f"{name}_tunnel",
            _once(send(answer), close()),
            "ProxyError",
            retried=False,
            scheme="https",
            as_proxy=True,
        )
        for name, answer in answers.items()
    ]
    forwarded = FaultCase(
        25,
        "proxy_wants_credentials_forwarding",
        _always(answers["proxy_wants_credentials"]),
        "ProxyError",
        retried=False,
        as_proxy=True,
    )
    hung_up = [
        FaultCase(
            11,
            f"proxy_hangs_up_on_{method.lower()}_by_a_{name}",
            _once(step),
            "TruncatedBody",
            retried=method == "GET",  # the proxy may have handed it on
            method=method,
            as_proxy=True,
        )
        for name, step in {"close": close(), "reset": rst()}.items()
        for method in ("GET", "POST")
    ]
    no_tunnel = [  # so that the request itself cannot have been received
        FaultCase(
            25,
            f"proxy_hangs_up_on_the_tunnel_of_a_{method.lower()}_by_a_{name}",
            _once(step),
            "ConnectError",
            retried=True,
            method=method,
            scheme="https",
            as_proxy=True,
        )
        for name, step in {"close": close(), "reset": rst()}.items()
        for method in ("GET", "POST")
    ]
    return [*tunnels, forwarded, *hung_up, *no_tunnel]


def _bombs() -> list[FaultCase]:
    bomb = gzip_of_zeros(64)
    coded = "Content-Encoding: gzip"
    played = {
        "inflates_beyond_the_limit": response(bomb, coded),
        "redirect_body_inflates_beyond_the_limit": response(
            bomb, coded, "Location: /landed", status="302 Found"
        ),
        "longer_than_the_limit": response(bytes(2 * _MIB)),
        "is_bombs_in_a_bomb": response(_bomb_of_nothing(8), "Content-Encoding: gzip, gzip"),
        "announces_more_than_the_limit": _head("Content-Length: 1099511627776"),
    }
    too_large = [
        FaultCase(
            29,
            name,
            _always(data),
            "BodyTooLarge",
            retried=False,
            options={"max_response_size": _MIB},
            timeout=10.0,
        )
        for name, data in played.items()
    ]
    too_long = FaultCase(
        29,
        "takes_longer_to_decode_than_there_is_time",
        _always(response(_bomb_of_nothing(64), "Content-Encoding: gzip, gzip")),
        "RequestTimeout",
        retried=True,
    )
    return [*too_large, too_long]


def _bomb_of_nothing(mib: int) -> bytes:
    """2.5 KB for each MiB of gzip that they become, which in turn becomes nothing at all."""
    nothing = gzip.compress(b"", mtime=0)
    return gzip.compress(nothing * (mib * _MIB // len(nothing)), mtime=0)


def _undecodable() -> list[FaultCase]:
    bodies = {
        "json_100000_levels_deep": b"[" * 100_000 + b"]" * 100_000,
        "json_number_of_5000_digits": b"1" * 5_000,
        "json_not_utf8": json.dumps({"name": "Grüße"}, ensure_ascii=False).encode("latin-1"),
        "json_cut": b'{"ok": tr',
    }
    return [
        FaultCase(
            30,
            name,
            _always(response(body, "Content-Type: application/json")),
            "DecodeError",
            retried=False,
        )
        for name, body in bodies.items()
    ]


FAULT_CASES: tuple[FaultCase, ...] = (
    *_truncated(),
    *_truncated_codings(),
    *_coded_in_no_way(),
    *_malformed(),
    *_informational(),
    *_slow(),
    *_tls(),
    *_hung_up(),
    *_retry_after(),
    *_lost_connections(),
    *_redirects(),
    *_proxy_faults(),
    *_bombs(),
    *_undecodable(),
)
