"""Commands that are killed, at any call that changes the disk, go on to what they would have been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from breaking.attempts import WHOLE, attempts

QUICK = ["identify", "perturb", "experts", "prune", "steer", "align"]
SLOW = ["compare", "report", "evolve", "tune"]


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_files(tmp_path):
    """Asserted in there: no other bytes, nothing lost, no draft left."""
    said = kills(tmp_path, attempts(2 * len(QUICK), 0), *QUICK)
    assert all(said["killed"][name] >= 2 for name in QUICK)


@pytest.mark.skipif(not WHOLE, reason="make break: they take minutes")
@pytest.mark.parametrize("command", SLOW)
def test_and_the_slow_ones(tmp_path, command):
    assert kills(tmp_path, 60, command)["killed"][command] >= 40


def kills(folder, wanted, *commands):
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, tests / "breaking" / "kills.py", folder, str(wanted), "1", *commands],
        capture_output=True,
        text=True,
        timeout=3600 if WHOLE else 300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
