"""Commands that are killed, at any call that changes the disk, go on to what they would have been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from breaking.attempts import WHOLE, attempts

QUICK = ["identify", "perturb", "experts", "prune", "steer", "export", "prune compensated"]
SLOW = ["perturb random", "align", "compare", "answer", "lens", "report", "evolve", "tune"]


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_files(tmp_path):
    """Asserted in there: no other bytes, nothing lost, no draft left."""
    said = kills(tmp_path, attempts(len(QUICK), 0), *QUICK)
    assert all(said["killed"][name] >= 1 for name in QUICK)


@pytest.mark.skipif(not WHOLE, reason="make break: they take minutes")
@pytest.mark.parametrize("command", SLOW)
def test_and_the_slow_ones(tmp_path, command):
    assert kills(tmp_path, 60, command)["killed"][command] >= 40


@pytest.mark.slow
def test_two_commands_in_one_run_at_once(tmp_path):
    """Two commands in one run at once leave what they leave one after the other, in one of the two orders."""
    few = ["identify+perturb random", "answer+lens", "export+steer"]
    said = program("together.py", tmp_path, *attempts(few, []))
    assert said["pairs"] == attempts(len(few), 91)


def kills(folder, wanted, *commands):
    return program("kills.py", folder, str(wanted), "1", *commands)


def program(name, folder, *arguments):
    """Run a program of its own, which may fork; what it printed last."""
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, tests / "breaking" / name, folder, *arguments],
        capture_output=True,
        text=True,
        timeout=3600 if WHOLE else 300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
