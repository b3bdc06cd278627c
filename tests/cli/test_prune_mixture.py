"""`neuroglot prune` on a run of a native mixture of experts."""

import json

import every_type
import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.run.directory import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    folder = tmp_path_factory.mktemp("mixture")
    ng.Model(every_type.network("mixtral"), tiny.tokenizer()).save(folder / "moe")
    neuroglot("record", folder / "moe", corpus, "--out", folder / "run", "--block", 32, "--tokens", 1000)
    return folder / "run"


def test_a_languages_experts_are_measured_ranked_and_written(run, tmp_path):
    place, order = tmp_path / "fr", tmp_path / "fr.jsonl"
    neuroglot(
        "prune", run, "-l", "fr", "--share", "0.75", "--seeds", 2, "--samples", 5, "-o", place, "--ranking", order
    )
    table = pd.read_csv(run / "experts" / "pruning.csv")
    assert table.proportion.tolist() == [0.75] and table.random.notna().all()
    pruned = ng.load_model(place)
    assert pruned.expert_sizes == ((3, 48),) * 4
    held_out = Run.open(run).manifest.text.load()[1].select(["fr"])
    measured = ng.evaluate.sample_perplexity(pruned, held_out, samples=5)["fr"]
    assert measured == pytest.approx(table.experts[0], rel=1e-4)
    recording = Run.open(run).recording
    frequency = ng.experts.frequencies(recording)[recording.languages.index("fr")]
    for layer, line in enumerate(order.read_text().splitlines()):
        (experts,) = json.loads(line).values()
        assert frequency[layer][experts].tolist() == sorted(frequency[layer].tolist(), reverse=True)
    active = ng.experts.salience(recording, None, "fr", kind="active")
    wanted = recording.probabilities[2, 48:96, recording.languages.index("fr")].mean()
    assert float(active[2, 1]) == pytest.approx(float(wanted))
    neuroglot("prune", run, "-l", "fr", "--budget", "0.3", "--salience", "active", "--seeds", 1, "--samples", 5)


def test_a_languages_neurons_of_every_expert(run, tmp_path, monkeypatch, capsys):
    corpus = Run.open(run).manifest.text.source
    other, place = tmp_path / "run", tmp_path / "fr"
    neuroglot("record", run.parent / "moe", corpus, "--out", other, "--block", 32, "--tokens", 1000,
              "--statistic", "magnitude")  # fmt: skip
    neuroglot("prune", other, "-l", "fr", "--width", "0.6", "--seeds", 2, "--samples", 5, "-o", place)
    (row,) = pd.read_csv(other / "experts" / "pruning.csv").itertuples()
    assert (row.choice, row.proportion) == ("width 0.6 by magnitude", 32 / 48)  # 28.8, up to a multiple of 8
    assert row.random_std > 0
    model, pruned, recording = ng.load_model(run.parent / "moe"), ng.load_model(place), Run.open(other).recording
    assert pruned.expert_sizes == ((4, 32),) * 4
    held_out = Run.open(other).manifest.text.load()[1].select(["fr"])
    assert ng.evaluate.sample_perplexity(pruned, held_out, samples=5)["fr"] == pytest.approx(row.experts, rel=1e-4)

    norms = torch.stack([ffn.down_columns.norm(dim=0) for ffn in model.ffns])
    scores = ng.experts.neuron_salience(recording, "fr", "magnitude", norms)
    kept = ng.experts.keep_width(recording, scores, 0.6)
    for layer, expert in ((0, 0), (2, 3)):
        own = slice(48 * expert, 48 * expert + 48)
        assert float(scores[layer, own][kept[layer, own]].min()) >= float(scores[layer, own][~kept[layer, own]].max())
    with ng.intervene(model, ng.Deactivate(~kept)):
        assert ng.evaluate.sample_perplexity(model, held_out, samples=5)["fr"] == pytest.approx(row.experts, rel=1e-4)
    assert "--width takes shares above 0, up to 1" in refused(monkeypatch, capsys, "prune", other, "--width", "1.5")
    assert "no 'magnitude'" in refused(monkeypatch, capsys, "prune", run, "--width", "0.5")


def test_bad_input_is_one_sentence(run, tmp_path, monkeypatch, capsys):
    few = refused(monkeypatch, capsys, "prune", run, "-l", "fr", "--share", "0.25", "--samples", 5)
    assert "router chooses 2" in few
    assert "than the 2 that its router chooses" in refused(monkeypatch, capsys, "prune", run, "--budget", "0.6")
    assert "no 'magnitude'" in refused(monkeypatch, capsys, "prune", run, "--budget", "0.3", "--salience", "magnitude")
    assert "give one language" in refused(monkeypatch, capsys, "prune", run, "--ranking", tmp_path / "x.jsonl")
