"""A pruned GGUF file, read back by the gguf library and run by llama.cpp."""

import json
import math

import gguf
import gguf_files
import numpy as np
import pytest
import torch

import neuroglot as ng
from neuroglot.models.gguf import gguf_file
from neuroglot.models.gguf_header import read_header
from neuroglot.pruning.gguf import prune_gguf

WIDTH, HIDDEN, LAYERS = 64, 32, 2


@pytest.fixture
def source(tmp_path):
    """A GGUF file with the tensors and fields that pruning reads, and some that it must leave alone."""
    return write(tmp_path / "source.gguf", "llama")


def write(path, architecture):
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDTH)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "Ωμέγα", "a"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, -2.5])
    for layer in range(LAYERS):
        for name in ("ffn_gate", "ffn_up"):
            rows = generator.normal(size=(WIDTH, HIDDEN)).astype(np.float32)
            packed = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q5_0)
            writer.add_tensor(f"blk.{layer}.{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q5_0)
        down = generator.normal(size=(HIDDEN, WIDTH)).astype(np.float32)
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", down)
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    reader = gguf.GGUFReader(path)
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, weights


def ffn(weights, layer, x):
    gate, up, down = (weights[f"blk.{layer}.ffn_{name}.weight"] for name in ("gate", "up", "down"))
    return down @ (np.maximum(gate @ x, 0) * (up @ x))


@pytest.mark.parametrize(
    ("architecture", "widths", "written", "lengths"),
    [
        ("llama", (20, 50), "deci", [32, 64]),
        ("llama", (20, 30), "llama", 32),
        ("gemma3", (20, 50), "gemma3", 64),
    ],
)
def test_what_is_left_computes_what_the_kept_neurons_did(tmp_path, architecture, widths, written, lengths):
    source = write(tmp_path / "source.gguf", architecture)
    generator = torch.Generator().manual_seed(1)
    keep = torch.zeros(LAYERS, WIDTH, dtype=torch.bool)
    for row, width in zip(keep, widths, strict=True):
        row[torch.randperm(WIDTH, generator=generator)[:width]] = True
    pruned = prune_gguf(source, keep, tmp_path / "pruned.gguf")
    (before, whole), (after, left) = read(source), read(pruned)
    assert after["general.architecture"] == written
    assert after[f"{written}.feed_forward_length"] == lengths
    assert after[f"{written}.block_count"] == LAYERS
    for name in ("tokenizer.ggml.tokens", "tokenizer.ggml.scores"):
        assert after[name] == before[name]
    x = np.random.default_rng(2).normal(size=HIDDEN).astype(np.float32)
    for layer in range(LAYERS):
        masked = dict(whole)
        masked[f"blk.{layer}.ffn_down.weight"] = whole[f"blk.{layer}.ffn_down.weight"] * keep[layer].numpy()
        assert np.allclose(ffn(left, layer, x), ffn(masked, layer, x), rtol=1e-4, atol=1e-3)
        assert np.array_equal(left[f"blk.{layer}.attn_norm.weight"], whole[f"blk.{layer}.attn_norm.weight"])


def test_refusals(tmp_path, source):
    keep = torch.ones(LAYERS, WIDTH, dtype=torch.bool)
    with pytest.raises(ng.NeuroglotError, match="does not exist"):
        prune_gguf(tmp_path / "none.gguf", keep, tmp_path / "out.gguf")
    with pytest.raises(ng.NeuroglotError, match="layers of 64 neurons"):
        prune_gguf(source, keep[:1], tmp_path / "out.gguf")
    keep[1] = False
    with pytest.raises(ng.NeuroglotError, match="layer 2"):
        prune_gguf(source, keep, tmp_path / "out.gguf")
    (tmp_path / "not.gguf").write_bytes(b"text")
    with pytest.raises(ng.NeuroglotError, match="not a GGUF file"):
        prune_gguf(tmp_path / "not.gguf", torch.ones_like(keep), tmp_path / "out.gguf")
    with pytest.raises(ng.NeuroglotError, match="exists"):
        prune_gguf(source, torch.ones_like(keep), source)
    assert not (tmp_path / "out.gguf").exists()


WIDE = {"gpt2": "n_inner", "falcon": "ffn_hidden_size"}
"""Names of the width in transformers, where it is not `intermediate_size`."""


@pytest.mark.parametrize(
    ("name", "written", "widths"),
    [
        ("llama 3", "deci", (32, 64, 64)),
        ("deci", "deci", (32, 64, 64)),
        ("qwen2", "qwen2", (64, 64, 64)),
        ("phi3", "phi3", (64, 64, 64)),
        ("gpt2", "gpt2", (64, 64, 64)),
        ("falcon", "falcon", (64, 64, 64)),
        ("gemma2", "gemma2", (64, 64, 64)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*original_max_position_embeddings")
def test_what_was_pruned_is_read_back_and_is_the_model_without_those_neurons(
    tmp_path, monkeypatch, name, written, widths
):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    network = gguf_files.network(name, **{WIDE.get(name, "intermediate_size"): 96})
    extra = {"feed_forward_length": 96, "split.count": 1, "split.no": 0}
    source = gguf_files.write(tmp_path / "source.gguf", name, network, extra=extra, alignment=64)
    intact = ng.load_model(source, device="cpu")
    draw = torch.Generator().manual_seed(1)
    keep = torch.rand(3, 96, generator=draw) < torch.tensor([0.2, 0.4, 0.6])[:, None]
    path = prune_gguf(source, keep, tmp_path / "pruned.gguf")
    pruned = ng.load_model(path, device="cpu")
    assert pruned.widths == widths
    tokens = torch.randint(0, 250, (2, 40), generator=draw)
    with torch.no_grad(), ng.intervene(intact, ng.Deactivate(~keep)):
        expected = intact.network(tokens).logits
    with torch.no_grad():
        assert torch.allclose(pruned.network(tokens).logits, expected, atol=1e-4, rtol=1e-4)
    header = read_header(path)
    assert header.architecture == written
    assert header.keys["general.alignment"] == 64
    assert not [key for key in header.keys if key.startswith("split.")]
    for tensor in header.tensors.values():
        assert (tensor.data.ctypes.data - np.frombuffer(tensor.data.base, np.uint8).ctypes.data) % 64 == 0


def test_a_split_file_is_not_pruned(tmp_path):
    source = gguf_files.write(tmp_path / "m.gguf", "llama", gguf_files.network("llama"), parts=2)
    with pytest.raises(ng.NeuroglotError, match="join them"):
        prune_gguf(source, torch.ones(3, 24, dtype=torch.bool), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.real
def test_llama_cpp_opens_layers_of_unequal_width_and_gives_our_answers(tmp_path):
    pytest.importorskip("xllamacpp")
    source = gguf_file("smollm2-135m")
    model = ng.load_model("smollm2-135m")
    generator = torch.Generator().manual_seed(0)
    share = torch.linspace(0.95, 0.7, model.layers)[:, None]
    keep = torch.rand(model.layers, model.neurons, generator=generator) < share
    pruned = prune_gguf(source, keep, tmp_path / "pruned.gguf")
    assert pruned.stat().st_size < source.stat().st_size
    for prompt in ("Water boils at a temperature of", "The capital of France is"):
        ids = model.tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            intact = model.network(ids).logits[0, -1].softmax(-1)
            with ng.intervene(model, ng.Deactivate(~keep)):
                ours = model.network(ids).logits[0, -1].softmax(-1)
        theirs = llama_cpp(pruned, prompt)
        assert len(theirs) == 8

        def apart(others, theirs=theirs):
            return sum(abs(math.exp(theirs[token]) - float(others[token])) for token in theirs)

        # llama.cpp rounds activations to 8 bits, and the columns were quantised anew
        assert apart(ours) < 0.25
        assert apart(ours) < apart(intact) / 2


def llama_cpp(path, prompt):
    """Token → log-probability of the eight that llama.cpp finds likeliest after the prompt."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.warmup = str(path), 256, False
    server = xllamacpp.Server(settings)
    answer = server.handle_completions({"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": 8})
    answer = answer if isinstance(answer, dict) else json.loads(answer)
    said = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return {entry["id"]: entry["logprob"] for entry in said}
