"""What importing costs, what it brings along, and that no module needs another to be imported first."""

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
ALLOWED_MILLISECONDS = 30.0

# The child measures itself, so that starting the interpreter is not counted.
MEASURE = """
import time
began = time.perf_counter()
import parallel_requests
print((time.perf_counter() - began) * 1000)
"""
IMPORT_ONE = """
try:
    import {module}
except ModuleNotFoundError as error:
    print(error.name)
"""
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(parallel_requests.__path__, "parallel_requests.")
)


def python(program: str) -> str:
    """Run a program in an interpreter of its own, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_brings_no_http_library_along_nor_anything_slow() -> None:
    brought = set(python("import sys, parallel_requests; print(*sys.modules)").split())
    assert not brought & HTTP_LIBRARIES
    assert not brought & SLOW_PACKAGES


def test_importing_costs_little() -> None:
    best = min(float(python(MEASURE)) for _ in range(7))
    assert best <= ALLOWED_MILLISECONDS


@pytest.mark.parametrize("module", MODULES)
def test_each_module_can_be_imported_first(module: str) -> None:
    missing = python(IMPORT_ONE.format(module=module)).strip()
    if missing:
        assert missing in HTTP_LIBRARIES
        pytest.skip(f"{missing} is not installed")


def test_all_names_are_there_and_sorted() -> None:
    names = parallel_requests.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(parallel_requests, name) is not None
    assert set(names) <= set(dir(parallel_requests))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(parallel_requests, "no_such_name")  # noqa: B009 - the type checker knows, too


def test_the_names_of_the_known_library() -> None:
    assert parallel_requests.fastreq is parallel_requests.parallel_requests
    assert parallel_requests.fastreq_async is parallel_requests.parallel_requests_async
    assert parallel_requests.FastRequests is parallel_requests.ParallelRequests
    assert parallel_requests.NormalizedResponse is parallel_requests.Response
