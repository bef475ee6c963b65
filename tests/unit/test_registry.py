"""Which backend ``auto`` takes, and the error for one that is not installed."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest

from parallel_requests import ConfigurationError
from parallel_requests.backends.registry import BACKEND_NAMES, backend_class, is_installed

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = {"curl": "pycurl"}
"""The package of a backend, if its name is not the backend's."""

# With niquests in place, too, there is one more to choose from.
pytestmark = pytest.mark.contract


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """``hide(backend)`` makes its package appear not to be installed."""
    hidden: set[str] = set()
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> object:
        return None if name in hidden else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return lambda backend: hidden.add(PACKAGES.get(backend, backend))


def test_the_most_capable_comes_first() -> None:
    assert BACKEND_NAMES == ("curl", "niquests", "aiohttp", "requests", "urllib3")


def test_auto_takes_the_first_one_installed(hide: Callable[[str], None]) -> None:
    for name in filter(is_installed, BACKEND_NAMES):
        assert backend_class("auto").name == name
        hide(name)
    with pytest.raises(ConfigurationError, match=r"pip install 'parallel-requests\[all\]'") as caught:
        backend_class("auto")
    assert caught.value.config_key == "backend"


@pytest.mark.parametrize("name", ["curl", "niquests", "aiohttp", "requests"])
def test_the_error_for_a_missing_backend_names_its_extra(name: str, hide: Callable[[str], None]) -> None:
    hide(name)
    with pytest.raises(ConfigurationError, match=rf"pip install 'parallel-requests\[{name}\]'") as caught:
        backend_class(name)
    assert caught.value.config_key == "backend"
