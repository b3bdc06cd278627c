"""The fallback curve by hand: what is ablated at each step, and what the head then says."""

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.evaluate.likelihood.perplexity import held_out_blocks
from neuroglot.tokens.counts import TokenLanguages, token_counts
from neuroglot.tokens.random_text import with_random_tokens


def test_each_step_by_hand(model, neurons):
    corpus = tiny.corpus()
    tokens_of = TokenLanguages.of(token_counts(model, corpus, 1000), corpus.languages)
    table = ng.evaluate.fallback(model, corpus, neurons, tokens_of, tokens=100, block=16, progress=False)
    assert sorted(set(table.step)) == [0, 1, 2, 3]
    blocks = held_out_blocks(model, corpus, tokens=100, block=16)
    for tag in corpus.languages:
        off: list[str] = []
        for step in range(4):
            rows = table[(table.language == tag) & (table.step == step)].set_index("tokens_of")
            assert rows.off.iloc[0] == "+".join(off)
            mask = torch.stack([neurons[each] for each in off]).any(0) if off else torch.zeros(3, 24, dtype=torch.bool)
            with torch.no_grad(), ng.intervene(model, ng.Deactivate(mask)):
                chances = model.network(blocks[tag].long()).logits[:, :-1].double().softmax(-1).mean((0, 1))
            for k, owner in enumerate(tokens_of.owners):
                assert rows.mass[owner] == pytest.approx(float(chances[tokens_of.owner == k].sum()), abs=1e-5)
            left = [each for each in corpus.languages if each not in off]
            expected = max(left, key=lambda each: rows.mass[each]) if left else ""
            assert set(rows.leading) == {expected}
            off.append(tag if step == 0 else expected)
    with pytest.raises(ng.NeuroglotError, match="ru has no set"):
        ng.evaluate.fallback(model, corpus, neurons.select(["en", "fr"]), tokens_of, progress=False)


def test_random_tokens_are_one_more_language(model):
    corpus = with_random_tokens(model, tiny.corpus(), tokens=300)
    assert corpus.languages == ("en", "fr", "ru", "art")
    assert list(corpus["art"]) == list(corpus["art"])  # drawn alike each time it is read
    counts = token_counts(model, corpus, 300)
    assert (counts[:, 3] > 0).sum() > 2 * (counts[:, 0] > 0).sum()  # far more of the vocabulary
    recording = ng.record(model, corpus, block=16, progress=False)
    found = ng.identify.lape(recording, top_fraction=0.4, activity_quantile=0.5)
    table = ng.identify.random_token_control(found).set_index("language")
    assert list(table.index) == ["en", "fr", "ru"]
    for tag in table.index:
        shared = int((found[tag] & found["art"]).sum())
        size, own = int(found[tag].sum()), int(found["art"].sum())
        assert table.shared[tag] == shared and table.neurons[tag] == size
        assert table.ratio[tag] == pytest.approx(shared / (size * own / 72))
    with pytest.raises(ng.NeuroglotError, match="no control art"):
        ng.identify.random_token_control(found.select(["en", "fr"]))
    with pytest.raises(ng.NeuroglotError, match="has art already"):
        with_random_tokens(model, corpus, tokens=10)
