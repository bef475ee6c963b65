"""Many HTTP calls at once from ordinary synchronous code.

::

    from parallel_requests import parallel_requests

    pages = parallel_requests(["https://httpbin.org/get"] * 100, concurrency=20)

- `parallel_requests`, `iter_results` and `download` each run one batch: to values, to Results as they
  complete, to files. ``help(parallel_requests.parallel_requests)`` explains every option.
- `ParallelSession` has them as methods, with ``get``, ``post`` …, and keeps connections, cookies and limits
  across batches.
- `parallel_requests_async` and `ParallelRequests` are the same as coroutines.
- Every error is a `ParallelRequestsError`; a list of which some failed raises `PartialFailureError`.
"""

from typing import TYPE_CHECKING

from parallel_requests._version import __version__

if TYPE_CHECKING:
    from parallel_requests.aio import ParallelRequests, parallel_requests_async
    from parallel_requests.aio import ParallelRequests as FastRequests
    from parallel_requests.aio import parallel_requests_async as fastreq_async
    from parallel_requests.api import download, iter_results, parallel_requests
    from parallel_requests.api import parallel_requests as fastreq
    from parallel_requests.exceptions import (
        BackendError,
        BodyTooLarge,
        ConfigurationError,
        ConnectError,
        DeadlineExceededError,
        DecodeError,
        DNSError,
        DownloadError,
        FailureDetails,
        HTTPStatusError,
        ParallelRequestsError,
        ParseError,
        PartialFailureError,
        ProtocolError,
        ProxyError,
        RateLimitExceededError,
        RedirectError,
        RequestTimeout,
        ResourceExhausted,
        RetryExhaustedError,
        RunStoppedError,
        TLSError,
        TruncatedBody,
        ValidationError,
    )
    from parallel_requests.exceptions import ParallelRequestsError as FastRequestsError
    from parallel_requests.gates.backoff import RetryPolicy, backoff
    from parallel_requests.gates.token_bucket import TokenBucket
    from parallel_requests.models import Attempt, Request, Response, Result, ReturnType
    from parallel_requests.models import Response as NormalizedResponse
    from parallel_requests.options import Options, RequestOptions
    from parallel_requests.part_files import Download
    from parallel_requests.planning import RequestItem
    from parallel_requests.session import ParallelSession
    from parallel_requests.stats import RunStats

__all__ = [
    "Attempt",
    "BackendError",
    "BodyTooLarge",
    "ConfigurationError",
    "ConnectError",
    "DNSError",
    "DeadlineExceededError",
    "DecodeError",
    "Download",
    "DownloadError",
    "FailureDetails",
    "FastRequests",
    "FastRequestsError",
    "HTTPStatusError",
    "NormalizedResponse",
    "Options",
    "ParallelRequests",
    "ParallelRequestsError",
    "ParallelSession",
    "ParseError",
    "PartialFailureError",
    "ProtocolError",
    "ProxyError",
    "RateLimitExceededError",
    "RedirectError",
    "Request",
    "RequestItem",
    "RequestOptions",
    "RequestTimeout",
    "ResourceExhausted",
    "Response",
    "Result",
    "RetryExhaustedError",
    "RetryPolicy",
    "ReturnType",
    "RunStats",
    "RunStoppedError",
    "TLSError",
    "TokenBucket",
    "TruncatedBody",
    "ValidationError",
    "__version__",
    "backoff",
    "download",
    "fastreq",
    "fastreq_async",
    "iter_results",
    "parallel_requests",
    "parallel_requests_async",
]

# Where the names live, the quickest to import first.
_HOMES = (
    "exceptions",
    "models",
    "gates.backoff",
    "gates.token_bucket",
    "options",
    "stats",
    "session",
    "api",
    "part_files",
    "planning",
    "aio",
)
_ALIASES = {
    "fastreq": "parallel_requests",
    "fastreq_async": "parallel_requests_async",
    "FastRequests": "ParallelRequests",
    "FastRequestsError": "ParallelRequestsError",
    "NormalizedResponse": "Response",
}

if not TYPE_CHECKING:  # a type checker would take any name for granted

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for, so that importing the package costs little."""
        from importlib import import_module

        if name in __all__:
            for home in _HOMES:
                module = import_module(f"{__name__}.{home}")
                value = getattr(module, _ALIASES.get(name, name), None)
                if value is not None:
                    globals()[name] = value
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
