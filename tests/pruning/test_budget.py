"""A budget is spent and not overspent, whatever it is."""

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.pruning.budget import neurons_within, random_like, splits
from neuroglot.pruning.checkpoint import cut
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import row_parameters


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.floats(0.1, 1.2), st.booleans(), st.integers(0, 99))
def test_neurons_within_a_number_are_the_largest(widths, share, even, seed):
    scores = torch.rand(len(widths), max(widths), generator=torch.Generator().manual_seed(seed))
    exists = torch.arange(max(widths))[None] < torch.tensor(widths)[:, None]
    count = max(len(widths), round(share * sum(widths)))
    keep = neurons_within(scores, widths, count, even=even)
    assert not bool((keep & ~exists).any())
    assert bool(keep.any(1).all())
    if not even:
        assert int(keep.sum()) == min(count, sum(widths))
    elif count < sum(widths):
        for row, width in zip(keep, widths, strict=True):
            kept, fair = int(row.sum()), count * width / sum(widths)
            assert kept == 1 or kept <= fair
    for layer in range(len(widths)):  # of a layer none that goes is larger than one that stays
        stays, goes = scores[layer][keep[layer]], scores[layer][exists[layer] & ~keep[layer]]
        assert not len(goes) or float(goes.max()) <= float(stays.min())
    drawn = random_like(keep, exists, seed)
    assert torch.equal(drawn.sum(1), keep.sum(1))
    assert not bool((drawn & ~exists).any())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_split_is_within_its_share(family):
    model = tiny.model(family)
    whole = size(model.network).parameters
    assert row_parameters(model) * model.vocabulary == sum(
        w.numel() for n, w in model.network.named_parameters() if tiny.VOCABULARY in w.shape and "wpe" not in n
    )
    scores = torch.rand(model.exists.shape)
    for share in (0.95, 0.9, 0.8):
        for split in splits(model, share, used=200, least=50, language="fr"):
            keep = neurons_within(scores, model.widths, split.neurons, even=False)
            with cut(model, keep):
                rows = model.vocabulary - split.tokens
                assert size(model.network).parameters - rows * row_parameters(model) <= share * whole
    with pytest.raises(ng.NeuroglotError, match="what must stay for fr"):
        splits(model, 0.05, used=200, least=50, language="fr")
