"""Drives exchanges with a list of replies instead of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from parallel_requests.exchange import Send, exchange
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.gates.pacing import Pacer, Wait
from parallel_requests.models import Headers, Request, Response, Result
from parallel_requests.policy import Policy
from tests.unit.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from parallel_requests.exceptions import ParallelRequestsError

WALL_TIME = 1_700_000_000.0
MOST_STEPS = 1_000


def get(url: str = "http://api.test/item", **options: Any) -> Request:
    """A Request as the planner would make it."""
    return Request(url, authority=url.split("/")[2], **options)


class Answer:
    """The response of a simulated server to any request."""

    def __init__(
        self,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes = b"{}",
    ) -> None:
        self.status = status
        self.headers = Headers(headers)
        self.body = body

    def to(self, request: Request) -> Response:
        """The Response to one request."""
        return Response(self.status, self.headers, self.body, request)

    def __repr__(self) -> str:
        return f"Answer({self.status}, {self.headers})"


class Stage:
    """Everything one exchange needs, on a clock of its own, and a record of what it did."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        gates = {
            name: options.pop(name)
            for name in (
                "rate_limit",
                "rate_limit_per_host",
                "burst",
                "concurrency_per_host",
                "adaptive",
                "retry_budget",
                "concurrency",
            )
            if name in options
        }
        self.pacer = Pacer(clock=self.clock, wall_clock=lambda: WALL_TIME, **gates)
        options.setdefault("retry", RetryPolicy(backoff_jitter=0.0))
        self.policy = Policy(pacer=self.pacer, **options)
        self.sent: list[Send] = []
        self.waits: list[Wait] = []

    def run(
        self, request: Request, replies: Iterable[Answer | ParallelRequestsError], *, takes: float = 0.1
    ) -> Result[Any]:
        """Drive an exchange to its Result; the last reply is repeated, each attempt takes some seconds."""
        script = _repeating_last(replies)
        journey = exchange(request, self.policy)
        reply: Any = None
        try:
            for _ in range(MOST_STEPS):
                effect = journey.send(reply)
                if isinstance(effect, Wait):
                    self.waits.append(effect)
                    assert effect.seconds is not None, "nobody is there to free a place"
                    assert effect.seconds >= 0.0
                    self.clock.advance(effect.seconds)
                    reply = None
                else:
                    self.sent.append(effect)
                    assert effect.timeout is None or effect.timeout >= 0.0
                    self.clock.advance(takes)
                    played = next(script)
                    reply = played.to(effect.request) if isinstance(played, Answer) else played
        except StopIteration as end:
            result: Result[Any] = end.value
            return result
        raise AssertionError("the exchange does not end")

    @property
    def urls(self) -> list[str]:
        """The URLs of the attempts."""
        return [send.request.url for send in self.sent]

    @property
    def waited(self) -> list[float | None]:
        """The seconds of the waits, in order."""
        return [wait.seconds for wait in self.waits]


def _repeating_last(
    replies: Iterable[Answer | ParallelRequestsError],
) -> Iterator[Answer | ParallelRequestsError]:
    last: Answer | ParallelRequestsError = Answer()
    for last in replies:
        yield last
    while True:
        yield last
