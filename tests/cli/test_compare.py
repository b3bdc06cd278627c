"""`neuroglot tune` and `neuroglot compare` as a person meets them."""

import json

import pandas as pd
import pytest
import tiny
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.evaluate.ablation import comparison
from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.recording import worker as shard_pass
from neuroglot.run.directory import Run

pytestmark = pytest.mark.slow

TAGS = ["en", "fr", "vi"]
BUDGETS = {0.05, 0.1}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("tuned")
    neuroglot("tune", checkpoint, "--out", folder, "--languages", ",".join(TAGS), *SHORT)
    return folder


SHORT = ["--epochs", 1, "--batch", 8, "--steps", 4, "--learning-rate", 0.01, "--max-tokens", 120]


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint, tuned):
    folder = tmp_path_factory.mktemp("runs") / "run"
    neuroglot(
        "record",
        checkpoint,
        "starter",
        "--out",
        folder,
        "--languages",
        ",".join(TAGS),
        "--block",
        32,
        "--tokens",
        1500,
        "--experts",
        6,
    )
    neuroglot("compare", folder, *COMPARE, "--tuned", tuned)
    neuroglot("report", folder)
    return folder


COMPARE = [
    "--budget",
    0.1,
    "--curve",
    0.05,
    "--texts",
    300,
    "--close",
    "margin,lape",
    "--tokens",
    128,
    "--block",
    32,
    "--seeds",
    2,
    "--samples",
    8,
]


def test_the_whole_comparison(run):
    result = Comparison.load(run / "comparison" / "comparison.json")
    assert {what["method"] for what in result.conditions.values()} == {
        "margin",
        "lape",
        "lap",
        "lave",
        "monolinguality",
        "pv",
        "pv parameters",
        "regions",
        "experts",
        "random",
    }
    measured = {name for name, what in result.conditions.items() if what["budget"] is not None}
    assert {result.conditions[name]["budget"] for name in measured} == BUDGETS
    assert {"margin 0.1 half 1", "margin 0.1 300 tokens", "lape 0.05 all", "random 0.1 seed 1"} <= measured
    assert "lap 0.1 half 1" not in measured and "half 1" in result.stability["lap 0.1"]
    assert "lape default all" in result.conditions and "experts default all" not in result.conditions
    assert "regions default all" not in result.conditions  # three languages are too few for its threshold
    assert result.seconds["pv"]["tuning"] > 0 and result.seconds["lape"]["recording"] > 0
    for name in measured:
        size = 7 if result.conditions[name]["budget"] == 0.1 else 4
        if result.conditions[name]["method"] in ("margin", "lap", "experts", "random"):
            assert set(result.sizes[name].values()) == {size}
    table = pd.read_csv(run / "tables" / "compare.csv")
    assert set(table.method) == {what["method"] for what in result.conditions.values()}
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Methods side by side" in page and "As the budget grows" in page and "How much text is enough" in page
    for name in ("compare", "compare-budgets", "compare-budget-lape", "compare-texts"):
        assert (run / "figures" / f"{name}.png").is_file() and (run / "figures" / f"{name}.pdf").is_file()


def test_again_measures_nothing(run, tuned, monkeypatch):
    before = Comparison.load(run / "comparison" / "comparison.json")

    def never(*arguments, **named):
        raise AssertionError("something was measured again")

    monkeypatch.setattr(comparison, "_block_losses", never)
    monkeypatch.setattr(shard_pass, "record_shard", never)
    neuroglot("compare", run, *COMPARE, "--tuned", tuned)
    after = Comparison.load(run / "comparison" / "comparison.json")
    assert after.off == before.off and after.stability == before.stability


def test_what_is_damaged_is_measured_again(run, tuned):
    before = Comparison.load(run / "comparison" / "comparison.json")
    for file in [*list((run / "comparison" / "cells").rglob("*.json"))[:2], run / "comparison" / "seconds.json"]:
        file.write_text(file.read_text()[:-3])
    neuroglot("compare", run, *COMPARE, "--tuned", tuned)
    after = Comparison.load(run / "comparison" / "comparison.json")
    assert after.off == before.off
    # what earlier calls measured is still in comparison.json
    assert after.seconds["lape"]["recording"] == before.seconds["lape"]["recording"] > 0


def test_tuned_models_are_models_and_finished_ones_are_kept(tuned, checkpoint, monkeypatch):
    base = ng.load_model(checkpoint)
    for tag in TAGS:
        assert ng.load_model(tuned / tag).fingerprint != base.fingerprint
        assert json.loads((tuned / tag / "tuning.json").read_text())["language"] == tag
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "train", None)
    neuroglot("tune", checkpoint, "--out", tuned, "--languages", ",".join(TAGS), *SHORT)


def test_sentences(monkeypatch, capsys, run, tuned, checkpoint, tmp_path):
    def says(*arguments):
        return refused(monkeypatch, capsys, *arguments)

    assert "choose among attribution, lap" in says("compare", run, "--methods", "nothing")
    assert "none for en, fr, vi" in says("compare", run, "--methods", "pv")
    assert "no number from one to all" in says("compare", run, "--budget", 0.0001)
    assert "--curve takes numbers" in says("compare", run, "--curve", "much")
    assert "holds no folder named by a language" in says("compare", run, "--tuned", tmp_path)
    assert "is not a run" in says("compare", tmp_path)
    assert "settings.seed (was 0, now 1)" in says("tune", checkpoint, "--out", tuned, "--languages", "fr", "--seed", 1)
    assert "no instructions in de" in says("tune", checkpoint, "--languages", "de")
    assert "begins within 8 tokens" in says("tune", checkpoint, "--out", tmp_path / "short", "--max-tokens", 8)
    assert "There is no instruction data" in says("tune", checkpoint, tmp_path / "nowhere")
    wide = tmp_path / "wide"
    for tag in TAGS:
        tiny.network(intermediate_size=32).save_pretrained(wide / tag)
    other = Run.open(run)
    assert "another shape than its base" in says("compare", other.path, "--methods", "pv", "--tuned", wide)


def test_any_recording_gives_the_margin(run):
    neuroglot("identify", run, "--method", "margin", "--top-fraction", 0.05)
    assert Run.open(run).neurons("margin").about["top_fraction"] == 0.05
