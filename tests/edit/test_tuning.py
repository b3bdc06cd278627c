"""Tuning some neurons only, and towards a teacher: what moves, what does not, and what is learnt."""

import every_type
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.instructions import Pair
from neuroglot.edit.training import TuneSettings, distillation_loss
from neuroglot.edit.tuning import tune
from neuroglot.errors import NeuroglotError
from neuroglot.storage.results import load_json
from neuroglot.tokens.packing import pack

FAST = TuneSettings(epochs=2, batch=4, at_once=2, learning_rate=0.01, schedule="cosine", warm_up=0.1)


def chosen(model, share=0.2):
    scores = torch.rand(model.exists.shape, generator=torch.Generator().manual_seed(0))
    return (scores < share) & model.exists


def blocks_of(model, tag="fr", block=32):
    return pack(model, tiny.corpus(12)[tag], tag, block=block, tokens=16 * block)


@pytest.mark.parametrize("family", ["phi3", "gpt2"])
def test_every_byte_that_is_not_a_chosen_neurons_stays(family, tmp_path):
    model = tiny.model(family)
    neurons = chosen(model)
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    path = tune(model, blocks_of(model), tmp_path / "out", FAST, only=neurons, progress=False)
    after = ng.load_model(path)
    moved = {name: weight != before[name] for name, weight in after.network.state_dict().items()}
    # what may move, said apart: by running what is known of each family's layout on marked weights
    marked = tiny.model(family)
    with torch.no_grad():
        for weight in marked.network.parameters():
            weight.zero_()
        for ffn, mask in zip(marked.ffns, neurons, strict=True):
            ffn.up_rows[mask] = 1
            ffn.down_columns[:, mask] = 1
            if ffn.gate_rows is not None:
                ffn.gate_rows[mask] = 1
    may = {name: weight == 1 for name, weight in marked.network.state_dict().items()}
    for name, where in moved.items():
        assert not bool((where & ~may[name]).any()), name
        same = after.network.state_dict()[name].view(torch.int32)[~may[name]]
        assert torch.equal(same, before[name].view(torch.int32)[~may[name]]), name  # to the bit, signs of 0 among them
    share = sum(int(where.sum()) for where in moved.values()) / sum(int(mask.sum()) for mask in may.values())
    assert share > 0.9


def test_a_student_becomes_its_teacher(tmp_path):
    """Of text alone it learns the text; of the teacher alone the teacher, on text that the teacher is bad at."""
    teacher, text = tiny.model(seed=1), None
    apart = {}
    for share in (0.0, 1.0):
        student = tiny.model(seed=0)
        text = blocks_of(student)
        settings = FAST.model_copy(update={"distil": share, "epochs": 6, "save_every": 0})
        path = tune(student, text, tmp_path / f"{share}", settings, teacher=teacher, progress=False)
        opened = ng.load_model(path)
        with torch.no_grad():
            own, its = (each.network(text.long()).logits for each in (opened, teacher))
        tokens = len(text) * (text.shape[1] - 1)
        apart[share] = [float(distillation_loss(own, its, text.long(), part)) / tokens for part in (0.0, 1.0)]
    assert apart[0.0][0] < apart[1.0][0]
    assert apart[1.0][1] < apart[0.0][1]
    assert apart[1.0][1] < apart[0.0][1] / 3


def test_the_loss_is_cross_entropy_and_divergence_of_tokens_with_a_label():
    own, its = torch.randn(2, 2, 4, 5)
    labels = torch.tensor([[-100, 1, -100, 3], [-100, 2, 4, 0]])
    nll = torch.nn.functional.cross_entropy(own[:, :-1].reshape(-1, 5), labels[:, 1:].reshape(-1), reduction="sum")
    torch.testing.assert_close(distillation_loss(own, its, labels, 0.0), nll)
    want = 0.0
    for row, place in ((0, 0), (0, 2), (1, 0), (1, 1), (1, 2)):
        p, q = its[row, place].softmax(-1), own[row, place].softmax(-1)
        want += float((p * (p / q).log()).sum())
    assert float(distillation_loss(own, its, labels, 1.0)) == pytest.approx(want, rel=1e-4)


def test_an_interrupted_healing_goes_on(tmp_path, monkeypatch):
    from transformers import Trainer

    settings = FAST.model_copy(update={"save_every": 2})
    teacher = tiny.model(seed=1)

    def heal(name):
        model = tiny.model()
        return tune(model, blocks_of(model), tmp_path / name, settings, only=chosen(model), teacher=teacher,
                    progress=False)  # fmt: skip

    straight = heal("straight")
    step, seen = Trainer.training_step, []

    def stop(self, *arguments, **more):
        seen.append(1)
        if len(seen) == 12:  # of 16 passes, two a step
            raise KeyboardInterrupt
        return step(self, *arguments, **more)

    monkeypatch.setattr(Trainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        heal("stopped")
    done = len(seen)
    again = heal("stopped")
    assert len(seen) - done == 8  # from the fourth step of eight
    one, other = ng.load_model(straight).network, ng.load_model(again).network
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6), name


def test_mixed_precision_ends_with_the_training(tmp_path, monkeypatch):
    """What a GPU trains in bfloat16 gives float32's logits afterwards; Trainer would leave the network as it was."""
    import transformers

    usual = transformers.TrainingArguments
    monkeypatch.setattr(transformers, "TrainingArguments", lambda **how: usual(**how | {"bf16": True}))
    model = tiny.model()
    tune(model, blocks_of(model), tmp_path / "x", FAST.model_copy(update={"steps": 1}), progress=False)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        got = model.network(ids).logits
        torch.testing.assert_close(got, ng.load_model(tmp_path / "x").network(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_routers_alone_are_trained(kind, tmp_path):
    model = ng.Model(every_type.network(kind), tiny.tokenizer())
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    path = tune(model, blocks_of(model), tmp_path / "out", FAST, only="routers", progress=False)
    after = ng.load_model(path, device="cpu").network.state_dict()
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    names = {id(weight): name for name, weight in model.network.named_parameters()}
    owners = [mixture.routing.owner for mixture in model.mixtures.values()]
    assert moved == {names[id(weight)] for owner in owners for weight in owner.parameters(recurse=False)}
    assert len(moved) == len(owners) * (2 if kind == "gpt_oss" else 1)


def test_tokens_that_have_no_embedding(tmp_path):
    """Added to the tokenizer by hand: padding is masked, an end cannot be learnt, and text is refused."""
    model = tiny.model()
    pairs = [Pair("the cat", "sat"), Pair("the cats on the mat", "sat there and slept")]
    plain = tune(model, pairs, tmp_path / "plain", FAST, progress=False)
    padded = tiny.model()
    padded.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    odd = tune(padded, pairs, tmp_path / "padded", FAST, progress=False)
    assert load_json(odd / "tuning.json")["loss"] == load_json(plain / "tuning.json")["loss"]
    padded.tokenizer.add_special_tokens({"eos_token": "[EOS]"})
    tune(padded, pairs, tmp_path / "ends", FAST, progress=False)
    padded.tokenizer.add_tokens(["cat"])
    with pytest.raises(ng.NeuroglotError, match="gives token 260, but the model .* knows 258"):
        tune(padded, pairs, tmp_path / "refused", FAST, progress=False)


def test_what_cannot_be_tuned_is_refused(tmp_path):
    model = tiny.model()
    text = blocks_of(model)
    nothing = torch.zeros_like(model.exists)
    cases = [
        (dict(only=nothing), "no neuron to train"),
        (dict(only=nothing[:1]), "find them in this model"),
        (dict(only="routers"), "no router to train"),
        (dict(only=~nothing, settings=TuneSettings(adapter=2)), "neurons only, or an adapter"),
        (dict(teacher=ng.Model(tiny.network(vocab_size=400), tiny.tokenizer(bos=False))), "other tokens"),
    ]
    for how, match in cases:
        with pytest.raises(NeuroglotError, match=match):
            tune(model, text, tmp_path / "x", progress=False, **how)
    with pytest.raises(NeuroglotError, match="nothing|no text"):
        tune(model, text[:0], tmp_path / "x", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_is_refused_and_nothing_is_written(tmp_path):
    """Its loss is not a number at some steps only: the trainer's mean leaves those out unless it is told not to."""
    model = tiny.model()
    with pytest.raises(NeuroglotError, match="diverged"):
        tune(model, blocks_of(model), tmp_path / "out", FAST.model_copy(update={"learning_rate": 1e30}), progress=False)
    assert not (tmp_path / "out").exists()


def test_a_gradient_that_is_no_number_ends_the_training_before_the_weights_are(tmp_path):
    """At the step where it is, not at the end: and it says which."""
    model = tiny.model()
    asked = []

    def spoil(grad):
        asked.append(None)
        return grad * torch.nan if len(asked) == 5 else grad  # two passes a step: in the third

    weight = model.ffns[1].down.weight
    weight.register_hook(spoil)
    with pytest.raises(NeuroglotError, match="by step 3 "):
        tune(model, blocks_of(model), tmp_path / "out", FAST, progress=False)
    assert len(asked) == 6
    assert all(bool(each.isfinite().all()) for each in model.network.parameters())
    assert not (tmp_path / "out").exists()
