"""What no random model shows: a tiny model that has learnt six languages, its regions, and its life as checkpoints."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from commands import notes

import neuroglot as ng
from neuroglot.cli.app import main
from neuroglot.run.evolution import Checkpoint, EvolveSettings

pytestmark = pytest.mark.slow

LANGUAGES = ["en", "zh", "vi", "ar", "hi", "bn"]
SIZE = {"vocabulary": 600, "width": 64, "layers": 2, "neurons": 256, "batch": 16, "length": 64, "rate": 4e-3}
SETTINGS = EvolveSettings(samples=20, max_tokens=40, draws=20, tokens=500, block=64)


@pytest.fixture(scope="module")
def texts():
    """Sentences to learn, and sentences held out."""
    return ng.load_corpus("starter", languages=LANGUAGES).split(5)


@pytest.fixture(scope="module")
def checkpoints(example, texts, tmp_path_factory):
    """A model of 0.2 M parameters, trained for some seconds: saved at its beginning and its end."""
    path = tmp_path_factory.mktemp("checkpoints")
    example.train(texts[0], **SIZE, steps=200, translated=0.0, save=[0], path=path, say=False)
    return path


@pytest.fixture(scope="module")
def trained(checkpoints):
    return ng.load_model(checkpoints / "step-00200")


@pytest.fixture(scope="module")
def samples(trained, texts):
    return ng.record_samples(trained, texts[0], samples=80, progress=False)


@pytest.fixture(scope="module")
def regions(samples):
    return ng.identify.key_regions(samples, threshold=2.0)


def test_a_region_switched_off_hurts_its_language_most(trained, texts, regions):
    result = ng.evaluate.perturb(
        trained, texts[1], regions, tokens=3000, block=64, random_row="next percent", progress=False
    )
    change = result.change.to_numpy()
    own, others = np.diag(change), change[~np.eye(6, dtype=bool)]
    assert result.diagonal_dominant.sum() >= 5
    assert own.mean() > 3 * others.mean()
    assert own.mean() > 2 * result.random_change.loc["mean"].mean()
    share = max(regions.sizes().values()) / 512
    assert share < result.sizes["random"] / 512 <= share + 0.012


def test_training_made_what_is_measured(checkpoints, texts, samples):
    untrained = ng.record_samples(ng.load_model(checkpoints / "step-00000"), texts[0], samples=80, progress=False)
    fresh = ng.alignment.summary(untrained, threshold=2.0, draws=100)
    learnt = ng.alignment.summary(samples, threshold=2.0, draws=100)
    assert learnt.loc["lrds", "low"] > fresh.loc["lrds", "high"]


def test_another_random_row_is_not_taken_for_the_one_measured(trained, texts, regions, tmp_path):
    one = {"tokens": 130, "block": 64, "seeds": 1, "resume": tmp_path / "p.json", "progress": False}
    ng.evaluate.perturb(trained, texts[1], regions, **one)
    with pytest.raises(ng.NeuroglotError, match=r"random \(was 70, now 72\)"):
        ng.evaluate.perturb(trained, texts[1], regions, random_row="next percent", **one)


def test_prompts_continue_as_they_would_alone_and_differ_with_the_region_off(trained, texts, regions):
    prompts = ng.evaluate.beginnings(trained, texts[1], prompts=3, tokens=8)
    assert set(prompts) == set(LANGUAGES)
    together = ng.evaluate.generate(trained, prompts["en"], tokens=8)
    alone = [ng.evaluate.generate(trained, [prompt], tokens=8)[0] for prompt in prompts["en"]]
    assert together == alone
    ids = trained.tokenizer(prompts["en"][0], add_special_tokens=False)["input_ids"]
    row = [trained.bos, *ids]
    for _ in range(8):  # greedily, by hand
        with torch.no_grad():
            row.append(int(trained.network(torch.tensor([row])).logits[0, -1].argmax()))
    assert trained.tokenizer.decode(row[1 + len(ids) :], skip_special_tokens=True) == alone[0]
    table = ng.evaluate.continuations(trained, prompts, regions, tokens=8)
    assert list(table) == ["language", "prompt", "intact", "off"]
    assert table["intact"][:3].tolist() == together
    assert (table["intact"] != table["off"]).mean() > 0.5
    with ng.intervene(trained, ng.Deactivate(regions["ar"])):
        assert ng.evaluate.generate(trained, prompts["ar"], tokens=8) == table[table.language == "ar"]["off"].tolist()
    with pytest.raises(ng.NeuroglotError, match="no fr"):
        ng.evaluate.continuations(trained, {"fr": ["Il"]}, regions)


# --- evolve ----------------------------------------------------------------------------------------------------------


def test_evolve_measures_each_checkpoint_and_goes_on_from_finished_ones(checkpoints, texts, tmp_path, monkeypatch):
    names = ["step-00000", "step-00200"]
    paths = [str(checkpoints / name) for name in names]
    scores = {"layers": lambda model: model.layers}
    made = ng.evolve(paths, texts[0], tmp_path, held_out=texts[1], settings=SETTINGS, tasks=scores)
    assert made.table["checkpoint"].tolist() == names
    assert made.table["step"].tolist() == [0, 200]
    assert made.table["task_layers"].tolist() == [2, 2]
    assert made.table["perplexity"].is_monotonic_decreasing
    assert made.table["lrds"].is_monotonic_increasing
    assert made.table["error"].isna().all()
    directly = ng.record_samples(ng.load_model(paths[1]), texts[0], samples=20, max_tokens=40, progress=False)
    assert made.table["sads"][1] == pytest.approx(ng.alignment.sads(directly), abs=1e-9)
    counts = ng.identify.key_regions(directly, threshold=2.0).counts()
    pd.testing.assert_frame_equal(made.regions["step-00200"], counts, check_index_type=False)

    monkeypatch.setattr(sys.modules["neuroglot.run.evolution"], "_measure", None)  # nothing is measured again
    again = ng.evolve(paths, texts[0], tmp_path, held_out=texts[1], settings=SETTINGS, tasks=scores)
    pd.testing.assert_frame_equal(again.table, made.table)
    pd.testing.assert_frame_equal(again.layers["step-00000"], made.layers["step-00000"], check_index_type=False)
    with pytest.raises(ng.NeuroglotError, match=r"measured with other settings: threshold \(was 2.0, now 1.0\)"):
        ng.evolve(paths, texts[0], tmp_path, settings=SETTINGS.model_copy(update={"threshold": 1.0}))


def test_a_checkpoint_that_fails_is_reported_and_tried_again(checkpoints, example, texts, tmp_path):
    broken, other = tmp_path / "step-00100", tmp_path / "step-00300"
    shutil.copytree(checkpoints / "step-00200", broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    example.train(texts[0], **{**SIZE, "layers": 1}, steps=0, path=tmp_path, say=False)
    (tmp_path / "step-00000").rename(other)
    paths = [checkpoints / "step-00000", broken, checkpoints / "step-00200", other]
    said = []
    made = ng.evolve(map(str, paths), texts[0], tmp_path / "out", settings=SETTINGS, say=said.append)
    errors = made.table["error"].tolist()
    assert made.table["error"].isna().tolist() == [True, False, True, False]
    assert "cannot be opened" in errors[1]
    assert "is a llama of 1 × 256 neurons, but step-00000 is a llama of 2 × 256" in errors[3]
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 2
    shutil.copy(checkpoints / "step-00200" / "model.safetensors", broken)
    sized = SETTINGS.model_copy(update={"sizes": True})
    made = ng.evolve(map(str, paths), texts[0], tmp_path / "out", settings=sized)
    assert made.table["error"].isna().all()
    assert made.table["layers"].tolist() == [2, 2, 2, 1]
    with pytest.raises(ng.NeuroglotError, match="Every checkpoint failed"):
        ng.evolve([str(tmp_path / "nothing")], texts[0], tmp_path / "none", settings=SETTINGS)
    with pytest.raises(ng.NeuroglotError, match="different checkpoints"):
        ng.evolve([str(broken), str(broken)], texts[0], tmp_path / "none")


def test_checkpoints_are_named_by_their_revision_and_ordered_by_their_step(tmp_path):
    bloom = Checkpoint.parse("bigscience/bloom-7b1-intermediate@global_step5000")
    assert (bloom.source, bloom.revision) == ("bigscience/bloom-7b1-intermediate", "global_step5000")
    assert (bloom.name, bloom.step) == ("global_step5000", 5000)
    (tmp_path / "a@b").mkdir()
    assert Checkpoint.parse(str(tmp_path / "a@b")).revision is None
    assert Checkpoint.parse("runs/final").step is None


# --- the command line ------------------------------------------------------------------------------------------------


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["neuroglot", *map(str, arguments)])
    try:
        with notes():
            main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_align_and_report(checkpoints, tmp_path, monkeypatch, capfd):
    folder, model = tmp_path / "run", checkpoints / "step-00200"
    tags = ",".join(LANGUAGES)
    assert run(monkeypatch, "record", model, "starter", "-l", tags, "-o", folder, "--tokens", 600, "--block", 64) == 0
    assert run(monkeypatch, "identify", folder) == 0
    quick = ["--samples", 20, "--tokens", 130, "--block", 64, "--seeds", 1, "--prompts", 1, "--new-tokens", 4]
    assert run(monkeypatch, "align", folder, *quick) == 0
    assert run(monkeypatch, "align", folder, *quick) == 0  # goes on from what is there
    assert run(monkeypatch, "report", folder) == 0
    for name in ("alignment", "alignment-layers", "dominance", "agreement", "continuations", "perturbation-regions"):
        assert len(pd.read_csv(folder / "tables" / f"{name}.csv")) > 0
    for name in ("similarity", "similarity-meaning", "alignment-layers", "ses-lape", "dominance", "agreement"):
        assert (folder / "figures" / f"{name}.png").is_file()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "LRDS (language) is highest in layer" in page
    assert "What is written with a region ablated" in page
    samples = ng.Samples.load(folder / "samples")
    saved = pd.read_csv(folder / "tables" / "alignment.csv", index_col="score")
    assert saved.loc["lrds", "value"] == pytest.approx(ng.alignment.lrds(samples))
    assert json.loads((folder / "run.json").read_text())["align"]["samples"] == 20
    capfd.readouterr()
    assert run(monkeypatch, "align", folder, *quick, "--max-tokens", 5) == 2
    assert "recorded with other settings: text (was" in capfd.readouterr().err


def test_align_of_few_languages_says_that_no_region_can_be_found(checkpoints, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run"
    record = ["record", checkpoints / "step-00200", "starter", "-l", "en,ar", "-o", folder, "--tokens", 130]
    assert run(monkeypatch, *record, "--block", 64) == 0
    assert run(monkeypatch, "align", folder, "--samples", 5) == 0
    assert "With 2 languages no z-score exceeds √1 = 1.00" in capfd.readouterr().err
    assert run(monkeypatch, "report", folder) == 0


def test_evolve_draws_its_curves(checkpoints, tmp_path, monkeypatch, capfd):
    common = ["--corpus", "starter", "-l", ",".join(LANGUAGES), "--samples", 10, "--tokens", 130, "--block", 64]
    paths = [checkpoints / "step-00000", checkpoints / "step-00200"]
    assert run(monkeypatch, "evolve", *paths, "-o", tmp_path / "out", *common) == 0
    assert run(monkeypatch, "evolve", *paths, "-o", tmp_path / "sizes", "--sizes", *common) == 0
    assert (tmp_path / "out" / "figures" / "evolution.png").is_file()
    assert (tmp_path / "out" / "figures" / "region-layers.pdf").is_file()
    assert (tmp_path / "sizes" / "figures" / "sizes.png").is_file()
    assert pd.read_csv(tmp_path / "out" / "tables" / "evolution.csv")["checkpoint"].tolist() == [p.name for p in paths]
    assert "step-00200" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    capfd.readouterr()
    assert run(monkeypatch, "evolve", paths[0], tmp_path / "none", "-o", tmp_path / "out", *common) == 1
    assert "failed:" in capfd.readouterr().err
