"""What importing costs and loads, and that modules can be imported in any order."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import parallel_requests

HTTP_LIBRARIES = {"aiohttp", "httpx", "niquests", "pycurl", "requests", "urllib3"}
SLOW_PACKAGES = {
    "asyncio",
    "multiprocessing",
    "email.message",
    "http.client",
    "urllib.request",
    "tqdm",
    "ssl",
}
ALLOWED_SECONDS = 0.030

IMPORT_ONE = """
try:
    import {module}
except ModuleNotFoundError as error:
    print(error.name)
"""
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(parallel_requests.__path__, "parallel_requests.")
)


def python(program: str, *flags: str) -> str:
    """Run a program in an interpreter of its own, and return what it printed."""
    command = [sys.executable, *flags, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import parallel_requests",
        "from parallel_requests import parallel_requests, ParallelSession, iter_results",
    ],
)
def test_importing_loads_no_http_library_and_nothing_slow(statement: str) -> None:
    brought = set(python(f"{statement}; import sys; print(*sys.modules)").split())
    assert not brought & (HTTP_LIBRARIES | SLOW_PACKAGES)


def test_everything_can_be_imported_without_docstrings() -> None:
    python("from parallel_requests import *", "-OO")


def test_importing_costs_little() -> None:
    def seconds(statement: str) -> float:
        """Return the CPU seconds of a program, so that other load of the machine is not counted."""
        return float(python(f"{statement}; import time; print(time.process_time())"))

    pairs = [(seconds("pass"), seconds("import parallel_requests")) for _ in range(10)]
    bare, with_import = (min(column) for column in zip(*pairs, strict=True))
    assert with_import - bare <= ALLOWED_SECONDS


@pytest.mark.parametrize("module", MODULES)
def test_each_module_can_be_imported_first(module: str) -> None:
    missing = python(IMPORT_ONE.format(module=module)).strip()
    if missing:
        assert missing in HTTP_LIBRARIES
        pytest.skip(f"{missing} is not installed")
