"""Which packages each command may import: a mistake is said before anything slow, and reading a run needs no model."""

import json
import os
import subprocess
import sys

import exhibit
import pytest

from neuroglot.run.recording import begin_run
from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings

pytestmark = pytest.mark.slow

WATCHED = {
    "accelerate", "datasets", "gguf", "gradio", "huggingface_hub", "lingua", "lm_eval", "matplotlib", "numpy", "openai",
    "pandas", "peft", "plotly", "pyarrow", "ray", "scipy", "tokenizers", "torch", "transformers", "triton",
}  # fmt: skip
TABLES = {"numpy", "pandas", "pyarrow"}

MISTAKES = [
    "identify /nowhere",
    "perturb /nowhere",
    "report /nowhere",
    "merge /nowhere /nowhere/else",
    "explore /nowhere",
    "align /nowhere",
    "compare /nowhere",
    "experts /nowhere",
    "prune /nowhere",
    "moefy /nowhere --out {folder}",
    "record /nowhere/model starter",
    "record nowhere.gguf starter",
    "record a/model /nowhere",
    "record a/model starter --languages en,zz9",
    "record a/model starter --dtype float7",
    "record a/model starter --shard 9/2",
    "record a/model starter --engine slurm",
    "demo --languages en,zz9",
    "evaluate tasks /nowhere --tasks xnli_fr",
    "evaluate tasks a/model --tasks xnli_fr --prune fr",
    "evaluate generation /nowhere",
    "evaluate confusion /nowhere",
    "evaluate perplexity /nowhere starter",
    "evaluate perplexity a/model /nowhere",
    "evaluate perplexity a/model starter --off fr",
    "steer /nowhere hello --to zh",
    "steer a/model hello",
    "steer a/model hello --to zz9",
    "steer a/model hello --to zh --run /nowhere",
    "steer a/model hello --recipe /nowhere --to zh",
    "study lape --settings /nowhere",
    "study lape --preset huge",
    "study babel /nowhere",
    "study lingua-franca a/model /nowhere",
    "study lape --only table-99",
    "study settings nosuch",
    "evolve a b --corpus /nowhere --out {folder}",
    "compare /nowhere /nowhere/else",
    "lens /nowhere",
    "lens a/model --corpus /nowhere --out {folder}",
    "shrink /nowhere --language fr",
    "shrink a/model --language fr --size 150%",
    "shrink a/model --language fr --text /nowhere",
    "tune /nowhere",
    "tune a/model /nowhere",
]
"""None of these may import any of the packages watched."""

WORK = {
    "identify {run}": TABLES | {"torch"},
    "report {run}": TABLES | {"torch", "matplotlib", "scipy"},
    "merge {parts}": {"numpy", "torch"},
}
"""Command → the packages that it may import to do its work."""

WATCH = """
import json, sys
from neuroglot.cli import main
found = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["neuroglot", *words]
    try:
        main()
    except SystemExit as stop:
        code = stop.code
    found.append([code, sorted({name.partition(".")[0] for name in sys.modules})])
print(json.dumps(found))
"""

BUILD = """
import json, sys
from neuroglot.explorer.app import build
from neuroglot.explorer.run_view import RunView
from neuroglot.run.directory import Run
build(RunView(Run.open(sys.argv[1])))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def in_a_process(program, *arguments):
    """What a program of its own prints last, as JSON."""
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "NO_COLOR": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def imported(commands):
    """For each command, run one after the other, its exit status and the watched packages imported by then."""
    return [(code, WATCHED & set(names)) for code, names in in_a_process(WATCH, json.dumps(commands))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with something in every tab."""
    return exhibit.make(tmp_path_factory.mktemp("imports"))


@pytest.fixture(scope="module")
def parts(run):
    """A run whose recording was made in two parts."""
    told = run.manifest
    for part in (1, 2):
        begin_run(
            run.path.with_name("parts"),
            ModelSettings(source=told.model.source),
            TextSettings(source=told.text.source),
            RunRecordSettings(block=32),
            part=(part, 2),
        )
    return run.path.with_name("parts")


def test_a_mistake_is_said_before_anything_slow_is_imported(tmp_path):
    commands = [command.format(folder=tmp_path / "out").split() for command in MISTAKES]
    for command, (code, names) in zip(MISTAKES, imported(commands), strict=True):
        assert (code, names) == (2, set()), command
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", WORK)
def test_a_run_is_read_without_what_opens_models_and_corpora(run, parts, command):
    ((code, names),) = imported([command.format(run=run.path, parts=parts).split()])
    assert code == 0
    assert names <= WORK[command]


def test_the_explorer_is_built_without_what_opens_models_and_corpora(run):
    pytest.importorskip("gradio")
    names = set(in_a_process(BUILD, run.path))
    assert "gradio" in names
    assert not {"transformers", "datasets", "lm_eval", "accelerate", "matplotlib", "lingua", "scipy"} & names


def test_help_imports_nothing_slow():
    assert imported([["--help"], ["record", "--help"], ["study", "--help"]]) == [(0, set())] * 3
