"""The tree of errors, their pickles, and PartialFailureError."""

from __future__ import annotations

import builtins
import pickle
from typing import Any

import pytest

import parallel_requests
from parallel_requests import exceptions
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
from parallel_requests.models import Request, Result
from parallel_requests.redaction import text_of
from tests.unit.driving import Answer, get

RESPONSE = Answer(503, {"X": "1"}, b"kept").to(get())
TREE: dict[type[Exception], tuple[type[BaseException], ...]] = {
    ParallelRequestsError: (Exception,),
    ConfigurationError: (ParallelRequestsError, ValueError),
    ValidationError: (ParallelRequestsError, ValueError),
    BackendError: (ParallelRequestsError,),
    ConnectError: (BackendError,),
    DNSError: (ConnectError,),
    TLSError: (ConnectError,),
    ProxyError: (BackendError,),
    RequestTimeout: (BackendError, builtins.TimeoutError),
    DeadlineExceededError: (RequestTimeout,),
    ProtocolError: (BackendError,),
    TruncatedBody: (BackendError,),
    BodyTooLarge: (BackendError,),
    RedirectError: (BackendError,),
    ResourceExhausted: (BackendError,),
    HTTPStatusError: (ParallelRequestsError,),
    DecodeError: (ParallelRequestsError,),
    ParseError: (ParallelRequestsError,),
    DownloadError: (ParallelRequestsError,),
    RetryExhaustedError: (ParallelRequestsError,),
    RateLimitExceededError: (ParallelRequestsError,),
    RunStoppedError: (ParallelRequestsError,),
    PartialFailureError: (ParallelRequestsError, ExceptionGroup),
}
EXAMPLES: list[ParallelRequestsError] = [
    ParallelRequestsError("plain"),
    ConfigurationError("wrong", "timeout"),
    ValidationError("wrong", "url"),
    BackendError("broke", "requests", "http://api.test/", stale=True),
    ConnectError("refused", "curl", "http://api.test/"),
    DNSError("unknown", "curl", "http://api.test/"),
    TLSError("expired", "curl", "http://api.test/"),
    ProxyError("refused", "curl", "http://api.test/", proxy_url="http://proxy.test"),
    RequestTimeout("slow", "curl", "http://api.test/"),
    DeadlineExceededError("late"),
    ProtocolError("odd", "curl", "http://api.test/"),
    TruncatedBody("cut", "curl", "http://api.test/"),
    BodyTooLarge("big", "curl", "http://api.test/"),
    RedirectError("loop", "curl", "http://api.test/", history=[RESPONSE]),
    ResourceExhausted("no sockets", "curl", "http://api.test/"),
    HTTPStatusError("503", RESPONSE),
    DecodeError("not JSON", RESPONSE),
    ParseError("raised", RESPONSE),
    DownloadError("full", "/data/file"),
    RetryExhaustedError("often", 4, TruncatedBody("cut"), "http://api.test/"),
    RateLimitExceededError("wait", 500.0, RESPONSE),
    RunStoppedError("stopped"),
]


def ids(value: object) -> str:
    return type(value).__name__ if isinstance(value, Exception) else getattr(value, "__name__", str(value))


def failed(index: int, url: str, error: ParallelRequestsError, attempts: int = 1) -> Result[Any]:
    return Result(Request(url, index=index), error=error, attempts=attempts)


def fine(index: int, url: str, value: Any = None) -> Result[Any]:
    return Result(Request(url, index=index), value, attempts=1)


def partial_failure() -> PartialFailureError:
    return PartialFailureError.from_results(
        [
            fine(0, "http://api.test/0", "zero"),
            failed(1, "http://api.test/x", HTTPStatusError("503", RESPONSE), 4),
            fine(2, "http://api.test/x", "two"),
            failed(3, "http://api.test/x", RequestTimeout("slow"), 2),
            failed(4, "http://api.test/y", ValidationError("bad", "url"), 0),
        ]
    )


# -- the tree


@pytest.mark.parametrize("kind", TREE, ids=ids)
def test_every_error_has_its_place_in_the_tree(kind: type[Exception]) -> None:
    assert all(issubclass(kind, base) for base in TREE[kind])
    assert kind.__name__ in (exceptions.__doc__ or "")
    assert getattr(parallel_requests, kind.__name__) is kind


def test_the_tree_is_complete() -> None:
    own = {
        value
        for value in vars(exceptions).values()
        if isinstance(value, type)
        and issubclass(value, BaseException)
        and value.__module__ == exceptions.__name__
    }
    assert own == set(TREE)
    assert parallel_requests.FastRequestsError is ParallelRequestsError
    assert {type(example) for example in EXAMPLES} == own - {PartialFailureError}


# -- pickles


@pytest.mark.parametrize("error", EXAMPLES, ids=ids)
def test_every_error_pickles(error: ParallelRequestsError) -> None:
    error.add_note("a note")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert str(again) == str(error) == again.message
        assert set(vars(again)) == set(vars(error))
        assert again.__notes__ == error.__notes__
        assert type(again.__cause__) is type(error.__cause__)
        for name in (
            "backend_name",
            "url",
            "stale",
            "proxy_url",
            "config_key",
            "field_name",
            "attempts",
            "retry_after",
        ):
            assert getattr(again, name, None) == getattr(error, name, None)
        if getattr(error, "response", None) is not None:
            assert getattr(again, "response").content == b"kept"  # noqa: B009 - only some have one


class Mute(Exception):
    """Its ``str`` raises."""

    def __str__(self) -> str:
        raise LookupError("a bug of the caller's")


def test_the_text_of_an_error_whose_str_raises() -> None:
    assert text_of(Mute()) == "(it has no readable text)"


def test_a_cause_of_the_callers_pickles_where_it_can() -> None:
    error = ParseError("raised", RESPONSE)
    error.__cause__ = KeyError("name")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again.__cause__, KeyError)


class Demanding(Exception):
    """Can be pickled but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)
        self.two = two


class Textless(Demanding):
    """Its ``str`` and ``repr`` raise."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("kind", "said"), [(Demanding, "Demanding: one"), (Textless, "Textless: (it has no readable text)")]
)
def test_a_cause_that_cannot_be_rebuilt_becomes_text(kind: type[Demanding], said: str) -> None:
    error = ParseError("raised", RESPONSE)
    error.__cause__ = kind("one", "two")
    again = pickle.loads(pickle.dumps(error))
    assert str(again.__cause__) == said


# -- PartialFailureError


def test_nothing_is_lost() -> None:
    error = partial_failure()
    assert [result.index for result in error.results] == [0, 1, 2, 3, 4]
    assert [result.value for result in error.results if result.ok] == ["zero", "two"]
    assert (error.total, error.successes, len(error.exceptions)) == (5, 2, 3)
    assert "3 of 5" in str(error)


def test_the_repr_does_not_grow_with_the_failures() -> None:
    results = [failed(n, f"http://api.test/{n}", RequestTimeout("slow"), 1) for n in range(1_000)]
    shown = repr(PartialFailureError.from_results(results))
    assert shown.startswith("PartialFailureError('1000 of 1000 requests failed")
    assert len(shown) < 200


def test_duplicates_are_distinguished() -> None:
    error = partial_failure()
    assert error.get_failed_urls() == ["http://api.test/x", "http://api.test/x", "http://api.test/y"]
    assert [(details.index, details.attempt) for details in error.failed] == [(1, 4), (3, 2), (4, 0)]
    assert set(error.failures) == {"http://api.test/x", "http://api.test/y"}
    details = error.failures["http://api.test/y"]
    assert isinstance(details, FailureDetails)
    assert (details.url, details.index, details.attempt) == ("http://api.test/y", 4, 0)
    assert isinstance(details.error, ValidationError)


def test_except_star_picks_by_type() -> None:
    picked: dict[str, ExceptionGroup[Any]] = {}
    try:
        raise partial_failure()
    except* HTTPStatusError as group:
        picked["status"] = group
    except* (RequestTimeout, ValidationError) as group:
        picked["others"] = group
    assert isinstance(picked["status"], PartialFailureError)
    assert picked["status"].total == 5
    assert [len(picked[name].exceptions) for name in ("status", "others")] == [1, 2]


def test_it_is_caught_as_the_root_and_as_a_group() -> None:
    with pytest.raises(ParallelRequestsError):
        raise partial_failure()
    with pytest.raises(ExceptionGroup):
        raise partial_failure()


def test_a_partial_failure_pickles() -> None:
    error = partial_failure()
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, PartialFailureError)
    assert str(again) == str(error)
    assert [result.index for result in again.results] == [0, 1, 2, 3, 4]
    assert again.get_failed_urls() == error.get_failed_urls()
    assert [type(inner) for inner in again.exceptions] == [type(inner) for inner in error.exceptions]


def test_splitting_keeps_the_results() -> None:
    match, rest = partial_failure().split(RequestTimeout)
    assert isinstance(match, PartialFailureError)
    assert isinstance(rest, PartialFailureError)
    assert (len(match.exceptions), len(rest.exceptions)) == (1, 2)
    assert match.results == rest.results


def test_the_details_do_not_change() -> None:
    with pytest.raises(AttributeError):
        partial_failure().failed[0].url = "other"  # type: ignore[misc]
