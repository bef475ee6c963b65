"""Every contender by name, and the processes they run in."""

from __future__ import annotations

import json
import selectors
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benchmarks.environments import ROOT, interpreter

if TYPE_CHECKING:
    from benchmarks.scenes import Scene

ROUND_SECONDS: Final = 300
THREAD_COUNT_INTERVAL: Final = 0.02


@dataclass(frozen=True)
class Contender:
    """A way to make many calls.

    Attributes:
        name: What the command line and the tables call it.
        environment: Which list in `requirements/` it is installed from.
        module: The module in `contenders/`.
        arguments: Command line arguments of the module.
        scenes: Where it takes part unless contenders are named.
    """

    name: str
    environment: str
    module: str
    arguments: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ("json", "bodies")


def _ours() -> list[Contender]:
    contenders = []
    for backend in ("requests", "urllib3", "niquests", "aiohttp", "curl"):
        name = f"ours-{backend}"
        latency = ("latency-100", "latency") if backend in {"aiohttp", "curl"} else ("latency-100",)
        contenders += [
            Contender(name, name, "ours", (backend,), scenes=("json", "bodies", "async", *latency)),
            Contender(f"{name}-async", name, "ours", (backend, "--async"), scenes=("async",)),
        ]
    return contenders


CONTENDERS: Final = {
    contender.name: contender
    for contender in (
        Contender("requests-map", "requests-map", "requests_map", scenes=("json", "bodies", "latency-100")),
        Contender("urllib3-map", "urllib3-map", "urllib3_map", scenes=("json", "bodies", "latency-100")),
        Contender("niquests-map", "niquests-map", "niquests_map", scenes=("json", "bodies", "latency-100")),
        Contender(
            "aiohttp-gather",
            "aiohttp-gather",
            "aiohttp_gather",
            scenes=("json", "bodies", "latency-100", "latency"),
        ),
        Contender(
            "aiohttp-gather-uvloop",
            "aiohttp-gather-uvloop",
            "aiohttp_gather",
            ("--uvloop",),
            scenes=("json", "bodies", "latency-100", "latency"),
        ),
        Contender("curl-loop", "curl-loop", "curl_loop", scenes=("json", "bodies", "latency-100", "latency")),
        Contender("curl-documented", "curl-loop", "curl_documented", scenes=("json",)),
        Contender("wreq-threads", "wreq-threads", "wreq_threads"),
        Contender("pyreqwest-threads", "pyreqwest-threads", "pyreqwest_threads"),
        # Its connection pool of 10 would take 10 s for each round of the latency scenes.
        Contender("fastreq", "fastreq", "fastreq_package", scenes=("json",)),
        *_ours(),
        Contender("ours-aiohttp-uvloop", "ours-aiohttp-uvloop", "ours", ("aiohttp",), scenes=("json",)),
    )
}


@dataclass(frozen=True)
class Sample:
    """One round of one contender.

    Attributes:
        calls: How many calls it made.
        seconds: Wall clock time.
        cpu_seconds: User and system time of the contender's process.
        max_rss_kib: The most memory its process ever had.
        extra_threads: Threads beside the calling one, at most; None if there is no /proc.
    """

    calls: int
    seconds: float
    cpu_seconds: float
    max_rss_kib: int
    extra_threads: int | None

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds

    @property
    def cpu_per_call(self) -> float:
        """Microseconds of CPU a call."""
        return self.cpu_seconds / self.calls * 1e6


class ContenderFailed(Exception):
    """A contender did not answer; the message ends with what it said on stderr."""


class Worker:
    """The running process of a contender.

    Args:
        contender: Who.
        rebuild: Build its environment anew.

    Raises:
        EnvironmentFailed: Its environment cannot be built.
    """

    def __init__(self, contender: Contender, *, rebuild: bool = False) -> None:
        self.contender = contender
        python = interpreter(contender.environment, rebuild=rebuild)
        # A file, not a pipe: nobody reads along, and a full pipe would stop the contender.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [str(python), "-m", f"benchmarks.contenders.{contender.module}", *contender.arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, scene: Scene, url: str) -> Sample:
        """Have the contender run one round.

        Args:
            scene: What to do.
            url: What to fetch.

        Returns:
            The measurement.

        Raises:
            ContenderFailed: It died, gave a wrong answer, or took longer than `ROUND_SECONDS`.
        """
        command = {
            "url": url,
            "n": scene.n,
            "concurrency": scene.concurrency,
            "reading": scene.reading,
            "fresh_client": scene.fresh_client,
            "expected": scene.expected,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderFailed(self._last_words()) from None
        extra_threads = self._count_threads_until_answered()
        line = self._process.stdout.readline()
        if not line:
            raise ContenderFailed(self._last_words())
        return Sample(calls=scene.n, extra_threads=extra_threads, **json.loads(line))

    def close(self) -> None:
        """Let the process end; one that does not is killed."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def _count_threads_until_answered(self) -> int | None:
        """Watch from outside, so that counting costs the contender nothing."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        most = None
        until = time.monotonic() + ROUND_SECONDS
        with selectors.DefaultSelector() as selector:
            assert self._process.stdout is not None
            selector.register(self._process.stdout, selectors.EVENT_READ)
            answered = False
            while not answered:
                if time.monotonic() > until:
                    self._process.kill()
                    raise ContenderFailed(f"no answer within {ROUND_SECONDS} s")
                answered = bool(selector.select(THREAD_COUNT_INTERVAL))
                if tasks.exists():
                    most = max(most or 0, sum(1 for _ in tasks.iterdir()) - 1)
        return most

    def _last_words(self) -> str:
        self._process.wait(timeout=10)
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"ended with status {self._process.returncode}"
