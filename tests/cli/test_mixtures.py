"""The commands on a native mixture of experts, and what the report says of its experts."""

import every_type
import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.run.directory import Run


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return ng.Model(every_type.network("qwen2_moe"), tiny.tokenizer()).save(tmp_path_factory.mktemp("moe") / "moe")


@pytest.fixture(scope="module")
def run(tmp_path_factory, mixture, corpus):
    folder = tmp_path_factory.mktemp("runs") / "run"
    neuroglot("record", mixture, corpus, "--out", folder, "--block", 32, "--tokens", 2000, "--residual")
    return folder


def test_experts_and_their_report(run):
    said = neuroglot("experts", run)
    assert "chooses 2 of 4 experts" in said
    recording = Run.open(run).recording
    frequency = ng.experts.frequencies(recording)
    table = pd.read_csv(run / "tables" / "expert-frequency.csv")
    assert table.shape == (16, 2 + len(recording.languages))
    wanted = float(frequency[recording.languages.index("fr"), 2, 3])
    assert table[(table.layer == 3) & (table.expert == 3)].fr.item() == pytest.approx(wanted)
    divergence = pd.read_csv(run / "tables" / "routing-divergence.csv")
    row = divergence.iloc[0]
    places = [recording.languages.index(tag) for tag in (row.language, row.other)]
    assert row.bits == pytest.approx(float(ng.experts.routing_divergence(recording)[0, places[0], places[1]]))
    assert bool((divergence.low <= divergence.high).all())
    own = pd.read_csv(run / "tables" / "expert-languages.csv").query("language == 'fr'")
    pairs = ng.language_experts(recording, "fr").nonzero()
    assert own[["layer", "expert"]].to_numpy().tolist() == [[layer + 1, expert] for layer, expert in pairs.tolist()]
    neuroglot("identify", run)
    neuroglot("report", run)
    for name in ("expert-patterns", "expert-shared", "expert-similarity", "routing-divergence"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "How differently languages are routed" in page and "chooses 2 of 4 experts a token" in page


def test_shares_are_joint_or_conditional(run, recorded, monkeypatch, capsys):
    recording = Run.open(run).recording
    neuroglot("identify", run, "--shares", "conditional", "--top-fraction", "0.1")
    assert Run.open(run).neurons("lape").about["shares"] == "conditional"
    wanted = ng.identify.lape(recording.given_routing(), top_fraction=0.1)
    assert torch.equal(Run.open(run).neurons("lape").mask, wanted.mask)
    assert "dense" in refused(monkeypatch, capsys, "identify", recorded, "--shares", "conditional")
    assert "joint or conditional" in refused(monkeypatch, capsys, "identify", run, "--shares", "both")
    neuroglot("identify", run, "--method", "experts")  # by the router's own


def test_steering_by_the_router(run, mixture, checkpoint, tmp_path, monkeypatch, capsys):
    asked = ("steer", mixture, "Hello", "--tokens", 3)
    kept = tmp_path / "r.safetensors"
    said = neuroglot(*asked, "--to", "fr", "--run", run, "--method", "router", "--experts-off", "1:0", "--save", kept)
    assert "favour" in said and "deactivate 1 experts" in said
    steps = ng.Recipe.load(kept).steps
    assert torch.equal(steps[0].experts, ng.language_experts(Run.open(run).recording, "fr"))
    assert steps[1].experts.nonzero().tolist() == [[0, 0]]
    assert "deactivate 1 experts" in neuroglot(*asked, "--experts-off", "2:1")
    for more, sentence in (
        (("--experts-off", "9:0"), "no router in layer 9"),
        (("--experts-off", "1:7"), "experts 0 to 3, and none is 7"),
        (("--experts-off", "1:0,1:1,1:2"), "switch off fewer"),
        (("--experts-off", "first"), "LAYER:EXPERT"),
        (("--recipe", kept, "--bake", tmp_path / "baked"), "have no bias"),
        (("--to", "fr", "--run", run, "--method", "router", "--site", "hidden"), "the router has none"),
    ):
        assert sentence in refused(monkeypatch, capsys, *asked, *more)
    assert "dense" in refused(monkeypatch, capsys, "steer", checkpoint, "Hello", "--experts-off", "1:0")
    assert "other weights" in refused(monkeypatch, capsys, "steer", checkpoint, "Hello", "--recipe", kept)
    assert [each.name for each in tmp_path.iterdir()] == ["r.safetensors"]


def test_a_partition_of_a_mixture_is_refused(run, mixture, corpus, tmp_path, monkeypatch, capsys):
    assert "--experts changes nothing" in refused(monkeypatch, capsys, "experts", run, "--experts", 8)
    out = tmp_path / "run"
    said = refused(monkeypatch, capsys, "record", mixture, corpus, "--experts", 8, "--block", 32, "--out", out)
    assert "native mixture of experts" in said and not out.exists()
