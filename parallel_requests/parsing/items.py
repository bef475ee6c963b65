"""What goes through a pool of parse processes: one Result each, and what those of a batch have in common."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, cast

from parallel_requests.exceptions import DecodeError, ParallelRequestsError, ParseError
from parallel_requests.exchange import stop_error
from parallel_requests.parsing.work import pack
from parallel_requests.redaction import redact, text_of

if TYPE_CHECKING:
    from parallel_requests.models import Response, Result
    from parallel_requests.parsing.in_place import Deliver
    from parallel_requests.parsing.work import Parcel, Work
    from parallel_requests.policy import Policy

_CHUNK_SECONDS = 0.05
_CHUNK_ITEMS = 256
"""Limits of a chunk; its seconds are estimated from what earlier items took."""


class Job:
    """What the items of one batch have in common.

    Attributes:
        work: What is done to them.
        policy: The policy of the batch, which knows whether it has to end.
        open: How many of them are in the pool.
    """

    __slots__ = ("_cost", "open", "policy", "work")

    def __init__(self, work: Work, policy: Policy) -> None:
        self.work = work
        self.policy = policy
        self.open = 0
        self._cost: float | None = None

    def learn(self, seconds: float, count: int) -> None:
        """Update the estimated cost of an item."""
        cost = seconds / count
        self._cost = cost if self._cost is None else (self._cost + cost) / 2

    def items_per_chunk(self) -> int:
        """Return how many items may form a chunk; one, until their cost is known."""
        if self._cost is None:
            return 1
        return max(1, min(_CHUNK_ITEMS, int(_CHUNK_SECONDS / max(self._cost, 1e-9))))


class Item:
    """A Result on its way through a pool."""

    __slots__ = ("_deliver", "_result", "is_suspect", "job", "response")

    def __init__(self, job: Job, result: Result[Any], deliver: Deliver) -> None:
        self.job = job
        self.response: Response = cast("Response", result.response)  # only successes are parsed
        self.is_suspect = False  # it may have killed a child, so it is sent on its own
        self._result = result
        self._deliver = deliver

    def parcel(self) -> Parcel:
        """Return the parts of its response that a process needs."""
        return pack(self.response, self.job.work.return_type)

    def settle(self, outcome: bytes) -> None:
        """Deliver the Result with what a child made of the response."""
        try:
            value, error = pickle.loads(outcome)  # noqa: S301 - from our child
        except BaseException as failure:  # noqa: BLE001 - whatever the caller's classes may raise, SystemExit too
            problem = f"What parse_func returned for {redact(self.response.url)} cannot be unpickled"
            self.fail(f"{problem} ({type(failure).__name__}: {text_of(failure)}).")
            return
        self._result.value = value
        self._end(error)

    def fail(self, problem: str) -> None:
        """Deliver the Result as a failure to parse."""
        self._end(ParseError(f"{problem} The response is kept in .response."))

    def stop(self, reason: ParallelRequestsError) -> None:
        """Deliver the Result as one whose batch has to end."""
        self._end(stop_error(reason, self._result.request, self._result.attempts))

    def _end(self, error: ParallelRequestsError | None) -> None:
        if isinstance(error, DecodeError | ParseError):
            error.response = self.response
        self._result.error = error
        self._deliver(self._result)
