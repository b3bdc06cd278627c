"""A model whose layers differ in width, through all commands: what lies beyond a layer's width is never seen."""

import csv

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.edit.training import TuneSettings
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.explorer.neuron import describe_neuron
from neuroglot.explorer.neuron_map import CHOSEN, Atlas
from neuroglot.explorer.run_view import RunView
from neuroglot.figures.screen import Plot
from neuroglot.identify.overlap import compare
from neuroglot.run.directory import Run
from neuroglot.run.settings import ModelSettings
from neuroglot.run.tuning import tune_languages

WIDTHS = (24, 17, 9)
SHORT = ("--block", 16, "--seeds", 2, "--tokens", 200)
THERE = torch.arange(24)[None] < torch.tensor(WIDTHS)[:, None]


def uneven(folder, seed=0):
    """A tiny Llama that `prune` made narrower, each layer by its own number."""
    return ng.prune(tiny.model(seed=seed, max_position_embeddings=256), THERE, folder)


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "parallel.csv"
    texts = tiny.corpus(40)
    columns = [list(texts[tag]) for tag in texts.languages]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["key", *texts.languages], *zip(range(40), *columns, strict=True)])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, parallel):
    folder = tmp_path_factory.mktemp("uneven")
    path, run = uneven(folder / "pruned"), folder / "run"
    said = neuroglot("record", path, parallel, "--out", run, "--block", 16, "--tokens", 1000, "--experts", 4)
    assert "3 of 9 to 24 neurons" in neuroglot("doctor", path) and "recording" in said
    neuroglot("identify", run, "--top-fraction", 0.9, "--activity-quantile", 0.1)
    for method in ("lave", "lap", "margin", "random", "experts"):
        neuroglot("identify", run, "--method", method, *([] if method == "lap" else ["--top-fraction", 0.5]))
    neuroglot("perturb", run, *SHORT, "--size-matched")
    neuroglot("align", run, "--threshold", 1.2, "--samples", 6, *SHORT, "--prompts", 1, "--new-tokens", 3)
    neuroglot("compare", run, "--methods", "lape,random,regions,experts", "--budget", 0.5, "--samples", 6, *SHORT)
    neuroglot("prune", run, "--share", 0.5, "--budget", 0.3, "--seeds", 1, "--samples", 3)
    return Run.open(run)


def test_every_set_is_of_neurons_that_are_there(run):
    total = sum(WIDTHS)
    for method in run.manifest.identify:
        neurons = run.neurons(method)
        assert neurons.widths == WIDTHS and neurons.total == total, method
        assert not bool(neurons.mask[:, ~THERE].any()), method
    assert set(run.neurons("random").sizes().values()) == {round(0.5 * total)}
    assert run.partition.widths.tolist() == list(WIDTHS)
    assert max(Perturbation.load(run.perturbation_path("lape")).sizes.values()) <= total
    regions, lape = run.neurons("regions"), run.neurons("lape")
    table = compare(regions, lape)
    for tag in table.index:
        assert table["by_chance"][tag] == pytest.approx(regions.sizes()[tag] * lape.sizes()[tag] / total)


def test_the_map_shows_neurons_that_are_there(run):
    atlas = Atlas(RunView(run))
    for view in ("active share", CHOSEN):
        z = drawn(atlas.plot(view, "en", "fr", "lape"))
        assert np.array_equal(np.isfinite(z), THERE.numpy()), view
    assert atlas.of_cell("active share", 2, 8, "en", "fr", None) == [8]
    assert atlas.of_cell("active share", 2, 9, "en", "fr", None) == []
    for layer, number in ((2, 8), (0, 23)):
        neuron = describe_neuron(atlas, layer, number)
        assert all(j < WIDTHS[i - 1] for i, j, _ in neuron.nearest) and len(neuron.nearest) == 8


def drawn(plot: Plot) -> np.ndarray:
    import base64

    z = plot["data"][0]["z"]
    return np.frombuffer(base64.b64decode(z["bdata"]), dtype="<f4").reshape([int(n) for n in z["shape"].split(", ")])


def test_shares_over_checkpoints_are_of_neurons_that_are_there(run, parallel, tmp_path):
    checkpoints = run.manifest.model.source, uneven(tmp_path / "other", seed=1)
    how = ("--samples", 6, "--threshold", 1.2, "--tokens", 100, "--block", 16)
    neuroglot("evolve", *checkpoints, "--corpus", parallel, *how, "--out", tmp_path / "evolved")
    table = pd.read_csv(next((tmp_path / "evolved").rglob("evolution.csv")))
    assert (table["sklr_share"] * sum(WIDTHS)).tolist() == pytest.approx(table["sklr"].tolist())
    assert set(table["neurons"]) == {"24 17 9"}


@pytest.mark.slow
def test_steering_and_shrinking(run, parallel, tmp_path):
    source = run.manifest.model.source
    said = neuroglot("steer", source, "the cats", "--to", "fr", "--run", run.path, "--tokens", 2)
    assert "steered to fr" in said
    neuroglot("shrink", source, "--language", "fr", "--text", parallel, "--size", "95%", "--out", tmp_path / "small")
    smaller = ng.load_model(tmp_path / "small")
    assert all(0 < now <= before for now, before in zip(smaller.widths, WIDTHS, strict=True))


def test_sets_of_another_models_neurons_are_refused_wherever_they_meet_a_model(
    run, parallel, tmp_path, monkeypatch, capsys
):
    recording, model = run.recording, ng.load_model(run.path.parent / "pruned")
    tags = list(recording.languages)
    full = ng.NeuronSet(torch.ones(len(tags), 3, 24, dtype=torch.bool), tags)  # of a model as wide in all layers
    full.save(tmp_path / "full.safetensors")
    prompts = {tags[0]: ["one"], tags[1]: ["two"]}
    tokens_of = ng.evaluate.TokenLanguages.of(torch.ones(model.vocabulary, len(tags), dtype=torch.int64), tags)
    for use in (
        lambda: ng.steer(recording, full, to=tags[0]),
        lambda: ng.evaluate.continuations(model, prompts, full, tokens=1),
        lambda: ng.evaluate.amplification(model, full, prompts),
        lambda: ng.evaluate.steering_shift(model, full, prompts, prompts),
        lambda: ng.evaluate.fallback(model, tiny.corpus(), full, tokens_of),
        lambda: [*tune_languages(ModelSettings(source=str(run.path.parent / "pruned")), {tags[0]: []}, tmp_path,
                                 TuneSettings(), only=full)],
    ):  # fmt: skip
        with pytest.raises(ng.NeuroglotError, match="hold neuron 17 of layer 2, which has 17 neurons"):
            use()
    place = run.path.parent / "pruned"
    more = ("--tokens", 60, "--block", 16, "--neurons", tmp_path / "full.safetensors", "--off", tags[0])
    sentence = refused(monkeypatch, capsys, "evaluate", "perplexity", place, parallel, *more)
    assert "hold neuron 17 of layer 2" in sentence
