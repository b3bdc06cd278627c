"""Heads in a run: found, ablated, in the report and in the explorer, and never taken for neurons."""

import pytest
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.explorer.app import build
from neuroglot.explorer.heads import HeadMap
from neuroglot.explorer.matrix import measured
from neuroglot.explorer.run_view import RunView
from neuroglot.report.page import report
from neuroglot.run.directory import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint, corpus):
    folder = tmp_path_factory.mktemp("heads") / "run"
    neuroglot("record", checkpoint, corpus, "--out", folder, "--block", 32, "--tokens", 400, "--heads")
    neuroglot("identify", folder, "--method", "plnd", "--units", "heads", "--top-fraction", 0.34)
    neuroglot("identify", folder, "--method", "margin", "--top-fraction", 0.1)
    neuroglot("perturb", folder, "--method", "plnd", "--units", "heads", "--tokens", 100, "--block", 32, "--seeds", 1)
    return Run.open(folder)


def test_a_row_is_the_perplexity_with_the_heads_off(run):
    heads = run.neurons("plnd heads", "heads")
    assert heads.shape == (3, 2) and heads.about["units"] == "heads"
    model, (_, held_out) = run.load_model(), run.manifest.text.load()
    result = Perturbation.load(run.perturbation_path("plnd heads"))
    assert result.units == "heads"
    tag = max(heads.languages, key=lambda tag: heads.sizes()[tag])
    with ng.intervene(model, ng.Deactivate(heads[tag], site="heads")):
        expected = ng.evaluate.perplexity(model, held_out, tokens=100, block=32, progress=False)
    assert result.off[tag] == pytest.approx(expected, rel=1e-5)
    assert result.off[tag] != result.intact


def test_report_and_explorer_have_them(run):
    pytest.importorskip("gradio")
    page = report(run).read_text(encoding="utf-8")
    assert (
        "PLND heads" in page and "whose heads are set to zero" in page and "whose neurons are set to zero" not in page
    )
    assert (run.path / "tables" / "perturbation-plnd heads.csv").is_file()
    view = RunView(Run.open(run.path))
    assert list(view.neurons) == ["margin"]  # the map of neurons has no heads in it
    assert list(measured(view)) == ["plnd heads"]
    heads = HeadMap(view)
    recording = run.recording
    tags, found = recording.languages, run.neurons("plnd heads", "heads")
    for place, head in ((0, 0), (2, 1)):
        own = ", ".join(tag for tag in tags if found[tag][place, head])
        assert heads.whose(place, head) == ([f"PLND heads: {own}"] if own else [])
    apart = heads.plot(tags[0], tags[1])["data"][0]
    shares = recording.sum("heads_active").double() / recording.tokens
    assert apart["zmax"] == pytest.approx(float((shares[..., 0] - shares[..., 1]).abs().max()), rel=1e-5)
    labels = [each.label for each in build(view).blocks.values() if type(each).__name__ == "Tab"]
    assert labels[:2] == ["Atlas", "Heads"]


def test_notes_and_sentences_name_heads(run, tmp_path):
    heads = run.recording.of("heads")
    assert heads.units == "heads" and "heads; tokens" in repr(heads)
    heads.save(tmp_path / "heads.safetensors")
    assert ng.Recording.load(tmp_path / "heads.safetensors").select(heads.languages[:2]).units == "heads"
    with pytest.warns(ng.NeuroglotWarning, match="fewer than the 6 heads asked for"):
        found = ng.identify.margin(heads, top_fraction=1.0)
    with pytest.warns(ng.NeuroglotWarning, match="no head above 0.999"):
        ng.identify.lap(heads, threshold=0.999)
    with pytest.warns(ng.NeuroglotWarning, match=r"lape found \d heads where 6"):
        ng.identify.lape(heads, top_fraction=1.0)
    assert found.units == ng.identify.random(found).units == "heads" and "<heads of" in repr(found)
    with pytest.raises(ng.NeuroglotError, match="These heads have no de"):
        found["de"]


def test_what_has_no_heads_says_so(run, tmp_path, checkpoint, corpus, monkeypatch, capsys):
    def said(*arguments):
        return refused(monkeypatch, capsys, *arguments)

    assert "--method lave --units heads" in said("perturb", run.path, "--method", "lave", "--units", "heads")
    assert "not recorded of heads" in said("identify", run.path, "--method", "regions", "--units", "heads")
    assert "--statistic relevance" in said("identify", run.path, "--method", "relevance", "--units", "heads")
    assert "neurons or heads" in said("identify", run.path, "--units", "attentions")
    assert "attention heads" in said("evaluate", "generation", run.path, "--method", "plnd heads")
    plain = tmp_path / "plain"
    neuroglot("record", checkpoint, corpus, "--out", plain, "--block", 32, "--tokens", 100)
    assert "--heads" in said("identify", plain, "--units", "heads")


def test_random_rows_are_of_heads(model, corpus):
    text = ng.load_corpus(str(corpus))
    heads = ng.NeuronSet(torch.tensor([[[True, False]] * 3] * 3), text.languages)
    result = ng.evaluate.perturb(model, text, heads, units="heads", tokens=64, block=32, seeds=1, progress=False)
    assert result.sizes["random"] == 3 and result.units == "heads"
    with pytest.raises(ng.NeuroglotError, match="not of 3 layers"):
        ng.evaluate.perturb(model, text, heads, tokens=64, block=32, progress=False)
