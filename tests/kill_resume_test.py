"""A short form of `benchmarks/kill_test.py`: killed runs end in the bits of one that is not."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "kill_test.py"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_is_killed_ends_in_the_same_bits(workers) -> None:
    kills = {1: 3, 2: 1}[workers]
    command = [sys.executable, str(SCRIPT), f"--kills={kills}", f"--workers={workers}", "--seed=1"]
    command += ["--chosen=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{kills} kills in" in done.stdout
    assert "differences: none; lost: nothing" in done.stdout
