"""The promises of `targets.py` as pytest-benchmark cases: `python -m pytest benchmarks`.

Outside of `testpaths`, so that an ordinary test run passes it by. A round of the contender is what
pytest-benchmark times; the round of the reference runs as its set-up, so that the two take turns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.contestants import CONTENDERS, Sample, Worker
from benchmarks.scenes import SCENES
from benchmarks.servers import ServerMissing, delay_server, nginx
from benchmarks.targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 5

# Building environments and warming up included.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def bases() -> Iterator[dict[str, str]]:
    """The servers' base URLs, by kind."""
    try:
        with nginx() as fast, delay_server() as slow:
            yield {"nginx": fast, "delay": slow}
    except ServerMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, Worker]]:
    """The contenders started so far, by name: a reference serves many targets."""
    started: dict[str, Worker] = {}
    yield started
    for worker in started.values():
        worker.close()


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_target(
    target: Target, bases: dict[str, str], workers: dict[str, Worker], benchmark: BenchmarkFixture
) -> None:
    scene = SCENES[target.scene]
    names = [name for name in (target.contender, target.reference) if name is not None]
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for name in names:
        if name not in workers:
            workers[name] = Worker(CONTENDERS[name])

    def take_round(name: str) -> None:
        samples[name].append(workers[name].run(scene, bases[scene.server] + scene.path))

    def reference_round() -> None:
        if target.reference is not None:
            take_round(target.reference)

    benchmark.group = target.scene
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        take_round, args=(target.contender,), setup=reference_round, rounds=ROUNDS, warmup_rounds=1
    )
    counted = {name: taken[1:] for name, taken in samples.items()}
    value = target.value(counted)
    benchmark.extra_info["value"] = value
    assert value is not None
    assert target.is_met(value), f"{target}: {value:.2f}"
