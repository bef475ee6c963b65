"""A third-party backend: httpx, in under 40 lines, as an object and by an entry point."""

from __future__ import annotations

import gzip
import inspect
import pickle
import ssl
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, ClassVar

import httpx
import pytest

from parallel_requests import (
    BackendError,
    ConfigurationError,
    ConnectError,
    ParallelSession,
    RequestTimeout,
    Response,
    RetryPolicy,
    TLSError,
    TruncatedBody,
    cli,
    parallel_requests,
)
from parallel_requests.backends.base import BlockingBackend, Capabilities, TransportSettings
from parallel_requests.backends.body import Body
from parallel_requests.models import Headers
from tests.server.content import content
from tests.server.control import together
from tests.server.faults import close, read_request, refusing_port, response, send, trickle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from parallel_requests.exceptions import ParallelRequestsError
    from parallel_requests.exchange import Send
    from parallel_requests.models import Request
    from tests.server.control import Server
    from tests.server.faults import FaultServer
    from tests.server.proxy import Proxy

CONCURRENCY = 20
ONCE = RetryPolicy(max_retries=0)


class HttpxBackend(BlockingBackend):
    name: ClassVar[str] = "httpx"
    capabilities: ClassVar[Capabilities] = Capabilities(streaming=True)

    def open(self, settings: TransportSettings) -> None:
        self._limits = httpx.Limits(max_connections=None, max_keepalive_connections=settings.concurrency)
        self._clients: dict[tuple[str | None, bool | str], httpx.Client] = {}
        self._lock = threading.Lock()  # guards _clients

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def send(self, send: Send) -> Response:
        request, timeout = send.request, httpx.Timeout(send.timeout, connect=send.request.connect_timeout)
        with self._client(request.proxy, request.verify).stream(
            request.method, request.url, headers=request.headers, content=request.content, timeout=timeout
        ) as answer:
            send.flight.uses(answer.extensions["network_stream"].get_extra_info("socket"))
            headers = Headers(answer.headers.multi_items())
            body = Body(send, answer.status_code, headers)
            for chunk in answer.iter_raw():
                body.feed(chunk)
            return Response(answer.status_code, headers, body.finish(), request)

    def translate(self, error: BaseException, request: Request) -> ParallelRequestsError:
        if isinstance(error, httpx.RemoteProtocolError) and "without" in str(error):  # an answer's end
            return self.failure(TruncatedBody, request, error)
        return super().translate(error, request)

    def _client(self, proxy: str | None, verify: bool | str) -> httpx.Client:
        with self._lock:
            if (proxy, verify) not in self._clients:
                trust = verify if isinstance(verify, bool) else ssl.create_default_context(cafile=verify)
                client = httpx.Client(verify=trust, proxy=proxy, limits=self._limits, trust_env=False)
                client.headers.clear()
                self._clients[proxy, verify] = client
            return self._clients[proxy, verify]


def test_it_takes_under_40_lines() -> None:
    assert len(inspect.getsource(HttpxBackend).splitlines()) < 40


@pytest.fixture
def session() -> Iterator[ParallelSession]:
    with ParallelSession(
        backend=HttpxBackend(),
        concurrency=CONCURRENCY,
        retry=RetryPolicy(max_retries=2, backoff_factor=0.01),
    ) as opened:
        yield opened


# -- how it is found


def test_an_object_is_taken_as_it_is(session: ParallelSession, server: Server) -> None:
    urls = [server.url(f"/id/{number}") for number in range(100)]
    assert session.get(urls) == [{"id": number} for number in range(100)]
    assert session.backend.name == "httpx"
    assert sorted(server.ids()) == list(range(100))


def test_an_entry_point_makes_its_name_valid_everywhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = tmp_path / "somebody_elses-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody-elses\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        f"[parallel_requests.backends]\nother = {__name__}:NoSuchBackend\nhttpx = {__name__}:HttpxBackend\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    answers = parallel_requests([server.url(f"/id/{number}") for number in range(20)], backend="httpx")
    assert answers == [{"id": number} for number in range(20)]
    assert cli.main(["backends"]) == 0
    assert "\nhttpx " in capsys.readouterr().out
    assert cli.main(["fetch", "--quiet", "--backend", "httpx", server.url("/id/7")]) == 0
    assert '"value": {"id": 7}' in capsys.readouterr().out


# -- what it gets for it


def test_it_reaches_the_concurrency_asked_for(session: ParallelSession, server: Server) -> None:
    session.get([server.url(together(CONCURRENCY))] * (3 * CONCURRENCY))
    assert server.stats().max_in_flight == CONCURRENCY
    assert server.stats().connections <= CONCURRENCY


def test_what_is_sent_is_what_was_asked_for(session: ParallelSession, server: Server) -> None:
    echo = session.post(server.url("/post?page=2"), json={"name": "Ada"}, headers={"X-Team": "maps"})
    assert (echo["json"], echo["args"], echo["headers"]["X-Team"]) == (
        {"name": "Ada"},
        {"page": "2"},
        "maps",
    )
    assert server.log()[-1].headers["user-agent"].startswith("parallel")


def test_retries_redirects_and_cookies_work_as_ever(session: ParallelSession, server: Server) -> None:
    assert session.get(server.url("/status-seq/httpx?seq=503,503,200"), return_type="response").ok
    assert session.last_run.retries == 2
    landed = session.get(server.url("/redirect/2"), return_type="response")
    assert (landed.url, len(landed.history)) == (server.url("/get"), 2)
    session.get(server.url("/cookies/set?seen=yes"))
    assert session.get(server.url("/cookies")) == {"cookies": {"seen": "yes"}}


def test_bodies_are_decoded_streamed_and_saved(
    session: ParallelSession, server: Server, tmp_path: Path
) -> None:
    assert session.get(server.url("/gzip"))["gzipped"] is True
    chunks: list[bytes] = []
    session.get(server.url("/range/300000"), return_type="stream", stream_callback=chunks.append)
    assert b"".join(chunks) == content(300_000)
    assert session.download(server.url("/range/5000"), tmp_path).path.read_bytes() == content(5000)


def test_tls_is_checked(tls_server: Server) -> None:
    url = tls_server.url("/static")
    with ParallelSession(backend=HttpxBackend(), retry=ONCE) as session:
        assert session.get(url, verify_ssl=str(tls_server.ca_file))
        with pytest.raises(TLSError):
            session.get(url)


def test_proxies_are_used(session: ParallelSession, server: Server, proxy: Callable[..., Proxy]) -> None:
    way = proxy()
    assert session.get(server.url("/id/3"), proxy=way.url) == {"id": 3}
    assert len(way.requests) == 1


# -- what goes wrong


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", id="body"),
        pytest.param(response(gzip.compress(bytes(1000))[:-9], "Content-Encoding: gzip"), id="gzip stream"),
        pytest.param(b"", id="no answer"),
    ],
)
def test_a_truncated_response_is_an_error(
    session: ParallelSession, fault_server: Callable[..., FaultServer], part: bytes
) -> None:
    server = fault_server([read_request(), send(part), close()])
    with pytest.raises(TruncatedBody):
        session.get(server.url(), retry=ONCE)


def test_a_port_nobody_listens_on_is_a_connect_error(session: ParallelSession) -> None:
    with refusing_port() as port, pytest.raises(ConnectError):
        session.get(f"http://127.0.0.1:{port}/", retry=ONCE)


def test_a_server_that_trickles_is_cut_at_the_timeout(
    session: ParallelSession, fault_server: Callable[..., FaultServer]
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    server = fault_server([read_request(), send(head), trickle(bytes(1000), 0.05)])
    began = time.monotonic()
    with pytest.raises(RequestTimeout):
        session.get(server.url(), timeout=0.5, retry=ONCE)
    assert time.monotonic() - began < 5


# -- what goes wrong while somebody writes one


class Answering(BlockingBackend):
    """Returns what it was given, or raises it."""

    name: ClassVar[str] = "answering"

    def __init__(self, answer: Callable[[Request], object]) -> None:
        self._answer = answer

    def send(self, send: Send) -> Response:
        return self._answer(send.request)  # type: ignore[return-value]  # what a beginner does


@pytest.mark.parametrize(
    "fields",
    [{"X-Of": "a dict"}, [("X-Of", "a dict")], Headers({"X-Of": "a dict"})],
    ids=["dict", "pairs", "ours"],
)
def test_headers_may_be_any_mapping_or_pairs(
    fields: dict[str, str] | list[tuple[str, str]] | Headers,
) -> None:
    backend = Answering(lambda request: Response(200, fields, b"{}", request))
    answer = parallel_requests("http://fake.test/", backend=backend, return_type="response")
    assert answer.headers["x-of"] == "a dict"


def test_headers_given_as_a_dict_have_their_effects() -> None:
    backend = Answering(lambda request: Response(200, {"Set-Cookie": "seen=yes; Path=/"}, b"{}", request))
    with ParallelSession(backend=backend) as session:
        session.get("http://fake.test/")
        again = session.get("http://fake.test/", return_type="response")
    assert again.request.headers["Cookie"] == "seen=yes"


@pytest.mark.parametrize("answer", [None, "text", (200, b"{}")])
def test_a_wrong_return_value_of_send_is_reported(answer: object) -> None:
    with pytest.raises(
        BackendError, match=f"send.* returned a value of type {type(answer).__name__}, not a Response"
    ):
        parallel_requests("http://fake.test/", backend=Answering(lambda request: answer), retry=ONCE)


def test_a_backend_that_reads_each_body_at_once_refuses_streams_and_downloads(tmp_path: Path) -> None:
    """It would never call the stream_callback, and write empty files."""
    chunks: list[bytes] = []
    backend = Answering(lambda request: Response(200, {}, b"{}", request))
    with ParallelSession(backend=backend) as session:
        with pytest.raises(ConfigurationError, match=r"'answering' .*Capabilities\(streaming=True\)"):
            session.get("http://fake.test/", return_type="stream", stream_callback=chunks.append)
        with pytest.raises(ConfigurationError, match="'answering'"):
            session.download("http://fake.test/file", tmp_path)
        assert session.get("http://fake.test/") == {}
    assert not list(tmp_path.iterdir())


def test_a_bug_in_a_backend_is_named_by_its_type() -> None:
    with pytest.raises(BackendError, match=r"failed \(ZeroDivisionError: division by zero\)"):
        parallel_requests("http://fake.test/", backend=Answering(lambda request: 1 / 0), retry=ONCE)


def divide(_request: Request) -> object:
    return 1 / 0


def test_the_traceback_of_a_bug_in_a_backend_leads_to_its_line() -> None:
    with pytest.raises(BackendError) as raised:
        parallel_requests("http://fake.test/", backend=Answering(divide), retry=ONCE)
    cause = raised.value.__cause__
    assert cause is not None
    assert str(cause) == "ZeroDivisionError: division by zero"
    frames = [frame.name for frame in traceback.extract_tb(cause.__traceback__)]
    assert frames == ["send", "divide"]
    assert str(pickle.loads(pickle.dumps(raised.value)).__cause__) == str(cause)


def test_the_traceback_of_a_bug_in_a_backend_shows_no_secrets() -> None:
    def fail(_request: Request) -> object:
        raise ValueError(secret, LookupError(secret)) from LookupError(secret)

    secret = "http://me:hush@proxy.test/?token=hush"
    with pytest.raises(BackendError) as raised:
        parallel_requests("http://fake.test/", backend=Answering(fail), retry=ONCE)
    shown = "".join(traceback.format_exception(raised.value))
    assert "in fail" in shown
    assert "hush" not in shown
    assert b"hush" not in pickle.dumps(raised.value)


def test_a_class_is_refused_as_a_backend() -> None:
    not_yet: Any = HttpxBackend
    with pytest.raises(ConfigurationError, match=r"^backend must be .* an instance .*HttpxBackend") as raised:
        parallel_requests("http://fake.test/", backend=not_yet)
    assert raised.value.config_key == "backend"
