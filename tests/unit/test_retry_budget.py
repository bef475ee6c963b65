"""RetryBudget."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from parallel_requests.gates.retry_budget import RetryBudget


@given(calls=st.integers(1, 3_000), retries_each=st.integers(1, 5))
def test_in_an_outage_retries_are_a_fifth_of_the_calls_plus_the_reserve(
    calls: int, retries_each: int
) -> None:
    budget = RetryBudget()
    made = 0
    for _ in range(calls):
        budget.deposit_call()
        made += sum(budget.withdraw() for _ in range(retries_each))
    assert made <= RetryBudget.DEPOSIT_PER_CALL * calls + RetryBudget.RESERVE
    assert calls + made <= 1.2 * calls + RetryBudget.RESERVE
    # No fewer either: only what the first call earns is lost, as the reserve is still full.
    earned = RetryBudget.DEPOSIT_PER_CALL * (calls - 1) + RetryBudget.RESERVE
    assert made >= min(calls * retries_each, math.floor(earned - 1e-6))


@given(st.lists(st.sampled_from(["call", "success", *["retry"] * 6]), max_size=300))
def test_the_balance_stays_between_nothing_and_the_reserve(events: list[str]) -> None:
    budget = RetryBudget()
    for event in events:
        if event == "call":
            budget.deposit_call()
        elif event == "success":
            budget.deposit_success()
        else:
            could = budget.balance >= 1.0
            assert budget.withdraw() is could
        assert 0.0 <= budget.balance <= RetryBudget.RESERVE


def test_a_host_that_recovers_earns_its_retries_back() -> None:
    budget = RetryBudget()
    assert [budget.withdraw() for _ in range(50)] == [True] * int(RetryBudget.RESERVE) + [False] * 10
    assert budget.balance == 0.0
    budget.deposit_success()
    assert [budget.withdraw() for _ in range(2)] == [True, False]
    for _ in range(6):  # five, and one for rounding
        budget.deposit_call()
    assert [budget.withdraw() for _ in range(2)] == [True, False]
