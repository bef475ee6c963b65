"""Settings → the parts of a session, and the policy of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from parallel_requests.backends.base import TransportSettings
from parallel_requests.backends.registry import backend_class
from parallel_requests.engines.threads import ThreadsEngine
from parallel_requests.exceptions import ConfigurationError
from parallel_requests.gates.pacing import Pacer
from parallel_requests.logs import warn
from parallel_requests.models import ReturnType
from parallel_requests.observing import chunk_receiver
from parallel_requests.policy import Policy
from parallel_requests.redirects import RedirectRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.backends.base import AsyncBackend, Backend, BlockingBackend
    from parallel_requests.backends.curl import CurlBackend
    from parallel_requests.cookies import CookieStore
    from parallel_requests.engines.base import Engine
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
    if backend.engine == "event_loop":
        from parallel_requests.engines.event_loop import EventLoopEngine

        return EventLoopEngine(cast("AsyncBackend", backend), settings.concurrency)
    if backend.engine == "curl_multi":
        from parallel_requests.engines.curl_multi import CurlMultiEngine

        return CurlMultiEngine(cast("CurlBackend", backend), settings.concurrency)
    return ThreadsEngine(cast("BlockingBackend", backend), settings.concurrency, settings.executor)


def new_pacer(settings: Settings) -> Pacer:
    """Return the gates of a session."""
    return Pacer(
        rate_limit=settings.rate_limit,
        rate_limit_per_host=settings.rate_limit_per_host,
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
        retry=settings.retry_policy,
        cookies=cookies,
        redirects=rules if settings.follow_redirects else None,
        raise_for_status=kind is not ReturnType.RESPONSE if raises is None else raises,
        deadline=None if settings.deadline is None else pacer.clock() + settings.deadline,
        max_response_size=settings.max_response_size,
        deliver=None if callback is None else chunk_receiver(callback),
        restart=restart,
        chunk_size=settings.chunk_size,
        proxies=proxies,
        on_attempt=settings.on_attempt,
    )
