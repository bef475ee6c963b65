"""Compare the contenders: `python -m benchmarks.compare --help`.

Every contender is a process in an environment of its own. All of them are up at once, warm up with one
round, and then take turns round by round.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.contestants import CONTENDERS, ContenderFailed, Sample, Worker
from benchmarks.environments import EnvironmentFailed
from benchmarks.scenes import SCENES, Scene
from benchmarks.servers import ServerMissing, delay_server, nginx
from benchmarks.targets import TARGETS, Target

if TYPE_CHECKING:
    from collections.abc import Sequence


def measure(
    scene: Scene, url: str, names: Sequence[str], *, rounds: int, rebuild: bool = False
) -> dict[str, list[Sample]]:
    """Run the rounds of one scene, contenders taking turns.

    A contender that cannot start or fails its warm-up is left out, with a message on stderr.

    Args:
        scene: What to do.
        url: What to fetch.
        names: Who takes part.
        rounds: How many rounds are counted, after one that warms up.
        rebuild: Build the environments anew.

    Returns:
        A sample for each round, by contender.

    Raises:
        ContenderFailed: One failed later than in its warm-up.
    """
    with ExitStack() as stack:
        workers = []
        for name in names:
            try:
                worker = stack.enter_context(Worker(CONTENDERS[name], rebuild=rebuild))
                worker.run(scene, url)
            except (EnvironmentFailed, ContenderFailed) as error:
                print(f"{scene.name}: left out {name}: {error}", file=sys.stderr)
            else:
                workers.append(worker)
        samples: dict[str, list[Sample]] = {worker.contender.name: [] for worker in workers}
        for _ in range(rounds):
            for worker in workers:
                samples[worker.contender.name].append(worker.run(scene, url))
            # Nobody goes first every time.
            workers = workers[1:] + workers[:1]
    return samples


def table(samples: dict[str, list[Sample]]) -> str:
    """Draw what was measured in one scene, the fastest contender first.

    Args:
        samples: By contender.

    Returns:
        Lines of text: medians, and the range of the rates.
    """
    columns = ("calls/s", "lowest", "highest", "CPU µs", "threads", "MiB")
    rows = [f"{'contender':24}" + "".join(f"{column:>9}" for column in columns)]
    for name, taken in sorted(samples.items(), key=lambda item: -median(s.rate for s in item[1])):
        rates = [sample.rate for sample in taken]
        cpu = median(sample.cpu_per_call for sample in taken)
        threads = max((s.extra_threads for s in taken if s.extra_threads is not None), default="?")
        memory = max(sample.max_rss_kib for sample in taken) / 1024
        rows.append(
            f"{name:24}{median(rates):9.0f}{min(rates):9.0f}{max(rates):9.0f}{cpu:9.1f}{threads:>9}{memory:9.0f}"
        )
    return "\n".join(rows)


def verdict(target: Target, samples: dict[str, list[Sample]]) -> str:
    """Say whether a promise is kept, and by how much.

    Args:
        target: The promise.
        samples: The samples of its scene, by contender.

    Returns:
        One line of text.
    """
    value = target.value(samples)
    if value is None:
        return f"not measured  {target}"
    off = value / target.bound - 1
    return (
        f"{'met' if target.is_met(value) else 'MISSED':12}  {target}: {value:.2f} ({off:+.0%} of the bound)"
    )


def main() -> int:
    """Run what the command line asks for.

    Returns:
        The exit status: 1 if a target was missed, 2 if a server is missing.
    """
    options = _arguments()
    results: dict[str, dict[str, list[Sample]]] = {}
    try:
        with ExitStack() as stack:
            scenes = [SCENES[name] for name in options.scene or SCENES]
            bases = {
                kind: stack.enter_context(start())
                for kind, start in {"nginx": nginx, "delay": delay_server}.items()
                if any(scene.server == kind for scene in scenes)
            }
            for scene in scenes:
                names = options.contenders or [c.name for c in CONTENDERS.values() if scene.name in c.scenes]
                sized = replace(scene, n=options.n or scene.n)
                url = bases[scene.server] + scene.path
                results[scene.name] = measure(
                    sized, url, names, rounds=options.rounds, rebuild=options.rebuild
                )
                print(
                    f"\n{scene.name}: {sized.n} calls, {sized.concurrency} at once, {options.rounds} rounds"
                )
                print(table(results[scene.name]))
    except ServerMissing as error:
        print(error, file=sys.stderr)
        return 2
    print()
    missed = False
    for target in TARGETS:
        if (samples := results.get(target.scene)) is not None:
            print(verdict(target, samples))
            value = target.value(samples)
            missed = missed or (value is not None and not target.is_met(value))
    if options.json:
        options.json.write_text(json.dumps(_plain(results), indent=2) + "\n")
    return int(missed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("--scene", action="append", choices=list(SCENES), help="again for more; default: all")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS)
    )
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default: 7)")
    parser.add_argument("--n", type=int, help="calls in a round; each scene has its own default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    parser.add_argument("--rebuild", action="store_true", help="build the environments anew")
    return parser.parse_args()


def _plain(results: dict[str, dict[str, list[Sample]]]) -> dict[str, dict[str, list[dict[str, object]]]]:
    return {
        scene: {name: [asdict(sample) for sample in taken] for name, taken in samples.items()}
        for scene, samples in results.items()
    }


if __name__ == "__main__":
    sys.exit(main())
