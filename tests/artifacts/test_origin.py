"""Sets of neurons and the model that they were found in: moved to a variant, refused on other widths and experts."""

import warnings

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.artifacts.partition import Partition

TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A dense model, its twin written as a mixture, the partition between the two, and a recording of the dense one."""
    dense = tiny.model(intermediate_size=32)
    split = ng.experts.partition(dense, 4, kind="random", progress=False)
    path = ng.experts.moefy(dense, split, 4, tmp_path_factory.mktemp("twin") / "mixture", progress=False)
    text = ng.Corpus({"fr": ["un deux trois quatre cinq six " * 9], "de": ["eins zwei drei vier fünf sechs " * 9]})
    return dense, ng.load_model(path), split, ng.record(dense, text, tokens=128, block=32, progress=False), text


def neurons(recording):
    return ng.identify.lave(recording, top_fraction=0.1, activity_quantile=0.5)


def logits(model, *changes):
    with torch.no_grad(), ng.intervene(model, *changes):
        return model.network(TOKENS).logits


def test_sets_say_where_they_were_found_and_go_to_their_model_in_silence(pair, tmp_path):
    dense, _, _, recording, _ = pair
    for found in (
        ng.identify.lap(recording, threshold=0.5),
        neurons(recording),
    ):
        assert found.about["fingerprint"] == dense.fingerprint and found.about["experts"] is None
        opened = ng.NeuronSet.load(found.save(tmp_path / "set.safetensors"))
        assert opened.of_model(dense) == opened.of_model(recording) == found


def test_a_set_of_other_weights_is_used_and_said(pair):
    dense, _, _, recording, text = pair
    found = neurons(recording)
    variant = tiny.model(intermediate_size=32, seed=1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        ng.evaluate.perturb(variant, text, found, tokens=64, block=32, seeds=1, progress=False)
        assert found.of_model(variant) == found
    assert {each.category for each in said} == {ng.NeuroglotWarning} and len({str(each.message) for each in said}) == 1
    assert dense.fingerprint[:8] in str(said[0].message) and variant.fingerprint[:8] in str(said[0].message)
    bare = ng.NeuronSet(found.mask, found.languages, {"method": "published"})
    assert bare.of_model(variant) == bare  # what is not known is not compared


def test_a_set_of_other_widths_is_refused(pair):
    found = neurons(pair[3])
    with pytest.raises(ng.NeuroglotError, match="3 × 32, not of 3 layers of at most 24"):
        ng.evaluate.continuations(tiny.model(), {"fr": ["un"]}, found)


def test_a_dense_set_is_refused_on_its_moefied_twin_unless_the_partition_is_known(pair):
    dense, twin, split, recording, _ = pair
    found = neurons(recording)
    with pytest.raises(ng.NeuroglotError, match="a dense model, and .* is a mixture of 4 experts a layer"):
        found.of_model(twin)
    moved = found.in_experts(split).of_model(twin)
    assert moved.sizes() == found.sizes()
    for tag in found.languages:
        wanted = logits(dense, ng.Deactivate(found[tag]))
        torch.testing.assert_close(logits(twin, ng.Deactivate(moved[tag])), wanted, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(logits(twin, ng.Deactivate(found[tag])), wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(ng.NeuroglotError, match="4 experts a layer, and .* is a dense model"):
        moved.of_model(dense)
    with pytest.raises(ng.NeuroglotError, match="numbers its neurons expert by expert"):
        ng.alignment.compare(found, moved)


def test_a_partition_of_another_shape_moves_nothing(pair):
    found = neurons(pair[3])
    for labels in (torch.arange(24).expand(3, 24) % 4, (torch.arange(32).expand(3, 32) % 5)):
        split = Partition(labels, int(labels.max()) + 1)
        with pytest.raises(ng.NeuroglotError, match="whose experts have one width"):
            found.in_experts(split)
