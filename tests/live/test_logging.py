"""Logging is silent unless enabled, leaves other loggers alone, and never shows a secret."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest

from parallel_requests import ParallelRequestsError, ParallelSession, RetryPolicy
from parallel_requests.logs import StderrHandler
from tests.server.faults import close, read_request, redirect, refusing_port, response, send, stall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parallel_requests import Options
    from tests.server.control import Server
    from tests.server.faults import FaultServer, Script

QUICK = RetryPolicy(max_retries=1, backoff_factor=0.01)
logger = logging.getLogger("parallel_requests")


@pytest.fixture(autouse=True)
def logger_as_imported() -> Iterator[None]:
    """Restore our logger after a test."""
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@contextlib.contextmanager
def unconfigured() -> Iterator[logging.Logger]:
    """The root logger as it is in a program that never configured logging, without pytest's handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield root
    finally:
        root.handlers = handlers
    assert root.level == level


def test_the_library_only_brings_a_null_handler() -> None:
    with unconfigured() as root, ParallelSession():
        assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
        assert logger.level == logging.NOTSET
        assert root.handlers == []


@pytest.mark.parametrize(
    ("options", "level"), [({"debug": True}, logging.DEBUG), ({"verbose": True}, logging.INFO)]
)
def test_verbose_adds_one_handler(options: Options, level: int) -> None:
    with unconfigured() as root, ParallelSession(**options), ParallelSession(**options):
        assert logger.level == level
        assert [type(handler) for handler in logger.handlers] == [logging.NullHandler, StderrHandler]
        assert root.handlers == []


def test_what_is_logged_goes_to_the_stderr_of_the_time() -> None:
    with unconfigured():
        for _ in range(2):
            with io.StringIO() as stderr, contextlib.redirect_stderr(stderr):
                with ParallelSession(verbose=True) as session:
                    session.get([])
                assert stderr.getvalue().count("run ended") == 1


def test_nothing_is_logged_twice_once_logging_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    with unconfigured(), ParallelSession(verbose=True) as session:
        logging.getLogger().addHandler(logging.StreamHandler())
        session.get([])
    assert capsys.readouterr().err.count("run ended") == 1


@pytest.mark.parametrize("owner", [None, "parallel_requests"])
def test_configured_logging_is_left_alone(owner: str | None) -> None:
    with unconfigured() as root:
        theirs = logging.Handler(level=logging.ERROR)
        logging.getLogger(owner).addHandler(theirs)
        before = list(logger.handlers)
        with ParallelSession(debug=True):
            assert logger.handlers == before
            assert root.handlers == ([] if owner else [theirs])
            assert theirs.level == logging.ERROR


DAEMON = """
import sys
from parallel_requests import ParallelSession

backend, url = sys.argv[1:]
sys.stderr.close()
with ParallelSession(backend=backend, debug=True) as session:
    print(session.get(url))
"""


def test_a_closed_stderr_costs_nothing(backend: str, server: Server) -> None:
    command = [sys.executable, "-c", DAEMON, backend, server.url("/id/1")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30)
    assert done.stdout == "{'id': 1}\n"


@pytest.mark.timeout(30)
def test_logging_that_raises_costs_the_item_and_no_more(backend: str, server: Server) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno != logging.INFO:
                raise ValueError("the log is closed")

    with ParallelSession(backend=backend, debug=True) as session:
        logger.addHandler(broken := Broken())
        with pytest.raises(ParallelRequestsError, match="the log is closed"):
            session.get(server.url("/id/1"))
        logger.removeHandler(broken)
        assert session.get(server.url("/id/2")) == {"id": 2}


def test_debug_logs_every_attempt(backend: str, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with ParallelSession(backend=backend, retry=QUICK, debug=True) as session:
        session.get([server.url("/static"), server.url("/flaky/logged")])
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert sum(message.startswith("<Attempt") for message in logged) == 3


# -- secrets

_FAULTS: dict[str, Script] = {
    "status": [read_request(), send(response(b"no", status="500 No"))],
    "lost answer": [read_request(), close()],
    "cut body": [read_request(), send(response(b"x" * 9)[:-4]), close()],
    "not HTTP": [read_request(), send(b"SSH-2.0-OpenSSH_9\r\n"), close()],
    "not JSON": [read_request(), send(response(b"{"))],
    "timeout": [read_request(), stall()],
    "redirect": [read_request(), redirect("ftp://user:redirected-secret@127.0.0.1/?token=redirected-secret")],
    "proxy": [read_request(), send(response(status="407 Authenticate"))],
}


def everything_said(error: BaseException, session: ParallelSession) -> str:
    """Every text form of an error."""
    results = session.last_run.results or getattr(error, "results", ())
    return "\n".join(
        [
            str(error),
            repr(error),
            "".join(traceback.format_exception(error)),
            pickle.dumps(error).decode("latin-1"),
            repr(session),
            repr(results),
            repr([(result.request, result.response, result.history) for result in results]),
        ]
    )


@pytest.mark.parametrize("fault", [*_FAULTS, "refused", "no such host"])
def test_no_secret_shows(
    backend: str,
    fault_server: Callable[..., FaultServer],
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    caplog.set_level(logging.DEBUG, "parallel_requests")
    path = "/?token=query-secret&api_key=query-secret"
    options: dict[str, Any] = {"timeout": 0.3, "headers": {"Authorization": "Bearer header-secret"}}
    options["cookies"] = {"session": "cookie-secret"}
    with refusing_port() as refused:
        port = fault_server(_FAULTS[fault]).port if fault in _FAULTS else refused
        host = "no-such-host.invalid" if fault == "no such host" else f"127.0.0.1:{port}"
        url = f"http://user:url-secret@{host}{path}"
        if fault == "proxy":
            options["proxy"] = f"http://someone:proxy-secret@127.0.0.1:{port}"
        with ParallelSession(backend=backend, retry=QUICK, debug=True) as session:
            with pytest.raises(Exception, match=r"\w") as caught:
                session.request([url], **options)
            said = everything_said(caught.value, session)
    ours = [record for record in caplog.records if record.name == logger.name]
    logged = "\n".join(logging.Formatter().format(record) for record in ours)
    assert "<Attempt 1" in logged
    assert "-secret" not in logged
    assert "-secret" not in said


def test_verbose_says_that_a_host_asks_to_wait(
    backend: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    retry = RetryPolicy(max_retries=0, retry_after_max=0.01)
    with ParallelSession(backend=backend, retry=retry, verbose=True) as session:
        session.get(server.url("/retry-after?seconds=77&id=told"), return_none_on_failure=True)
    (told,) = (record for record in caplog.records if "to wait" in record.getMessage())
    host = server.url("").partition("//")[2]
    assert told.levelno == logging.INFO
    assert told.getMessage() == f"{host} asks to wait 77 s; calls to it are held back for 0.01 s"


def test_debug_says_how_long_a_retry_waits(
    backend: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    steady = RetryPolicy(max_retries=1, backoff_factor=0.01, backoff_jitter=0)
    with ParallelSession(backend=backend, retry=steady, debug=True) as session:
        session.get(server.url("/flaky/patience?token=hush"))
    (told,) = (record.getMessage() for record in caplog.records if "waits" in record.getMessage())
    assert told.endswith("waits 0.01 s before retry 1")
    assert "/flaky/patience" in told
    assert "hush" not in told
