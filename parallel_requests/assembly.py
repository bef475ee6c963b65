"""Settings → the parts of a session and the policy of a batch; checks of arguments that are not options."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from parallel_requests.backends.base import AsyncBackend, Backend, TransportSettings, backend_class
from parallel_requests.engines.threads import ThreadsEngine
from parallel_requests.exceptions import ConfigurationError
from parallel_requests.gates.pacing import Pacer
from parallel_requests.logs import warn
from parallel_requests.models import Request, ReturnType
from parallel_requests.observing import chunk_receiver, in_context
from parallel_requests.options import is_hook
from parallel_requests.policy import Policy
from parallel_requests.redirects import RedirectRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.backends.base import BlockingBackend
    from parallel_requests.backends.curl import CurlBackend
    from parallel_requests.collecting import Call
    from parallel_requests.cookies import CookieStore
    from parallel_requests.engines.base import Engine
    from parallel_requests.gates.backoff import RetryPolicy
    from parallel_requests.gates.rotation import Rotation
    from parallel_requests.options import Settings


def new_backend(settings: Settings) -> Backend:
    """Open and return the backend that the settings name.

    Raises:
        ConfigurationError: It does not exist, is not installed, or cannot use the executor.
    """
    chosen = settings.backend
    backend = (
        backend_class(chosen, needs_threads=settings.executor is not None)()
        if isinstance(chosen, str)
        else chosen
    )
    if settings.http2 and not backend.capabilities.http2:
        warn(f"http2=True has no effect: the backend {backend.name!r} speaks HTTP/1.1 only.")
    if settings.http3 and not backend.capabilities.http3:
        warn(f"http3=True has no effect: the backend {backend.name!r} does not speak HTTP/3 here.")
    if settings.executor is not None and backend.engine != "threads":
        raise ConfigurationError(
            f"executor is for blocking backends; {backend.name!r} runs on a thread of its own.", "executor"
        )
    backend.open(
        TransportSettings(concurrency=settings.concurrency, http2=settings.http2, http3=settings.http3)
    )
    return backend


def new_engine(backend: Backend, settings: Settings) -> Engine:
    """Return the engine that drives a backend."""
    if isinstance(backend, AsyncBackend):
        from parallel_requests.engines.event_loop import EventLoopEngine

        return EventLoopEngine(backend, settings.concurrency)
    if backend.engine == "curl_multi":
        from parallel_requests.engines.curl_multi import CurlMultiEngine

        return CurlMultiEngine(cast("CurlBackend", backend), settings.concurrency)
    return ThreadsEngine(cast("BlockingBackend", backend), settings.concurrency, settings.executor)


def new_pacer(settings: Settings) -> Pacer:
    """Return the gates of a session."""
    return Pacer(
        rate_limit=settings.rate_limit,
        burst=settings.rate_limit_burst,
        concurrency=settings.concurrency,
        concurrency_per_host=settings.concurrency_per_host,
        adaptive=settings.adaptive,
        retry_budget=settings.retry_budget,
    )


def new_policy(
    settings: Settings,
    kind: ReturnType,
    *,
    pacer: Pacer,
    cookies: CookieStore,
    proxies: Rotation | None,
    proxy_for: Callable[[str], str | None] | None,
) -> Policy:
    """Return the policy of a batch."""
    rules = RedirectRules(
        settings.max_redirects,
        settings.allow_private_hosts,
        frozenset(name.lower() for name in settings.secret_headers),
        proxy_for,
    )
    callback = settings.stream_callback if kind is ReturnType.STREAM else None
    restart = getattr(callback, "restart", None)
    raises = settings.raise_for_status
    return Policy(
        pacer=pacer,
        retry=_with_conditions_in_context(settings.retry_policy),
        cookies=cookies,
        redirects=rules if settings.follow_redirects else None,
        raise_for_status=kind is not ReturnType.RESPONSE if raises is None else raises,
        deadline=None if settings.deadline is None else pacer.clock() + settings.deadline,
        max_response_size=settings.max_response_size,
        deliver=None if callback is None else chunk_receiver(callback),
        restart=None if restart is None else in_context(restart),
        chunk_size=settings.chunk_size,
        proxies=proxies,
        on_attempt=None if settings.on_attempt is None else in_context(settings.on_attempt),
    )


def _with_conditions_in_context(retry: RetryPolicy) -> RetryPolicy:
    """Return the policy with its predicates wrapped to run in a copy of the current context."""
    conditions = {"retry_on": retry.retry_on, "dont_retry_on": retry.dont_retry_on}
    predicates: dict[str, Any] = {
        name: in_context(condition)
        for name, condition in conditions.items()
        if condition is not None and not isinstance(condition, tuple | type)
    }
    return dataclasses.replace(retry, **predicates) if predicates else retry


def check_call(urls: object, keys: Iterable[Any] | None, call: Call) -> None:
    """Check the arguments that are not options.

    Raises:
        ConfigurationError: ``urls``, ``keys``, ``parse_func`` or a flag is not what it must be.
    """
    if isinstance(urls, Mapping) and "url" not in urls:
        raise ConfigurationError(
            "urls must be a URL or a list, not a dict; keys= gives each URL a name.", "urls"
        )
    if isinstance(urls, Mapping | Request):
        raise ConfigurationError("urls must be a URL or a list: put the one item into a list.", "urls")
    if not isinstance(urls, Iterable) or isinstance(urls, str | bytes):
        raise ConfigurationError(f"urls must be an iterable of URLs, not {urls!r}.", "urls")
    if call.parse_func is not None and not is_hook(call.parse_func):
        raise ConfigurationError(
            f"parse_func must be a function, but not a coroutine function, not {call.parse_func!r}.",
            "parse_func",
        )
    flags: dict[str, object] = {"return_none_on_failure": call.none_on_failure, "ordered": call.is_ordered}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ConfigurationError(f"{name} must be True or False, not {flag!r}.", name)
    if call.is_keyed and isinstance(keys, Collection):
        _check_names(keys)


def _check_names(keys: Collection[Any]) -> None:
    """Refuse keys under which results would overwrite one another in a dict."""
    try:
        names = set(keys)
    except TypeError:
        raise ConfigurationError(
            "keys must be hashable, as they become the keys of a dict.", "keys"
        ) from None
    if len(names) != len(keys):
        raise ConfigurationError("keys must differ from one another, or results would be lost.", "keys")


def checked_return_type(call: Call, settings: Settings) -> ReturnType:
    """Return the return type of a call.

    Raises:
        ConfigurationError: It does not exist, or conflicts with ``stream_callback``.
    """
    try:
        kind = ReturnType(call.return_type)
    except ValueError:
        names = ", ".join(kind.value for kind in ReturnType)
        raise ConfigurationError(
            f"return_type must be one of {names}, not {call.return_type!r}.", "return_type"
        ) from None
    if kind is ReturnType.STREAM and settings.stream_callback is None:
        raise ConfigurationError("return_type 'stream' needs a stream_callback.", "stream_callback")
    if kind is not ReturnType.STREAM and call.options.get("stream_callback") is not None:
        raise ConfigurationError("stream_callback needs return_type='stream'.", "return_type")
    return kind
