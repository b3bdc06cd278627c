"""Commands that are killed, at any call that changes the disk, go on to what they would have been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from breaking.attempts import WHOLE, attempts


@pytest.mark.slow
@pytest.mark.parametrize("commands", [["identify", "perturb", "steer"], ["experts", "prune"], ["align", "compare"]])
def test_a_killed_command_goes_on_to_the_same_files(tmp_path, commands):
    """Asserted in there: no other bytes, nothing lost, no draft left."""
    said = kills(tmp_path, attempts(3 * len(commands), 0), *commands)
    assert all(said["killed"][name] >= 3 for name in commands)


@pytest.mark.skipif(not WHOLE, reason="make break: they take minutes")
@pytest.mark.parametrize("command", ["report", "evolve", "tune"])
def test_and_the_slow_ones(tmp_path, command):
    needed = ["identify"] if command == "report" else []
    assert kills(tmp_path, 40, *needed, command)["killed"][command] >= 15


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
