"""The Python blocks of the reference documents run unchanged, and do what the documents say.

Two readings: ``fastreq`` means this library, and a loopback server plays the hosts. A fragment gets
the smallest frame that lets it run; what is given to it stands in its test.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib.util
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import fastapi
import fastapi.responses
import pytest
import uvicorn

import parallel_requests
from parallel_requests import (
    BackendError,
    ParallelRequests,
    PartialFailureError,
    RetryPolicy,
    ValidationError,
)
from tests.documents import Block, played_hosts, python_blocks
from tests.server.content import content
from tests.server.control import together
from tests.server.faults import refusing_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server.control import Server

REFERENCE = Path(__file__).resolve().parents[1] / "../shared/reference"
if not REFERENCE.is_dir():
    pytest.skip("the reference documents are not beside this checkout", allow_module_level=True)

BLOCKS = [block for path in sorted(REFERENCE.glob("*.md")) for block in python_blocks(path)]

ILLUSTRATIONS = {
    "backends.md:41": "sketches how a backend of another library could look; names a base class of its own",
    "backends.md:81": "the same, for aiohttp",
    "backends.md:119": "the same, for requests",
}

PROGRAM = {"__name__": "__main__"}
"""What a block finds that is a program by itself."""


class Scene:
    """A block with the names it is given, and the names it has set."""

    def __init__(self, block: Block, hosts: Server, server: Server, request: pytest.FixtureRequest) -> None:
        self.block = block
        self.hosts = hosts
        self.server = server
        self.names: dict[str, Any] = {}
        self.printed = ""
        self._request = request

    @property
    def results(self) -> Any:
        """What the block calls ``results``."""
        return self.names["results"]

    def run(self, **given: Any) -> None:
        """Run the block with these names given."""
        self.names = {**PROGRAM, **given}
        self.printed = self.block.run(self.names)

    def start(self, name: str) -> Any:
        """Start a further server, by its fixture, its counts at zero."""
        started = self._request.getfixturevalue(name)
        started.reset()
        return started

    def paths(self) -> dict[str, int]:
        """The requests to the played hosts, by path."""
        return self.hosts.stats().by_path


EXPECTATIONS: dict[str, Callable[[Scene], None]] = {}


def expects(block_id: str) -> Callable[[Callable[[Scene], None]], Callable[[Scene], None]]:
    """Register the expectation of one block."""

    def register(expectation: Callable[[Scene], None]) -> Callable[[Scene], None]:
        EXPECTATIONS[block_id] = expectation
        return expectation

    return register


def _parameter(block: Block) -> Any:
    missing = block.needs_niquests and importlib.util.find_spec("niquests") is None
    marks = [pytest.mark.niquests] if block.needs_niquests else []
    return pytest.param(
        block,
        id=block.id,
        marks=[*marks, pytest.mark.skipif(missing, reason="niquests is not installed here")],
    )


@pytest.fixture
def played(tls_server: Server) -> Iterator[None]:
    """The hosts of the documents, played on loopback."""
    with played_hosts(tls_server):
        yield


@pytest.fixture
def fastreq(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library under its alias."""
    monkeypatch.setitem(sys.modules, "fastreq", parallel_requests)


@pytest.mark.parametrize("block", [_parameter(block) for block in BLOCKS if block.id not in ILLUSTRATIONS])
@pytest.mark.usefixtures("played", "fastreq")
def test_block(block: Block, tls_server: Server, server: Server, request: pytest.FixtureRequest) -> None:
    assert block.id in EXPECTATIONS, "a block without an expectation"
    EXPECTATIONS[block.id](Scene(block, tls_server, server, request))


def test_every_block_is_accounted_for() -> None:
    assert {*EXPECTATIONS, *ILLUSTRATIONS} == {block.id for block in BLOCKS}


@pytest.mark.parametrize("block", [pytest.param(b, id=b.id) for b in BLOCKS if b.id in ILLUSTRATIONS])
def test_illustrations_are_class_bodies_under_implementation_details(block: Block) -> None:
    assert block.heading == "Implementation Details"
    assert block.source.startswith("class ")
    compile(block.source, block.id, "exec")


# -- parallel-fundamentals.md


@expects("parallel-fundamentals.md:13")
def sequential_then_parallel(scene: Scene) -> None:
    import requests

    scene.run(requests=requests)
    sequential, parallel = (float(line.split()[1].rstrip("s")) for line in scene.printed.splitlines())
    assert sequential >= 5.0
    assert parallel < 1.5
    assert scene.paths() == {"/delay/1": 10}
    assert scene.hosts.stats().max_in_flight == 5


@expects("parallel-fundamentals.md:41")
def first_async_call(scene: Scene) -> None:
    scene.run()
    assert [answer["full_name"] for answer in scene.results] == ["python/cpython"]
    assert scene.hosts.stats().by_host == {"api.github.com": 1}


@expects("parallel-fundamentals.md:71")
def concurrency_of_ten(scene: Scene) -> None:
    scene.run()
    assert scene.results == [{"page": number} for number in range(100)]
    stats = scene.hosts.stats()
    assert stats.by_host == {"api.example.com": 100}
    assert stats.max_in_flight <= 10
    assert stats.connections <= 10


@expects("parallel-fundamentals.md:98")
def auto_detection(scene: Scene) -> None:
    scene.run(fastreq=parallel_requests.fastreq)
    assert [answer["url"] for answer in scene.results] == ["https://httpbin.org/get"]


@expects("parallel-fundamentals.md:108")
def explicit_backend(scene: Scene) -> None:
    scene.run(fastreq=parallel_requests.fastreq)
    assert [answer["url"] for answer in scene.results] == ["https://httpbin.org/get"]


@expects("parallel-fundamentals.md:132")
def rate_limit_of_ten(scene: Scene) -> None:
    scene.run()
    assert scene.results == [{"ok": True}] * 50
    arrivals = scene.hosts.arrivals()
    # Seconds a first call may lose on its way: proxy, tunnel and TLS lie between token and server.
    set_up = 0.25
    for first, began in enumerate(arrivals):
        for count, ended in enumerate(arrivals[first:], 1):
            assert count <= 10 * (ended - began + set_up) + 5


@expects("parallel-fundamentals.md:153")
def retry_until_it_works(scene: Scene) -> None:
    scene.run()
    assert scene.results == [{"ok": True}]
    assert scene.hosts.stats().by_status == {"503": 1, "200": 1}


@expects("parallel-fundamentals.md:165")
def waits_between_attempts(scene: Scene) -> None:
    scene.run()  # comments alone; they tell the waits of the default policy, jitter aside
    policy = RetryPolicy(backoff_jitter=0)
    assert policy.max_retries + 1 == 4
    assert [policy.delay(retry) for retry in (1, 2, 3)] == [1.0, 2.0, 4.0]


# -- make-parallel-requests.md


@expects("make-parallel-requests.md:9")
def same_and_different_urls(scene: Scene) -> None:
    scene.run()
    names = ["python/cpython", "python/pypy", "legout/parallel-requests"]
    assert [answer["full_name"] for answer in scene.results] == names
    assert scene.paths() == {"/get": 5, **{f"/repos/{name}": 1 for name in names}}
    assert scene.hosts.stats().max_in_flight <= 3


@expects("make-parallel-requests.md:32")
def results_by_key(scene: Scene) -> None:
    scene.run()
    assert list(scene.results) == ["cpython", "pypy"]
    assert scene.printed == "CPython: cpython\nPyPy: pypy\n"


@expects("make-parallel-requests.md:54")
def parse_func(scene: Scene) -> None:
    scene.run()
    assert [set(repo) for repo in scene.results] == [{"name", "stars", "language"}] * 2
    assert [repo["name"] for repo in scene.results] == ["cpython", "parallel-requests"]
    assert len(scene.printed.splitlines()) == 2
    assert scene.printed.startswith(f"cpython: {scene.results[0]['stars']} stars, Python\n")


@expects("make-parallel-requests.md:83")
def json_answers(scene: Scene) -> None:
    scene.run()
    assert scene.printed == "cpython\n"
    assert isinstance(scene.results[0], dict)


@expects("make-parallel-requests.md:96")
def text_answers(scene: Scene) -> None:
    scene.run(parallel_requests=parallel_requests.parallel_requests)
    assert scene.results[0].startswith("<!DOCTYPE html>")
    assert scene.printed == scene.results[0] + "\n"


@expects("make-parallel-requests.md:107")
def content_answers(scene: Scene) -> None:
    scene.run(parallel_requests=parallel_requests.parallel_requests)
    assert scene.results == [content(1024)]
    assert scene.printed == "1024\n"


@expects("make-parallel-requests.md:118")
def response_answers(scene: Scene) -> None:
    scene.run()
    response = scene.results[0]
    assert isinstance(response, parallel_requests.Response)
    assert response.json()["url"] == "https://httpbin.org/get"
    assert response.headers["Content-Type"] == "application/json"
    status, headers, body = scene.printed.splitlines()
    assert status == "Status: 200"
    assert "'content-type': 'application/json'" in headers
    assert body == f"Body: {response.json()}"


@expects("make-parallel-requests.md:136")
def async_call(scene: Scene) -> None:
    scene.run()
    assert [answer["name"] for answer in scene.results] == ["cpython", "pypy"]


@expects("make-parallel-requests.md:157")
def one_client_for_two_batches(scene: Scene) -> None:
    scene.run()
    assert [answer["name"] for answer in scene.names["results1"]] == ["cpython"]
    assert [answer["name"] for answer in scene.names["results2"]] == ["pypy"]
    assert scene.hosts.stats().connections == 1


@expects("make-parallel-requests.md:182")
def params_for_each_url(scene: Scene) -> None:
    scene.run()
    assert [answer["name"] for answer in scene.results] == ["cpython", "pypy"]
    assert {(entry.path, entry.query) for entry in scene.hosts.log()} == {
        ("/repos/python/cpython", "ref=main"),
        ("/repos/python/pypy", ""),
    }


@expects("make-parallel-requests.md:201")
def options_together(scene: Scene) -> None:
    scene.run()
    assert {key: answer["name"] for key, answer in scene.results.items()} == {
        "cpython": "cpython",
        "pypy": "pypy",
    }
    for entry in scene.hosts.log():
        assert entry.headers["user-agent"] == "MyApp/1.0"
        assert entry.headers["accept"] == "application/vnd.github.v3+json"


# -- backends.md


@expects("backends.md:215")
def multiplexing(scene: Scene) -> None:
    h2_server = scene.start("h2_server")
    scene.run(ParallelRequests=ParallelRequests, url=h2_server.url("/conn"))
    assert [answer["http_version"] for answer in scene.results] == ["2"] * 100
    stats = h2_server.stats()
    assert stats.requests == 100
    assert stats.connections <= 2


@expects("backends.md:226")
def a_connection_for_each_request_in_flight(scene: Scene) -> None:
    scene.run(ParallelRequests=ParallelRequests, url=scene.server.url(together(20)))
    stats = scene.server.stats()
    assert stats.requests == 100
    assert stats.connections == stats.max_in_flight == 20
    assert len({entry.connection for entry in scene.server.log()}) == 20


@expects("backends.md:265")
def session_management(scene: Scene) -> None:
    # `[...]` stands for a list of URLs. Taken as it is, it is a list of one item that is no URL: that item
    # fails, nothing is sent, and the session is closed.
    with pytest.raises(PartialFailureError) as caught:
        scene.run(ParallelRequests=ParallelRequests)
    (failure,) = caught.value.failed
    assert isinstance(failure.error, ValidationError)
    assert failure.error.field_name == "url"
    assert scene.hosts.stats().requests == 0
    # And with URLs in its place:
    source = scene.block.source.replace("[...]", "urls")
    urls = [scene.server.url("/get")] * 3
    names: dict[str, Any] = {"ParallelRequests": ParallelRequests, "urls": urls}
    dataclasses.replace(scene.block, source=source).run(names)
    assert len(names["results"]) == 3
    with pytest.raises(parallel_requests.RunStoppedError):
        asyncio.run(names["client"].request(urls))


@expects("backends.md:276")
def error_handling(scene: Scene) -> None:
    # Three `except` clauses that want a `try`: each of the libraries fails in it for real.
    import aiohttp
    import niquests
    import requests

    async def fail_with_aiohttp(url: str) -> None:
        async with aiohttp.ClientSession() as session, session.get(url):
            pass

    framed = f"try:\n    fail()\n{scene.block.source}"
    block = dataclasses.replace(scene.block, source=framed)
    given: dict[str, Any] = {
        "niquests": niquests,
        "aiohttp": aiohttp,
        "requests": requests,
        "asyncio": asyncio,
    }
    given["BackendError"] = BackendError
    failing: dict[str, Callable[[str], object]] = {
        "niquests": niquests.get,
        "aiohttp": lambda url: asyncio.run(fail_with_aiohttp(url)),
        "requests": lambda url: requests.get(url, timeout=5),
    }
    with refusing_port() as port:
        nowhere = f"http://127.0.0.1:{port}/"
        for name, fail in failing.items():
            with pytest.raises(BackendError, match="Request failed: ") as caught:
                block.run(
                    {**given, "self": SimpleNamespace(name=name), "fail": functools.partial(fail, nowhere)}
                )
            assert caught.value.backend_name == name
            # Which is what this library does, too.
            with pytest.raises(BackendError) as ours:
                parallel_requests.parallel_requests(nowhere, backend=name, max_retries=0)
            assert ours.value.backend_name == name


@expects("backends.md:294")
def response_normalization(scene: Scene) -> None:
    client = ParallelRequests()
    backend = SimpleNamespace(request=functools.partial(client.request, return_type="response"))
    scene.run(backend=backend, config=scene.server.url("/redirect-to?url=/json"))
    asyncio.run(client.close())
    response = scene.names["response"]
    assert response.status_code == 200
    assert list(response.headers) == [name.lower() for name in response.headers]
    assert response.content == response.text.encode()
    assert response.json_data["slideshow"]["title"] == "Sample Slide Show"
    assert response.url == scene.server.url("/json")
    shown = (
        response.status_code,
        response.headers,
        response.content,
        response.text,
        response.json_data,
        response.url,
    )
    assert scene.printed == "".join(f"{value}\n" for value in shown)


@expects("backends.md:312")
def a_backend_with_http2(scene: Scene) -> None:
    scene.run(ParallelRequests=ParallelRequests)
    h2_server = scene.start("h2_server")
    with scene.names["client"] as session:
        assert session.get(h2_server.url("/conn"))["http_version"] == "2"


@expects("backends.md:330")
def lower_concurrency(scene: Scene) -> None:
    scene.run(ParallelRequests=ParallelRequests)
    with scene.names["client"] as session:
        assert session.backend.name == "requests"
        session.get([scene.server.url(together(10))] * 30)
    assert scene.server.stats().max_in_flight == 10


# -- fastapi-concurrency.md


@expects("fastapi-concurrency.md:46")
@expects("fastapi-concurrency.md:57")
def an_endpoint_with_a_correlation_id(scene: Scene) -> None:
    app = fastapi.FastAPI()
    scene.run(app=app, uuid4=uuid4, JSONResponse=fastapi.responses.JSONResponse)
    with served(app) as url:
        answers = parallel_requests.parallel_requests([url] * 10, return_type="response")
    assert [answer.json() for answer in answers] == [{"msg": "change me"}] * 10
    ids = {UUID(answer.headers["x-azure-management-service-correlation-id"]) for answer in answers}
    assert len(ids) == 10


@contextmanager
def served(app: fastapi.FastAPI) -> Iterator[str]:
    """Serve an application with uvicorn, on a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    listening = threading.Event()
    app.router.add_event_handler("startup", listening.set)
    socket = server.config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],), name="uvicorn")
    thread.start()
    try:
        assert listening.wait(10)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        socket.close()
