"""The same command again changes nothing: no file of the run is written anew, and none is gone or new."""

import shutil

import pandas as pd
import pytest
from commands import neuroglot

from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.run.directory import Run

COMMANDS = [
    "identify {run} --top-fraction 0.2 --activity-quantile 0.6",
    "identify {run} --method random",
    "perturb {run} --block 32 --seeds 2",
    "perturb {run} --method random --block 32 --seeds 1",
    "compare {run} --methods lape,random --budget 0.1 --block 32 --seeds 2",
    "experts {run} --experts 4 --kind contiguous --top 0.5",
    "prune {run} --share 0.5,0.75 --samples 4 --seeds 1",
    "prune {run} --budget 0.25 --salience magnitude --samples 4 --seeds 1",
    "lens {run} --tokens 200 --block 32",
    "evaluate tasks {run} --tasks smoke_xstorycloze_english_fr --limit 2 --seeds 1 --off fr",
    "align {run} --corpus {parallel} --samples 4 --threshold 0.5 --no-measure",
    "evaluate generation {run} --prompts {parallel} --tokens 2 --limit 1 --conditions intact,raised",
    "steer {model} hello --to fr --from en --run {run} --tokens 2",
    "report {run}",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint, corpus):
    """A run in which every command was called once."""
    folder = tmp_path_factory.mktemp("again") / "run"
    neuroglot("record", checkpoint, corpus, "--out", folder, "--block", 32, "--tokens", 2000)
    for words in called(folder, checkpoint):
        neuroglot(*words)
    return folder


def called(run, checkpoint):
    """The commands, with what they need beside the run."""
    parallel = run.parent / "parallel.csv"
    parallel.write_text("en,fr,ru\n" + "the cats sat,çà et là,всё и раз\n" * 5, encoding="utf-8")
    return [command.format(run=run, model=checkpoint, parallel=parallel).split() for command in COMMANDS]


def held(run):
    """The bytes of every file, and when it was written."""
    files = [file for file in run.rglob("*") if file.is_file()]
    return {str(file.relative_to(run)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_every_command_again_changes_no_file(run, checkpoint, corpus):
    before = held(run)
    neuroglot("record", checkpoint, corpus, "--out", run, "--block", 32, "--tokens", 2000)
    for words in called(run, checkpoint):
        neuroglot(*words)
        after = held(run)
        assert after.keys() == before.keys(), words
        assert [name for name in before if before[name] != after[name]] == [], words


def test_less_again_takes_nothing_away(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    whole = Comparison.load(copy / "comparison" / "comparison.json")
    neuroglot("compare", copy, "--methods", "random", "--budget", 0.1, "--block", 32, "--seeds", 1)
    assert vars(Comparison.load(copy / "comparison" / "comparison.json")) == vars(whole)
    assert Run.open(copy).manifest.compare["methods"] == ["lape", "random"]
    neuroglot("perturb", copy, "--block", 32, "--seeds", 1)
    assert Run.open(copy).manifest.perturb["lape"]["seeds"] == 2  # of which the matrix is
    rows = pd.read_csv(copy / "experts" / "pruning.csv")
    neuroglot("prune", copy, "--share", 0.75, "--samples", 4, "--seeds", 1)
    pd.testing.assert_frame_equal(pd.read_csv(copy / "experts" / "pruning.csv"), rows)


def test_other_neurons_drop_what_measured_the_old_ones(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    neuroglot("identify", copy, "--top-fraction", 0.1, "--activity-quantile", 0.6)
    manifest = Run.open(copy).manifest
    assert set(manifest.perturb) == {"random"} and not (copy / "perturbation" / "lape.json").exists()
