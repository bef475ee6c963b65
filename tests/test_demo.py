"""The demo runs and prints the expected rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = """
import runpy, sys
sys.argv = ["demo.py", "--calls", "{calls}"]
runpy.run_path("examples/demo.py", run_name="__main__")
"""


def test_the_demo_shows_every_row_and_succeeds() -> None:
    command = [sys.executable, "-W", "error", "-c", DEMO.format(calls=12)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    rows = [line for line in done.stdout.splitlines() if " of 12" in line]
    assert [row.split(" of 12")[0].split()[-1] for row in rows] == ["12", "12", "12", "8", "12"]
    assert rows[0].startswith("requests, one after another")
    assert all(row.rstrip().endswith(" x") for row in rows)
