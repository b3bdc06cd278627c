"""An exported control vector in llama.cpp: its own reader, its own logits, beside ours under the recipe."""

import gguf_files
import llama_cpp
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.models.gguf import gguf_file


def both(model, file, path, layers, ids, strength):
    """Logits after some tokens, as they are and steered: ours, and llama.cpp's."""
    mask = torch.zeros(model.layers, model.stream_width, dtype=torch.bool)
    mask[list(layers)] = True
    values = torch.randn(mask.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    recipe = ng.Recipe([ng.Add(mask, values, strength, site="residual")], model.fingerprint)
    vector = recipe.export(path)
    tokens = torch.tensor([ids])
    with torch.no_grad():
        ours = model.network(tokens).logits[0, -1]
        with recipe.applied(model):
            steered = model.network(tokens).logits[0, -1]
    return (ours, steered), (llama_cpp.logits(file, ids), llama_cpp.logits(file, ids, vector))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_llama_cpp_adds_it_where_we_do(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROGLOT_CACHE", str(tmp_path / "cache"))
    network = gguf_files.network(kind)
    model = ng.load_model(gguf_files.write(tmp_path / "x.gguf", kind, network))
    theirs = gguf_files.write(tmp_path / "y.gguf", kind, network, extra={"tokenizer.ggml.merges": ["a b"]})
    ours, its = both(model, theirs, tmp_path / "v.gguf", range(1, model.layers), [5, 9, 30, 77, 3], 2.0)
    assert float((ours[0] - ours[1]).abs().max()) > 1
    for one, other in zip(ours, its, strict=True):  # its cache of keys and values is float16
        torch.testing.assert_close(one, other, atol=0.01, rtol=0.0)


@pytest.mark.parametrize(("family", "site"), [("llama", "hidden"), ("gpt2", "activation"), ("gemma2", "hidden")])
def test_what_is_added_to_neurons_is_a_control_vector_where_nothing_norms_it(family, site, tmp_path):
    model = tiny.model(family)
    some = torch.Generator().manual_seed(0)
    mask = torch.rand(model.layers, model.neurons, generator=some) < 0.1
    mask[1, 0] = True
    mask[0] = False
    recipe = ng.Recipe([ng.Add(mask, torch.randn(mask.shape, generator=some), 0.01, site=site)], model.fingerprint)
    with pytest.raises(ng.NeuroglotError, match="acts on neurons"):  # it does not know the down-projection
        recipe.export(tmp_path / "v.gguf")
    if family == "gemma2":
        with pytest.raises(ng.NeuroglotError, match="normed or scaled"):
            recipe.export(tmp_path / "v.gguf", model)
        return
    vectors = ng.load_directions(recipe.export(tmp_path / "v.safetensors", model)).float()
    added = ng.Add(vectors != 0, vectors, site="residual")
    tokens = torch.tensor([[5, 9, 30, 77, 3]])
    with torch.no_grad(), ng.intervene(model, added):
        by_vector = model.network(tokens).logits
    with torch.no_grad(), recipe.applied(model):
        torch.testing.assert_close(model.network(tokens).logits, by_vector, rtol=1e-4, atol=1e-5)
    recipe.export(tmp_path / "v.gguf", model)


@pytest.mark.real
def test_llama_cpp_adds_it_to_a_real_model_as_we_do(tmp_path):
    model, file = ng.load_model("smollm2-135m"), gguf_file("smollm2-135m")
    (ids,) = model.encode(["The capital of France is"])
    ours, its = both(model, file, tmp_path / "v.gguf", [9, 20], ids, 4.0)
    effect, apart = (ours[1] - ours[0]).norm(), (ours[1] - its[1]).norm()
    assert effect > 100
    assert apart < 0.1 * effect  # it rounds activations to 8 bits
