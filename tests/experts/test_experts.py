"""Partitions, the counting of experts against plain loops, and patterns."""

from dataclasses import replace

import pytest
import shapes
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.experts.keep import keep_budget, keep_random, keep_share, keep_threshold
from neuroglot.models.architecture.hooks import observe_ffn
from neuroglot.recording.statistics.reductions import count_highest
from neuroglot.tokens.packing import pack

TOKENS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))


def logits(model):
    with torch.no_grad():
        return model.network(TOKENS).logits


# --- partitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_reordering_by_expert_leaves_the_logits(family):
    model = tiny.model(family)
    before, columns = logits(model), model.ffns[1].down_columns.clone()
    split = ng.experts.partition(model, 5)
    again = ng.experts.reorder(model, split)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4)
    order = split.labels[1].argsort(stable=True)
    assert not torch.equal(order, torch.arange(len(order)))
    assert torch.equal(model.ffns[1].down_columns, columns[:, order])
    assert torch.equal(again.labels, split.labels.sort(1).values)
    again.check(model)
    with pytest.raises(ng.NeuroglotError, match="not those of"):
        split.check(model)


def test_kinds():
    model = tiny.model()
    sizes = torch.full((3, 6), 4)
    for kind in ("parameter", "random", "contiguous"):
        split = ng.experts.partition(model, 6, kind=kind)
        assert torch.equal(split.sizes, sizes)
        assert torch.equal(split.labels, ng.experts.partition(model, 6, kind=kind).labels)
    assert split.labels[0].tolist() == [e for e in range(6) for _ in range(4)]
    own = ng.experts.partition(model, 6, kind="labels", labels=split.labels.flip(1))
    assert torch.equal(own.labels, split.labels.flip(1))
    rows = torch.nn.functional.normalize(model.ffns[2].up_rows, dim=1)
    parameter = ng.experts.partition(model, 6)
    assert torch.equal(parameter.labels[2], ng.experts.balanced_kmeans(rows.detach(), 6))


def test_a_partition_survives_its_file(tmp_path):
    model = tiny.model()
    split = ng.experts.partition(model, 6, kind="random", seed=3)
    loaded = ng.experts.Partition.load(split.save(tmp_path / "p.safetensors"))
    assert loaded == split
    assert loaded.about == split.about
    assert loaded.about["fingerprint"] == model.fingerprint
    assert loaded.digest == split.digest


def test_bad_partitions():
    model = tiny.model()
    split = ng.experts.partition(model, 6)
    with pytest.raises(ng.NeuroglotError, match="cannot be split into 25"):
        ng.experts.partition(model, 25)
    uneven = torch.zeros(3, 24, dtype=torch.int64)
    uneven[:, 0] = 1
    with pytest.raises(ng.NeuroglotError, match="from 1 to 23"):
        ng.experts.partition(model, 2, kind="labels", labels=uneven)
    assert ng.experts.partition(model, 2, kind="labels", labels=uneven, equal=False).sizes.tolist() == [[23, 1]] * 3
    with pytest.raises(ng.NeuroglotError, match="Expert 2 of layer 1"):
        ng.experts.partition(model, 3, kind="labels", labels=uneven, equal=False)
    with pytest.raises(ng.NeuroglotError, match="only"):
        ng.experts.partition(model, 3, labels=uneven)
    with shapes.unchecked(), pytest.raises(ng.NeuroglotError, match="kind is parameter, random"):
        ng.experts.partition(model, 3, kind="kmeans")
    other = tiny.model(seed=1)
    with pytest.raises(ng.NeuroglotError, match="not those of"):
        ng.record(other, tiny.corpus(), block=16, partition=split, progress=False)
    split.of_variant().check(other)
    with pytest.raises(ng.NeuroglotError, match="3 × 24"):
        split.check(tiny.model("bloom"))
    with pytest.raises(ng.NeuroglotError, match="boolean"):
        split.neurons(torch.ones(3, 5, dtype=torch.bool))


# --- frequencies -----------------------------------------------------------------------------------------------------


def by_plain_loops(model, blocks, split, size):
    """Token by token, layer by layer, expert by expert, sorted by hand."""
    counts = torch.zeros(model.layers, split.experts, dtype=torch.int64)
    seen = []
    with observe_ffn(model.ffns, lambda i, a, h: seen.append(h.reshape(*blocks.shape, -1))), torch.no_grad():
        model.hidden_states(blocks)
    for b in range(blocks.shape[0]):
        for t in range(model.uncounted, blocks.shape[1]):
            ranked = []
            for layer in range(model.layers):
                scores = [0.0] * split.experts
                for neuron, expert in enumerate(split.labels[layer].tolist()):
                    scores[expert] += float(seen[layer][b, t, neuron])
                mean = sum(scores) / len(scores)
                spread = (sum((s - mean) ** 2 for s in scores) / len(scores)) ** 0.5
                for expert, score in enumerate(scores):
                    ranked.append((-(score - mean) / spread if spread else 0.0, layer, expert))
            for _, layer, expert in sorted(ranked)[:size]:
                counts[layer, expert] += 1
    return counts


@pytest.mark.parametrize("family", ["llama", "opt", "bloom", "phi3"])
@pytest.mark.parametrize("experts", [6, 5])
def test_counts_equal_plain_loops(family, experts):
    model, corpus = tiny.model(family), tiny.corpus()
    split = ng.experts.partition(model, experts, kind="random")
    recording = ng.record(model, corpus, block=16, tokens=150, partition=split, top=(0.1, 0.5, 4), progress=False)
    total = model.layers * experts
    for top, size in ((0.1, round(0.1 * total)), (0.5, round(0.5 * total)), (4, 4)):
        got = recording.sum(f"experts@{top:g}")
        assert got.dtype == torch.int64
        for k, tag in enumerate(corpus.languages):
            blocks = pack(model, corpus[tag], tag, block=16, tokens=150)
            assert torch.equal(got[..., k], by_plain_loops(model, blocks, split, size))
            assert int(got[..., k].sum()) == size * int(recording.tokens[k])
    frequency = ng.experts.frequencies(recording, 0.1)
    assert frequency.shape == (3, model.layers, experts)
    assert torch.equal(frequency[1], recording.sum("experts@0.1")[..., 1] / recording.tokens[1].double())


@given(st.lists(st.lists(st.integers(0, 3), min_size=7, max_size=7), min_size=1, max_size=4), st.integers(1, 7))
def test_equal_scores_go_to_the_first(rows, size):
    expected = [0] * 7
    for row in rows:
        for i in sorted(range(7), key=lambda i: (-row[i], i))[:size]:
            expected[i] += 1
    assert count_highest(torch.tensor(rows, dtype=torch.float64), size).tolist() == expected


def test_a_pass_in_parts_counts_the_same(tmp_path):
    model, corpus = tiny.model(), tiny.corpus()
    split = ng.experts.partition(model, 6)
    settings = {"block": 16, "shard_tokens": 64, "batch_tokens": 64, "partition": split, "progress": False}
    whole = ng.record(model, corpus, **settings)
    parts = [ng.record(model, corpus, part=(i, 2), **settings) for i in (1, 2)]
    both = ng.Recording.merge(parts).select(whole.languages)
    assert torch.equal(whole.sum("experts@0.1"), both.sum("experts@0.1"))
    kept = ng.record(model, corpus, directory=tmp_path / "r", **settings)
    assert torch.equal(
        ng.Recording.load(tmp_path / "r" / "recording.safetensors").sum("experts@0.1"), kept.sum("experts@0.1")
    )
    other = ng.record(model, corpus, **{**settings, "partition": ng.experts.partition(model, 6, kind="contiguous")})
    with pytest.raises(ng.NeuroglotError, match="differ in partition"):
        whole + other
    with pytest.raises(ng.NeuroglotError, match="two partitions"):
        ng.experts.tuning_change(whole, other)


def test_the_change_of_tuning_is_a_difference():
    base, tuned, corpus = tiny.model(), tiny.model(seed=1), tiny.corpus()
    split = ng.experts.partition(base, 6)
    before = ng.record(base, corpus, block=16, partition=split, progress=False)
    after = ng.record(tuned, corpus.select(["ru", "en", "fr"]), block=16, partition=split.of_variant(), progress=False)
    change = ng.experts.tuning_change(before, after)
    wanted = ng.experts.frequencies(after.select(["en", "fr", "ru"])) - ng.experts.frequencies(before)
    assert torch.equal(change, wanted)
    assert change.abs().sum() > 0
    narrow = replace(after, provenance=after.provenance.model_copy(update={"dtype": "bfloat16"}))
    with pytest.raises(ng.NeuroglotError, match="would differ by rounding"):
        ng.experts.tuning_change(before, narrow)


def test_what_was_not_counted_is_said():
    model = tiny.model()
    split = ng.experts.partition(model, 6)
    plain = ng.record(model, tiny.corpus(), block=16, progress=False)
    with pytest.raises(ng.NeuroglotError, match="no experts"):
        ng.experts.frequencies(plain)
    two = ng.record(model, tiny.corpus(), block=16, partition=split, top=(0.1, 0.2), progress=False)
    with pytest.raises(ng.NeuroglotError, match=r"0\.1, 0\.2"):
        ng.experts.frequencies(two)
    with pytest.raises(ng.NeuroglotError, match="top must name"):
        ng.record(model, tiny.corpus(), block=16, partition=split, top=(1.5,), progress=False)


# --- patterns --------------------------------------------------------------------------------------------------------


def random_frequencies(languages=6, layers=3, experts=8, seed=0):
    return torch.rand(languages, layers, experts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_measures_equal_loops():
    f = random_frequencies()
    f[0, 0] = 0.25  # no correlation in this layer
    got = ng.experts.compare(f, smoothing=1e-3)
    for a in range(6):
        for b in range(6):
            assert got.euclidean[a, b] == pytest.approx(float((f[a] - f[b]).norm()))
            kl, r = 0.0, []
            for x, y in zip(f[a] + 1e-3, f[b] + 1e-3, strict=True):
                p, q = x / x.sum(), y / y.sum()
                kl += float((p * (p / q).log()).sum())
                if x.std() > 0 and y.std() > 0:
                    r.append(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
            assert got.kl[a, b] == pytest.approx(kl, abs=1e-9)
            assert got.pearson[a, b] == pytest.approx(sum(r) / len(r))


@given(st.permutations(range(6)))
def test_permuting_languages_permutes_the_measures(order):
    f = random_frequencies()
    one, other = ng.experts.compare(f), ng.experts.compare(f[order])
    for name, matrix in one.distances().items():
        torch.testing.assert_close(other.distances()[name], matrix[order][:, order], rtol=1e-9, atol=1e-9)


def test_shared_and_high_frequency():
    f = torch.tensor([[[0.05, 0.2, 0.0]], [[0.049, 0.05, 0.3]]], dtype=torch.float64)
    assert ng.experts.counts(f).tolist() == [[1, 2, 1]]
    assert ng.experts.shared(f).tolist() == [[False, True, False]]


def test_families_explain_what_was_made_by_families():
    languages = ["fr", "es", "pt", "hi", "bn", "ur", "zh", "ar"]
    related = ng.experts.relatedness(languages)
    assert related[0, 1] == 0
    assert related[0, 3] == 1
    assert related[0, 6] == 2
    assert ng.experts.relatedness(languages, "script")[4].tolist() == [1, 1, 1, 1, 0, 1, 1, 1]
    noise = random_frequencies(8)[:, 0, 0]
    alike = ng.experts.mantel(related + 0.01 * (noise[:, None] - noise).abs(), related)
    assert alike.r > 0.95
    assert alike.p < 0.01
    cloud = random_frequencies(8).flatten(1)
    assert ng.experts.mantel(torch.cdist(cloud, cloud), related).p > 0.01
    with pytest.raises(ng.NeuroglotError, match="tlh"):
        ng.experts.relatedness(["fr", "tlh"])


def test_the_p_of_unrelated_matrices_is_uniform():
    p = []
    for seed in range(60):
        x, y = (random_frequencies(7, 1, 3, seed=s).flatten(1) for s in (seed, seed + 1000))
        p.append(ng.experts.mantel(torch.cdist(x, x), torch.cdist(y, y), permutations=199).p)
    assert 0.3 < sum(p) / len(p) < 0.7


def test_linkage_joins_the_nearest_first():
    x = torch.tensor([[0.0], [1.0], [10.0], [10.5]], dtype=torch.float64)
    assert ng.experts.linkage(torch.cdist(x, x)) == [
        (2, 3, 0.5, 2),
        (0, 1, 1.0, 2),
        (5, 4, pytest.approx(9.75), 4),
    ]


# --- which experts to keep -------------------------------------------------------------------------------------------


def test_keeping():
    f = torch.tensor([[0.5, 0.1, 0.1, 0.0], [0.01, 0.02, 0.03, 0.04]])
    assert keep_threshold(f, 0.03).tolist() == [[True, True, True, False], [False, False, True, True]]
    assert keep_share(f, 0.5).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert keep_budget(f, 0.5).tolist() == [[True, True, True, False], [False, False, False, True]]
    assert keep_budget(f, 0.75).sum(1).tolist() == [1, 1]
    kept = keep_threshold(f, 0.03)
    for seed in range(3):
        assert keep_random(kept, seed).sum(1).tolist() == [3, 2]
    assert torch.equal(keep_random(kept, 1), keep_random(kept, 1))
    with pytest.raises(ng.NeuroglotError, match="layer 2"):
        keep_threshold(f, 0.05)
    with pytest.raises(ng.NeuroglotError, match="keeps 0"):
        keep_share(f, 0.1)
    with pytest.raises(ng.NeuroglotError, match="without any"):
        keep_budget(f, 0.9)
