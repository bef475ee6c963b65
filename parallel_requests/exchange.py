"""The whole life of one request, written once for every engine.

`exchange` is a generator without I/O or threads: it yields what is to be done (`Wait` or `Send`)
and is sent what came of it. Blocking and event-driven engines drive the same one, so retry, rate
limit, pacing, redirects and deadlines cannot differ between them; a test drives it with a list.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard

from parallel_requests.cookies import CookieStore
from parallel_requests.exceptions import (
    BackendError,
    DeadlineExceededError,
    HTTPStatusError,
    ParallelRequestsError,
    ProxyError,
    RateLimitExceededError,
    RedirectError,
    RetryExhaustedError,
    RunStoppedError,
)
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.gates.pacing import Pacer, Wait, parse_delay, parse_quota
from parallel_requests.models import Attempt, Headers, Request, Response, Result
from parallel_requests.redaction import redact, text_of
from parallel_requests.redirects import REDIRECT_STATUSES, RedirectRules, is_same_origin, next_hop

if TYPE_CHECKING:
    from parallel_requests.gates.rotation import Rotation

logger = logging.getLogger("parallel_requests")

Reply: TypeAlias = Response | ParallelRequestsError
Exchange: TypeAlias = Generator["Wait | Send", Any, Result[Any]]
"""Yields effects; is sent a Reply for a Send, and None once a Wait is over."""


@dataclass(slots=True, eq=False)
class Send:
    """One attempt is to be made.

    Attributes:
        request: What to send.
        timeout: Seconds it may take, from connecting to the last byte; None for no bound.
        policy: The terms of the batch: size limits, and where a streamed body goes.
        delivered: Bytes of the body that have reached the caller.
        replays: How often the library sent it again by itself, where it cannot be kept from that.
        is_away: Whether a redirect has led to another origin, to which no credential may be added.
        flight: Where a blocking engine learns which socket is used, so as to end the attempt.
    """

    request: Request
    timeout: float | None
    policy: Policy
    delivered: int = 0
    is_away: bool = False
    replays: int = 0
    flight: Any = None


class Resumption(Protocol):
    """Lets an attempt go on where an earlier one broke off."""

    def prepare(self, request: Request) -> Request:
        """Have the last word on what is sent, before each attempt: ask for the rest alone."""

    def begin(self, request: Request, status_code: int, headers: Headers) -> int:
        """Get ready for the body to be delivered, and return how many bytes of it are there.

        Raises:
            ParallelRequestsError: What comes does not fit.
        """

    def starts_over(self, request: Request, reply: Reply) -> bool:
        """Whether the rest was not to be had, and the whole is to be asked for at once."""


@dataclass(slots=True, eq=False, kw_only=True)
class Policy:
    """The terms one batch is carried out on.

    Attributes:
        pacer: The session's gates.
        retry: What is tried again, and when.
        cookies: The session's cookies.
        redirects: How far redirects are followed; None for not at all.
        raise_for_status: Whether a final status >= 400 is a failure.
        deadline: When the batch ends, on the pacer's clock.
        max_response_size: Decoded bytes a body may have.
        deliver: Takes the chunks of a streamed body, and the request.
        chunk_size: Bytes of such a chunk at most.
        restart: Says whether a stream that broke off may begin anew.
        resume: Goes on with one that broke off, instead.
        proxies: The proxies to fall back on.
        on_attempt: The caller's hook.
        stop: Set to end the batch: why its unfinished items fail.
        on_stop: Called by an engine when it ends the batch; must not block.
        is_watched: Whether anybody looks at attempts that succeed.
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

    def __post_init__(self) -> None:
        self.is_watched = self.on_attempt is not None or logger.isEnabledFor(logging.DEBUG)

    def reason_to_stop(self) -> ParallelRequestsError | None:
        """Return why an item that is not done fails, once the batch has to end."""
        if self.stop is None and self.deadline is not None and self.pacer.clock() >= self.deadline:
            self.stop = DeadlineExceededError("The deadline of its batch has passed.")
        return self.stop


def exchange(request: Request, policy: Policy) -> Exchange:
    """Carry one request through every attempt, wait and verdict until its Result."""
    life = _Life(request, policy)
    if request.problem is not None:
        return life.end(request.problem)
    while True:
        if (stop := policy.reason_to_stop()) is not None:
            return life.end(stop)

        # The gates. Whatever the attempt is for, it passes them all.
        wait = policy.pacer.enter(life.target.origin)
        if wait is not None:
            yield wait
            continue

        # The wire.
        reply = life.take((yield life.next_attempt()))

        # The verdict: the Result, or another attempt, at once (after a redirect, say) or after a wait.
        if life.is_plain_success(reply):
            return life.succeed(reply)
        verdict = life.judge(reply)
        if verdict is Next.AFTER_WAIT:
            verdict = yield from life.back_off(reply)
        if isinstance(verdict, Result):
            return verdict


class Next(Enum):
    """Another attempt follows."""

    AT_ONCE = auto()
    AFTER_WAIT = auto()


class _Life:
    """What one exchange has been through so far.

    Attributes:
        target: Where the next attempt goes: the request, or what a redirect made of it.
        attempts: Times on the wire.
        tries: Retries used up, those that the budget of the host refused included.
        retries: Retries made.
        replayed: Whether an attempt was made again because its kept-alive connection was stale.
        is_budget_spent: Whether the last try went to a spent budget.
        pause: Seconds the last answer asks to wait.
        earlier: The attempts so far; left empty where the first one succeeds.
        redirects: The answers that led to the target.
        send: The attempt under way.
        started_at: When the first attempt began, by the pacer's clock.
        sent_at: When the last one did.
    """

    __slots__ = (
        "attempts",
        "earlier",
        "is_budget_spent",
        "pause",
        "policy",
        "redirects",
        "replayed",
        "request",
        "retries",
        "send",
        "sent_at",
        "started_at",
        "target",
        "tries",
    )

    def __init__(self, request: Request, policy: Policy) -> None:
        self.request = request
        self.policy = policy
        self.target = request
        self.attempts = self.tries = self.retries = 0
        self.replayed = self.is_budget_spent = False
        self.pause: float | None = None
        self.earlier: tuple[Attempt, ...] = ()
        self.redirects: tuple[Response, ...] = ()
        self.send: Send | None = None
        self.started_at = self.sent_at = 0.0

    def next_attempt(self) -> Send:
        """Plan one time on the wire."""
        policy, target = self.policy, self.target
        self.sent_at = now = policy.pacer.clock()
        if self.attempts == 0:
            self.started_at = now
            if (budget := policy.pacer.budgets.get(target.origin)) is not None:
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
        self.send = send = Send(target, timeout, policy)
        if self.redirects:
            send.is_away = not is_same_origin(target.url, self.request.url)
        return send

    def take(self, reply: Reply) -> Reply:
        """Give the slot of the host back, and learn what the answer says beside its body."""
        pacer, target = self.policy.pacer, self.target
        now = pacer.clock()
        elapsed = now - self.sent_at
        self.pause = None
        if type(reply) is Response:
            reply.elapsed = elapsed
            if self.send is not None and self.send.delivered:
                reply.size = self.send.delivered
            if reply.headers.steers:
                self._learn(reply)
            if reply.status_code == 407 and target.proxy:
                reply = _proxy_refusal(target)
        elif (stop := self.policy.reason_to_stop()) is not None:
            reply = stop
        pacer.leave(target.origin, reply, elapsed)
        if self.send is not None and self.send.replays:
            self._count_replays(self.send.replays)
        return reply

    def _count_replays(self, replays: int) -> None:
        """Count, and pay for, what the library sent again by itself."""
        for _ in range(replays):
            closed = BackendError(
                "The server closed the kept-alive connection just as it was used.", stale=True
            )
            self.earlier = (*self.earlier, Attempt(self.attempts, None, closed, 0.0, self.target.url))
            self.attempts += 1
            self.policy.pacer.charge(self.target.origin)

    def _learn(self, response: Response) -> None:
        headers = response.headers
        if headers.may_have(b"set-cookie"):
            self.policy.cookies.absorb(self.target.url, headers)
        retry, pacer = self.policy.retry, self.policy.pacer
        if not retry.respect_retry_after_header:
            return
        if response.status_code >= 400 and headers.may_have(b"retry-after"):
            self.pause = parse_delay(headers.get("retry-after", ""), pacer.wall_clock)
        quota = parse_quota(headers, pacer.wall_clock) if headers.may_have(b"limit") else None
        if self.pause is not None or quota is not None:
            seconds = max(self.pause or 0.0, quota or 0.0)
            pacer.pause(self.target.origin, min(seconds, retry.retry_after_max))

    def is_plain_success(self, reply: Reply) -> TypeGuard[Response]:
        """Whether there is nothing to judge: no redirect, no failure, no predicate that may differ."""
        return type(reply) is Response and reply.status_code < 300 and self.policy.retry.retry_on is None

    def record(self, reply: Reply) -> None:
        """Note the attempt in the history, and tell the caller's hook."""
        response = reply if isinstance(reply, Response) else None
        attempt = Attempt(
            self.attempts,
            response.status_code if response else None,
            None if isinstance(reply, Response) else reply,
            self.policy.pacer.clock() - self.sent_at,
            self.target.url,
        )
        self.earlier = (*self.earlier, attempt)
        logger.debug("%r", attempt)
        if self.policy.on_attempt is not None:
            try:
                self.policy.on_attempt(self.request, attempt)
            except BaseException:
                logger.exception("on_attempt raised; the request goes on")

    def judge(self, reply: Reply) -> Result[Any] | Next:
        """Say what follows from a reply."""
        self.record(reply)
        retry, method = self.policy.retry, self.target.method
        try:
            if self.follow_up(reply):
                return Next.AT_ONCE
            if not retry.wants_retry(method, reply, self.tries):
                return self.conclude(
                    reply, is_exhausted=self.tries > 0 and retry.wants_retry(method, reply, 0)
                )
            if self._is_spoilt():
                return self.conclude(reply)
        except RedirectError as error:
            return self.end(error, reply)
        except BaseException as error:  # noqa: BLE001 - a predicate of the caller's: no reason to lose the item
            return self.end(_callback_failure(error), reply)
        refusal = self.policy.reason_to_stop() or self.refuse_pause(reply)
        return Next.AFTER_WAIT if refusal is None else self.end(refusal, reply)

    def follow_up(self, reply: Reply) -> bool:
        """Set the next target where an attempt has to follow at once; False where none has to.

        That is so after a redirect, where what broke off cannot be resumed, and once where the server
        closed a kept-alive connection just as it was used: the request is then replayed on another one.

        Raises:
            RedirectError: The redirect must not be followed.
        """
        if self.policy.resume is not None and self.policy.resume.starts_over(self.request, reply):
            return True
        if isinstance(reply, Response):
            rules = self.policy.redirects
            if rules is None or reply.status_code not in REDIRECT_STATUSES:
                return False
            self.redirects = (*self.redirects, reply)
            target = next_hop(self.target, reply, self.redirects, rules)
            if target is not None:
                self.target = target
            return target is not None
        if self.replayed or not isinstance(reply, BackendError) or not reply.stale or self._is_spoilt():
            return False
        self.replayed = self.target.method in self.policy.retry.allowed_methods
        return self.replayed

    def back_off(self, reply: Reply) -> Generator[Wait, Any, Result[Any] | Next]:
        """Wait for another try; return the Result where none is left, as a spent budget costs tries too."""
        while True:
            yield self.next_wait()
            if self.spend_retry(reply):
                return Next.AT_ONCE
            if self.tries >= self.policy.retry.max_retries:
                self.is_budget_spent = True
                return self.conclude(reply, is_exhausted=True)

    def _is_spoilt(self) -> bool:
        """Whether the caller has seen bytes of a stream that broke off, and cannot start anew."""
        if self.send is None or not self.send.delivered or self.policy.resume is not None:
            return False
        return self.policy.restart is None or not self.policy.restart(self.request)

    def refuse_pause(self, reply: Reply) -> RateLimitExceededError | None:
        """Return an error where the server asks for a longer wait than is allowed."""
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

    def next_wait(self) -> Wait:
        """Count a try and return the wait before it."""
        self.tries += 1
        if self.pause is not None:
            return Wait(self.pause)
        return Wait(self.policy.retry.delay(self.tries))

    def spend_retry(self, reply: Reply) -> bool:
        """Spend a retry of the host's budget and get ready for it; False where none is left."""
        if self.policy.reason_to_stop() is not None:
            return True  # the gates end it
        budget = self.policy.pacer.open_budget(self.target.origin)
        if budget is not None and not budget.withdraw():
            return False
        self.retries += 1
        proxies = self.policy.proxies
        if isinstance(reply, ProxyError) and proxies is not None and self.target.proxy is not None:
            self.target = dataclasses.replace(self.target, proxy=proxies.after(self.target.proxy))
        return True

    def succeed(self, response: Response) -> Result[Any]:
        """Return the Result of an answer that is no failure."""
        policy = self.policy
        if (budget := policy.pacer.budgets.get(self.target.origin)) is not None:
            budget.deposit_success()
        if policy.is_watched and len(self.earlier) < self.attempts:
            self.record(response)
        if self.redirects:
            response.history = tuple(past for past in self.redirects if past is not response)
        elapsed = self.sent_at - self.started_at + response.elapsed
        return Result(self.request, None, None, response, self.attempts, elapsed, self.retries, self.earlier)

    def conclude(self, reply: Reply, *, is_exhausted: bool = False) -> Result[Any]:
        """Return the Result of a reply that nothing will follow.

        Args:
            reply: What came of the last attempt.
            is_exhausted: Another try would have followed, were there any left.
        """
        if not isinstance(reply, Response):
            return self.end(reply, is_exhausted=is_exhausted)
        if reply.ok or not self.policy.raise_for_status:
            return self.succeed(reply)
        message = f"{redact(reply.url)} answered {reply.status_code} {reply.reason}."
        return self.end(HTTPStatusError(message, reply), reply, is_exhausted=is_exhausted)

    def end(
        self, error: ParallelRequestsError, reply: Reply | None = None, *, is_exhausted: bool = False
    ) -> Result[Any]:
        """Return the Result of a failure."""
        response = reply if isinstance(reply, Response) else None
        if response is not None:
            response.history = tuple(past for past in self.redirects if past is not response)
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
        return Result(self.request, None, error, response, self.attempts, elapsed, self.retries, self.earlier)


def stop_error(stop: ParallelRequestsError, request: Request, attempts: int = 0) -> ParallelRequestsError:
    """Return the error of an item that is not done where its batch has to end."""
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


def _callback_failure(error: BaseException) -> ParallelRequestsError:
    failure = ParallelRequestsError(
        f"A callback of the retry policy raised {type(error).__name__}: {text_of(error)}"
    )
    failure.__cause__ = error
    return failure


def _proxy_refusal(request: Request) -> ProxyError:
    return ProxyError(
        f"The proxy {redact(request.proxy or '')} asks for credentials (407); put them in its URL.",
        url=request.url,
        proxy_url=request.proxy or "",
    )
