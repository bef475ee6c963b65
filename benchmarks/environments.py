"""A virtual environment for each contender, built when first asked for.

They are apart because contenders disturb each other: installing niquests, for one, puts urllib3-future in
the place of urllib3, and `requests` then runs on other code.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
REQUIREMENTS: Final = ROOT / "benchmarks" / "requirements"
ENVIRONMENTS: Final = ROOT / "benchmarks" / ".envs"


class EnvironmentFailed(Exception):
    """An environment could not be built; the message ends with what pip said."""


def interpreter(name: str, *, rebuild: bool = False) -> Path:
    """The Python of an environment, which is built if it is missing or out of date.

    Args:
        name: Which list in `requirements/` to install.
        rebuild: Build anew, with the newest releases.

    Returns:
        The path of the interpreter.

    Raises:
        EnvironmentFailed: pip failed.
    """
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    stamp = folder / "built-from"
    fingerprint = _fingerprint(name)
    if not rebuild and stamp.exists() and stamp.read_text() == fingerprint:
        return python
    print(f"building the environment {name}", file=sys.stderr)
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    requirements = str(REQUIREMENTS / f"{name}.txt")
    _run(str(python), "-m", "pip", "install", "--quiet", "--prefer-binary", "--requirement", requirements)
    stamp.write_text(fingerprint)
    return python


def _fingerprint(name: str) -> str:
    """What the environment depends on: the list, the Python, and for our own the packaging."""
    requirements = (REQUIREMENTS / f"{name}.txt").read_text()
    packaging = (ROOT / "setup.cfg").read_text() if "--editable" in requirements else ""
    return hashlib.sha256(f"{sys.version}\n{requirements}\n{packaging}".encode()).hexdigest()


def _run(*command: str) -> None:
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise EnvironmentFailed(f"{' '.join(command)}: {finished.stderr.strip()[-500:]}")
