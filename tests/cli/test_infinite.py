"""A model that is damaged enough has an infinite perplexity: every command, table, figure and page holds it."""

import json
import math
import shutil

import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot

import neuroglot as ng
from neuroglot.evaluate.ablation import comparison, perturbation
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.likelihood.perplexity import increase_of, perplexity_of


def test_exp_of_what_is_too_large_is_infinite():
    assert perplexity_of(709.0) == math.exp(709.0) and perplexity_of(710.0) == math.inf == increase_of(1e6)
    assert increase_of(1e-12) == math.expm1(1e-12) and perplexity_of(math.inf) == math.inf
    assert math.isnan(perplexity_of(math.nan))  # which is refused where likelihoods are measured


@pytest.fixture
def run(recorded, tmp_path, monkeypatch):
    """A run in which ablating fr costs French 2,000 nats a token, and whose intact model is as it is."""
    run = shutil.copytree(recorded, tmp_path / "run")
    measured, blocks, calls = perturbation.block_nll, comparison._block_losses, []

    def block_nll(model, piece, tag, *rest):
        calls.append(tag)
        return [x + 2_000 * (tag == "fr" and len(calls) > 3) for x in measured(model, piece, tag, *rest)]

    def block_losses(model, text, *rest):
        found = blocks(model, text, *rest)
        calls.append("")
        return {tag: [x + 2_000 * (tag == "fr" and len(calls) > 1) for x in values] for tag, values in found.items()}

    monkeypatch.setattr(perturbation, "block_nll", block_nll)
    monkeypatch.setattr(comparison, "_block_losses", block_losses)
    neuroglot("identify", run, "--top-fraction", 0.2, "--activity-quantile", 0.6)
    said = neuroglot("perturb", run, "--block", 32, "--seeds", 2)
    assert "+∞" in said and "nan%" not in said
    calls.clear()
    said = neuroglot("compare", run, "--methods", "lape,random", "--budget", 0.1, "--block", 32, "--seeds", 2)
    assert " nan" not in said
    return run


def test_infinite_perplexities_go_through_files_figures_and_the_page(run):
    kept = ng.evaluate.Perturbation.load(run / "perturbation" / "lape.json")
    assert kept.off["fr"]["fr"] == math.inf == kept.change.loc["fr", "fr"] and math.isfinite(
        kept.change.loc["en", "en"]
    )
    neuroglot("report", run)
    table = pd.read_csv(run / "tables" / "perturbation-lape.csv", keep_default_na=False)
    cell = table[(table.off == "fr") & (table.measured == "fr")].iloc[0]
    assert float(cell.perplexity) == math.inf == float(cell.change)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") > 3
    cells = pd.read_csv(run / "tables" / "compare-cells.csv", keep_default_na=False)
    french = cells[(cells.measured == "fr") & (cells.nats.astype(float) != 0)]  # 0: an empty set was ablated
    assert len(french) > 6 and (french.perplexity.astype(float) == math.inf).all()
    assert french.nats.astype(float).between(1_990, 2_010).all()
    summary = pd.read_csv(run / "tables" / "compare.csv")
    summary = summary[summary.budget == 0.1]
    assert summary.on_target.gt(600).all() and summary.on_target.lt(700).all()  # a mean of nats needs no infinity
    assert json.loads((run / "perturbation" / "lape.json").read_text())["off"]["fr"]["fr"] == math.inf


def test_a_model_of_which_every_perplexity_is_infinite(tmp_path, corpus):
    """Infinite over infinite is no change: the changes of loss are known all the same."""
    network = tiny.network()
    with torch.no_grad():
        network.lm_head.weight.mul_(1e4)
    model = ng.Model(network, tiny.tokenizer()).save(tmp_path / "huge")
    run = tmp_path / "run"
    neuroglot("record", model, corpus, "--out", run, "--block", 32, "--tokens", 400)
    neuroglot("identify", run, "--top-fraction", 0.4, "--activity-quantile", 0.5)
    said = neuroglot("perturb", run, "--block", 32, "--tokens", 200, "--seeds", 2)
    matrix = Perturbation.load(run / "perturbation" / "lape.json")
    assert all(map(math.isinf, matrix.intact.values())) and "000%" not in said
    for tag in matrix.off:
        nats = matrix.nats(tag, tag)
        assert matrix.change.loc[tag, tag] == increase_of(math.fsum(nats) / len(nats))
    assert set(matrix.diagonal_dominant) <= {True, False} and not matrix.frame()["change"].isna().any()
    matrix.losses = {}  # as an earlier version kept it
    assert matrix.change.isna().to_numpy().all() and not matrix.diagonal_dominant.any()
    neuroglot("report", run)
