"""`download` against curl's own parallel downloads: `python -m benchmarks.download --help`.

Both write the same files from the same nginx, turn by turn. Ours runs in this interpreter, so curl
pays for the start of a process in each round and we do not; at a thousand files it is lost in the noise.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.scenes import BIG_BODY_SIZE
from benchmarks.servers import ServerMissing, nginx
from parallel_requests import ParallelSession

if TYPE_CHECKING:
    from collections.abc import Callable

CONCURRENCY: Final = 20
TARGET: Final = 0.8


def with_curl(program: str, urls: list[str], folder: Path) -> None:
    """Download with the command-line tool."""
    config = folder / ".curl"
    config.write_text("".join(f'url = "{url}"\noutput = "{folder}/{n}"\n' for n, url in enumerate(urls)))
    subprocess.run(
        [program, "-sS", "--fail", "--parallel", "--parallel-max", str(CONCURRENCY), "-K", str(config)],
        stderr=subprocess.DEVNULL,  # where it draws its progress, --silent or not
        check=True,
    )
    config.unlink()


def with_session(session: ParallelSession, urls: list[str], folder: Path) -> None:
    """Download with ours."""
    session.download(urls, [folder / str(n) for n in range(len(urls))])


def timed(fetch: Callable[[list[str], Path], None], urls: list[str], parent: Path) -> float:
    """Return the seconds one round takes, after looking at what it wrote."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    began = time.perf_counter()
    fetch(urls, folder)
    seconds = time.perf_counter() - began
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert sizes == [BIG_BODY_SIZE] * len(urls), "not every file is there and whole"
    shutil.rmtree(folder)
    return seconds


def main() -> int:
    """Run the rounds and print the ratio; return 1 if the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.download", description=__doc__)
    parser.add_argument("--files", type=int, default=1_000, help="files of 1 MiB in a round (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    parser.add_argument("--backend", default="curl", help="ours (default: curl)")
    parser.add_argument(
        "--folder", type=Path, help="folder for the files (default: the system's temporary folder)"
    )
    options = parser.parse_args()
    program = shutil.which("curl")
    if program is None:
        print("the curl command is not installed", file=sys.stderr)
        return 2
    try:
        with (
            nginx() as base,
            ParallelSession(backend=options.backend, concurrency=CONCURRENCY) as session,
            tempfile.TemporaryDirectory(prefix="benchmark-download-", dir=options.folder) as name,
        ):
            urls = [f"{base}/1MiB"] * options.files
            contenders: dict[str, Callable[[list[str], Path], None]] = {
                "curl --parallel": lambda urls, folder: with_curl(program, urls, folder),
                f"download, {options.backend}": lambda urls, folder: with_session(session, urls, folder),
            }
            taken: dict[str, list[float]] = {who: [] for who in contenders}
            for number in range(options.rounds + 1):
                for who, fetch in contenders.items():
                    seconds = timed(fetch, urls, Path(name))
                    if number:  # the first one warms up
                        taken[who].append(seconds)
    except ServerMissing as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.files} files of 1 MiB, {CONCURRENCY} at once, {options.rounds} rounds, median")
    for who, rounds in taken.items():
        print(f"{who:24}{median(rounds):7.2f} s  ({min(rounds):.2f} to {max(rounds):.2f})")
    theirs, ours = (median(rounds) for rounds in taken.values())
    ratio = theirs / ours
    print(f"{'met' if ratio >= TARGET else 'MISSED'}: {ratio:.2f} x curl, {TARGET} is due")
    return int(ratio < TARGET)


if __name__ == "__main__":
    sys.exit(main())
