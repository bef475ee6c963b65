"""Every error this library raises.

::

    ParallelRequestsError
    ├ ConfigurationError (ValueError)      an option is wrong; nothing was sent
    ├ ValidationError (ValueError)         an item is wrong; this item was not sent
    ├ BackendError                         the network or the protocol failed
    │ ├ ConnectError                       no connection; the request cannot have been received
    │ │ ├ DNSError                         the name was not found
    │ │ └ TLSError                         the peer could not be authenticated
    │ ├ ProxyError                         the proxy refused
    │ ├ RequestTimeout (TimeoutError)      an attempt took longer than ``timeout``
    │ │ └ DeadlineExceededError            the whole batch took longer than ``deadline``
    │ ├ ProtocolError                      the peer did not speak HTTP
    │ ├ TruncatedBody                      the body ended too soon
    │ ├ BodyTooLarge                       more than ``max_response_size``
    │ ├ RedirectError                      a loop, too many hops, or a forbidden target
    │ └ ResourceExhausted                  this process has no threads, sockets or memory left
    ├ HTTPStatusError                      the final status is >= 400, or was retried in vain
    ├ DecodeError                          the body cannot be decoded as ``return_type``
    ├ ParseError                           ``parse_func`` raised
    ├ DownloadError                        the file cannot be written, or does not match its checksum
    ├ RetryExhaustedError                  every allowed attempt failed
    ├ RateLimitExceededError               the server asks for a longer wait than allowed
    ├ RunStoppedError                      the run was stopped before this item was done
    └ PartialFailureError (ExceptionGroup) some items of a list failed; nothing is lost

All of them can be pickled, and none shows credentials.
"""

from __future__ import annotations

import contextlib
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from parallel_requests.redaction import ShownUrl, redact, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from parallel_requests.calls import Call
    from parallel_requests.models import Response, Result


class ParallelRequestsError(Exception):
    """The base class of every error that this library raises on purpose."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))

    @property
    def message(self) -> str:
        """What happened, in one sentence."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__, _picklable(self.__cause__))


def _picklable(error: BaseException | None) -> BaseException | None:
    """Return a cause as it is if it survives pickling, or else a stand-in with its type and message."""
    if error is None or isinstance(error, ParallelRequestsError):
        return error
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - pickled on this line
    except Exception:  # noqa: BLE001 - whatever its class may raise
        return stand_in(error)
    return error


def stand_in(error: BaseException) -> ParallelRequestsError:
    """Return an exception that shows of another only its type and its redacted message."""
    return ParallelRequestsError(f"{type(error).__name__}: {text_of(error)}")


def _rebuild(
    cls: type[ParallelRequestsError],
    args: tuple[Any, ...],
    state: dict[str, Any],
    cause: BaseException | None,
) -> ParallelRequestsError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error.__cause__ = cause
    return error


class ConfigurationError(ParallelRequestsError, ValueError):
    """An option is wrong; nothing was sent.

    Attributes:
        config_key: The name of the option, if there is one.
    """

    def __init__(self, message: str, config_key: str | None = None) -> None:
        super().__init__(message)
        self.config_key = config_key


class ValidationError(ParallelRequestsError, ValueError):
    """An item is wrong and was not sent; the rest of the batch goes on.

    Attributes:
        field_name: The part of the item that is wrong: ``"url"``, ``"headers"``, ``"json"`` …
    """

    def __init__(self, message: str, field_name: str | None = None) -> None:
        super().__init__(message)
        self.field_name = field_name


class BackendError(ParallelRequestsError):
    """The network, the peer or the protocol failed.

    Attributes:
        backend_name: The backend that saw it; empty if it is about a response that is complete.
        url: Where the attempt went, without credentials.
        stale: Whether the server closed a kept-alive connection just as it was reused.
    """

    def __init__(self, message: str, backend_name: str = "", url: str = "", *, stale: bool = False) -> None:
        super().__init__(message)
        self.backend_name = backend_name
        self.url: str = redact(url)
        self.stale = stale


class ConnectError(BackendError):
    """No connection could be made, so the request cannot have been received."""


class DNSError(ConnectError):
    """The host name was not found."""


class TLSError(ConnectError):
    """The TLS handshake failed: unknown CA, wrong host, expired certificate. Never downgraded or retried."""


class ProxyError(BackendError):
    """The proxy refused, or asked for credentials.

    Attributes:
        proxy_url: The proxy, without credentials.
    """

    def __init__(self, message: str, backend_name: str = "", url: str = "", *, proxy_url: str = "") -> None:
        super().__init__(message, backend_name, url)
        self.proxy_url: str = redact(proxy_url)


class RequestTimeout(BackendError, TimeoutError):
    """One attempt took longer than ``timeout``, from connecting to the last byte."""


class DeadlineExceededError(RequestTimeout):
    """The batch's ``deadline`` passed before this item was done."""


class ProtocolError(BackendError):
    """The peer sent something that is not HTTP."""


class TruncatedBody(BackendError):
    """The body ended before its announced length, its last chunk or its compressed end."""


class BodyTooLarge(BackendError):
    """The decoded body is larger than ``max_response_size``."""


class RedirectError(BackendError):
    """A redirect was not followed: a loop, too many, another scheme or a forbidden address.

    Attributes:
        history: The redirect responses so far, oldest first.
    """

    def __init__(
        self, message: str, backend_name: str = "", url: str = "", *, history: Sequence[Response] = ()
    ) -> None:
        super().__init__(message, backend_name, url)
        self.history: tuple[Response, ...] = tuple(history)


class ResourceExhausted(BackendError):
    """This process ran out of threads, file descriptors, ports or memory."""


class HTTPStatusError(ParallelRequestsError):
    """The final response has a status of 400 or above, or was to be retried and could not be.

    Attributes:
        response: The whole response.
    """

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response

    @property
    def status_code(self) -> int:
        """The status of the response."""
        return self.response.status_code


class DecodeError(ParallelRequestsError):
    """The body cannot be decoded as ``return_type``. It is not fetched again: the body is kept.

    Attributes:
        response: The whole response.
    """

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response


class ParseError(ParallelRequestsError):
    """``parse_func`` raised, or its process died. The item is not fetched again: the body is kept.

    Attributes:
        response: The whole response.
    """

    def __init__(self, message: str, response: Response | None = None) -> None:
        super().__init__(message)
        self.response = response


class DownloadError(ParallelRequestsError):
    """A file could not be written, or does not match its checksum.

    Attributes:
        path: Where it should have been written.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class RetryExhaustedError(ParallelRequestsError):
    """Every attempt that was allowed has failed; raised from the last error.

    Attributes:
        attempts: How many attempts were made.
        last_error: Why the last one failed.
        url: The item's URL, without credentials.
    """

    def __init__(self, message: str, attempts: int, last_error: Exception, url: str) -> None:
        super().__init__(message)
        self.attempts = attempts
        self.last_error = last_error
        self.url: str = redact(url)
        self.__cause__ = last_error


class RateLimitExceededError(ParallelRequestsError):
    """The server asks for a longer wait than ``retry_after_max`` or the deadline allows.

    Attributes:
        retry_after: The seconds the server asked for.
        response: The response that said so.
    """

    def __init__(self, message: str, retry_after: float, response: Response | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.response = response


class RunStoppedError(ParallelRequestsError):
    """The run was stopped (closed, cancelled, interrupted) before this item was done."""

    def __init__(self, message: str = "The session is closed; open a new one.") -> None:
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """One failed item of a batch.

    Attributes:
        url: The item's URL with its whole query, but without user and password; its repr hides tokens.
        error: Why it failed.
        attempt: How many attempts were made; 0 if nothing was sent.
        index: Its place in the input.
    """

    url: str
    error: Exception
    attempt: int
    index: int


class PartialFailureError(ParallelRequestsError, ExceptionGroup[Exception]):
    """Some items of a list failed. Nothing is lost: every Result is here.

    It is an ``ExceptionGroup`` of the items' errors, so ``except*`` selects them by type. The group it
    hands over has the selected errors in ``exceptions``; all else still describes the whole batch.

    Attributes:
        results: All Results, in input order.
        exceptions: The errors of the failed items, in input order.
        call: How the batch was called, for ``retry_failed``; lost when pickled.
    """

    results: tuple[Result[Any], ...]
    call: Call | None = None

    def __new__(
        cls, message: str, exceptions: Sequence[Exception], results: Sequence[Result[Any]] = ()
    ) -> Self:
        """Create the group: an ExceptionGroup takes its arguments here."""
        self = super().__new__(cls, message, exceptions)
        self.results = tuple(results)
        return self

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        results: Sequence[Result[Any]] = (),  # noqa: ARG002 - taken by __new__
    ) -> None:
        ExceptionGroup.__init__(self, message, exceptions)

    @classmethod
    def from_results(cls, results: Sequence[Result[Any]]) -> PartialFailureError:
        """Build the error of a batch from all of its Results."""
        errors = [result.error for result in results if result.error is not None]
        first = str(errors[0]) if errors else "nothing"
        message = (
            f"{len(errors)} of {len(results)} requests failed, the first with: {first} "
            "All Results are in .results, the failed items in .failed"
        )
        return cls(message, errors, results)

    def derive(self, excs: Sequence[Exception], /) -> PartialFailureError:  # type: ignore[override]
        """Keep the results, and how the batch was called, when ``except*`` splits the group."""
        part = PartialFailureError(self.message, excs, self.results)
        part.call = self.call
        return part

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"  # that of ExceptionGroup lists every error

    @property
    def failed(self) -> list[FailureDetails]:
        """Every failed item, in input order; the same URL may occur more than once."""
        return list(self._details())

    @property
    def failures(self) -> dict[str, FailureDetails]:
        """The failed items by URL, without user and password; of duplicates, the last."""
        return {details.url: details for details in self._details()}

    @property
    def successes(self) -> int:
        """How many items succeeded."""
        return self.total - sum(1 for _ in self._details())

    @property
    def total(self) -> int:
        """How many items there were."""
        return len(self.results)

    def get_failed_urls(self) -> list[str]:
        """The URLs of the failed items, in input order, duplicates included.

        They can be fetched again as they are, unless they contained a user and password: those are removed.
        """
        return [details.url for details in self._details()]

    def _details(self) -> Iterator[FailureDetails]:
        for result in self.results:
            if result.error is not None:
                yield FailureDetails(
                    ShownUrl(result.request.url), result.error, result.attempts, result.index
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return PartialFailureError, (self.message, tuple(self.exceptions), self.results)


@contextlib.contextmanager
def starting(what: str) -> Iterator[None]:
    """Translate what is raised if there is nothing left to start something with.

    Raises:
        ResourceExhausted: The system has no thread or socket left, or an executor takes nothing any more.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise ResourceExhausted(f"{what} cannot be started: {error}.") from error
