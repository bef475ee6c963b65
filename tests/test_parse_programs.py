"""Parse processes of a program: its Ctrl-C and its end, its forks, and the main module that they import."""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parallel_requests import ConfigurationError
from parallel_requests.parsing.workers import check_can_start
from tests import parse_functions as functions
from tests.polling import until

if TYPE_CHECKING:
    from tests.server.control import Server

ENGINES = ("urllib3", "aiohttp", "curl")
_ROOT = Path(__file__).resolve().parents[1]
_LONG_ENOUGH = 40.0


def alive_in_group(group: int) -> list[str]:
    """The command lines of the processes of a group that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue  # it has just ended
    return found


def run_script(folder: Path, code: str, *arguments: str) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


INTERRUPTED = """\
import functools, sys
from pathlib import Path
from parallel_requests import ParallelSession
from tests import parse_functions

if __name__ == "__main__":
    parse_func = functools.partial(parse_functions.never_returns, Path(sys.argv[2]))
    try:
        with ParallelSession(backend=sys.argv[3], parse_processes=2) as session:
            session.request([sys.argv[1]] * 10, parse_func=parse_func)
    except KeyboardInterrupt as error:
        print("interrupted", error.results)
"""


@pytest.mark.parametrize("backend", ENGINES, indirect=True)
def test_ctrl_c_ends_everything_within_a_second(server: Server, tmp_path: Path, backend: str) -> None:
    begun = tmp_path / "begun"
    process = run_script(tmp_path, INTERRUPTED, server.url("/id/1"), str(begun), backend)
    until(lambda: server.stats().requests == 10 and begun.exists() and len(begun.read_text()) == 2)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # the whole group, as a terminal does it
    output, errors = process.communicate(timeout=_LONG_ENOUGH)
    seconds = time.monotonic() - began
    assert output == "interrupted []\n"
    assert not errors
    assert seconds < 2  # one, and the interpreter's own end on a busy machine
    until(lambda: not alive_in_group(process.pid))
    assert server.stats().requests == 10


KILLED = """\
import functools, sys
from pathlib import Path
from parallel_requests import ParallelSession
from tests.parse_functions import outlives_its_parent

if __name__ == "__main__":
    parse_func = functools.partial(outlives_its_parent, Path(sys.argv[2]))
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        session.request(sys.argv[1], parse_func=parse_func)
"""


def test_a_child_whose_parent_was_killed_ends_without_a_word(server: Server, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    process = run_script(tmp_path, KILLED, server.url("/id/1"), str(begun))
    until(begun.exists)
    process.kill()
    assert process.communicate(timeout=_LONG_ENOUGH) == ("", "")
    until(lambda: not alive_in_group(process.pid))


INTERRUPTED_WHILE_STARTING = """\
import os, signal, sys
from parallel_requests import ParallelSession

if __name__ == "__main__":
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        print(session.request(sys.argv[1]))
else:
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_does_not_disturb_a_child_that_starts(server: Server, tmp_path: Path) -> None:
    process = run_script(tmp_path, INTERRUPTED_WHILE_STARTING, server.url("/id/1"))
    assert process.communicate(timeout=_LONG_ENOUGH) == ("{'id': 1}\n", "")


FORKED = """\
import os, sys, warnings
from parallel_requests import ParallelSession
warnings.simplefilter("ignore", DeprecationWarning)

def fetch():
    with ParallelSession(backend="urllib3", parse_processes=1) as session:
        print(session.request(sys.argv[1:]), flush=True)

if __name__ == "__main__":
    fetch()
    child = os.fork()
    fetch()
    if child == 0:
        os._exit(0)  # or Python 3.13 would complain about the standard library's own process
    sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_has_processes_of_its_own(server: Server, tmp_path: Path) -> None:
    """Although the standard library's resource tracker belongs to the parent."""
    process = run_script(tmp_path, FORKED, server.url("/id/1"))
    assert process.communicate(timeout=_LONG_ENOUGH) == ("[{'id': 1}]\n" * 3, "")
    assert process.returncode == 0


COOPERATIVE = """\
import socket, sys

class CooperativeSocket(socket.socket):
    def setblocking(self, flag):
        super().setblocking(False)  # as gevent's do, which wait by themselves

def socketpair(*args, make=socket.socketpair):
    return [CooperativeSocket(fileno=end.detach()) for end in make(*args)]

if __name__ == "__main__":
    socket.socketpair = socketpair
    from parallel_requests import ParallelSession
    from tests.parse_functions import number

    large, *small = sys.argv[1:]
    with ParallelSession(backend="urllib3", parse_processes=2) as session:
        print(session.request(small, parse_func=number))
        print(len(session.get(large, return_type="content", parse_func=bytes)))
"""


def test_pipes_wait_even_if_all_sockets_of_the_program_are_made_not_to(
    server: Server, tmp_path: Path
) -> None:
    urls = [server.url(f"/id/{number}") for number in range(20)]
    process = run_script(tmp_path, COOPERATIVE, server.url("/range/5000000"), *urls)
    assert process.communicate(timeout=_LONG_ENOUGH) == (f"{list(range(20))}\n5000000\n", "")


UNGUARDED = """\
import sys
from parallel_requests import ParallelSession, PartialFailureError

def number(value):
    return value["id"]

try:
    with ParallelSession(backend="urllib3", parse_processes=2) as session:
        session.request([sys.argv[1]] * 10, parse_func=number)
except PartialFailureError as error:
    print(len(error.failed), error.results[0].error)
"""


def test_a_script_without_a_guard_fetches_nothing_twice_and_is_told(server: Server, tmp_path: Path) -> None:
    process = run_script(tmp_path, UNGUARDED, server.url("/id/1"))
    output, errors = process.communicate(timeout=_LONG_ENOUGH)
    assert output.startswith("10 ")
    assert "if __name__ == '__main__'" in output
    assert "if __name__ == '__main__'" in errors
    assert server.stats().requests == 10


INTERACTIVE = """\
from dataclasses import dataclass
from parallel_requests import ParallelSession

@dataclass
class Number:
    value: int

def number(value):
    return Number(value["id"])

with ParallelSession(backend="urllib3", parse_processes=2) as session:
    print(session.get("URL", parse_func=number) == Number(7))
"""


@pytest.mark.parametrize("has_cloudpickle", [True, False])
def test_a_function_defined_interactively_needs_cloudpickle(server: Server, has_cloudpickle: bool) -> None:
    pytest.importorskip("cloudpickle")
    code = INTERACTIVE.replace("URL", server.url("/id/7"))
    if not has_cloudpickle:
        code = f"import sys; sys.modules['cloudpickle'] = None\n{code}"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    if has_cloudpickle:
        assert answer.stdout == "True\n", answer.stderr
    else:
        assert "ConfigurationError" in answer.stderr
        assert "install cloudpickle" in answer.stderr
    assert server.stats().requests == has_cloudpickle


def test_a_script_from_stdin_is_refused_before_anything_is_sent(server: Server) -> None:
    answer = subprocess.run(
        [sys.executable, "-"],
        input=INTERACTIVE.replace("URL", server.url("/id/7")),
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "<stdin> is not a file" in answer.stderr
    assert server.stats().requests == 0


def test_a_daemonic_process_is_refused_before_anything_is_sent(server: Server) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    arguments = (theirs, server.url("/id/7"))
    process = context.Process(target=functions.sends_its_problem, args=arguments, daemon=True)
    process.start()
    theirs.close()
    with ours:
        assert "daemonic process" in ours.recv()
    process.join()
    process.close()
    assert server.stats().requests == 0


def test_a_module_that_is_no_file_can_be_the_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``python -m``, of a zip file for example: children import it by its name."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "/program.zip/program.py", raising=False)
    monkeypatch.setattr(main, "__spec__", importlib.util.find_spec("json.tool"))
    check_can_start()


@pytest.mark.parametrize("is_frozen", [True, False])
def test_only_a_frozen_program_needs_no_file(monkeypatch: pytest.MonkeyPatch, is_frozen: bool) -> None:
    """PyInstaller names one that does not exist, and its children start from the program itself."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "/gone/program.py", raising=False)
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(sys, "frozen", is_frozen, raising=False)
    with contextlib.nullcontext() if is_frozen else pytest.raises(ConfigurationError, match="is not a file"):
        check_can_start()
