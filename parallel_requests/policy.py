"""The rules by which a batch is carried out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from parallel_requests.cookies import CookieStore
from parallel_requests.exceptions import DeadlineExceededError, ParallelRequestsError
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.gates.pacing import Pacer
from parallel_requests.redirects import RedirectRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from parallel_requests.exchange import Reply
    from parallel_requests.gates.rotation import Rotation
    from parallel_requests.models import Attempt, Headers, Request

logger = logging.getLogger("parallel_requests")


class Resumption(Protocol):
    """Lets an attempt continue where an earlier one broke off."""

    def prepare(self, request: Request) -> Request:
        """Return the request to send in the next attempt: one for the missing part only, if it can be."""

    def begin(self, request: Request, status_code: int, headers: Headers) -> int:
        """Get ready for the body to be delivered, and return how many bytes of it are there already.

        Raises:
            ParallelRequestsError: The response does not continue what is there.
        """

    def starts_over(self, request: Request, reply: Reply) -> bool:
        """Whether the missing part is not available, so that the whole has to be requested at once."""


@dataclass(slots=True, eq=False, kw_only=True)
class Policy:
    """The rules by which a batch is carried out.

    Attributes:
        pacer: The session's gates.
        retry: What is retried, and when.
        cookies: The session's cookies.
        redirects: The rules for redirects; None if none are followed.
        raise_for_status: Whether a final status >= 400, or one retried in vain, is a failure.
        deadline: When the batch ends, on the pacer's clock.
        max_response_size: Decoded bytes a body may have.
        deliver: Called with each chunk of a streamed body, and the request.
        chunk_size: Bytes per chunk at most.
        restart: Says whether a stream that broke off may start over.
        resume: Continues a stream that broke off, instead.
        proxies: The proxies to rotate to after a ProxyError.
        on_attempt: The caller's hook.
        stop: The reason why unfinished items fail, once the batch has been ended.
        on_stop: Called by an engine when it ends the batch; must not block.
        is_watched: Whether attempts that succeed have to be recorded, too, for a hook or the log.
        may_retry_success: Whether a status below 300 may have to be retried.
    """

    pacer: Pacer = field(default_factory=Pacer)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    cookies: CookieStore = field(default_factory=CookieStore)
    redirects: RedirectRules | None = field(default_factory=RedirectRules)
    raise_for_status: bool = True
    deadline: float | None = None
    max_response_size: int | None = None
    deliver: Callable[[bytes, Request], object] | None = None
    chunk_size: int = 65_536
    restart: Callable[[Request], bool] | None = None
    resume: Resumption | None = None
    proxies: Rotation | None = None
    on_attempt: Callable[[Request, Attempt], object] | None = None
    stop: ParallelRequestsError | None = None
    on_stop: Callable[[], None] | None = None
    is_watched: bool = field(init=False)
    may_retry_success: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_watched = self.on_attempt is not None or logger.isEnabledFor(logging.DEBUG)
        is_listed = any(status < 300 for status in self.retry.status_forcelist)
        self.may_retry_success = is_listed or self.retry.retry_on is not None

    def end(self, reason: ParallelRequestsError) -> None:
        """End the batch: its unfinished items fail, for the first reason that is given."""
        if self.stop is None:
            self.stop = reason

    def reason_to_stop(self) -> ParallelRequestsError | None:
        """Return why unfinished items fail, if the batch has to end; None if it goes on."""
        if self.stop is None and self.deadline is not None and self.pacer.clock() >= self.deadline:
            self.stop = DeadlineExceededError("The deadline of its batch has passed.")
        return self.stop
