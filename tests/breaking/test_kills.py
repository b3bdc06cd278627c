"""Commands that are killed, at any call that changes the disk, go on to what they would have been."""

import inspect
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

from breaking.attempts import WHOLE
from breaking.steps import COMMANDS
from neuroglot.cli import main  # noqa: F401  (registers the commands)
from neuroglot.cli.app import app
from neuroglot.errors import NeuroglotError

QUICK = [
    "identify", "perturb", "experts", "prune", "rank", "steer", "export", "prune compensated", "prune gguf", "moefy",
    "convert",
]  # fmt: skip
PARTS = {"report": 16, "heal": 12, "fix": 8, "compare": 8, "pair": 8, "tasks": 5, "shrink": 4, "tune": 2,
         "tune adapter": 2, "answer": 2, "experts": 2, "perturb random": 2}  # fmt: skip
"""Into how many tests the kills of a command that has many, or is slow, are cut in `make break`."""
FEWER = {"report": 240}
"""Of a command with 248 calls of which all but a few write a figure."""

KILLED = {
    "record": ["convert"],  # the rest of it by tests/killing.py
    "merge": "tests/killing.py",
    "identify": ["identify", "perturb random"],
    "perturb": ["perturb", "perturb random"],
    "align": ["align"],
    "evolve": ["evolve"],
    "experts": ["experts"],
    "prune": ["prune", "prune compensated", "prune gguf", "rank"],
    "tune": ["tune", "tune adapter"],
    "compare": ["compare", "pair"],
    "lens": ["lens"],
    "moefy": ["moefy"],
    "shrink": ["shrink", "heal"],
    "steer": ["steer", "export"],
    "fix": ["fix"],
    "evaluate generation": ["answer"],
    "evaluate tasks": ["tasks"],
    "report": ["report"],
    "demo": "calls record, identify, perturb, experts and report",
    "study lape": "calls the steps of a run; its own items are kept as whole files (tests/studies)",
    "study babel": "as study lape",
    "study lingua-franca": "as study lape",
    "evaluate perplexity": "writes nothing",
    "evaluate confusion": "one table, whole or absent",
    "evaluate score": "one table, whole or absent",
    "study settings": "prints",
    "explore": "writes nothing into a run",
    "doctor": "writes nothing",
}
"""Command of the terminal → the steps that are killed, or where else that is tried, or why it need not be."""

WRITTEN = {
    ("record", "folder"), ("demo", "folder"), ("merge", "folder"), ("evolve", "folder"), ("prune", "folder"),
    ("prune", "ranking"), ("tune", "folder"), ("moefy", "folder"), ("shrink", "folder"), ("shrink", "gguf"),
    ("steer", "save"), ("steer", "bake"), ("steer", "export"), ("evaluate generation", "save"),
    ("evaluate generation", "clas"), ("evaluate confusion", "table"),
    ("evaluate confusion", "starts"), ("evaluate score", "table"),
    ("evaluate tasks", "folder"), ("study lape", "folder"), ("study babel", "folder"),
    ("study lingua-franca", "folder"), ("fix", "folder"), ("fix", "bake"), ("lens", "folder"),
}  # fmt: skip
"""Options of the terminal that name what is written; each is written by a step above."""
READ = {
    ("identify", "file"), ("prune", "gguf"), ("tune", "only"), ("compare", "other"), ("compare", "tuned"),
    ("steer", "recipe"), ("steer", "vector"), ("steer", "less"), ("steer", "run"), ("fix", "run"),
    ("evaluate perplexity", "neurons"), ("evaluate confusion", "completions"), ("evaluate confusion", "words"),
    ("evaluate score", "answers"), ("evaluate tasks", "data_dir"), ("merge", "runs"),
    *((f"study {name}", "settings") for name in ("lape", "babel", "lingua-franca")),
    *((name, "run") for name in ("identify", "perturb", "align", "experts", "prune", "compare", "moefy", "report",
                                 "explore", "evaluate generation")),
}  # fmt: skip


def registered(group=app, before=""):
    """Every command of the terminal: its name, and its parameters that are paths."""
    for command in group.registered_commands:
        parameters = inspect.signature(command.callback).parameters.items()
        name = before + (command.name or command.callback.__name__)
        yield name, {called for called, one in parameters if "Path" in str(one.annotation)}
    for inner in group.registered_groups:
        yield from registered(inner.typer_instance, f"{inner.name or inner.typer_instance.info.name} ")


def test_every_command_that_writes_is_killed():
    """A new command, or a new option that names a file, is to be added to the lists above, and to `steps.py`."""
    assert {name for name, _ in registered()} == set(KILLED)
    steps = set(itertools.chain(*(each for each in KILLED.values() if isinstance(each, list))))
    assert steps == set(COMMANDS)
    assert {(name, path) for name, paths in registered() for path in paths} == WRITTEN | READ


def test_what_can_never_be_written_is_said_at_once(tmp_path):
    """Of every option that names what is written: before anything is read or computed for it."""
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    options = {
        (name, each.name): each.callback
        for name, command in commands()
        for each in command.params
        if (name, each.name) in WRITTEN
    }
    assert {*options} == WRITTEN
    with click.Context(click.Command("x")) as context:
        for (name, option), callback in options.items():
            for place, why in ((file / "x", "Not a directory"), (tmp_path / ("x" * 300), "too long"),
                               (tmp_path / "loop" / "x", "symbolic links")):  # fmt: skip
                with pytest.raises(NeuroglotError, match=f"cannot be written: .*{why}"):
                    callback(context, None, place)
            assert callback(context, None, tmp_path / "new" / "x") == tmp_path / "new" / "x", (name, option)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


def commands(group=None, before=""):
    """Every command as click has it."""
    for name, inner in (group or typer.main.get_command(app)).commands.items():
        if hasattr(inner, "commands"):
            yield from commands(inner, f"{before}{name} ")
        else:
            yield before + name, inner


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_files(tmp_path):
    """Asserted in there: no other bytes, nothing lost, no draft left."""
    said = kills(tmp_path, len(QUICK), "1/1", *QUICK)
    assert all(said["killed"][name] >= 1 for name in QUICK)


ALL = [(name, f"{i + 1}/{PARTS.get(name, 1)}") for name in COMMANDS for i in range(PARTS.get(name, 1))]


@pytest.mark.skipif(not WHOLE, reason="make break: they take minutes")
@pytest.mark.parametrize(("command", "part"), ALL, ids=[" ".join(one) for one in ALL])
def test_at_every_call(tmp_path, tried, command, part):
    killed = kills(tmp_path, FEWER.get(command, 0), part, command)["killed"][command]
    tried(f"kills: {command}", killed)
    assert killed >= 1


@pytest.mark.skipif(not WHOLE, reason="make break; make test makes thirty in tests/recording/test_shards.py")
@pytest.mark.parametrize("seed", range(2, 10))
def test_and_recording_and_merging(tmp_path, tried, seed):
    killed = program("../killing.py", tmp_path, "150", str(seed))["killed"]
    tried("kills: record", sum(number for way, number in killed.items() if not way.startswith("merge")))
    tried("kills: merge", sum(number for way, number in killed.items() if way.startswith("merge")))


PAIRS = ["+".join(pair) for pair in itertools.combinations_with_replacement(COMMANDS, 2)]
FEW = ["identify+perturb random", "perturb+perturb random", "answer+lens", "tune+tune"]


@pytest.mark.slow
def test_two_commands_in_one_run_at_once(tmp_path):
    """Two commands in one run at once leave what they leave one after the other, in one of the two orders."""
    assert program("together.py", tmp_path, *FEW)["pairs"] == len(FEW)


@pytest.mark.skipif(not WHOLE, reason="make break: 325")
@pytest.mark.parametrize("first", range(0, len(PAIRS), 5))
def test_and_every_pairing(tmp_path, tried, first):
    some = PAIRS[first : first + 5]
    tried("pairings of commands", program("together.py", tmp_path, *some)["pairs"])


def kills(folder, wanted, part, *commands):
    return program("kills.py", folder, str(wanted), "1", part, *commands)


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
