"""Two runs of one shape: what is kept, what is measured, and what is refused."""

import shutil

import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.figures.pair import pair_findings
from neuroglot.run.directory import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory, checkpoint, corpus):
    """A model's, and that of the same model, changed a little."""
    folder = tmp_path_factory.mktemp("pair")
    changed = tiny.model()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for weight in changed.network.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    changed.save(folder / "chat-model")
    for name, model in (("base", checkpoint), ("chat", folder / "chat-model")):
        neuroglot("record", model, corpus, "--out", folder / name, "--block", 32, "--tokens", 600)
    return folder / "base", folder / "chat"


HOW = ["--budget", 0.1, "--tokens", 200, "--block", 32, "--seeds", 2, "--methods", "lave"]


def test_two_runs(runs):
    base, chat = runs
    printed = neuroglot("compare", base, chat, *HOW)
    table = pd.read_csv(chat / "tables" / "pair.csv").set_index("language")
    sets = [
        ng.identify.select_top(ng.identify.rank("lave", ng.identify.Evidence(made)), made.languages, 0.1)
        for made in (Run.open(path).recording for path in runs)
    ]
    result = Comparison.load(chat / "pair" / "comparison.json")
    for k, tag in enumerate(table.index):
        assert table.shared[tag] == int((sets[0][tag] & sets[1][tag]).sum()) > 0
        assert table["first"][tag] == int(sets[0][tag].sum())
        assert table.own[tag] == pytest.approx(float(result.effects("lave 0.1 all")[k, k]))
        assert table.base[tag] == pytest.approx(float(result.effects("lave 0.1 base")[k, k]))
        assert table.difference[tag] == pytest.approx(table.own[tag] - table.base[tag], abs=1e-9)
    ends = [table[f"steer_{name}{end}"] for name in ("own", "base", "random") for end in ("_low", "", "_high")]
    assert all((low <= high + 1e-12).all() for low, high in zip(ends[::3], ends[2::3], strict=True))
    assert "are the first's too" in printed
    layers = pd.read_csv(chat / "tables" / "pair-layers.csv")
    assert layers.both.sum() == table.shared.sum()
    neuroglot("lens", chat, "--tokens", 200, "--top", 2)
    neuroglot("report", chat)
    page = (chat / "report.html").read_text(encoding="utf-8")
    assert "Beside another model" in page and "Latent language" in page
    assert (chat / "tables" / "lens.csv").is_file()


def test_sets_without_a_neuron_have_one_sentence():
    table = pd.DataFrame({"second": [0, 0], "shared": 0, "by_chance": 0.0})
    assert pair_findings(table) == [
        "The method finds no language's neurons in the second model, so there is nothing to compare."
    ]


def test_a_run_beside_itself_keeps_everything(runs, tmp_path):
    base = shutil.copytree(runs[0], tmp_path / "same")
    neuroglot("compare", runs[0], base, *HOW)
    table = pd.read_csv(base / "tables" / "pair.csv")
    assert (table.shared == table["first"]).all() and (table.jaccard == 1).all()
    assert (table.difference == 0).all() and (table.steer_own == table.steer_base).all()


def test_refusals(runs, tmp_path, corpus, monkeypatch, capsys):
    base, chat = runs
    wide = tiny.model(intermediate_size=32).save(tmp_path / "wide")
    neuroglot("record", wide, corpus, "--out", tmp_path / "other", "--block", 32, "--tokens", 300)

    def says(*words):
        return refused(monkeypatch, capsys, "compare", *words)

    assert "no neuron of one is one of the other" in says(base, tmp_path / "other")
    how = ["--block", 32, "--tokens", 300, "--dtype", "bfloat16"]
    neuroglot("record", chat.parent / "chat-model", corpus, "--out", tmp_path / "narrow", *how)
    assert "was read in float32 and" in says(base, tmp_path / "narrow", "--methods", "lave")
    assert "by one method" in says(base, chat, "--methods", "lape,lap")
    assert "--curve changes nothing" in says(base, chat, "--curve", "0.1")
    assert "compared by their recordings" in says(base, chat, "--methods", "regions")
