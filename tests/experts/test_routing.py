"""The languages of a router, and of the neurons behind it, from a recording of a native mixture of experts."""

import every_type
import pytest
import tiny
import torch
from scipy.spatial.distance import jensenshannon

import neuroglot as ng
from neuroglot.experts.overlap import in_experts, native_labels


@pytest.fixture(scope="module")
def model() -> ng.Model:
    return ng.Model(every_type.network("qwen2_moe"), tiny.tokenizer())


@pytest.fixture(scope="module")
def recording(model) -> ng.Recording:
    return ng.record(model, tiny.corpus(), block=16, progress=False, statistics=("active", "activation", "hidden"))


def test_a_recording_of_a_mixture_is_saved_selected_and_added(recording, model, tmp_path):
    routed = recording.sum("routed")
    assert routed.shape == (4, 4, 3) and routed.dtype == torch.int64
    assert torch.equal(routed.sum(1), (2 * recording.tokens).expand(4, 3))  # two experts a token
    again = ng.Recording.load(recording.save(tmp_path / "r.safetensors"))
    assert again.experts == recording.experts == ((4, 16),) * 4
    assert torch.equal(again.sum("routed"), routed)
    both = recording + again
    assert torch.equal(both.sum("routed"), 2 * routed) and both.experts == recording.experts
    assert torch.equal(recording.select(["ru"]).sum("routed"), routed[..., 2:])


def test_an_interrupted_recording_of_a_mixture_is_the_same(recording, model, tmp_path):
    parts = [
        ng.record(
            model, tiny.corpus(), block=16, progress=False, part=(i, 2), directory=tmp_path / "p", shard_tokens=128,
            statistics=("active",),
        )
        for i in (1, 2)
    ]  # fmt: skip
    both = (parts[0] + parts[1]).select(recording.languages)
    assert torch.equal(both.sum("routed"), recording.sum("routed"))
    assert torch.equal(both.active, recording.active)


def test_conditional_shares_are_over_the_tokens_that_reached_an_expert(recording):
    given = recording.given_routing()
    joint, conditional = recording.probabilities, given.probabilities
    routed, tokens = recording.sum("routed"), recording.tokens
    for layer in range(recording.layers):
        for expert in range(4):
            own = slice(16 * expert, 16 * (expert + 1))
            share = routed[layer, expert] / tokens
            torch.testing.assert_close(conditional[layer, own] * share, joint[layer, own])
        assert torch.equal(conditional[layer, 64:], joint[layer, 64:])  # a shared expert's: every token reaches it
    assert bool((conditional <= 1).all()) and bool((given.active <= given.reached).all())
    assert torch.equal(given.mean("routed"), recording.mean("routed"))
    with pytest.raises(ng.NeuroglotError, match="given_routing"):
        given + given


@pytest.mark.parametrize("find", [ng.identify.lape, ng.identify.lave, ng.identify.lap])
def test_methods_take_the_joint_share_unless_they_are_given_the_routing(recording, find):
    how = {"threshold": 0.4} if find is ng.identify.lap else {"top_fraction": 0.2, "activity_quantile": 0.5}
    joint, conditional = find(recording, **how), find(recording.given_routing(), **how)
    counts = ng.Recording.from_counts(
        recording.active, recording.tokens, recording.languages, activation=recording.sum("activation")
    )
    assert torch.equal(joint.mask, find(counts, **how).mask)
    assert not torch.equal(joint.mask, conditional.mask)


def test_frequencies_are_those_of_the_router(recording):
    frequency = ng.experts.frequencies(recording)
    assert frequency.shape == (3, 4, 4)
    torch.testing.assert_close(frequency.sum(-1), torch.full((3, 4), 2.0, dtype=torch.float64))
    torch.testing.assert_close(frequency[1, 2, 3], recording.sum("routed")[2, 3, 1] / recording.tokens[1].double())
    assert ng.experts.compare(frequency).euclidean.shape == (3, 3)
    assert ng.experts.shared(frequency).shape == (4, 4)


def test_routing_divergence_is_jensen_shannon_in_bits(recording):
    shares, divergence = ng.experts.routing_shares(recording), ng.experts.routing_divergence(recording)
    torch.testing.assert_close(shares.sum(1), torch.ones(4, 3, dtype=torch.float64))
    for layer in range(4):
        for a in range(3):
            for b in range(3):
                expected = jensenshannon(shares[layer, :, a], shares[layer, :, b], base=2) ** 2
                assert float(divergence[layer, a, b]) == pytest.approx(float(expected), abs=1e-9)


def test_its_interval_is_a_bootstrap_over_parts(model):
    corpus = tiny.corpus(40)
    parts = [
        ng.record(model, ng.Corpus({tag: list(corpus[tag])[i::4] for tag in corpus.languages}, name=f"{i}"), block=16,
                  progress=False, statistics=("active",))
        for i in range(4)
    ]  # fmt: skip
    low, high = ng.experts.routing_divergence_interval(parts, draws=200)
    value = ng.experts.routing_divergence(ng.Recording.merge(parts))
    assert bool((low <= high).all()) and torch.equal(low.diagonal(dim1=1, dim2=2), torch.zeros(4, 3).double())
    assert float(((low <= value) & (value <= high)).double().mean()) > 0.8
    same_low, same_high = ng.experts.routing_divergence_interval([parts[0], parts[0]])
    torch.testing.assert_close(same_low, same_high)
    with pytest.raises(ng.NeuroglotError, match="at least two"):
        ng.experts.routing_divergence_interval(parts[:1])


def test_a_dense_layer_has_no_router():
    model = ng.Model(every_type.network("deepseek_v3"), tiny.tokenizer())
    recording = ng.record(model, tiny.corpus(), block=16, progress=False)
    assert ng.experts.routing_layers(recording) == [3]
    assert recording.experts == ((0, 0), (0, 0), (0, 0), (4, 16))
    assert ng.experts.routing_divergence(recording).shape == (1, 3, 3)
    given = recording.given_routing()
    assert torch.equal(given.probabilities[:3], recording.probabilities[:3])


def test_samples_key_regions_and_perplexity_of_a_mixture(model, recording):
    texts = tiny.corpus(6)
    parallel = ng.Corpus({tag: list(texts[tag]) for tag in texts.languages}, name="p", parallel=True)
    samples = ng.record_samples(model, parallel, states=False, progress=False)
    assert samples.vectors.shape == (3, 6, model.layers * model.neurons)
    assert ng.identify.key_regions(samples, threshold=1.2).mask.shape == (3, model.layers, model.neurons)
    neurons = ng.identify.lape(recording, top_fraction=0.2, activity_quantile=0.5)
    before = ng.evaluate.perplexity(model, tiny.corpus(), block=16, progress=False)
    with ng.intervene(model, ng.Deactivate(neurons["ru"])):
        after = ng.evaluate.perplexity(model, tiny.corpus(), block=16, progress=False)
    assert before != after
    assert ng.evaluate.perplexity(model, tiny.corpus(), block=16, progress=False) == before


def test_the_most_active_tokens_of_a_neuron_are_those_that_reached_it(model):
    recording = ng.record(model, tiny.corpus(), block=16, progress=False, examples=3)
    assert recording.examples is not None
    values = recording.examples.values[:, :, : recording.neurons]
    assert bool((values[recording.active.movedim(-1, 0) == 0] == 0).all()) and bool(values.any())


def test_a_partition_and_a_dense_recording_are_refused(model):
    dense = ng.Model(tiny.network("llama"), tiny.tokenizer())
    split = ng.experts.partition(dense, experts=4)
    with pytest.raises(ng.NeuroglotError, match="native mixture of experts"):
        ng.record(model, tiny.corpus(), block=16, progress=False, partition=split)
    plain = ng.record(dense, tiny.corpus(), block=16, progress=False)
    with pytest.raises(ng.NeuroglotError, match="of a dense model"):
        plain.given_routing()
    with pytest.raises(ng.NeuroglotError, match="no 'routed'"):
        ng.experts.routing_divergence(plain)


def test_the_counts_of_groups_of_blocks_are_those_of_all_and_give_an_interval(recording, model):
    folds, routed = recording.sum("routed.folds"), recording.sum("routed")
    assert torch.equal(folds.sum(2), routed) and bool((folds.sum((0, 1)) > 0).all())
    other = ng.record(model, tiny.corpus(), block=16, progress=False, statistics=("active",), batch_tokens=48)
    assert torch.equal(other.sum("routed.folds"), folds)  # however the pass was cut
    low, high = ng.experts.routing_divergence_interval(recording, draws=200)
    divergence = ng.experts.routing_divergence(recording)
    assert bool((low <= high).all()) and float(high.diagonal(dim1=1, dim2=2).max()) == 0
    assert float(((divergence >= low) & (divergence <= high)).double().mean()) > 0.8
    few = ng.record(model, tiny.corpus(), block=16, tokens=16, progress=False, statistics=("active",))
    with pytest.raises(ng.NeuroglotError, match="at least two blocks"):
        ng.experts.routing_divergence_interval(few)


def test_an_expert_is_high_frequency_from_half_of_what_one_has_on_average(recording):
    assert ng.experts.high_threshold(recording) == pytest.approx(2 / 4 / 2)


def test_neurons_in_experts_leave_out_shared_ones(recording):
    labels = native_labels(recording)
    assert labels[0, :64].tolist() == [i // 16 for i in range(64)] and bool((labels[:, 64:] == -1).all())
    mask = torch.zeros(1, *labels.shape, dtype=torch.bool)
    mask[0, :, [3, 20, 70]] = True
    chosen = torch.zeros(1, 4, 4, dtype=torch.bool)
    chosen[0, :, 0] = True
    row = in_experts(ng.NeuronSet(mask, ["en"]), labels, chosen).loc["en"]
    assert row.neurons == 12 and row.inside == 4
    assert row.by_chance == pytest.approx(12 * 16 / labels.shape[1])
