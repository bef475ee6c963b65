"""Which backends there are, and how one is found by its name."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parallel_requests.exceptions import ConfigurationError
from parallel_requests.logs import warn

if TYPE_CHECKING:
    from parallel_requests.backends.base import Backend

ENTRY_POINT_GROUP = "parallel_requests.backends"


@dataclass(frozen=True, slots=True)
class _Entry:
    class_name: str  # in the module of the backend's name
    requires: str
    extra: str
    is_blocking: bool = True


# In the order in which "auto" looks for them.
_REGISTRY: dict[str, _Entry] = {
    "curl": _Entry("CurlBackend", "pycurl", "curl", is_blocking=False),
    "niquests": _Entry("NiquestsBackend", "niquests", "niquests"),
    "aiohttp": _Entry("AiohttpBackend", "aiohttp", "aiohttp", is_blocking=False),
    "requests": _Entry("RequestsBackend", "requests", "requests"),
    "urllib3": _Entry("Urllib3Backend", "urllib3", ""),
}
BACKEND_NAMES = tuple(_REGISTRY)


def is_installed(name: str) -> bool:
    """Whether the library of one of our backends is installed."""
    return importlib.util.find_spec(_REGISTRY[name].requires) is not None


def backend_class(name: str, *, needs_threads: bool = False) -> type[Backend]:
    """Return the class of a backend by its name; ``"auto"`` takes the first one that can be imported.

    Args:
        name: The name.
        needs_threads: Whether ``"auto"`` may only take a blocking one.

    Raises:
        ConfigurationError: There is no such backend, or its library is not installed or cannot be imported.
    """
    if name == "auto":
        return _first_class(needs_threads=needs_threads)
    entry = _REGISTRY.get(name)
    if entry is not None and not is_installed(name):
        target = f"parallel-requests[{entry.extra}]" if entry.extra else entry.requires
        raise ConfigurationError(
            f"backend {name!r} needs the package {entry.requires}: install it with pip install '{target}'.",
            "backend",
        )
    try:
        return _from_entry_point(name) if entry is None else _from_module(name, entry.class_name)
    except (ImportError, AttributeError) as error:  # an entry point may name what its module lacks
        raise ConfigurationError(f"backend {name!r} cannot be imported: {error}.", "backend") from error


def _first_class(*, needs_threads: bool) -> type[Backend]:
    for name, entry in _REGISTRY.items():
        if not is_installed(name) or (needs_threads and not entry.is_blocking):
            continue
        try:
            return backend_class(name)
        except ConfigurationError as error:
            warn(f"{error.message} auto takes the next one.")
    raise ConfigurationError(
        "No suitable backend found: install one with pip install 'parallel-requests[all]'.", "backend"
    )


def _from_module(name: str, class_name: str) -> type[Backend]:
    loaded: type[Backend] = getattr(importlib.import_module(f"parallel_requests.backends.{name}"), class_name)
    return loaded


def _from_entry_point(name: str) -> type[Backend]:
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        loaded: type[Backend] = point.load()
        return loaded
    known = sorted({*_REGISTRY, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})
    raise ConfigurationError(f"There is no backend {name!r}; known are auto, {', '.join(known)}.", "backend")
