"""The built wheel, installed without extras in an environment of its own; `make wheel` runs this program.

Nothing else here sees what a user gets: the other tests run on the checkout, with every backend there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import parallel_requests
from parallel_requests import ConfigurationError, ParallelSession
from parallel_requests.backends.registry import BACKEND_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS = 50


class Echo(BaseHTTPRequestHandler):
    """Answers with the path it was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = json.dumps({"path": self.path}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as echo:
        thread = threading.Thread(target=echo.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{echo.server_port}"
        echo.shutdown()
        thread.join()


def is_the_wheel() -> None:
    folder = Path(parallel_requests.__file__).parent
    assert folder.is_relative_to(sys.prefix), folder
    assert files("parallel_requests").joinpath("py.typed").is_file()


def has_every_public_name() -> None:
    for name in parallel_requests.__all__:
        assert getattr(parallel_requests, name) is not None, name


def fetches(base: str) -> None:
    with ParallelSession() as session:
        assert session.backend.name == "urllib3"
        answers = session.request([f"{base}/{n}" for n in range(CALLS)])
    assert answers == [{"path": f"/{n}"} for n in range(CALLS)]


def says_what_to_install() -> None:
    for name in set(BACKEND_NAMES) - {"urllib3"}:
        assert f"pip install 'parallel-requests[{name}]'" in problem_with(name), name

    assert "pip install 'parallel-requests[socks]'" in problem_with_socks()


def problem_with(name: str) -> str:
    try:
        ParallelSession(backend=name).close()
    except ConfigurationError as error:
        return str(error)
    return ""


def problem_with_socks() -> str:
    try:
        with ParallelSession(proxies=["socks5h://proxy.test"]) as session:
            session.get("http://target.test/")
    except ConfigurationError as error:
        return str(error)
    return ""


def has_a_command(base: str) -> None:
    program = Path(sys.executable).with_name("parallel-requests")
    fetched = subprocess.run([program, "fetch", f"{base}/x"], capture_output=True, text=True, check=True)
    assert json.loads(fetched.stdout)["value"] == {"path": "/x"}


if __name__ == "__main__":
    is_the_wheel()
    has_every_public_name()
    says_what_to_install()
    with server() as base:
        fetches(base)
        has_a_command(base)
