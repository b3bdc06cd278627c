"""What only a CUDA device can show. Skipped without one."""

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.recording.reductions import count_positive, sum_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 130, 257), (2, 2047, 1000), (5, 64, 11_008)])
def test_kernels_equal_the_reference(shape, dtype):
    whole = torch.randn((shape[0], shape[1] + 1, shape[2]), dtype=dtype)
    reference, values = whole[:, 1:], whole.cuda()[:, 1:]  # as without BOS: sequences with gaps between them
    assert torch.equal(count_positive(values).cpu(), (reference > 0).sum((0, 1)))
    expected, scale = reference.double().sum((0, 1)), reference.double().abs().sum((0, 1))
    assert ((sum_tokens(values).cpu() - expected).abs() <= 1e-14 * scale).all()
    assert torch.equal(sum_tokens(values), sum_tokens(values))
    assert ((sum_tokens(values, magnitude=True).cpu() - scale).abs() <= 1e-14 * scale).all()


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gemma3_text"])
def test_recording_equals_the_cpu(family):
    corpus = tiny.corpus()
    on_cpu = ng.record(tiny.model(family), corpus, block=16, progress=False)
    network = tiny.network(family).cuda()
    on_gpu = ng.record(ng.Model(network, tiny.tokenizer()), corpus, block=16, progress=False)
    assert on_gpu.tokens.tolist() == on_cpu.tokens.tolist()
    # other kernels round otherwise, and a value within rounding of zero may fall on its other side
    assert (on_gpu.active - on_cpu.active).abs().max() <= 2
    for name in ("activation", "hidden"):
        torch.testing.assert_close(on_gpu.sum(name), on_cpu.sum(name), rtol=1e-3, atol=1e-2)


def test_experts_and_clusters_equal_the_cpu():
    network, corpus = tiny.network(), tiny.corpus()
    on_cpu, on_gpu = ng.Model(network, tiny.tokenizer()), ng.Model(tiny.network().cuda(), tiny.tokenizer())
    split = ng.experts.partition(on_cpu, 6)
    taken = [
        ng.experts.frequencies(ng.record(each, corpus, block=16, partition=split, progress=False))
        for each in (on_cpu, on_gpu)
    ]
    assert (taken[0] - taken[1]).abs().max() < 0.02  # near ties may fall the other way
    rows = torch.randn(240, 16)
    one, other = (ng.experts.balanced_kmeans(each, 12).cpu() for each in (rows, rows.cuda()))
    assert one.bincount().tolist() == other.bincount().tolist() == [20] * 12
    near = [ng.experts.inertia(rows, labels) for labels in (one, other)]
    assert near[0] == pytest.approx(near[1], rel=0.02)


def test_interventions_and_perplexity_on_the_device():
    model = ng.Model(tiny.network().cuda(), tiny.tokenizer())
    cpu = tiny.model()
    off = torch.rand(cpu.layers, cpu.neurons) < 0.3
    results = []
    for each in (model, cpu):
        with ng.intervene(each, ng.Deactivate(off)):
            results.append(ng.evaluate.perplexity(each, tiny.corpus(), block=16, progress=False))
    assert results[0] == pytest.approx(results[1], rel=1e-3)
