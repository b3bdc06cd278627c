"""Instruction data: the built-in pairs, other people's shapes, and what is wrong with a line."""

import json
import sys

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.instructions import Pair, load_instructions
from neuroglot.edit.training import IGNORED, TuneSettings
from neuroglot.edit.tuning import _rows, tune
from neuroglot.languages.detection import scripts


def test_the_built_in_pairs_are_aligned_and_in_their_languages():
    pairs = load_instructions("starter")
    assert set(pairs) == {"en", "zh", "fr", "es", "vi", "id"}
    assert {len(mine) for mine in pairs.values()} == {41}
    for tag, mine in pairs.items():
        assert len({pair.instruction for pair in mine}) == len(mine) == len({pair.answer for pair in mine})
        for pair in mine:
            assert pair.instruction == pair.instruction.strip() and pair.answer[-1] in ".。！”?!"
            assert ("Han" in scripts(pair.instruction + pair.answer)) == (tag == "zh")
    marks = {"fr": "éèàçêô", "es": "áéíóúñ", "vi": "ạảấầđệ", "id": ""}
    for tag, letters in marks.items():
        text = " ".join(pair.answer for pair in pairs[tag])
        assert all(letter in text for letter in letters), tag


def write(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


ALPACA = {"instruction": "Traduis", "input": "le chat", "output": "the cat"}
CHAT = {
    "messages": [
        {"role": "user", "content": "Salut"},
        {"role": "assistant", "content": "Bonjour"},
        {"role": "user", "content": "Ça va ?"},
        {"role": "assistant", "content": "Oui"},
    ]
}
SHARED = {"conversations": [{"from": "human", "value": "Salut"}, {"from": "gpt", "value": "Bonjour"}]}


def test_shapes(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "fr.jsonl", [ALPACA, CHAT, SHARED])
    expected = [
        Pair("Traduis\n\nle chat", "the cat"),
        Pair("Salut\n\nBonjour\n\nÇa va ?", "Oui"),
        Pair("Salut", "Bonjour"),
    ]
    assert load_instructions(folder) == {"fr": expected}
    tagged = write(
        tmp_path / "all.jsonl",
        [{"language": "fr", **ALPACA}, {"lang": "fr", **CHAT}, {"language": "eng_Latn", **SHARED}],
    )
    assert load_instructions(tagged) == {"fr": expected[:2], "en": expected[2:]}
    assert list(load_instructions(tagged, ["en"])) == ["en"]
    import datasets

    datasets.Dataset.from_list([{"language": "fr", **ALPACA}]).save_to_disk(tmp_path / "hub")
    assert load_instructions(f"hf:{tmp_path / 'hub'}") == {"fr": expected[:1]}
    datasets.Dataset.from_list([ALPACA]).save_to_disk(tmp_path / "of-fr")
    assert load_instructions(f"hf:{tmp_path}/of-{{language}}", ["fr"]) == {"fr": expected[:1]}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"language": "fr", "instruction": "Salut"}, "line 2: neither instruction and output, nor messages"),
        ({"language": "fr", "messages": [{"role": "assistant", "content": "Salut"}]}, "line 2: a conversation needs"),
        (ALPACA, "line 2: which language is not said"),
        ({"language": "zzzz9", **ALPACA}, "line 2: 'zzzz9' is not a language tag"),
        ([1], "line 2: not a JSON object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, sentence):
    path = write(tmp_path / "data.jsonl", [{"language": "fr", **ALPACA}, row])
    with pytest.raises(ng.NeuroglotError, match=sentence):
        load_instructions(path)


def _row(model, pair, **settings):
    return _rows(model, [pair], TuneSettings(**settings), "fr")[0]


def test_only_the_answer_has_a_loss():
    model = tiny.model()
    row = _row(model, Pair("ab", "cd"))
    tokens = model.tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert tokens == ["<s>", "a", "b", "Ċ", "Ċ", "c", "d", "</s>"]
    assert row["labels"] == [IGNORED] * 5 + row["input_ids"][5:]
    assert _row(model, Pair("ab", "cd"), max_tokens=6)["labels"] == [IGNORED] * 5 + row["input_ids"][5:6]


def test_tuning_learns_what_it_is_told(tmp_path):
    """The answer's loss falls, to far below chance; an adapter's checkpoint gives the weights that peft merges."""
    pairs = [Pair(f"{i} ?", "abcabcabc") for i in range(8)]
    settings = TuneSettings(epochs=6, batch=4, learning_rate=0.01)
    path = tune(tiny.model(), pairs, tmp_path / "full", settings, language="fr", progress=False)
    model = ng.load_model(path)
    row = torch.tensor([_row(model, pairs[0])["input_ids"]])
    logits = model.network(row).logits[0]
    answer = slice(len("<0 ?\n\n") - 1, -2)
    nll = torch.nn.functional.cross_entropy(logits[:-1][answer], row[0, 1:][answer])
    assert float(nll.detach()) < 1  # of 258 tokens: chance is 5.6
    assert json.loads((path / "tuning.json").read_text())["pairs"] == 8
    assert not list(tmp_path.glob(".full*"))  # nothing of the work is left
    assert tune(tiny.model(), pairs, path, settings, language="fr", progress=False) == path
    with pytest.raises(ng.NeuroglotError, match=r"was tuned with other settings: pairs \(was 8, now 4\)"):
        tune(tiny.model(), pairs[:4], path, settings, language="fr", progress=False)


def test_an_interrupted_tuning_goes_on(tmp_path, monkeypatch):
    """Stopped in the second epoch and begun again, it ends where it would have ended."""
    from transformers import Trainer

    pairs = [Pair(f"{i} ?", "abcabc"[: 2 + i % 4]) for i in range(8)]
    settings = TuneSettings(epochs=2, batch=4, at_once=4, learning_rate=0.01)
    straight = tune(tiny.model(), pairs, tmp_path / "straight", settings, progress=False)
    step, seen = Trainer.training_step, []

    def stop(self, *arguments, **more):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments, **more)

    monkeypatch.setattr(Trainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(tiny.model(), pairs, tmp_path / "stopped", settings, progress=False)
    assert not (tmp_path / "stopped").exists()
    done = len(seen)
    again = tune(tiny.model(), pairs, tmp_path / "stopped", settings, progress=False)
    assert len(seen) - done == 2  # the first epoch's two steps were kept
    one, other = ng.load_model(straight).network, ng.load_model(again).network
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name


def test_an_adapter_is_read_as_peft_merges_it(tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from neuroglot.models.checkpoint import Checkpoint

    for family in ("llama", "gpt2"):
        base = tmp_path / family
        network = tiny.network(family)
        network.save_pretrained(base)
        tiny.tokenizer().save_pretrained(base)
        settings = TuneSettings(epochs=1, batch=4, adapter=2, learning_rate=0.05)
        path = tune(
            ng.load_model(base),
            [Pair(f"{i}", "abc") for i in range(8)],
            tmp_path / f"{family}-fr",
            settings,
            progress=False,
        )
        merged = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), path).merge_and_unload()
        read = Checkpoint(path, base=Checkpoint(base))
        moved = 0.0
        for layer in read.layout:
            for name in layer.transposed:
                assert torch.allclose(merged.get_parameter(name), read.weight(name), atol=1e-6)
                moved = max(moved, float((read.weight(name) - read.base.weight(name)).abs().max()))
        assert moved > 0.01
        opened = ng.load_model(path)
        ids = torch.tensor([[1, 2, 3]])
        assert torch.allclose(opened.network(ids).logits, merged(ids).logits, atol=1e-5)
    said = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": str(tmp_path / "llama")}))
    refused = [(path, "is no adapter of .*llama")]  # GPT-2's
    prompt = tmp_path / "prompt"
    peft.get_peft_model(network, peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")).save_pretrained(
        prompt
    )
    said = json.loads((prompt / "adapter_config.json").read_text())
    (prompt / "adapter_config.json").write_text(json.dumps(said | {"base_model_name_or_path": str(base)}))
    refused.append((prompt, "is a prompt adapter"))
    for adapter, sentence in refused:
        with pytest.raises(ng.NeuroglotError, match=sentence):
            ng.load_model(adapter)
    weights = prompt / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ng.NeuroglotError, match="is no adapter of .* damaged"):
        ng.load_model(prompt)
    weights.unlink()
    with pytest.raises(ng.NeuroglotError, match="without its weights"):
        ng.load_model(prompt)


def test_without_peft_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ng.NeuroglotError, match=r"neuroglot\[tune\]"):
        tune(tiny.model(), [Pair("a", "b")], tmp_path / "x", TuneSettings(adapter=2), progress=False)
    with pytest.raises(ng.NeuroglotError, match="no instructions"):
        tune(tiny.model(), [], tmp_path / "x", progress=False)
