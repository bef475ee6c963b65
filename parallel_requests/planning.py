"""URLs and options → Requests, lazily, so that the input may be an endless generator.

What is the same for all URLs is prepared once; what differs is checked item by item, and an item that
cannot be sent becomes a Request with a ``problem`` instead of stopping the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any, Literal, Required, TypeAlias, TypedDict

from parallel_requests.exceptions import ConfigurationError, ValidationError
from parallel_requests.models import Request
from parallel_requests.options import (
    MERGED_NAMES,
    PER_URL_NAMES,
    Data,
    HeaderFields,
    Params,
    Timeout,
    merge_entries,
)
from parallel_requests.urls import check_url
from parallel_requests.values import shown

if TYPE_CHECKING:
    from parallel_requests.request_builder import RequestBuilder

_NEVER_A_TUPLE = frozenset({"method", "headers", "cookies", "proxy"})
"""Options in which a tuple can only mean one entry per URL."""

_WITHOUT_A_LIST = {
    "params": " (pairs go into a tuple or a dict)",
    "data": " (pairs go into a tuple or a dict)",
    "json": " (a body that is itself a list goes into another list)",
}
"""How to give what would be a list in other libraries."""


class RequestItem(TypedDict, total=False):
    """An item of ``urls`` with options of its own; those that are absent are taken from the call.

    Its params, headers and cookies are added to those of the call. ``key`` and ``meta`` are passed on to its
    Result.
    """

    url: Required[str]
    method: str
    params: Params
    json: Any
    data: Data
    headers: HeaderFields
    cookies: Mapping[str, str] | None
    timeout: Timeout
    proxy: str | Literal[False] | None
    key: Any
    meta: Any


Item: TypeAlias = str | Request | RequestItem
_ITEM_KEYS = frozenset(RequestItem.__annotations__)


class Planner:
    """Turns items into Requests, according to the settings of one call.

    Attributes:
        builder: Makes the Request of each.
    """

    def __init__(self, builder: RequestBuilder) -> None:
        """Prepare what is the same for all items.

        Args:
            builder: Makes their Requests, with the options of the call.

        Raises:
            ConfigurationError: An option that applies to all items is wrong.
        """
        self.builder = builder
        self._common = {name: getattr(builder.settings, name) for name in PER_URL_NAMES}
        self._columns = {name: value for name, value in self._common.items() if _is_per_url(name, value)}
        self._keys: Iterator[Any] = itertools.repeat(None)
        self._names: _Names | None = None
        self._template = self._build_template()

    def _build_template(self) -> Request | None:
        """Build the Request that plain items copy; None if it is wrong, as each item then reports."""
        row = dict(self._common)
        for name in self._columns:
            row[name] = "GET" if name == "method" else None
        if row["proxy"] is None:
            row["proxy"] = False  # or a rotation would lose a turn to it
        try:
            return self.builder.build("http://template", row, "")
        except ValidationError as error:
            if error.field_name not in ("proxy", "timeout"):
                return None
            wrong = ConfigurationError(str(error), error.field_name)
        raise wrong

    def _row(self, index: int) -> dict[str, Any]:
        """Return the options of the call for one item."""
        row = dict(self._common)
        for name, column in self._columns.items():
            row[name] = column[index]
        return row

    def plan(
        self, urls: Iterable[Item], keys: Iterable[Any] | None = None, *, keys_differ: bool = False
    ) -> Iterator[Request]:
        """Return an iterator of Requests, in input order.

        Args:
            urls: The items.
            keys: One name per item.
            keys_differ: Whether to refuse an item whose key is taken.

        Raises:
            ConfigurationError: A list option or ``keys`` does not fit the number of URLs.
        """
        count = len(urls) if isinstance(urls, Sized) else None
        for name, column in self._columns.items():
            if count is None:
                raise ConfigurationError(
                    f"{name} has one entry per URL, but how many URLs there are is not known; "
                    "give urls as a list, or put the values into the items.",
                    name,
                )
            remedy = f"give one for all, or one per URL{_WITHOUT_A_LIST.get(name, '')}"
            _check_length(name, column, count, remedy)
        if not _are_names(keys):
            raise ConfigurationError(
                f"keys must be an iterable with one name per URL, not {shown(keys)}.", "keys"
            )
        if keys is not None:
            if count is not None and isinstance(keys, Sized):
                _check_length("keys", keys, count, "give one per URL")
            if isinstance(urls, list | tuple) and not isinstance(keys, Collection):
                # Here, as a list is planned on the engine's thread: they may block, or belong to this one.
                keys = list(itertools.islice(keys, len(urls)))
            self._keys = _Keys(keys)
            self._names = _Names() if keys_differ else None
        return self._planned(urls)

    def _planned(self, urls: Iterable[Item]) -> Iterator[Request]:
        keys, names = self._keys, self._names
        template = None if self._columns or self.builder.varies else self._template
        for index, item in enumerate(urls):
            if template is None or type(item) is not str or "@" in item:
                yield self.plan_item(item, index)
                continue
            key = None
            try:
                key = next(keys) if names is None else names.claim(next(keys))
                url, authority = check_url(item)
            except ValidationError as error:
                yield Request(item, key=key, index=index, problem=error)
                continue
            yield Request(  # by position, which is several times as fast as by keyword
                url,
                template.method,
                template.headers,
                template.content,
                template.timeout,
                template.connect_timeout,
                template.proxy,
                template.verify,
                key,
                None,
                index,
                authority,
                None,
                template.proxy_authorization,
            )

    def plan_item(self, item: Item, index: int) -> Request:
        """Plan the next item; if it cannot be sent, the Request has a ``problem``."""
        address: object = item
        key = meta = None
        try:
            key = self._key_of(item)
            if isinstance(item, Request):
                return self._complete(item, index, key)
            row = self._row(index)
            if isinstance(item, Mapping):
                _check_names(item, index)
                own = {name: value for name, value in item.items() if name in PER_URL_NAMES}
                own |= {name: merge_entries(row[name], own[name]) for name in MERGED_NAMES if name in own}
                row.update(own)
                address, meta = item.get("url"), item.get("meta")
            url, authority = check_url(address)
            request = self.builder.build(url, row, authority)
        except ValidationError as error:
            return _unsendable(item, index, key, error)
        request.key, request.meta, request.index = key, meta, index
        return request

    def _complete(self, item: Request, index: int, key: Any) -> Request:
        """Fill in what a caller's own Request leaves open."""
        if item.problem is not None:
            raise item.problem
        url, authority = check_url(item.url)
        row = self._row(index)
        row.update(method=item.method, json=None, data=item.content, params=None)
        row["headers"] = merge_entries(row["headers"], item.headers)
        if item.proxy is not None:
            row["proxy"] = item.proxy
        if item.timeout is not None:
            row["timeout"] = (item.connect_timeout, item.timeout)
        request = self.builder.build(url, row, authority)
        if item.verify is not True:
            request.verify = item.verify
        if item.proxy_authorization is not None:
            request.proxy_authorization = item.proxy_authorization
        request.key, request.meta, request.index = key, item.meta, index
        return request

    def _key_of(self, item: Item) -> Any:
        """Return the key of the next item: its own, or the next of ``keys``."""
        key = next(self._keys)
        if isinstance(item, Request):
            key = key if item.key is None else item.key
        elif isinstance(item, Mapping):
            key = item.get("key", key)
        return key if self._names is None else self._names.claim(key)


def _is_per_url(name: str, value: object) -> bool:
    """Whether the value of an option has one entry per URL, rather than being the same for all."""
    return isinstance(value, list) or (name in _NEVER_A_TUPLE and isinstance(value, tuple))


def _check_length(name: str, column: Sized, count: int, remedy: str) -> None:
    if len(column) != count:
        raise ConfigurationError(f"{name} has {len(column)} entries for {count} URLs; {remedy}.", name)


class _Keys(Iterator[Any]):
    """Yields one key per item; if they run out, each remaining item fails, rather than the batch."""

    def __init__(self, keys: Iterable[Any]) -> None:
        self._keys = iter(keys)

    def __next__(self) -> Any:
        for key in self._keys:
            return key
        raise ValidationError("keys ended before urls did; give one name per URL.", "keys")


class _Names:
    """The keys taken so far; an item whose key cannot be used in the dict is not sent."""

    def __init__(self) -> None:
        self._taken: set[Any] = set()

    def claim(self, key: Any) -> Any:
        """Return the key, and mark it as taken.

        Raises:
            ValidationError: Another item has it, or it is not hashable.
        """
        try:
            if key not in self._taken:
                self._taken.add(key)
                return key
            problem = f"another URL has the key {shown(key)}; keys must differ, or results would be lost."
        except TypeError:
            problem = "keys must be hashable, as they become the keys of a dict."
        raise ValidationError(problem, "keys")


def _unsendable(item: object, index: int, key: Any, problem: ValidationError) -> Request:
    """Return the Request of an item that cannot be sent; it shows nothing of the item but its URL."""
    address, meta = item, None
    if isinstance(item, Request):
        address, meta = item.url, item.meta
    elif isinstance(item, Mapping):
        address, meta = item.get("url"), item.get("meta")
    url = address if isinstance(address, str) else f"<{type(address).__name__}>"
    return Request(url, key=key, meta=meta, index=index, problem=problem)


def _check_names(item: Mapping[Any, object], index: int) -> None:
    if unknown := set(item) - _ITEM_KEYS:
        names = sorted(name if isinstance(name, str) else shown(name) for name in unknown)
        known = ", ".join(sorted(_ITEM_KEYS))
        raise ValidationError(
            f"item {index} has the unknown keys {', '.join(names)}; known are {known}.", names[0]
        )
    if "url" not in item:
        raise ValidationError(f"item {index} has no url.", "url")


def _are_names(keys: object) -> bool:
    return keys is None or (isinstance(keys, Iterable) and not isinstance(keys, str | bytes))
