"""The commands `experts` and `prune`, and what the report says of them."""

import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.run.directory import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint, corpus):
    folder = tmp_path_factory.mktemp("runs") / "run"
    neuroglot("record", checkpoint, corpus, "--out", folder, "--block", 32, "--tokens", 1000)
    neuroglot("experts", folder, "--experts", 6, "--top", "0.2,0.5")
    return folder


def test_experts_and_their_report(run):
    model = ng.load_model(Run.open(run).manifest.model.source)
    split = ng.experts.Partition.load(run / "experts" / "partition.safetensors")
    split.check(model)
    counted = ng.Recording.load(run / "experts" / "recording" / "recording.safetensors")
    assert ng.experts.frequencies(counted, 0.5).shape == (3, 3, 6)
    neuroglot("experts", run, "--experts", 6, "--top", "0.2,0.5")  # goes on with what is there
    neuroglot("report", run)
    table = pd.read_csv(run / "tables" / "expert-frequency.csv")
    assert table.shape == (18, 5)
    wanted = ng.experts.frequencies(counted, 0.2)[counted.languages.index("fr"), 2, 4]
    assert table[(table.layer == 3) & (table.expert == 4)].fr.item() == pytest.approx(float(wanted))
    for name in ("expert-patterns", "expert-shared", "expert-similarity"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 1000
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Which languages are similar" in page
    assert "was not tested" in page  # three languages are too few


def test_pruning_measures_and_writes(run, tmp_path):
    neuroglot("prune", run, "--threshold", "0.01", "--share", "0.5", "--seeds", 2, "--samples", 5)
    table = pd.read_csv(run / "experts" / "pruning.csv")
    assert list(table.choice) == ["threshold 0.01"] * 3 + ["share 0.5"] * 3
    assert table[table.choice == "share 0.5"].proportion.tolist() == [0.5] * 3
    said = neuroglot("prune", run, "-l", "fr", "--budget", "0.3", "--seeds", 2, "--samples", 5, "-o", tmp_path / "fr")
    assert "FFN parameters: 2," in said
    opened = ng.load_model(tmp_path / "fr")
    held_out = Run.open(run).manifest.text.load()[1].select(["fr"])
    table = pd.read_csv(run / "experts" / "pruning.csv")
    row = table[table.choice == "budget 0.3 by magnitude"].iloc[0]
    assert len(table) == 7
    assert ng.evaluate.sample_perplexity(opened, held_out, samples=5)["fr"] == pytest.approx(row.experts, rel=1e-4)
    neuroglot("prune", run, "-l", "fr", "--max-perplexity-increase", "0.05", "--salience", "active", "--seeds", 1)
    neuroglot("report", run)
    assert "What is left when only" in (run / "report.html").read_text(encoding="utf-8")


def test_the_model_is_written_as_a_mixture_of_the_experts_that_were_counted(tmp_path, checkpoint, corpus, monkeypatch,
                                                                         capsys):  # fmt: skip
    folder, out = tmp_path / "run", tmp_path / "moe"
    neuroglot("record", checkpoint, corpus, "--out", folder, "--block", 32, "--tokens", 500)
    neuroglot("experts", folder, "--experts", 3, "--kind", "contiguous")
    assert "at most the 3 experts" in refused(monkeypatch, capsys, "moefy", folder, "--top", 4, "--out", out)
    said = neuroglot("moefy", folder, "--top", 2, "--samples", 5, "--out", out)
    assert "2 of 3 experts" in said and f"wrote {out}" in said
    assert ng.load_model(out).expert_sizes == ((3, 8),) * 3
    assert neuroglot("moefy", folder, "--top", 2, "--samples", 5, "--out", out) == said  # it knows its own result
    assert "exists" in refused(monkeypatch, capsys, "moefy", folder, "--out", out)


def test_a_tuned_variant_is_counted_beside_its_base(run, checkpoint, tmp_path, monkeypatch, capsys):
    again = ("experts", run, "--experts", 6, "--top", "0.2,0.5", "--tuned")
    assert "nothing was tuned" in refused(monkeypatch, capsys, *again, checkpoint)
    model = ng.load_model(checkpoint)
    with torch.no_grad():
        model.ffns[2].down_columns.mul_(3)  # what enters layer 3's down-projection is left as it was, and all before it
        model.ffns[1].up_rows[:8] *= -1
    model.network.save_pretrained(tmp_path / "tuned")
    model.tokenizer.save_pretrained(tmp_path / "tuned")
    neuroglot(*again, tmp_path / "tuned")
    neuroglot("report", run)
    change = pd.read_csv(run / "tables" / "expert-tuning.csv", index_col="layer")
    assert change.loc[2].min() > 0
    assert change.loc[2].mean() > change.loc[1].mean()  # layer 1 is as it was; only its ranks move
    assert "What tuning changes" in (run / "report.html").read_text(encoding="utf-8")
    assert "now smollm2-135m)" in refused(monkeypatch, capsys, *again, "smollm2-135m")


def test_experts_in_the_same_pass(run, checkpoint, corpus, tmp_path):
    once = tmp_path / "once"
    neuroglot("record", checkpoint, corpus, "--out", once, "--block", 32, "--tokens", 1000, "--experts", 6)
    neuroglot("experts", once, "--experts", 6)  # nothing left to do
    assert not (once / "experts" / "recording").exists()
    got = Run.open(once).expert_recording
    apart = Run.open(run).expert_recording
    assert torch.equal(got.active, apart.active)
    assert got.provenance == apart.provenance
    assert int(got.sum("experts@0.1").sum()) == 2 * int(got.tokens.sum())


def test_sample_perplexity_counts_each_token_once():
    model = tiny.model()
    texts = {"en": ["a", "the cat sat", "on the mat and slept there for a long, long while", "so"]}
    total, count = 0.0, 0
    for text in texts["en"]:
        ids = torch.tensor([[model.bos, *model.tokenizer(text, add_special_tokens=False)["input_ids"]][:20]])
        with torch.no_grad():
            nll = torch.nn.functional.cross_entropy(model.network(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        total, count = total + float(nll), count + ids.shape[1] - 1
    got = ng.evaluate.sample_perplexity(model, ng.Corpus(texts), length=20, batch_tokens=24)
    assert got["en"] == pytest.approx(float(torch.tensor(total / count).exp()), rel=1e-5)


def test_bad_input(run, monkeypatch, capsys, tmp_path):
    assert "has experts with other settings: experts (was 6, now 5)" in refused(
        monkeypatch, capsys, "experts", run, "--experts", 5
    )
    assert "one language and one choice" in refused(monkeypatch, capsys, "prune", run, "-o", tmp_path / "x")
    assert "takes shares from 0 to 1" in refused(monkeypatch, capsys, "prune", run, "--threshold", "1.1")
    assert "choose a lower threshold" in refused(monkeypatch, capsys, "prune", run, "--threshold", "1.0")
    assert "takes numbers" in refused(monkeypatch, capsys, "prune", run, "--share", "many")
