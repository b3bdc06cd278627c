"""LSS, prompt by prompt in a plain loop."""

import pytest
import torch

import neuroglot as ng

PROMPTS = {"en": ["the cats", "a dog", "it is"], "fr": ["les chats", None, "il est"]}
ANSWERS = {"en": ["sat", "ran", "red"], "fr": ["dort", "court", "été"], "ru": ["спит", "бежит", None]}


def log_probability(model, prompt, answer):
    before, after = model.encode([prompt])[0], model.encode([f" {answer}"])[0]
    tokens = torch.tensor([[*model.begin, *before, *after]])
    with torch.no_grad():
        logs = model.network(tokens).logits[0].log_softmax(-1)
    first = tokens.shape[1] - len(after)
    return sum(float(logs[place - 1, tokens[0, place]]) for place in range(first, tokens.shape[1]))


def test_by_a_loop(model, neurons):
    table = ng.evaluate.steering_shift(
        model, neurons, PROMPTS, ANSWERS, targets=["ru", "fr"], factors=(1.0, 8.0), progress=False
    )
    assert table.set_index(["source", "target", "factor"]).prompts.to_dict() == {
        ("en", "ru", 1.0): 2, ("en", "ru", 8.0): 2, ("fr", "ru", 1.0): 1, ("fr", "ru", 8.0): 1,
        ("en", "fr", 1.0): 3, ("en", "fr", 8.0): 3,
    }  # fmt: skip
    for row in table.itertuples():
        rises = []
        for place, prompt in enumerate(PROMPTS[row.source]):
            own, other = ANSWERS[row.source][place], ANSWERS[row.target][place]
            if prompt and own and other:
                d = [log_probability(model, prompt, other) - log_probability(model, prompt, own)]
                with ng.intervene(model, ng.Scale(neurons[row.target], row.factor)):
                    d += [log_probability(model, prompt, other) - log_probability(model, prompt, own)]
                rises.append(d[1] - d[0])
        assert row.rise == pytest.approx(sum(rises) / len(rises), abs=1e-3)
        if row.factor == 1.0:
            assert row.lss == 0  # times one is nothing, and nothing rises
        else:
            assert row.lss == sum(rise > 0 for rise in rises) / len(rises)


def test_refusals(model, neurons):
    with pytest.raises(ng.NeuroglotError, match="one length"):
        ng.evaluate.steering_shift(model, neurons, {"en": ["a"]}, {"en": ["b", "c"]}, progress=False)
    with pytest.raises(ng.NeuroglotError, match="no answers in ru"):
        ng.evaluate.steering_shift(model, neurons, {"en": ["a"]}, {"en": ["b"]}, targets=["ru"], progress=False)
    with pytest.raises(ng.NeuroglotError, match="No prompt in another language than en"):
        ng.evaluate.steering_shift(model, neurons, {"en": ["a"]}, {"en": ["b"]}, targets=["en"], progress=False)
