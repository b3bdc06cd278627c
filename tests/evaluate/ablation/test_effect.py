"""Does a set do more to one language than to another: the values by hand, the test as `contrast` has it."""

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.stats import contrast


def test_is_the_contrast_of_changes_of_loss(model, neurons):
    corpus = tiny.corpus()
    how = {"tokens": 100, "block": 16, "progress": False}
    found = ng.evaluate.does_more(model, corpus, neurons["fr"], "fr", "ru", **how)
    before = ng.evaluate.block_losses(model, corpus, **how)
    with ng.intervene(model, ng.Deactivate(neurons["fr"])):
        after = ng.evaluate.block_losses(model, corpus, **how)
    after["nats"] -= before.nats
    changes = [after[after.language == tag].nats.tolist() for tag in ("fr", "ru")]
    expected = contrast(*changes)
    assert found.difference == pytest.approx(expected.difference)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(expected.p) and found.first == len(changes[0])
    nothing = ng.evaluate.does_more(model, corpus, torch.zeros(3, 2, dtype=torch.bool), "fr", "ru", site="heads", **how)
    assert nothing.difference == 0 and nothing.p == 1
    scaled = ng.Scale(torch.ones(3, 2, dtype=torch.bool), 0.5, site="heads")
    assert ng.evaluate.does_more(model, corpus, scaled, "fr", "ru", **how).difference != 0
    with pytest.raises(ng.NeuroglotError, match="has no de"):
        ng.evaluate.does_more(model, corpus, neurons["fr"], "fr", "de", **how)
