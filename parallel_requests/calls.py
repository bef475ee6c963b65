"""How a batch was requested: the arguments that are not options, and what they must be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from parallel_requests.checks import HOOK
from parallel_requests.exceptions import ConfigurationError
from parallel_requests.models import Request, ReturnType
from parallel_requests.values import BOOLEAN, shown

if TYPE_CHECKING:
    from parallel_requests.options import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How a batch was requested.

    Attributes:
        verb: Which method was called: request, iter_results or download.
        is_single: Whether it was called with one URL, so that its value alone is returned.
        keys: One name per item.
        none_on_failure: Put None in place of what failed instead of raising.
        is_ordered: Yield in input order.
        return_type: What each response becomes.
        parse_func: Called with each decoded response.
        options: The options of the call.
    """

    verb: Literal["request", "iter_results", "download"] = "request"
    is_single: bool = False
    keys: Iterable[Any] | None = None
    none_on_failure: bool = False
    is_ordered: bool = False
    return_type: ReturnType | str = ReturnType.JSON
    parse_func: Callable[[Any], Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def yields_results(self) -> bool:
        """Whether Results are taken one by one, so that a slow consumer has to slow the run down."""
        return self.verb == "iter_results"

    @property
    def is_keyed(self) -> bool:
        """Whether a dict is returned, so that the keys have to differ."""
        return self.keys is not None and not self.yields_results

    def checked_items(self, urls: Any) -> Iterable[Any]:
        """Return the items, once they and the arguments that are not options have been checked.

        Raises:
            ConfigurationError: ``urls``, ``keys``, ``parse_func`` or a flag is not what it must be.
        """
        items = [urls] if self.is_single else urls
        _check_items(items)
        HOOK.enforce("parse_func", self.parse_func)
        BOOLEAN.enforce("return_none_on_failure", self.none_on_failure)
        BOOLEAN.enforce("ordered", self.is_ordered)
        if self.is_keyed and isinstance(self.keys, Collection):
            _check_keys(self.keys)
        return items

    def checked_return_type(self, settings: Settings) -> ReturnType:
        """Return what each response becomes.

        Raises:
            ConfigurationError: It does not exist, or conflicts with ``stream_callback``.
        """
        try:
            kind = ReturnType(self.return_type)
        except ValueError:
            names = ", ".join(kind.value for kind in ReturnType)
            raise ConfigurationError(
                f"return_type must be one of {names}, not {shown(self.return_type)}.", "return_type"
            ) from None
        if kind is ReturnType.STREAM and settings.stream_callback is None:
            raise ConfigurationError("return_type 'stream' needs a stream_callback.", "stream_callback")
        if kind is not ReturnType.STREAM and self.options.get("stream_callback") is not None:
            raise ConfigurationError("stream_callback needs return_type='stream'.", "return_type")
        return kind


def _check_items(items: object) -> None:
    if isinstance(items, Mapping) and "url" not in items:
        raise ConfigurationError(
            "urls must be a URL or a list, not a dict; keys= gives each URL a name.", "urls"
        )
    if isinstance(items, str | Mapping | Request):
        raise ConfigurationError("urls must be a list, not one item: put it into a list.", "urls")
    if not isinstance(items, Iterable) or isinstance(items, bytes):
        raise ConfigurationError(f"urls must be an iterable of URLs, not {shown(items)}.", "urls")


def _check_keys(keys: Collection[Any]) -> None:
    """Refuse keys under which results would overwrite one another in a dict."""
    try:
        names = set(keys)
    except TypeError:
        raise ConfigurationError(
            "keys must be hashable, as they become the keys of a dict.", "keys"
        ) from None
    if len(names) != len(keys):
        raise ConfigurationError("keys must differ from one another, or results would be lost.", "keys")
