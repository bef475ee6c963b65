"""A million URLs from a generator: every one exactly once, in little memory."""

from __future__ import annotations

import pytest

from tests.server.control import Server
from tests.soak.many_ids import MIB, fetch_ids

COUNT, WARM_UP, CONCURRENCY = 1_000_000, 100_000, 100


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_a_million_urls() -> None:
    with Server("tests.server.ids") as server:
        outcome = fetch_ids(server, COUNT, backend="curl", concurrency=CONCURRENCY, warm_up=WARM_UP)
    print(
        f"\n{COUNT:,} calls in {outcome.seconds:.0f} s ({COUNT / outcome.seconds:,.0f}/s), memory grew by "
        f"{outcome.growth / MIB:.1f} MiB after the first {WARM_UP:,}, {outcome.most_open} open at most, "
        f"{outcome.report['most_open']} of them at the server, {outcome.report['missing']} missing, "
        f"{outcome.report['doubled']} doubled"
    )
    assert outcome.results == COUNT
    assert outcome.report["known"] == COUNT
    assert outcome.report["missing"] == outcome.report["doubled"] == 0
    assert outcome.growth <= 20 * MIB
    assert outcome.most_open <= 2 * CONCURRENCY
    assert outcome.report["most_open"] <= CONCURRENCY
