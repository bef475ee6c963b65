"""When the next attempt to a host may start: rates, pauses the server asks for, attempts in flight."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

from parallel_requests.exceptions import RequestTimeout
from parallel_requests.gates.retry_budget import RetryBudget
from parallel_requests.gates.token_bucket import TokenBucket
from parallel_requests.locks import Lock
from parallel_requests.models import Response
from parallel_requests.urls import check_url

ALL_HOSTS: Final = "*"
LEAST_SETTLE, MOST_SETTLE = 0.05, 0.25
"""Bounds, in seconds, of the delay before a full bucket starts to refill: the time of one token. The first
burst has to open connections, and so reaches the server late."""
REMEMBERED_HOSTS: Final = 10_000
"""Hosts whose state is kept at most, unless more of them are busy."""

_OVERLOAD = frozenset({429, 503})


@final
@dataclass(slots=True, eq=False)
class Wait:
    """An exchange has to be parked.

    Attributes:
        seconds: For how long; None for until a slot of the host comes free.
        gate: The host (or `ALL_HOSTS`) whose gate is closed: other exchanges that want to pass it
            queue behind this one. None if only this exchange waits.
    """

    seconds: float | None
    gate: str | None = None


def _authority_of(host: str) -> str:
    """Return a host as the authority of a URL has it: lower-case, in IDNA, without a default port."""
    _, authority = check_url(f"http://{host}")
    return authority.removesuffix(":443")


@dataclass(slots=True)
class _Host:
    """The state of one host."""

    bucket: TokenBucket | None
    limit: float  # at least 1
    paused_until: float = 0.0
    in_flight: int = 0
    reduced_at: float = -1.0

    def is_busy(self, now: float) -> bool:
        """Whether what was sent to it before holds it back now, or may do so later."""
        return (
            self.in_flight > 0
            or self.paused_until > now
            or (self.bucket is not None and not self.bucket.is_at_rest())
        )


class Pacer:
    """Decides when an attempt may start; all engines and all batches of a session share one.

    Hosts are distinguished by authority: host and non-default port. As new hosts come, those that are
    not busy are forgotten, except for the adapted limits and the budgets that changed last.

    Attributes:
        clock: Monotonic seconds.
        wall_clock: Unix seconds.
        budgets: The retry budgets of the hosts that have failed before, the latest last; read-only.
            Another thread may remove a host at any time.
    """

    def __init__(
        self,
        *,
        rate_limit: float | Mapping[str, float] | None = None,
        rate_limit_per_host: float | None = None,
        burst: int = 5,
        concurrency: int = 20,
        concurrency_per_host: int | None = None,
        adaptive: bool = False,
        retry_budget: bool = True,
        remembered: int = REMEMBERED_HOSTS,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the gates.

        Args:
            rate_limit: Attempts per second for all hosts together, or host → rate with `ALL_HOSTS`.
            rate_limit_per_host: Attempts per second to each host that ``rate_limit`` does not name.
            burst: Attempts that may go out at once after a pause.
            concurrency: Where an adaptive host's limit starts, and its ceiling.
            concurrency_per_host: Attempts in flight to one host at most.
            adaptive: Let each host's limit grow by one a round and shrink on overload (AIMD,
                Chiu and Jain 1989).
            retry_budget: Keep a RetryBudget for each host that fails.
            remembered: How many retry budgets are kept, of the hosts that failed last; and how many hosts,
                unless more are busy. Up to half of these are kept just for their adapted limit.
            clock: Monotonic seconds.
            wall_clock: Unix seconds, for the dates that servers send.
        """
        rates = dict(rate_limit) if isinstance(rate_limit, Mapping) else {ALL_HOSTS: rate_limit}
        overall = rates.pop(ALL_HOSTS, None)
        self.clock = clock
        self.wall_clock = wall_clock
        self._rates = {_authority_of(host): rate for host, rate in rates.items()}
        self._rate_per_host = rate_limit_per_host
        self._burst = burst
        self._ceiling = float(concurrency_per_host or concurrency)
        self._adaptive = adaptive
        self._counts_in_flight = adaptive or concurrency_per_host is not None
        self._keeps_budget = retry_budget
        self._bucket = None if overall is None else self._new_bucket(overall)
        self._remembered = self._room = remembered
        self._hosts: dict[str, _Host] = {}
        self.budgets: OrderedDict[str, RetryBudget] = OrderedDict()
        # Guards _hosts, every _Host in it, _room, and changes of budgets and _always_open.
        self._lock = Lock()
        self._always_open = not (rates or rate_limit_per_host or self._counts_in_flight or self._bucket)

    def _new_bucket(self, rate: float) -> TokenBucket:
        settle = min(MOST_SETTLE, max(LEAST_SETTLE, 1.0 / rate))
        return TokenBucket(rate, self._burst, settle=settle, clock=self.clock)

    def _host(self, authority: str) -> _Host:
        host = self._hosts.get(authority)
        if host is None:
            if len(self._hosts) >= self._room:
                self._make_room()
            of_name = self._rates.get(authority.rpartition(":")[0], self._rate_per_host)
            rate = self._rates.get(authority, of_name)
            bucket = self._new_bucket(rate) if rate is not None else None
            host = self._hosts[authority] = _Host(bucket, self._ceiling)
        return host

    def _make_room(self) -> None:
        """Forget the hosts whose state is that of a new one.

        Of the hosts with an adapted limit, those cut last stay, up to half of ``remembered``: the older a
        limit is, the less it says. The room for new hosts grows with those that stay, so that the cost per
        host is constant on average.
        """
        now = self.clock()
        busy = {authority: host for authority, host in self._hosts.items() if host.is_busy(now)}
        adapted = [
            item for item in self._hosts.items() if item[1].limit < self._ceiling and item[0] not in busy
        ]
        adapted.sort(key=lambda item: item[1].reduced_at, reverse=True)
        self._hosts = busy | dict(adapted[: self._remembered // 2])
        self._room = max(self._remembered, 2 * len(self._hosts))

    def enter(self, authority: str) -> Wait | None:
        """Ask to start an attempt: None if it may start, and is counted; else a Wait before asking again."""
        if self._always_open:
            return None
        with self._lock:
            host = self._host(authority)
            pause = host.paused_until - self.clock()
            if pause > 0:
                return Wait(pause, authority)
            if self._counts_in_flight and host.in_flight >= int(host.limit):
                return Wait(None, authority)
            if host.bucket is not None and (delay := host.bucket.peek()) > 0:
                return Wait(delay, authority)
            if self._bucket is not None and (delay := self._bucket.try_acquire()) > 0:
                return Wait(delay, ALL_HOSTS)
            if host.bucket is not None:
                host.bucket.try_acquire()
            if self._counts_in_flight:
                host.in_flight += 1
            return None

    def has_free_slot(self, authority: str) -> bool:
        """Whether one more attempt to a host may be in flight."""
        with self._lock:
            host = self._host(authority)
            return host.in_flight < int(host.limit)

    def leave(self, authority: str, reply: Response | Exception, elapsed: float) -> None:
        """Return the attempt's slot, and adapt the limit to its outcome."""
        if not self._counts_in_flight:
            return
        with self._lock:
            host = self._host(authority)
            host.in_flight -= 1
            if self._adaptive:
                self._adapt(host, reply, elapsed)

    def _adapt(self, host: _Host, reply: Response | Exception, elapsed: float) -> None:
        now = self.clock()
        if isinstance(reply, RequestTimeout) or (
            isinstance(reply, Response) and reply.status_code in _OVERLOAD
        ):
            if now - elapsed >= host.reduced_at:  # it started after the last cut, so it says something new
                host.limit = max(1.0, host.limit * 0.7)
                host.reduced_at = now
        elif isinstance(reply, Response):
            host.limit = min(self._ceiling, host.limit + 1.0 / host.limit)

    def charge(self, authority: str) -> None:
        """Charge for an attempt that was made without asking."""
        with self._lock:
            host = self._host(authority)
            if host.bucket is not None:
                host.bucket.reserve()
            if self._bucket is not None:
                self._bucket.reserve()

    def pause(self, authority: str, seconds: float) -> None:
        """Start no more attempts to a host for some seconds."""
        with self._lock:
            host = self._host(authority)
            host.paused_until = max(host.paused_until, self.clock() + seconds)
            self._always_open = False

    def open_budget(self, authority: str) -> RetryBudget | None:
        """Return the retry budget of a host that just failed, or None if none are kept."""
        if not self._keeps_budget:
            return None
        with self._lock:
            budget = self.budgets.get(authority)
            if budget is None:
                budget = self.budgets[authority] = RetryBudget()
                if len(self.budgets) > self._remembered:
                    self.budgets.popitem(last=False)
            else:
                self.budgets.move_to_end(authority)
            return budget

    def limits(self) -> dict[str, int]:
        """Return the limit of attempts in flight of each host; empty unless they are limited per host."""
        if not self._counts_in_flight:
            return {}
        with self._lock:
            return {authority: int(host.limit) for authority, host in self._hosts.items()}
