"""One request's whole life, driven with a list of replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.exceptions import (
    BackendError,
    ConnectError,
    DeadlineExceededError,
    DNSError,
    HTTPStatusError,
    ParallelRequestsError,
    ProtocolError,
    ProxyError,
    RateLimitExceededError,
    RedirectError,
    RequestTimeout,
    RetryExhaustedError,
    RunStoppedError,
    TLSError,
    TruncatedBody,
    ValidationError,
)
from parallel_requests.exchange import Send, exchange
from parallel_requests.gates.backoff import RetryPolicy
from parallel_requests.gates.retry_budget import RetryBudget
from parallel_requests.gates.rotation import Rotation
from parallel_requests.models import Attempt, Request, Response
from parallel_requests.redirects import RedirectRules
from tests.unit.driving import WALL_TIME, Answer, Stage, get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "s3cr3t"


def to(location: str, status: int = 302, *, set_cookie: str | None = None) -> Answer:
    return Answer(status, {"Location": location} | ({} if set_cookie is None else {"Set-Cookie": set_cookie}))


def is_accepted(outcome: Response | Exception) -> bool:
    return isinstance(outcome, Response) and outcome.status_code == 202


# -- success


def test_one_attempt_and_no_wait() -> None:
    stage = Stage()
    result = stage.run(get(timeout=5.0), [Answer(200, body=b"[1]")], takes=0.25)
    assert result.ok
    assert result.response is not None
    assert result.response.content == b"[1]"
    assert result.response.elapsed == pytest.approx(0.25)
    assert result.elapsed == pytest.approx(0.25)
    assert (result.attempts, len(result.history), stage.waits) == (1, 1, [])
    assert result.history[0].status_code == 200
    assert stage.sent[0].timeout == 5.0


def test_an_invalid_request_is_not_sent() -> None:
    stage = Stage()
    problem = ValidationError("no", "url")
    result = stage.run(Request("nonsense", problem=problem), [])
    assert result.error is problem
    assert (result.attempts, result.elapsed, result.history, stage.sent) == (0, 0.0, (), [])


# -- retries


def test_a_503_is_retried_after_one_two_four_seconds() -> None:
    stage = Stage()
    result = stage.run(get(), [Answer(503), Answer(500), Answer(429), Answer(200)])
    assert result.ok
    assert result.attempts == 4
    assert stage.waited == [1.0, 2.0, 4.0]
    assert [attempt.status_code for attempt in result.history] == [503, 500, 429, 200]
    assert [attempt.number for attempt in result.history] == [1, 2, 3, 4]
    assert result.elapsed == pytest.approx(7.4)


def test_when_every_attempt_fails_the_last_error_is_the_cause() -> None:
    stage = Stage()
    result = stage.run(get(), [TruncatedBody("cut")])
    assert isinstance(result.error, RetryExhaustedError)
    assert result.error.attempts == 4
    assert isinstance(result.error.last_error, TruncatedBody)
    assert result.error.__cause__ is result.error.last_error
    assert len(result.history) == 4


def test_an_exhausted_status_keeps_the_response() -> None:
    result = Stage().run(get(), [Answer(503, body=b"down")])
    assert isinstance(result.error, RetryExhaustedError)
    assert isinstance(result.error.last_error, HTTPStatusError)
    assert result.response is not None
    assert result.response.content == b"down"


@pytest.mark.parametrize(
    ("final", "kind"),
    [(Answer(404), HTTPStatusError), (TLSError("expired"), TLSError), (ProtocolError("odd"), ProtocolError)],
    ids=["404", "TLSError", "ProtocolError"],
)
def test_what_is_never_retried_is_its_own_error_also_after_a_retry(final: Any, kind: type[Exception]) -> None:
    result = Stage().run(get(), [Answer(503), final])
    assert type(result.error) is kind
    assert result.attempts == 2


def test_without_retries_the_error_is_its_own() -> None:
    result = Stage(retry=RetryPolicy(max_retries=0)).run(get(), [Answer(503)])
    assert type(result.error) is HTTPStatusError


def test_an_unknown_name_is_tried_twice() -> None:
    result = Stage().run(get(), [DNSError("no such host")])
    assert result.attempts == 2
    assert isinstance(result.error, RetryExhaustedError)


@pytest.mark.parametrize(
    "reply", [Answer(503), Answer(429), TruncatedBody("cut"), RequestTimeout("slow")], ids=repr
)
def test_a_post_that_may_have_been_received_is_sent_once(reply: Any) -> None:
    stage = Stage()
    result = stage.run(get(method="POST"), [reply])
    assert not result.ok
    assert len(stage.sent) == 1


def test_a_post_that_cannot_have_been_received_is_sent_again() -> None:
    result = Stage().run(get(method="POST"), [ConnectError("refused"), Answer(201)])
    assert result.ok
    assert result.attempts == 2


def test_bad_statuses_are_successes_without_raise_for_status() -> None:
    stage = Stage(raise_for_status=False, retry=RetryPolicy(max_retries=1))
    result = stage.run(get(), [Answer(503)])
    assert result.ok
    assert result.response is not None
    assert (result.response.status_code, result.attempts) == (503, 2)


def test_a_predicate_may_refuse_a_200() -> None:
    policy = RetryPolicy(
        backoff_jitter=0.0, retry_on=lambda seen: isinstance(seen, Response) and not seen.content
    )
    result = Stage(retry=policy).run(get(), [Answer(200, body=b""), Answer(200, body=b"1")])
    assert (result.ok, result.attempts) == (True, 2)


@pytest.mark.parametrize("status", [202, 304, 404])
def test_any_status_can_be_retried(status: int) -> None:
    stage = Stage(retry=RetryPolicy(status_forcelist={status}))
    result = stage.run(get(), [Answer(status), Answer(status), Answer(200)])
    assert (result.ok, result.attempts, result.retries) == (True, 3, 2)
    assert stage.run(get(method="POST"), [Answer(status)]).attempts == 1


def test_a_success_that_is_retried_in_vain_is_a_failure() -> None:
    policies = [RetryPolicy(max_retries=2, retry_on=is_accepted), RetryPolicy(2, status_forcelist={202})]
    for policy in policies:
        result = Stage(retry=policy).run(get(), [Answer(202, body=b"wait")])
        assert isinstance(result.error, RetryExhaustedError)
        assert isinstance(result.error.last_error, HTTPStatusError)
        assert (result.error.last_error.status_code, result.attempts) == (202, 3)
        assert "answered 202 Accepted" in str(result.error)
        assert result.response is not None
        assert result.response.content == b"wait"
        lenient = Stage(raise_for_status=False, retry=policy).run(get(), [Answer(202)])
        assert (lenient.ok, lenient.attempts) == (True, 3)


def test_a_predicate_that_raises_fails_its_item() -> None:
    def predicate(outcome: Response | Exception) -> bool:
        raise LookupError("a bug of the caller's")

    result = Stage(retry=RetryPolicy(retry_on=predicate)).run(get(), [Answer(200)])
    assert isinstance(result.error, ParallelRequestsError)
    assert isinstance(result.error.__cause__, LookupError)
    assert "retry_on" in str(result.error)
    assert result.attempts == 1


# -- stale connections


def stale() -> BackendError:
    return TruncatedBody("closed", stale=True)


def test_a_stale_connection_is_replayed_at_once_and_for_free() -> None:
    stage = Stage(retry=RetryPolicy(max_retries=0))
    result = stage.run(get(), [stale(), Answer(200)])
    assert (result.ok, result.attempts, stage.waits) == (True, 2, [])


def test_only_one_replay_is_free() -> None:
    stage = Stage()
    result = stage.run(get(), [stale(), stale(), Answer(200)])
    assert (result.ok, stage.waited) == (True, [1.0])


def test_a_post_is_never_replayed_unless_the_caller_allows() -> None:
    stage = Stage()
    assert not stage.run(get(method="POST"), [stale(), Answer(200)]).ok
    assert len(stage.sent) == 1
    allowed = Stage(retry=RetryPolicy(allowed_methods={"POST"}))
    assert allowed.run(get(method="POST"), [stale(), Answer(200)]).ok


def test_a_post_that_was_not_received_is_replayed_at_once_and_for_free() -> None:
    stage = Stage(retry=RetryPolicy(max_retries=0))
    result = stage.run(get(method="POST"), [ConnectError("left out", stale=True), Answer(200)])
    assert (result.ok, result.attempts, stage.waits) == (True, 2, [])


def test_a_partly_delivered_stream_does_not_start_over() -> None:
    for restart, attempts in ((None, 1), (lambda request: False, 1), (lambda request: True, 2)):
        stage = Stage(restart=restart)
        journey_replies = iter([TruncatedBody("cut"), Answer(200)])

        def replies(stage: Stage = stage, script: Any = journey_replies) -> Any:
            for reply in script:
                stage.sent[-1].delivered = True
                yield reply

        assert stage.run(get(), replies()).attempts == attempts


def test_a_stream_that_was_to_be_retried_but_is_partly_delivered_is_a_failure() -> None:
    for lenient in (False, True):
        stage = Stage(retry=RetryPolicy(retry_on=is_accepted), raise_for_status=not lenient)

        def replies(stage: Stage = stage) -> Iterator[Answer]:
            stage.sent[-1].delivered = 4
            yield Answer(202, body=b"")

        result = stage.run(get(), replies())
        assert (result.ok, result.attempts) == (lenient, 1)
        assert lenient or type(result.error) is HTTPStatusError


def test_a_redirect_is_not_a_retry() -> None:
    result = Stage().run(get(), [to("/b"), Answer(503), Answer(200)])
    assert result.ok
    assert (result.attempts, result.retries) == (3, 1)


def test_a_type_names_statuses_as_errors() -> None:
    wide = RetryPolicy(max_retries=3, backoff_jitter=0.0, retry_on=HTTPStatusError)
    result = Stage(retry=wide).run(get(), [Answer(404), Answer(403), Answer(200)])
    assert result.ok
    assert result.retries == 2, "a 200 is no error"
    other = RetryPolicy(retry_on=ConnectError)
    assert Stage(retry=other).run(get(), [Answer(404)]).retries == 0
    narrow = RetryPolicy(dont_retry_on=HTTPStatusError)
    result = Stage(retry=narrow).run(get(), [Answer(503)])
    assert type(result.error) is HTTPStatusError
    assert result.retries == 0


# -- redirects


def test_a_redirect_is_followed_and_kept() -> None:
    stage = Stage()
    result = stage.run(get("http://api.test/a"), [to("/b"), to("http://api.test/c", 307), Answer(200)])
    assert result.ok
    assert stage.urls == ["http://api.test/a", "http://api.test/b", "http://api.test/c"]
    assert result.response is not None
    assert result.response.url == "http://api.test/c"
    assert [past.status_code for past in result.response.history] == [302, 307]
    assert result.attempts == 3
    assert stage.waits == []


def test_a_failure_keeps_the_redirects_that_led_to_it() -> None:
    for final, attempts in ((Answer(404), 2), (Answer(503), 5)):
        result = Stage().run(get(), [to("/b"), final])
        assert (result.ok, result.attempts) == (False, attempts)
        assert result.response is not None
        assert [past.status_code for past in result.response.history] == [302]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_these_statuses_redirect(status: int) -> None:
    assert Stage().run(get(), [to("/b", status), Answer(200)]).attempts == 2


@pytest.mark.parametrize("status", [201, 300, 304, 305, 306])
def test_these_statuses_do_not_redirect(status: int) -> None:
    assert Stage().run(get(), [to("/b", status), Answer(200)]).attempts == 1


def test_after_a_retry_a_redirect_is_followed_without_a_wait() -> None:
    stage = Stage()
    assert stage.run(get(), [Answer(503), to("/b"), Answer(200)]).ok
    assert stage.waited == [1.0]


def test_redirects_can_be_switched_off() -> None:
    result = Stage(redirects=None).run(get(), [to("/b")])
    assert result.response is not None
    assert (result.ok, result.response.status_code, result.attempts) == (True, 302, 1)


def test_a_redirect_without_a_location_led_nowhere_and_so_is_no_history() -> None:
    again = RetryPolicy(retry_on=lambda outcome: isinstance(outcome, Response) and not outcome.content)
    result = Stage(retry=again).run(get(), [to("/next"), Answer(302, body=b""), Answer(200)])
    assert result.response is not None
    assert [past.status_code for past in result.response.history] == [302]
    assert (result.attempts, result.retries) == (3, 1)


def test_a_redirect_without_a_location_is_a_response() -> None:
    result = Stage().run(get(), [Answer(302)])
    assert result.response is not None
    assert (result.ok, result.response.status_code) == (True, 302)


def test_row_18_a_loop_is_an_error() -> None:
    stage = Stage()
    result = stage.run(get("http://api.test/a"), [to("/b"), to("/a"), Answer(200)])
    assert isinstance(result.error, RedirectError)
    assert [past.status_code for past in result.error.history] == [302, 302]
    assert len(stage.sent) == 2


def test_row_18_too_many_redirects_are_an_error() -> None:
    stage = Stage(redirects=RedirectRules(limit=3))
    result = stage.run(get(), [to(f"/{number}") for number in range(9)])
    assert isinstance(result.error, RedirectError)
    assert len(stage.sent) == 4
    assert len(result.error.history) == 4


def test_row_20_credentials_stay_within_their_origin() -> None:
    headers = {
        "Authorization": f"Bearer {SECRET}",
        "Cookie": SECRET,
        "Proxy-Authorization": SECRET,
        "X-Api-Key": SECRET,
        "Accept": "*/*",
    }
    rules = RedirectRules(secret_headers=frozenset({"x-api-key"}))
    stage = Stage(redirects=rules)
    stage.run(get(headers=headers), [to("/same"), to("http://api.test:8080/"), Answer(200)])
    assert stage.sent[1].request.headers == headers
    assert stage.sent[2].request.headers == {"Accept": "*/*"}
    assert [send.is_cross_origin for send in stage.sent] == [False, False, True]


@pytest.mark.parametrize(
    "place",
    ["file:///etc/passwd", "ftp://api.test/", "javascript:alert(1)", "http://", "http://[bad", "http://a:b/"],
)
def test_row_21_other_schemes_and_nonsense_are_refused(place: str) -> None:
    stage = Stage()
    result = stage.run(get(), [to(place)])
    assert isinstance(result.error, RedirectError)
    assert len(stage.sent) == 1


@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1/",
        "http://10.0.0.8:9000/x",
        "http://[::1]/",
        "http://localhost/",
        "http://2130706433/",
    ],
)
def test_row_21_private_addresses_are_refused_if_forbidden(place: str) -> None:
    refusing = Stage(redirects=RedirectRules(allow_private_hosts=False))
    assert isinstance(refusing.run(get(), [to(place)]).error, RedirectError)
    assert len(refusing.sent) == 1
    assert Stage().run(get(), [to(place), Answer(200)]).ok


def test_a_redirect_error_is_never_retried() -> None:
    stage = Stage(retry=RetryPolicy(retry_on=Exception))
    stage.run(get(), [to("ftp://api.test/"), Answer(200)])
    assert len(stage.sent) == 1


# -- what servers ask for


def test_retry_after_takes_the_place_of_the_backoff() -> None:
    stage = Stage()
    result = stage.run(get(), [Answer(503, {"Retry-After": "7"}), Answer(200)])
    assert result.ok
    assert sum(wait or 0.0 for wait in stage.waited) == pytest.approx(7.0)


@pytest.mark.parametrize(
    "nonsense", ["abc", "-1", "nan", "inf", "9" * 5_000, "Wed, 21 Oct 1999 07:28:00 GMT"]
)
def test_row_28_nonsense_is_ignored(nonsense: str) -> None:
    stage = Stage()
    assert stage.run(get(), [Answer(503, {"Retry-After": nonsense}), Answer(200)]).ok
    assert stage.waited == [1.0]


@pytest.mark.parametrize("others", [["3"], ["nonsense"], ["3", "abc"]], ids=repr)
def test_of_several_retry_afters_the_longest_counts(others: list[str]) -> None:
    headers = [("Retry-After", value) for value in [*others, "7", *others]]
    stage = Stage()
    assert stage.run(get(), [Answer(503, headers), Answer(200)]).ok
    assert sum(wait or 0.0 for wait in stage.waited) == pytest.approx(7.0)


def test_retry_after_of_a_success_that_is_retried_holds_back_this_retry_only() -> None:
    stage = Stage(retry=RetryPolicy(retry_on=is_accepted))
    assert stage.run(get(), [Answer(202, {"Retry-After": "7"}), Answer(200)]).ok
    assert [(wait.seconds, wait.gate) for wait in stage.waits] == [(7.0, None)]
    result = stage.run(get(), [Answer(202, {"Retry-After": "121"})])
    assert isinstance(result.error, RateLimitExceededError)
    assert result.error.retry_after == 121.0


def test_retry_after_holds_back_the_whole_host() -> None:
    stage = Stage(retry=RetryPolicy(max_retries=0))
    stage.run(get(), [Answer(429, {"Retry-After": "7"})])
    assert stage.run(get(), [Answer(200)]).ok
    assert stage.waited == [pytest.approx(7.0)]
    assert stage.waits[0].gate == "api.test"
    assert stage.run(get("http://other.test/"), [Answer(200)]).ok
    assert len(stage.waits) == 1


@pytest.mark.parametrize("reset", ["5", f"{WALL_TIME + 5:.0f}"], ids=["seconds", "date"])
def test_a_spent_quota_holds_back_the_host_after_a_success(reset: str) -> None:
    stage = Stage()
    assert stage.run(get(), [Answer(200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset})]).ok
    assert stage.run(get(), [Answer(200)]).ok
    assert stage.waited == [pytest.approx(5.0)]


def test_retry_after_can_be_ignored() -> None:
    stage = Stage(retry=RetryPolicy(backoff_jitter=0.0, respect_retry_after_header=False))
    assert stage.run(get(), [Answer(503, {"Retry-After": "500"}), Answer(200)]).ok
    assert stage.waited == [1.0]


def test_row_9_a_wait_beyond_the_cap_fails_at_once() -> None:
    stage = Stage()
    result = stage.run(get(), [Answer(503, {"Retry-After": "121"})])
    assert isinstance(result.error, RateLimitExceededError)
    assert result.error.retry_after == 121.0
    assert result.error.response is result.response is not None
    assert (len(stage.sent), stage.waits) == (1, [])


SPENT = [
    lambda seconds: {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(WALL_TIME) + seconds)},
    lambda seconds: {"RateLimit-Remaining": "0", "RateLimit-Reset": str(seconds)},
    lambda seconds: {"RateLimit": f'"hour";r=0;t={seconds}'},
]


@pytest.mark.parametrize("spent", SPENT, ids=("x", "fields", "draft"))
@pytest.mark.parametrize(("seconds", "deadline"), [(3_600, None), (60, 1_010.0)])
def test_row_9_a_quota_that_comes_back_too_late_fails_at_once(
    spent: Callable[[int], dict[str, str]], seconds: int, deadline: float | None
) -> None:
    stage = Stage(deadline=deadline)
    result = stage.run(get(), [Answer(429, spent(seconds))], takes=0.0)
    assert isinstance(result.error, RateLimitExceededError)
    assert result.error.retry_after == seconds
    assert (len(stage.sent), stage.waits) == (1, [])


@pytest.mark.parametrize("spent", SPENT, ids=("x", "fields", "draft"))
def test_a_spent_quota_takes_the_place_of_the_backoff(spent: Callable[[int], dict[str, str]]) -> None:
    stage = Stage()
    assert stage.run(get(), [Answer(429, spent(7)), Answer(200)], takes=0.0).ok
    assert stage.waited == [pytest.approx(7.0)]


def test_a_quota_that_comes_back_at_once_does_not_take_the_place_of_the_backoff() -> None:
    stage = Stage()
    assert stage.run(get(), [Answer(429, {"RateLimit": '"hour";r=0;t=0'}), Answer(200)]).ok
    assert stage.waited == [1.0]


def test_retry_after_counts_before_a_quota_that_comes_back_too_late() -> None:
    stage = Stage()
    quota = {"RateLimit-Remaining": "0", "RateLimit-Reset": "3600"}
    assert stage.run(get(), [Answer(429, {"Retry-After": "7", **quota}), Answer(200)]).ok


def test_a_wait_of_exactly_the_cap_is_allowed() -> None:
    stage = Stage()
    assert stage.run(get(), [Answer(503, {"Retry-After": "120"}), Answer(200)]).ok
    assert sum(wait or 0.0 for wait in stage.waited) == pytest.approx(120.0)


def test_a_wait_that_ends_before_the_deadline_is_allowed() -> None:
    stage = Stage(deadline=1_010.0)
    assert stage.run(get(), [Answer(503, {"Retry-After": "9"}), Answer(200)]).ok


def test_row_9_a_wait_beyond_the_deadline_fails_at_once() -> None:
    stage = Stage(deadline=1_010.0)
    result = stage.run(get(), [Answer(429, {"Retry-After": "60"})])
    assert isinstance(result.error, RateLimitExceededError)
    assert stage.waits == []


# -- the ends of a batch


def test_a_deadline_limits_each_attempt_and_ends_the_item() -> None:
    stage = Stage(deadline=1_002.0)
    result = stage.run(get(timeout=30.0), [RequestTimeout("slow")], takes=1.0)
    assert isinstance(result.error, DeadlineExceededError)
    assert [send.timeout for send in stage.sent] == [pytest.approx(2.0)]
    assert (result.attempts, result.error.url) == (1, get().url)
    assert result.elapsed == pytest.approx(2.0)


@pytest.mark.parametrize(("timeout", "lasts"), [(0.5, 0.5), (30.0, 2.0), (None, 2.0)])
def test_an_attempt_ends_at_its_timeout_or_at_the_deadline(timeout: float | None, lasts: float) -> None:
    stage = Stage(deadline=1_002.0)
    stage.run(get(timeout=timeout), [Answer(200)])
    assert [send.timeout for send in stage.sent] == [pytest.approx(lasts)]


def test_after_the_deadline_nothing_is_sent() -> None:
    stage = Stage(deadline=999.0)
    result = stage.run(get(), [Answer(200)])
    assert isinstance(result.error, DeadlineExceededError)
    assert (stage.sent, result.attempts) == ([], 0)


def test_what_was_answered_in_time_is_kept() -> None:
    stage = Stage(deadline=1_001.0)
    assert stage.run(get(), [Answer(200)], takes=5.0).ok


@pytest.mark.parametrize("reply", [TruncatedBody("shut down"), Answer(503)], ids=repr)
@pytest.mark.parametrize("wide", [None, Exception])
def test_a_stopped_run_neither_waits_nor_sends(reply: Any, wide: Any) -> None:
    stage = Stage(retry=RetryPolicy(retry_on=wide))

    def replies() -> Any:
        stage.policy.stop = RunStoppedError("The run was stopped.")
        yield reply

    result = stage.run(get(), replies())
    assert isinstance(result.error, RunStoppedError)
    assert str(result.error) == f"{result.request.url} was not done after 1 attempt. The run was stopped."
    assert (len(stage.sent), stage.waits) == (1, [])


def test_a_retry_that_a_stop_prevents_at_the_gates_is_none() -> None:
    stage = Stage(deadline=1_005.0, rate_limit=0.01, burst=1)
    result = stage.run(get(), [Answer(503)])
    assert isinstance(result.error, DeadlineExceededError)
    assert (result.attempts, result.retries) == (1, 0)


def test_a_batch_that_was_stopped_before_its_deadline_says_so() -> None:
    stage = Stage(deadline=1_001.0)
    stage.policy.stop = RunStoppedError("stopped")
    stage.clock.advance(5.0)
    assert type(stage.run(get(), []).error) is RunStoppedError


# -- the budget


def test_row_36_retries_stop_at_the_budget() -> None:
    stage = Stage()
    for _ in range(2_000):
        result = stage.run(get(), [Answer(503)])
        assert isinstance(result.error, RetryExhaustedError)
    assert len(stage.sent) <= 1.2 * 2_000 + RetryBudget.RESERVE <= 2_450


@pytest.mark.parametrize("max_retries", [0, 3])
def test_row_36_replays_stop_at_the_budget(max_retries: int) -> None:
    stage = Stage(retry=RetryPolicy(max_retries=max_retries, backoff_jitter=0.0))
    stage.run(get(), [Answer(503)])
    stage.pacer.open_budget("api.test")
    for _ in range(2_000):
        assert not stage.run(get(), [stale(), Answer(502), stale(), Answer(502)]).ok
    assert len(stage.sent) <= 1.2 * 2_000 + RetryBudget.RESERVE + 4


def test_replays_by_the_library_are_taken_from_the_budget() -> None:
    stage = Stage()
    budget = stage.pacer.open_budget("api.test")
    assert budget is not None
    before = budget.balance
    journey = exchange(get(), stage.policy)
    sent = next(journey)
    assert isinstance(sent, Send)
    sent.replays = 1
    with pytest.raises(StopIteration):
        journey.send(Answer(404).to(sent.request))
    assert budget.balance == before - 1.0


def test_replays_of_a_host_that_has_not_failed_are_free() -> None:
    stage = Stage(retry=RetryPolicy(max_retries=0))
    for _ in range(100):
        assert stage.run(get(), [stale(), Answer(200)]).ok


def test_a_spent_budget_is_reported_also_after_a_redirect() -> None:
    stage = Stage()
    while (budget := stage.pacer.open_budget("api.test")) is not None and budget.withdraw():
        pass
    result = stage.run(get(), [to("/b"), Answer(503)])
    assert isinstance(result.error, RetryExhaustedError)
    assert "the retry budget of its host is spent" in str(result.error)
    assert (result.attempts, result.retries) == (2, 0)
    enough = Stage().run(get(), [to("/b"), Answer(503)])
    assert "budget" not in str(enough.error)
    assert (enough.attempts, enough.retries) == (5, 3)


def test_the_error_says_if_the_budget_is_spent() -> None:
    stage = Stage()
    budget = stage.pacer.open_budget(get().authority)
    assert budget is not None
    while budget.balance >= 3.0:
        budget.withdraw()
    spent = stage.run(get(), [Answer(503)])
    assert (spent.attempts, stage.policy.retry.max_retries) == (3, 3)
    assert len(stage.waits) == 3, "the last one, in vain, before the retry that was refused"
    assert "retry budget" in str(spent.error)
    full = Stage().run(get(), [Answer(503)])
    assert full.attempts == 4
    assert "budget" not in str(full.error)


def test_polling_a_host_that_is_up_spends_no_budget() -> None:
    stage = Stage(retry=RetryPolicy(max_retries=10, retry_on=is_accepted))
    for _ in range(100):
        result = stage.run(get(), [*[Answer(202)] * 10, Answer(200)])
        assert result.response is not None
        assert (result.response.status_code, result.retries) == (200, 10)
    assert "api.test" not in stage.pacer.budgets, "it has not failed"


@pytest.mark.parametrize("headers", [{"Retry-After": "1"}, {"RateLimit": '"hour";r=0;t=1'}])
def test_coming_again_when_a_rate_limit_says_so_spends_no_budget(headers: dict[str, str]) -> None:
    stage = Stage()
    for _ in range(100):
        assert stage.run(get(), [Answer(429, headers), Answer(429, headers), Answer(200)]).retries == 2
    assert "api.test" not in stage.pacer.budgets, "it has not failed"


@pytest.mark.parametrize(
    "refusal", [Answer(429), Answer(429, {"Retry-After": "0"}), Answer(503, {"Retry-After": "1"})]
)
def test_row_36_other_refusals_spend_the_budget(refusal: Answer) -> None:
    stage = Stage()
    for _ in range(200):
        stage.run(get(), [refusal])
    assert len(stage.sent) <= 1.2 * 200 + RetryBudget.RESERVE


def test_the_budget_is_the_hosts_own() -> None:
    stage = Stage()
    for _ in range(500):
        stage.run(get(), [Answer(503)])
    before = len(stage.sent)
    stage.run(get("http://other.test/"), [Answer(503)])
    assert len(stage.sent) - before == 4


def test_without_a_budget_every_retry_is_made() -> None:
    stage = Stage(retry_budget=False)
    for _ in range(200):
        stage.run(get(), [Answer(503)])
    assert len(stage.sent) == 800


# -- cookies, proxies, hooks


def test_server_cookies_go_back_to_their_server_only() -> None:
    stage = Stage()
    stage.run(get(headers={"Cookie": "own=1"}), [to("/next", set_cookie="sid=9; Path=/"), Answer(200)])
    stage.run(get("http://other.test/"), [Answer(200)])
    cookies = [send.request.headers.get("Cookie") for send in stage.sent]
    assert cookies == ["own=1", "own=1; sid=9", None]


def test_a_server_cookie_replaces_the_callers() -> None:
    stage = Stage()
    stage.run(get(), [Answer(200, {"Set-Cookie": "own=2"})])
    stage.run(get(headers={"Cookie": "own=1; also=3"}), [Answer(200)])
    assert stage.sent[-1].request.headers["Cookie"] == "also=3; own=2"


def test_row_25_a_407_is_a_proxy_error_and_the_next_proxy_is_used() -> None:
    first, second = f"http://user:{SECRET}@one.test:1", "http://two.test:2"
    stage = Stage(proxies=Rotation([first, second]))
    result = stage.run(get(proxy=first), [Answer(407), Answer(200)])
    assert result.ok
    assert [send.request.proxy for send in stage.sent] == [first, second]
    failed = Stage(retry=RetryPolicy(max_retries=0)).run(get(proxy=first), [Answer(407)])
    assert isinstance(failed.error, ProxyError)
    assert failed.error.url == get().url
    assert SECRET not in f"{failed.error} {failed.error!r} {failed.error.proxy_url}"


def test_a_407_asks_nothing_of_the_target() -> None:
    headers = {"Retry-After": "999", "Set-Cookie": "a=1; Path=/", "RateLimit": '"own";r=0;t=50'}
    stage = Stage(proxies=Rotation(["http://one.test:1", "http://two.test:2"]))
    assert stage.run(get(proxy="http://one.test:1"), [Answer(407, headers), Answer(200)]).ok
    assert stage.waited == [1.0]
    assert stage.policy.cookies.is_empty


def test_what_a_library_resends_on_its_own_is_counted_and_charged() -> None:
    stage = Stage(rate_limit=1, burst=3)
    journey = exchange(get(), stage.policy)
    send = next(journey)
    assert isinstance(send, Send)
    send.replays = 2
    with pytest.raises(StopIteration) as end:
        journey.send(Answer(200).to(send.request))
    result = end.value.value
    assert (result.attempts, result.retries) == (3, 0)
    assert [(attempt.number, attempt.status_code) for attempt in result.history] == [
        (1, None),
        (2, None),
        (3, 200),
    ]
    assert all(getattr(attempt.error, "stale", False) for attempt in result.history[:2])
    assert stage.pacer.enter(get().authority) is not None, "the burst is spent"


def test_the_hook_sees_every_attempt() -> None:
    seen: list[tuple[Request, Attempt]] = []
    stage = Stage(on_attempt=lambda request, attempt: seen.append((request, attempt)))
    request = get()
    stage.run(request, [Answer(503), TruncatedBody("cut"), to("/b"), Answer(200)])
    assert all(own is request for own, _ in seen)
    assert [attempt.status_code for _, attempt in seen] == [503, None, 302, 200]
    assert [attempt.number for _, attempt in seen] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "final"),
    [
        ({"retry": RetryPolicy(retry_on=lambda outcome: False)}, Answer(200)),
        ({"raise_for_status": False}, Answer(404)),
        ({"redirects": None}, to("/b")),
    ],
    ids=["a predicate", "a status that is no failure", "a redirect that is left alone"],
)
def test_the_hook_sees_an_attempt_once_whatever_is_judged(options: dict[str, Any], final: Answer) -> None:
    seen: list[int] = []
    stage = Stage(on_attempt=lambda request, attempt: seen.append(attempt.number), **options)
    result = stage.run(get(), [final])
    assert (result.ok, seen, len(result.history)) == (True, [1], 1)


def test_a_hook_that_raises_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def hook(request: Request, attempt: Attempt) -> None:
        raise LookupError("a bug of the caller's")

    result = Stage(on_attempt=hook).run(get(), [Answer(503), Answer(200)])
    assert (result.ok, result.attempts) == (True, 2)
    assert "on_attempt raised" in caplog.text


# -- the law: whatever comes, one Result


ERRORS = [ConnectError, DNSError, TLSError, RequestTimeout, ProtocolError, TruncatedBody, BackendError]
REPLIES = st.one_of(
    st.builds(
        Answer,
        st.sampled_from([200, 204, 304, 400, 404, 407, 429, 500, 503]),
        st.dictionaries(
            st.sampled_from(["Retry-After", "RateLimit", "Set-Cookie", "X-RateLimit-Reset"]),
            st.sampled_from(
                ["0", "1", "nonsense", "-1", "a=b", "r=0;t=1", "9" * 40, "a=b; Max-Age=x; Domain=.", "\xff"]
            ),
        ),
    ),
    st.builds(
        to, st.sampled_from(["/a", "/b", "//other.test/", "ftp://x", "http://[", "?q=é", " /c d ", "#x"])
    ),
    st.builds(lambda kind, stale: kind("played", stale=stale), st.sampled_from(ERRORS), st.booleans()),
)


@given(
    replies=st.lists(REPLIES, max_size=12),
    method=st.sampled_from(["GET", "POST", "PUT"]),
    max_retries=st.integers(0, 4),
    follow=st.booleans(),
    deadline=st.none() | st.floats(999.0, 1_010.0),
    rate=st.none() | st.floats(0.5, 50.0),
    wide=st.booleans(),
)
def test_any_sequence_of_replies_ends_in_one_result(  # noqa: PLR0917 - hypothesis gives them by name
    replies: list[Any],
    method: str,
    max_retries: int,
    follow: bool,
    deadline: float | None,
    rate: float | None,
    wide: bool,
) -> None:
    limit = 5
    stage = Stage(
        retry=RetryPolicy(max_retries=max_retries, retry_on=Exception if wide else None),
        redirects=RedirectRules(limit=limit) if follow else None,
        deadline=deadline,
        rate_limit=rate,
    )
    request = get(method=method)
    result = stage.run(request, replies)
    assert result.request is request
    assert result.attempts == len(stage.sent) <= 1 + max_retries + 1 + (limit if follow else 0)
    assert len(result.history) == result.attempts
    assert result.elapsed >= 0.0
    if result.ok:
        assert result.response is not None
    else:
        assert isinstance(result.error, ParallelRequestsError)
    if method == "POST" and not follow and not wide:
        received = [attempt for attempt in result.history if not isinstance(attempt.error, ConnectError)]
        assert len(received) <= 1
