"""`neuroglot shrink`: the size asked for, a model that opens, and a report that is true."""

import json

import gguf_files
import pytest
import tiny
import torch
from commands import neuroglot, notes, refused
from transformers import AutoModelForCausalLM

import neuroglot as ng
from neuroglot.evaluate.benchmarks.harness import Item, TaskScore
from neuroglot.evaluate.likelihood.bits import bits_per_character
from neuroglot.pruning.size import size
from neuroglot.run import shrink_plan, shrinking
from neuroglot.run.shrink_plan import ShrinkSettings, plan_cut
from neuroglot.run.shrink_tasks import built_in_tasks, compared
from neuroglot.run.shrinking import shrink

# of a random model's few tokens a fit may be worse than none, which is said
pytestmark = pytest.mark.filterwarnings("ignore:The re-fitted model reads worse")


@pytest.mark.parametrize(("heal", "even"), [(0, True), (2_000, False)])
def test_a_shrunk_model_has_the_size_and_the_bits_that_the_report_says(heal, even, tmp_path):
    model, text = tiny.model(), tiny.corpus(60)
    recorded, held_out = text.select(["fr"]).split()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    settings = ShrinkSettings(share=0.9, heal=heal, batch=2, block=64, even=even, salience="loss")
    done = shrink(model, recorded, "fr", settings, tmp_path / "fr", held_out=held_out, progress=False)
    assert all(torch.equal(before[name], value) for name, value in model.network.state_dict().items())
    opened = ng.load_model(tmp_path / "fr")
    assert done.parameters == (size(model.network).parameters, size(opened.network).parameters)
    assert 0.85 < done.parameters[1] / done.parameters[0] <= 0.9
    assert list(done.bits) == ["intact", "vocabulary", "random", "loss", "refit", *(["healed"] if heal else [])]
    assert bits_per_character(opened, held_out["fr"], "fr") == pytest.approx(list(done.bits.values())[-1])
    assert done.frame().set_index("what").bits.to_dict() == done.bits
    assert not heal or done.bits["healed"] < done.bits["refit"]
    assert [file.name for file in tmp_path.iterdir()] == ["fr"]  # no draft is left
    assert len(set(opened.widths)) == 1 or not even
    assert bits_per_character(model, held_out["fr"], "fr") == pytest.approx(done.bits["intact"])
    assert done.bits["vocabulary"] <= done.bits["intact"] + 1e-6  # fewer tokens to choose from, none of the text's
    assert done.tokenised.changed == done.tokenised.lost == 0
    said = json.loads((tmp_path / "fr" / "neuroglot_shrink.json").read_text())
    assert said["recipe"]["language"] == "fr"
    assert said["bits"] == pytest.approx(done.bits)
    assert done.by_language["fr"] == pytest.approx((done.bits["intact"], list(done.bits.values())[-1]))
    weights = sum(file.stat().st_size for file in (tmp_path / "fr").glob("*.safetensors"))
    assert done.costs["shrunk"].safetensors == pytest.approx(weights, rel=0.1)  # but for the file's header
    assert done.costs["shrunk"].tokens_per_second > 0


@pytest.mark.parametrize(("share", "heal", "match"), [(0.9, 100, "fr"), (0.9, 0, "fr"), (0.01, 0, "what must stay")])
def test_too_little_text_or_too_small_a_size_writes_nothing(share, heal, match, tmp_path):
    text = ng.Corpus({"fr": ["là"]}) if share > 0.5 else tiny.corpus(40)
    held_out = tiny.corpus(10)
    settings = ShrinkSettings(share=share, heal=heal)
    with pytest.raises(ng.NeuroglotError, match=match) as error:
        shrink(tiny.model(), text, "fr", settings, tmp_path / "fr", held_out=held_out, progress=False)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_size_below_what_any_text_needs_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    def measured(*_, **__):
        raise AssertionError("it was measured")

    monkeypatch.setattr(shrinking, "bits_by_piece", measured)
    monkeypatch.setattr(shrink_plan, "language_counts", measured)
    with pytest.raises(ng.NeuroglotError, match="what must stay"):
        shrink(tiny.model(), tiny.corpus(40), "fr", ShrinkSettings(share=0.01), tmp_path / "fr",
               held_out=tiny.corpus(10), progress=False)  # fmt: skip


def test_the_command(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    path = tmp_path / "out"
    asked = ("shrink", checkpoint, "--language", "fr", "--text", corpus, "--size", "95%", "--out", path, "--tasks",
             "none")  # fmt: skip
    said = neuroglot(*asked)
    assert neuroglot(*asked) == said  # it is finished, and read
    assert "bits a character" in said
    assert "cut into other tokens: 0 of 12" in said
    assert ng.load_model(path).vocabulary == tiny.VOCABULARY
    how = ["shrink", checkpoint, "--language", "fr", "--text", corpus, "--out"]
    assert "exists" in refused(monkeypatch, capsys, *how, path)
    assert "what must stay" in refused(monkeypatch, capsys, *how, tmp_path / "x", "--size", "10%")
    assert "not a GGUF file" in refused(monkeypatch, capsys, *how, tmp_path / "x", "--gguf", tmp_path / "x.gguf")
    for size_ in ("0", "100%", "half"):
        assert "--size" in refused(monkeypatch, capsys, *how, tmp_path / "x", "--size", size_)
    assert "de" in refused(monkeypatch, capsys, "shrink", checkpoint, "--language", "de", "--text", corpus,
                           "--out", tmp_path / "x")  # fmt: skip
    assert not (tmp_path / "x").exists()


@pytest.mark.long
def test_task_scores_of_both_models(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    how = ("shrink", checkpoint, "--language", "fr", "--text", corpus, "--size", "95%", "--out")
    said = neuroglot(*how, tmp_path / "fr")
    assert "smoke_xcsqa_cloze_fr" in said and "smoke_xstorycloze_english_fr" in said
    scores = json.loads((tmp_path / "fr" / "neuroglot_shrink.json").read_text())["tasks"]["smoke_xcsqa_cloze_fr"]
    assert scores["items"] == 24
    model = ng.load_model(tmp_path / "fr")
    again = ng.evaluate.tasks(model, ["smoke_xcsqa_cloze_fr"], progress=False)["smoke_xcsqa_cloze_fr"]
    assert again.metrics[scores["metric"]] == pytest.approx(scores["shrunk"])
    assert "no task" in refused(monkeypatch, capsys, *how, tmp_path / "x", "--tasks", "xquiz_fr")


def test_scores_side_by_side():
    def score(values):
        items = [Item(i, str(i), "A", [], {"acc,none": value}) for i, value in enumerate(values)]
        return {"x": TaskScore("x", "1", 0, {"acc,none": sum(values) / len(values)}, {}, items)}

    pair = compared(score([1.0] * 8 + [0.0] * 2), score([1.0] * 2 + [0.0] * 7 + [1.0]))["x"]
    assert (pair.metric, pair.items, pair.intact, pair.shrunk) == ("acc,none", 10, 0.8, 0.3)
    assert pair.p == pytest.approx(2 * 8 / 2**7)  # one gained, six lost
    assert compared(score([0.5]), score([1.0]))["x"].p is None
    assert built_in_tasks("fr") == ["smoke_xcsqa_cloze_fr", "smoke_xstorycloze_english_fr"]
    assert built_in_tasks("hi") == []


def test_several_languages_and_fewer_heads(corpus, tmp_path, monkeypatch):
    """The vocabulary is that of both; where the config can say it heads go, too, and the report says how many."""
    found = iter([3.0, 2.0, 4.0])  # all heads, a head less of each key-value head, and two
    monkeypatch.setattr(shrink_plan, "bits_per_character", lambda *_, **__: next(found))
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48, "intermediate_size": 96}
    ng.Model(tiny.network("qwen2", **sizes), tiny.tokenizer()).save(tmp_path / "model")
    how = ("--text", corpus, "--size", "75%", "--tasks", "none", "--language")
    said = neuroglot("shrink", tmp_path / "model", *how, "fr,en", "--out", tmp_path / "both")
    for word in ("fr, en,", "query heads a layer: 4 of 6; key-value heads: 2 of 2", "mul"):
        assert word in said, word
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "both")
    assert opened.config.num_attention_heads == 4
    report = json.loads((tmp_path / "both" / "neuroglot_shrink.json").read_text())
    assert set(report["by_language"]) == {"fr", "en", "mul"}
    assert report["heads"] == [[6, 2], [4, 2]]
    assert min(report["tried"], key=lambda way: way["bits"])["heads"] == 4
    text = ng.load_corpus(str(corpus)).split(5)[0]
    model = ng.load_model(tmp_path / "model")
    found = iter([3.0, 2.0, 4.0, 3.0])
    plans = {
        heads: plan_cut(model, text, "fr", ShrinkSettings(share=0.75, heads=heads), progress=False)
        for heads in (True, False)
    }
    assert plans[False].heads is None
    assert plans[True].heads is not None
    drawn = plans[True].random(model, 0)
    assert torch.equal(drawn.heads.sum(1), plans[True].heads.sum(1))
    assert not torch.equal(drawn.heads, plans[True].heads)


def test_a_healing_that_was_stopped_goes_on(tmp_path, monkeypatch):
    from transformers import Trainer

    recorded, held_out = tiny.corpus(60).select(["fr"]).split()
    settings = ShrinkSettings(share=0.9, heal=1_000, batch=2, block=32, save_every=4, even=False)
    step, seen = Trainer.training_step, []

    def stop(self, *arguments, **more):
        seen.append(1)
        if len(seen) == 10:
            raise KeyboardInterrupt
        return step(self, *arguments, **more)

    monkeypatch.setattr(Trainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        shrink(tiny.model(), recorded, "fr", settings, tmp_path / "fr", held_out=held_out, progress=False)
    assert not (tmp_path / "fr").exists()
    again = shrink(tiny.model(), recorded, "fr", settings, tmp_path / "fr", held_out=held_out, progress=False)
    assert len(seen) == 10 + 15 - 8  # of fifteen steps eight were kept
    assert again.bits["healed"] < again.bits["refit"]
    assert [file.name for file in tmp_path.iterdir()] == ["fr"]


def test_a_gguf_file_is_written_when_all_else_is_there_and_again_when_it_is_gone(tmp_path, monkeypatch):
    """A Llama of even width, whose re-fit gains biases, which llama.cpp's Llama may have."""
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    recorded, held_out = tiny.corpus(60).select(["fr"]).split()
    model = ng.load_model(gguf_files.write(tmp_path / "tiny.gguf", "llama", gguf_files.network("llama")))
    settings = ShrinkSettings(share=0.9, tokens=300, characters=300)

    def made(gguf=None):
        with notes():
            return shrink(
                model, recorded, "fr", settings, tmp_path / "fr", held_out=held_out, gguf=gguf, progress=False
            )

    first = made()
    assert made() == first and first.costs["shrunk"].gguf is None
    file = tmp_path / "fr.gguf"
    whole = made(file)
    assert whole.bits == first.bits and whole.costs["shrunk"].gguf == file.stat().st_size and made(file) == whole
    ids = torch.tensor([[3, 5, 7]])
    logits = [ng.load_model(path).network(ids).logits for path in (tmp_path / "fr", file)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    file.unlink()
    assert made(file).costs["shrunk"].gguf == file.stat().st_size
    (tmp_path / "other.gguf").touch()
    with pytest.raises(ng.NeuroglotError, match="exists"):
        made(tmp_path / "other.gguf")
