"""A few kills, signals and a full disk, by the benchmark that makes many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_nothing_is_lost(tmp_path):
    command = ["benchmarks/reliability.py", "--kills=2", "--epochs=2", "--signals", "SIGTERM", "--seed=1"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *command, f"--folders={tmp_path}", f"--json={tmp_path / 'a.json'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "a.json").read_text())["results"]
    assert sum(row["runs"] for row in rows) == 5
    assert sum(row["killed"] for row in rows) >= 1  # the one in a save is killed for certain
    for row in rows:
        assert row["damaged"] == row["left_files"] == 0, row
        assert row["identical"] == row["runs"], row
    told, full_for_a_while, full = rows[-3:]
    assert told["codes"] == [143]
    assert full_for_a_while["codes"] == [0]
    assert full["codes"] == [1]
    assert full_for_a_while["said"] == full["said"] == 1  # each run says it once
