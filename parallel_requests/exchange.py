"""The whole life of one request, written once for all engines.

`exchange` is a generator without I/O or threads: it yields what has to be done (`Wait` or `Send`) and
is sent the outcome. Blocking and event-driven engines drive the same one, so retries, rate limits,
pacing, redirects and deadlines cannot differ between them; a test drives it with a list of replies.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, final

from parallel_requests.exceptions import (
    BackendError,
    ConnectError,
    DeadlineExceededError,
    HTTPStatusError,
    ParallelRequestsError,
    ProxyError,
    RateLimitExceededError,
    RedirectError,
    RequestTimeout,
    RetryExhaustedError,
    RunStoppedError,
    TruncatedBody,
)
from parallel_requests.gates.pacing import Wait
from parallel_requests.gates.rate_limit_headers import parse_quota, parse_retry_after
from parallel_requests.models import Attempt, Request, Response, Result
from parallel_requests.redaction import redact, text_of
from parallel_requests.redirects import REDIRECT_STATUSES, is_same_origin, next_hop

if TYPE_CHECKING:
    from parallel_requests.cookies import CookieStore
    from parallel_requests.policy import Policy

logger = logging.getLogger("parallel_requests")

Reply: TypeAlias = Response | ParallelRequestsError
Exchange: TypeAlias = Generator["Wait | Send", Any, Result[Any]]
"""Yields effects; is sent a Reply after a Send, and None after a Wait."""


@final
@dataclass(slots=True, eq=False)
class Send:
    """One attempt has to be made.

    Attributes:
        request: What to send.
        timeout: Seconds it may take, from connecting to the last byte; None for no limit.
        policy: The settings of the batch: size limits, and where a streamed body goes.
        began_at: When it began, by the pacer's clock.
        delivered: Bytes of the body that have reached the caller.
        is_cross_origin: Whether a redirect has led to another origin, so that no credentials may be added.
        needs_new_connection: Whether it must not take an idle connection, as another one broke off.
        took_idle_connection: Whether it took one, and not a share of one that others use.
        replays: How often the library resent it on its own, if it cannot be kept from doing so.
        flight: Where the backend registers the socket in use, so that a blocking engine can abort the
            attempt.
    """

    request: Request
    timeout: float | None
    policy: Policy
    began_at: float = 0.0
    delivered: int = 0
    is_cross_origin: bool = False
    needs_new_connection: bool = False
    took_idle_connection: bool = False
    replays: int = 0
    flight: Any = None


def exchange(request: Request, policy: Policy) -> Exchange:
    """Take one request through every attempt, wait and verdict to its Result."""
    state = _ExchangeState(request, policy)
    if request.problem is not None:
        return state.end(request.problem)
    while True:
        if (stop := policy.reason_to_stop()) is not None:
            return state.end(stop)

        # The gates. Every attempt passes all of them: first tries, retries and redirects.
        wait = policy.pacer.enter(state.target.authority)
        if wait is not None:
            yield wait
            continue

        # The attempt.
        reply = state.receive((yield state.next_attempt()))

        # The verdict: the Result, or another attempt, at once (after a redirect, say) or after a wait.
        if state.is_plain_success(reply):
            return state.succeed(reply)
        verdict = state.judge(reply)
        if verdict is Next.AFTER_WAIT:
            verdict = yield from state.back_off(reply)
        if isinstance(verdict, Result):
            return verdict


class Next(Enum):
    """Another attempt follows."""

    AT_ONCE = auto()
    AFTER_WAIT = auto()


class _ExchangeState:
    """The state of one exchange, and its decisions.

    Attributes:
        index: The place in the input, by which its Result and its file are found.
        target: What the next attempt sends: the request, or what a redirect made of it.
        attempts: Attempts made so far, redirects and replays included.
        retries: Retries made.
        is_retry: Whether the next attempt is a retry.
        retries_used: Retries counted against ``max_retries``: those made, and those that the retry
            budget of the host refused.
        replayed: Whether an attempt was replayed because its kept-alive connection was stale.
        is_budget_spent: Whether the retry budget refused the last retry.
        pause: Seconds the last response asks to wait.
        recorded: The attempts on record; a final success is one of them only if a hook or log needs it.
        redirects: The responses that led to the target.
        send: The attempt under way.
        started_at: When the first attempt began, by the pacer's clock.
        sent_at: When the latest attempt began.
    """

    __slots__ = (
        "attempts",
        "index",
        "is_budget_spent",
        "is_retry",
        "pause",
        "policy",
        "recorded",
        "redirects",
        "replayed",
        "request",
        "retries",
        "retries_used",
        "send",
        "sent_at",
        "started_at",
        "target",
    )

    send: Send

    def __init__(self, request: Request, policy: Policy) -> None:
        self.request = request
        self.index = request.index
        self.policy = policy
        self.target = request
        self.attempts = self.retries = self.retries_used = 0
        self.replayed = self.is_budget_spent = self.is_retry = False
        self.pause: float | None = None
        self.recorded: tuple[Attempt, ...] = ()
        self.redirects: tuple[Response, ...] = ()
        self.started_at = self.sent_at = 0.0

    def next_attempt(self) -> Send:
        """Return the next attempt to make."""
        policy, target = self.policy, self.target
        self.sent_at = now = policy.pacer.clock()
        if self.attempts == 0:
            self.started_at = now
            if (budget := policy.pacer.budgets.get(target.authority)) is not None:
                budget.deposit_call()
        self.attempts += 1
        if not policy.cookies.is_empty:
            target = _with_cookies(target, policy.cookies)
        timeout = target.timeout
        if policy.deadline is not None:
            left = max(0.0, policy.deadline - now)
            timeout = left if timeout is None else min(timeout, left)
        if policy.resume is not None:
            target = policy.resume.prepare(target)
        send = Send(target, timeout, policy, now)
        if self.recorded:
            send.needs_new_connection = self._lost_idle_connection()
            self.retries += self.is_retry  # only now: a stop may have come while it waited at the gates
            self.is_retry = False
        self.send = send
        if self.redirects:
            send.is_cross_origin = not is_same_origin(target.url, self.request.url)
        return send

    def _lost_idle_connection(self) -> bool:
        """Whether the last attempt broke off on an idle connection; the others may be dead as well."""
        has_broken_off = isinstance(self.recorded[-1].error, RequestTimeout | TruncatedBody)
        return has_broken_off and self.send.took_idle_connection

    def receive(self, reply: Reply) -> Reply:
        """Return the host's slot, and note what the response says about cookies, pauses and limits."""
        pacer, target = self.policy.pacer, self.target
        now = pacer.clock()
        elapsed = now - self.sent_at
        self.pause = None
        if type(reply) is Response:
            reply.elapsed = elapsed
            if self.send.delivered:
                reply.size = self.send.delivered
            if reply.status_code == 407 and target.proxy:
                reply = _proxy_refusal(target)  # its headers are the proxy's, and say nothing about the host
            elif reply.headers.steers:
                self._apply_headers(reply)
        elif (stop := self.policy.reason_to_stop()) is not None:
            reply = stop
        elif not isinstance(reply, Response | ParallelRequestsError):
            reply = _no_response(reply, target)  # type: ignore[unreachable]  # by the types
        pacer.leave(target.authority, reply, elapsed)
        if self.send.replays:
            self._count_replays(self.send.replays)
        return reply

    def _count_replays(self, replays: int) -> None:
        """Count what the library resent on its own, and charge it to the rate limit."""
        for _ in range(replays):
            closed = BackendError(
                "The server closed the kept-alive connection just as it was used.", stale=True
            )
            self._keep(Attempt(self.attempts, None, closed, 0.0, self.target.url))
            self.attempts += 1
            self._spend_replay()  # at the expense of retries, as the replay has been made
            self.policy.pacer.charge(self.target.authority)

    def _apply_headers(self, response: Response) -> None:
        """Store the cookies, note when to retry, and hold the host back for as long as it asks."""
        headers, pacer, retry = response.headers, self.policy.pacer, self.policy.retry
        if headers.may_have(b"set-cookie"):
            self.policy.cookies.absorb(self.target.url, headers)
        if not retry.respect_retry_after_header:
            return
        delay = parse_retry_after(headers, pacer.wall_clock)
        quota = parse_quota(headers, pacer.wall_clock) if headers.may_have(b"limit") else None
        self.pause = delay
        if response.status_code < 400:
            delay = None  # it is about this call, such as a 202 that is retried, and not about the host
        elif delay is None:
            self.pause = quota or None
        if delay is None and quota is None:
            return
        asked = max(delay or 0.0, quota or 0.0)
        held = min(asked, retry.retry_after_max)
        pacer.pause(self.target.authority, held)
        logger.info(
            "%s asks to wait %g s; calls to it are held back for %g s", self.target.authority, asked, held
        )

    def is_plain_success(self, reply: Reply) -> TypeGuard[Response]:
        """Whether nothing needs judging: no redirect, no failure, nothing that might have to be retried."""
        return type(reply) is Response and reply.status_code < 300 and not self.policy.may_retry_success

    def _record(self, reply: Reply) -> None:
        """Add the attempt to the history, and call the caller's hook."""
        response = reply if isinstance(reply, Response) else None
        attempt = Attempt(
            self.attempts,
            response.status_code if response else None,
            None if isinstance(reply, Response) else reply,
            self.policy.pacer.clock() - self.sent_at,
            self.target.url,
        )
        self._keep(attempt)

    def _keep(self, attempt: Attempt) -> None:
        self.recorded = (*self.recorded, attempt)
        logger.debug("%r", attempt)
        if self.policy.on_attempt is not None:
            try:
                self.policy.on_attempt(self.request, attempt)
            except BaseException:
                logger.exception("on_attempt raised; the request goes on")
            finally:
                self.request.index = self.index

    def judge(self, reply: Reply) -> Result[Any] | Next:
        """Decide what follows from a reply."""
        self._record(reply)
        retry, method = self.policy.retry, self.target.method
        try:
            if self._follow_up(reply):
                return Next.AT_ONCE
            if not retry.wants_retry(method, reply, self.retries_used):
                is_exhausted = self.retries_used > 0 and retry.wants_retry(method, reply, 0)
                return self._give_up(reply, is_exhausted=True) if is_exhausted else self._conclude(reply)
            if self._is_partly_delivered():
                return self._give_up(reply)
        except RedirectError as error:
            return self.end(error, reply)
        except BaseException as error:  # noqa: BLE001 - a bug in the caller's function must not lose the item
            return self.end(_callback_failure(error, self.target), reply)
        refusal = self.policy.reason_to_stop() or self._refuse_pause(reply)
        return Next.AFTER_WAIT if refusal is None else self.end(refusal, reply)

    def _follow_up(self, reply: Reply) -> bool:
        """Whether another attempt has to follow at once, without counting as a retry.

        One has to after a redirect, after a resumption that the server refused, and on a stale connection.

        Raises:
            RedirectError: The redirect must not be followed.
        """
        if self.policy.resume is not None and self.policy.resume.starts_over(self.request, reply):
            return True
        return self._follow_redirect(reply) if isinstance(reply, Response) else self._replay(reply)

    def _follow_redirect(self, response: Response) -> bool:
        """Set the next target; return False if the response is not a redirect to follow."""
        rules = self.policy.redirects
        if rules is None or response.status_code not in REDIRECT_STATUSES:
            return False
        redirects = (*self.redirects, response)
        target = next_hop(self.target, response, redirects, rules)
        if target is None:
            return False
        self.target, self.redirects = target, redirects
        return True

    def _replay(self, error: ParallelRequestsError) -> bool:
        """Whether to resend a request whose kept-alive connection was closed just as it was reused; once."""
        if self.replayed or not isinstance(error, BackendError) or not error.stale:
            return False
        may_repeat = self.target.method in self.policy.retry.allowed_methods
        if self._is_partly_delivered() or not (may_repeat or isinstance(error, ConnectError)):
            return False
        self.replayed = self._spend_replay()
        return self.replayed

    def _spend_replay(self) -> bool:
        """Take a replay from the retry budget of a host that has failed before; return False if it is spent.

        Otherwise, a host that is down and closes its kept-alive connections would get every call twice.
        """
        budget = self.policy.pacer.budgets.get(self.target.authority)
        return budget is None or budget.withdraw()

    def _is_partly_delivered(self) -> bool:
        """Whether the caller has received part of a stream that broke off, and cannot start over."""
        if not self.send.delivered or self.policy.resume is not None:
            return False
        return self.policy.restart is None or not self.policy.restart(self.send.request)

    def _refuse_pause(self, reply: Reply) -> RateLimitExceededError | None:
        """Return an error if the server asks for a longer wait than is allowed."""
        if self.pause is None or not isinstance(reply, Response):
            return None
        allowed = self.policy.retry.retry_after_max
        if self.policy.deadline is not None:
            allowed = max(0.0, min(allowed, self.policy.deadline - self.policy.pacer.clock()))
        if self.pause <= allowed:
            return None
        return RateLimitExceededError(
            f"{redact(self.target.url)} answered {reply.status_code} and asks to wait {self.pause:g} s; "
            f"{allowed:g} s are allowed (retry_after_max, deadline).",
            self.pause,
            reply,
        )

    def back_off(self, reply: Reply) -> Generator[Wait, Any, Result[Any] | Next]:
        """Wait until the budget allows a retry; return the Result if none are left.

        A retry that the budget refuses counts as used, and is followed by another wait.
        """
        while True:
            self.retries_used += 1
            seconds = self.policy.retry.delay(self.retries_used) if self.pause is None else self.pause
            logger.debug("%r waits %g s before retry %d", self.request, seconds, self.retries_used)
            yield Wait(seconds)
            if self._spend_retry(reply):
                return Next.AT_ONCE
            if self.retries_used >= self.policy.retry.max_retries:
                self.is_budget_spent = True
                return self._give_up(reply, is_exhausted=True)

    def _spend_retry(self, reply: Reply) -> bool:
        """Take a retry from the host's budget and prepare for it; return False if the budget is spent."""
        if self.policy.reason_to_stop() is not None:
            return True  # the exchange ends before the gates
        budget = None if self._is_host_up(reply) else self.policy.pacer.open_budget(self.target.authority)
        if budget is not None and not budget.withdraw():
            return False
        self.is_retry = True
        proxies = self.policy.proxies
        if isinstance(reply, ProxyError) and proxies is not None and self.target.proxy is not None:
            self.target = dataclasses.replace(self.target, proxy=proxies.after(self.target.proxy))
        return True

    def _is_host_up(self, reply: Reply) -> bool:
        """Whether a reply that is to be retried shows that its host can bear the retry."""
        if not isinstance(reply, Response):
            return False
        if reply.status_code == 429:
            return bool(self.pause)  # a limit was reached, and the host has said when to come again
        return reply.ok  # a 202 that is polled, say

    def succeed(self, response: Response) -> Result[Any]:
        """Return the Result of a response that is not a failure."""
        policy = self.policy
        if (budget := policy.pacer.budgets.get(self.target.authority)) is not None:
            budget.deposit_success()
        if policy.is_watched and len(self.recorded) < self.attempts:
            self._record(response)
        if self.redirects:
            response.history = self.redirects
        return self._result(None, response, self.sent_at - self.started_at + response.elapsed)

    def _conclude(self, reply: Reply) -> Result[Any]:
        """Return the Result of a reply that calls for no retry: a response below 400 is a success."""
        return self.succeed(reply) if isinstance(reply, Response) and reply.ok else self._give_up(reply)

    def _give_up(self, reply: Reply, *, is_exhausted: bool = False) -> Result[Any]:
        """Return the Result of a failure, unless it is a response that the caller takes whatever its status.

        Args:
            reply: The outcome of the last attempt.
            is_exhausted: Whether it would have been retried, had there been retries left.
        """
        if not isinstance(reply, Response):
            return self.end(reply, is_exhausted=is_exhausted)
        if not self.policy.raise_for_status:
            return self.succeed(reply)
        message = f"{redact(reply.url)} answered {reply.status_code} {reply.reason}."
        return self.end(HTTPStatusError(message, reply), reply, is_exhausted=is_exhausted)

    def end(
        self, error: ParallelRequestsError, reply: Reply | None = None, *, is_exhausted: bool = False
    ) -> Result[Any]:
        """Return the Result of a failure."""
        response = reply if isinstance(reply, Response) else None
        if response is not None:
            response.history = self.redirects
        if error is self.policy.stop:
            error = stop_error(error, self.request, self.attempts)
        elif is_exhausted:
            spent = ", and the retry budget of its host is spent" if self.is_budget_spent else ""
            error = RetryExhaustedError(
                f"{redact(self.request.url)} failed after {_times(self.attempts)}{spent}. Last: {error}",
                self.attempts,
                error,
                self.request.url,
            )
        elapsed = self.policy.pacer.clock() - self.started_at if self.attempts else 0.0
        return self._result(error, response, elapsed)

    def _result(
        self, error: ParallelRequestsError | None, response: Response | None, elapsed: float
    ) -> Result[Any]:
        return Result(  # by position, which is several times as fast as by keyword
            self.request,
            None,
            error,
            response,
            self.attempts,
            elapsed,
            self.retries,
            self.recorded,
            self.index,
        )


def stop_error(stop: ParallelRequestsError, request: Request, attempts: int = 0) -> ParallelRequestsError:
    """Return the error of an item that is unfinished when its batch has to end."""
    message = f"{redact(str(request.url))} was not done after {_times(attempts)}. {stop.message}"
    if isinstance(stop, DeadlineExceededError):
        return DeadlineExceededError(message, url=request.url)
    return RunStoppedError(message)


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"


def _with_cookies(request: Request, cookies: CookieStore) -> Request:
    own = request.headers.get("Cookie")
    header = cookies.header_for(request.url, own)
    if header is None or header == own:
        return request
    return dataclasses.replace(request, headers={**request.headers, "Cookie": header})


def _callback_failure(error: BaseException, request: Request) -> ParallelRequestsError:
    """Return the error of an item for which a function of the caller's, asked about a retry, raised."""
    failure = ParallelRequestsError(
        f"retry_on, dont_retry_on or restart raised {type(error).__name__} for {redact(request.url)}: "
        f"{text_of(error)}"
    )
    failure.__cause__ = error
    return failure


def _no_response(reply: object, request: Request) -> BackendError:
    return BackendError(
        f"The backend's send() returned a value of type {type(reply).__name__}, not a Response.",
        url=request.url,
    )


def _proxy_refusal(request: Request) -> ProxyError:
    return ProxyError(
        f"The proxy {redact(request.proxy or '')} asks for credentials (407); put them in its URL.",
        url=request.url,
        proxy_url=request.proxy or "",
    )
