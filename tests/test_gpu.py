"""What only a CUDA device can show. Skipped without one."""

import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.recording.statistics.reductions import count_highest, keep_highest, standardise, sum_tokens
from neuroglot.recording.statistics.sums import STATISTICS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 130, 257), (2, 2047, 1000), (5, 64, 11_008)])
def test_sums_equal_the_reference(shape, dtype):
    # as without BOS: sequences with gaps between them
    references = [torch.randn((shape[0], shape[1] + 1, shape[2]), dtype=dtype)[:, 1:] for _ in range(2)]
    activation, hidden = (torch.cat([each[:, :1], each], 1).cuda()[:, 1:] for each in references)
    of_neurons = [name for name in STATISTICS if name != "residual"]
    for names in (*of_neurons, ("hidden", "active"), of_neurons):
        names = [names] if isinstance(names, str) else list(names)
        taken = sum_tokens(activation, hidden, names)
        again = sum_tokens(activation, hidden, names)
        exact = sum_tokens(references[0].double(), references[1].double(), names)
        for name, mine, twice, reference in zip(names, taken, again, exact, strict=True):
            assert torch.equal(mine, twice)
            source = references[0 if name in ("active", "activation") else 1]
            scale = 0 if name == "active" else source.double().abs().sum((0, 1))
            assert ((mine.cpu() - reference).abs() <= 1e-14 * scale).all()


def test_ranks_equal_the_reference():
    generator = torch.Generator().manual_seed(0)
    for tokens, total in ((1, 5), (37, 700), (130, 8192), (20, 20_480)):
        scores = torch.randn(tokens, total, generator=generator)
        scores[::2] = scores[::2].round()  # many are equal, some of them -0 and 0
        for size in (1, max(1, total // 10), total):
            assert torch.equal(count_highest(scores.cuda(), size).cpu(), count_highest(scores, size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_highest_equal_the_reference(dtype):
    values = torch.randn(4, 3001, 1000).to(dtype)[:, 1:]  # in bfloat16 many are equal
    for k in (1, 5, 32, 33):
        one, other = (torch.zeros(1000, k, dtype=torch.int64, device=device) for device in ("cpu", "cuda"))
        for i in range(4):
            one = keep_highest(values[i : i + 1], one, 3000 * i)
            other = keep_highest(values.cuda()[i : i + 1], other, 3000 * i)
            assert torch.equal(one, other.cpu())


def test_z_scores_equal_the_reference():
    scores = 3 * torch.randn(100, 37) + 1
    scores[7] = 0.1  # whose mean need not be 0.1
    one, other = torch.zeros(100, 50), torch.zeros(100, 50).cuda()
    standardise(scores.double(), one[:, 10:47])
    standardise(scores.cuda(), other[:, 10:47])
    torch.testing.assert_close(one, other.cpu(), rtol=1e-5, atol=1e-5)
    assert not other[7].any()


def test_samples_equal_the_cpu():
    corpus = ng.Corpus({tag: list(tiny.corpus()[tag])[:6] for tag in ("en", "fr")}, parallel=True)
    taken = [
        ng.record_samples(
            ng.Model(network, tiny.tokenizer()), corpus, statistics=["active", "hidden"], max_tokens=40, progress=False
        )
        for network in (tiny.network(), tiny.network().cuda())
    ]
    torch.testing.assert_close(taken[0].vectors, taken[1].vectors, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(taken[0].states, taken[1].states, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(taken[0].recording.sum("hidden"), taken[1].recording.sum("hidden"), rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "gemma3_text", "gemma2", "opt", "gpt2", "gpt_neox", "cohere", "bloom"]
)
def test_generation_equals_the_reference(family):
    model = ng.Model(tiny.network(family).cuda(), tiny.tokenizer())
    prompts = ["the cats sat", "a much longer prompt, so that the first one is padded", "x", "dogs", "çà et là"] * 3
    masks = [torch.rand(model.layers, model.neurons) < 0.3 for _ in range(3)]
    recipes = [
        None,
        *(ng.evaluate.Condition(str(i), (ng.Replace(mask, float(i)),)) for i, mask in enumerate(masks)),
        None,
    ] * 3
    for how in ({"repetition_penalty": 1.3}, {"temperature": 1.0, "seed": 2}):
        settings = {"tokens": 24, **how}
        reference = ng.evaluate.generate(model, prompts, recipes=recipes, engine="huggingface", **settings)
        for batch in (4, None, 4):  # other graphs, then those that were kept
            assert ng.evaluate.generate(model, prompts, recipes=recipes, batch=batch, **settings) == reference
        with ng.intervene(model, ng.Deactivate(masks[0])):
            off = ng.evaluate.generate(model, prompts, engine="huggingface", **settings)
            assert ng.evaluate.generate(model, prompts, **settings) == off
        assert ng.evaluate.generate(model, prompts, recipes=recipes, **settings) == reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_of_a_step_equal_torch(dtype):
    from neuroglot.generation import kernels

    def random(*shape):
        return torch.randn(*shape, device="cuda").to(dtype)

    keys, values = random(4, 5, 2, 8), random(4, 5, 2, 8)
    expected = keys.clone(), values.clone()
    joined, place = random(3, 1, 48), torch.tensor([1, 7, 14], device="cuda")
    key, value = (part.view(3, 1, 2, 8).transpose(1, 2) for part in joined[..., 16:].split(16, -1))
    kernels.store(key, value, keys, values, place)
    for kept, before, new in zip((keys, values), expected, (key, value), strict=True):
        assert torch.equal(kept.view(20, 16), before.view(20, 16).index_copy(0, place, new.reshape(3, 16)))

    states, weight = random(3, 1, 1000), random(1000)
    for more in (0, 1):
        expected = torch.nn.functional.rms_norm(states.float(), (1000,), weight.float() + more, 1e-6)
        torch.testing.assert_close(kernels.norm(states, weight, 1e-6, more), expected.to(dtype))

    both, tables = random(6, 1, 4000), [random(4, 3, 2000).sort(0).values for _ in range(2)]
    gate, up = both.split(2000, -1)
    functions = {
        "silu": torch.nn.functional.silu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    }

    def edited(x, table):
        each = x.view(3, 2, 2000)
        return torch.addcmul(table[1][:, None], each, table[0][:, None]).clamp(table[2][:, None], table[3][:, None])

    for kind, function in functions.items():
        expected = edited(edited(function(gate), tables[0]).view(6, 1, 2000) * up, tables[1])
        made = kernels.gated(gate, up, kind, 3, *tables)
        torch.testing.assert_close(made.view(expected.shape), expected)
        torch.testing.assert_close(kernels.gated(gate, up, kind, 3), function(gate) * up)


def test_steps_are_captured_and_fused():
    from neuroglot.generation import capture

    for family, fused in (("llama", True), ("gemma3_text", True), ("qwen2", True)):
        model = ng.Model(tiny.network(family).cuda(), tiny.tokenizer())
        ng.evaluate.generate(model, ["the cats sat", "x"], tokens=20)
        steps = capture._kept[model.network]
        assert steps.graphs and not steps.refused
        assert not steps.unfused or not fused, steps.unfused


two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def over_two(family):
    """A tiny model with half of its layers on each of two GPUs, and the same one on the first."""
    from accelerate import dispatch_model

    whole, network = tiny.network(family).cuda(), tiny.network(family)
    layers = [ffn.layer for ffn in ng.Model(network, tiny.tokenizer()).ffns]
    names = {module: name for name, module in network.named_modules()}
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    leaves = [name for module, name in names.items() if not list(module.children())]
    others = [name for name in leaves if not name.startswith(names[layers[0]][:-1])]
    places = {name: int("norm" in name or (name == "lm_head" and not tied)) for name in others}
    places |= {names[layer]: int(number >= len(layers) // 2) for number, layer in enumerate(layers)}
    return ng.Model(dispatch_model(network, places), tiny.tokenizer()), ng.Model(whole, tiny.tokenizer())


@two_gpus
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_model_over_two_gpus_is_recorded_and_measured_as_on_one(family, tmp_path):
    how = {"block": 16, "batch_tokens": 32, "shard_tokens": 64, "examples": 2, "progress": False}
    split, whole = over_two(family)
    assert len({str(weight.device) for weight in split.network.parameters()}) == 2
    for name, model in (("split", split), ("whole", whole)):
        ng.record(model, tiny.corpus(), directory=tmp_path / name, **how)
    files = [(tmp_path / name / "recording.safetensors").read_bytes() for name in ("split", "whole")]
    assert files[0] == files[1]
    off = torch.rand(whole.layers, whole.neurons) < 0.3
    found = []
    for model in (split, whole):
        with ng.intervene(model, ng.Deactivate(off)):
            found.append(ng.evaluate.perplexity(model, tiny.corpus(), block=16, batch_tokens=32, progress=False))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@two_gpus
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])
def test_a_model_over_two_gpus_writes_as_on_one(family):
    from neuroglot.generation import capture
    from neuroglot.generation.continuous import reason_against

    split, whole = over_two(family)
    assert reason_against(split) == ""
    prompts = ["the cats sat", "a much longer prompt, so that the first one is padded", "x", "dogs", "çà et là"] * 4
    masks = [torch.rand(whole.layers, whole.neurons) < 0.3 for _ in range(3)]
    stream = torch.rand(whole.layers, whole.stream_width) < 0.5
    recipes = [
        None,
        ng.evaluate.Condition("off", (ng.Deactivate(masks[0]),)),
        ng.evaluate.Condition(
            "on", (ng.Replace(masks[1], 0.5, when="generated"), ng.Scale(masks[2], 0.5, site="hidden"))
        ),
        ng.evaluate.Condition("stream", (ng.Add(stream, 0.7, site="residual"),)),
        None,
    ] * 4
    for how in ({"repetition_penalty": 1.3}, {"temperature": 1.0, "seed": 2}, {}):
        settings = {"tokens": 24, "recipes": recipes, **how}
        reference = ng.evaluate.generate(whole, prompts, engine="huggingface", **settings)
        for batch in (None, 4, 4):  # all at once, a few, and a few by the graphs that were kept
            assert ng.evaluate.generate(split, prompts, engine="continuous", batch=batch, **settings) == reference
        steps = capture._kept[split.network]
        assert len(steps.devices) == 2 and steps.graphs and not steps.refused
        assert not steps.unfused or family == "gpt2", steps.unfused
    with ng.intervene(split, ng.Deactivate(masks[0])), ng.intervene(whole, ng.Deactivate(masks[0])):
        texts = [ng.evaluate.generate(model, prompts, tokens=24) for model in (split, whole)]
    assert texts[0] == texts[1]


def cold_head(model):
    """One head of the first layer whose scores are all about -120, as three layers of Qwen2.5 0.5B have some."""
    attention, size = model.network.model.layers[0].self_attn, model.network.config.head_dim
    slowest = size // 2 - 1  # of the rotation: it turns least from token to token
    with torch.no_grad():
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight[:size] = 0
            projection.bias[:size] = 0
        attention.q_proj.bias[slowest] = 1
        attention.k_proj.bias[slowest] = -120 * size**0.5


def test_tuning_under_a_mask_keeps_gradients_numbers(tmp_path):
    """Where cuDNN's are not: 64 tokens more than a multiple of 128, bfloat16, a head with very low scores."""
    from neuroglot.corpus.instructions import Pair
    from neuroglot.edit.training import TuneSettings
    from neuroglot.edit.tuning import tune

    network = tiny.network("qwen2", hidden_size=64, head_dim=32, max_position_embeddings=256, rope_theta=1e6)
    model = ng.Model(network.cuda(), tiny.tokenizer(bos=False))
    cold_head(model)
    pairs = [Pair("ask", "answer " * size) for size in (40, 5)]  # one is cut at 192 tokens, one is padded
    settings = TuneSettings(epochs=2, batch=2, at_once=2, max_tokens=192, save_every=0)
    path = tune(model, pairs, tmp_path / "out", settings, progress=False)  # refuses what is no number
    assert (path / "tuning.json").is_file()
