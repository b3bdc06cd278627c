"""Parameter variation on constructed models, where the answer is known, and through files of every kind."""

import json
import math

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import neuroglot as ng
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.edit.parameters import zeroed
from neuroglot.identify.parameter_variation import variation_entropy, variation_rates, varied_parameters
from neuroglot.models.checkpoint import Checkpoint

TAGS = ["en", "fr", "ru"]


def save(network, path):
    network.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save(tiny.network(), tmp_path_factory.mktemp("base") / "model")


def changed(base, path, change):
    """A copy of the base whose network `change` was let loose on."""
    network = _open(base)
    with torch.no_grad():
        change(network)
    return save(network, path)


def _open(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def scaled(network, layer, neurons, factor):
    """Multiply all weights of some neurons."""
    mlp = network.model.layers[layer].mlp
    for neuron in neurons:
        mlp.gate_proj.weight[neuron] *= factor
        mlp.up_proj.weight[neuron] *= factor
        mlp.down_proj.weight[:, neuron] *= factor


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """Each language's tuning changes every neuron by 10 %, but for some: neuron k of layer 1 is left alone by
    language k, and neuron 5 of layer 2 is changed twice as much by French."""
    folder = tmp_path_factory.mktemp("tuned")

    def of(k):
        def change(network):
            for layer in range(3):
                kept = [k] if layer == 1 else []
                scaled(network, layer, [n for n in range(24) if n not in kept], 1.1)
            if k == 1:
                scaled(network, 2, [5], 1.2 / 1.1)

        return change

    return {tag: changed(base, folder / tag, of(k)) for k, tag in enumerate(TAGS)}


def test_rates_are_what_was_done(base, tuned):
    rates = variation_rates(base, tuned, progress=False)
    assert rates.shape == (3, 3, 24)
    assert float(rates[0, 0, 7]) == pytest.approx(0.1, rel=1e-4)
    assert float(rates[1, 1, 1]) == 0
    assert float(rates[1, 2, 5]) == pytest.approx(0.2, rel=1e-4)


def test_a_base_is_read_in_the_precision_of_what_was_tuned(base, tuned, tmp_path):
    """Or rounding would change every weight; and what is stored in two precisions has no common rate."""
    narrow = {}
    for tag, factor in (("en", 1.5), ("fr", 2.0)):
        network = _open(base).to(torch.bfloat16)
        with torch.no_grad():
            scaled(network, 0, [3], factor)
        narrow[tag] = save(network, tmp_path / tag)
    rates = variation_rates(base, narrow, progress=False)
    assert rates[:, 0, 3].tolist() == pytest.approx([0.5, 1.0], rel=2e-2)
    assert int((rates > 0).sum()) == 2
    with pytest.raises(ng.NeuroglotError, match="stored in bfloat16 and .* in float32"):
        variation_rates(base, {"en": narrow["en"], "fr": tuned["fr"]}, progress=False)


def test_the_neurons_that_one_language_leaves_alone_are_its_own(base, tuned):
    neurons = ng.identify.parameter_variation(base, tuned, top_fraction=3 / 72, progress=False)
    assert neurons.languages == tuple(TAGS)
    assert {tuple(where) for where in neurons.mask.nonzero().tolist()} == {(0, 1, 0), (1, 1, 1), (2, 1, 2)}


def test_entropy_of_variation_by_hand():
    rates = torch.tensor([[0.0, 0.1, 0.2], [0.4, 0.1, 0.1], [0.4, 0.1, 0.0]], dtype=torch.float64)
    spread, member = variation_entropy(rates)
    assert float(spread[0]) == 0  # all of what is missing is the first language's
    assert math.isinf(float(spread[1]))  # alike in all: never chosen
    third = [1 / 3, 2 / 3]
    assert float(spread[2]) == pytest.approx(-sum(q * math.log(q) for q in third))
    assert member.T.tolist() == [[True, False, False], [False, False, False], [False, False, True]]


def test_order_of_languages_does_not_matter(base, tuned):
    order = ["ru", "en", "fr"]
    with pytest.warns(ng.NeuroglotWarning, match="found 4 neurons where 7 were asked for"):
        straight = ng.identify.parameter_variation(base, tuned, top_fraction=0.1, progress=False)
    turned = {tag: tuned[tag] for tag in order}
    with pytest.warns(ng.NeuroglotWarning, match="found 4 neurons where 7 were asked for"):
        assert ng.identify.parameter_variation(base, turned, top_fraction=0.1, progress=False) == straight.select(order)


def test_single_parameters_are_found_and_zeroed(base, tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"

    def of(k):
        def change(network):
            for n, weight in network.named_parameters():
                if weight.ndim == 2 and "layers" in n:
                    weight *= 1.1
            as_it_was = _open(base).get_parameter(name).view(-1)[10 * k]
            network.get_parameter(name).view(-1)[10 * k] = as_it_was

        return change

    variants = {tag: changed(base, tmp_path / tag, of(k)) for k, tag in enumerate(TAGS)}
    total = sum(w.numel() for n, w in _open(base).named_parameters() if w.ndim == 2 and "layers" in n)
    found = varied_parameters(base, variants, top_fraction=3 / total, progress=False)
    assert {tag: {n: places.tolist() for n, places in found[tag].items()} for tag in TAGS} == {
        tag: {name: [10 * k]} for k, tag in enumerate(TAGS)
    }
    each = varied_parameters(base, variants, top_fraction=1 / total, each=True, progress=False)
    assert each.sizes() == {"en": 1, "fr": 1, "ru": 1} and each["ru"][name].tolist() == [20]
    again = ParameterSet.load(each.save(tmp_path / "parameters.safetensors"))
    assert again.sizes() == each.sizes() and again["fr"][name].tolist() == [10]
    model = ng.Model(_open(base), tiny.tokenizer())
    weight = model.network.get_parameter(name)
    before = float(weight.view(-1)[20].detach())
    with zeroed(model, each["ru"], each["fr"]):
        assert weight.view(-1)[[10, 20]].tolist() == [0, 0] and weight.view(-1)[0] != 0
    assert float(weight.view(-1)[20].detach()) == before


@pytest.mark.parametrize("family", ["gpt2", "phi3", "opt", "gpt_neox"])
def test_every_layout_gives_its_neurons(family, tmp_path):
    """Of one neuron all weights are doubled, whatever the family stores them as."""
    network = tiny.network(family)
    base = save(network, tmp_path / "base")
    ffn = ng.Model(network, tiny.tokenizer()).ffns[1]
    variants = {}
    for tag, neuron in (("en", 3), ("fr", 4)):
        other = tiny.network(family)
        mine = ng.Model(other, tiny.tokenizer()).ffns[1]
        with torch.no_grad():
            mine.up_rows[neuron] *= 2
            mine.down_columns[:, neuron] *= 2
            if mine.gate_rows is not None:
                mine.gate_rows[neuron] *= 2
        variants[tag] = save(other, tmp_path / tag)
    rates = variation_rates(base, variants, progress=False)
    assert rates.shape[1:] == (3, ffn.neurons)
    assert {tuple(i) for i in rates.nonzero().tolist()} == {(0, 1, 3), (1, 1, 4)}
    assert float(rates.max()) == pytest.approx(1)


def test_sharded_files_are_read(base, tuned, tmp_path):
    network = _open(tuned["fr"])
    network.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").is_file()
    one, many = ({"en": tuned["en"], "fr": path} for path in (tuned["fr"], tmp_path / "sharded"))
    assert torch.equal(variation_rates(base, one, progress=False), variation_rates(base, many, progress=False))


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(match, base, variants):
    for method in (variation_rates, varied_parameters):
        with pytest.raises(ng.NeuroglotError, match=match) as error:
            method(base, variants, progress=False)
        assert "\n" not in str(error.value)


def test_another_shape_is_refused(base, tuned, tmp_path):
    wide = save(tiny.network(intermediate_size=32), tmp_path / "wide")
    refused("another shape than its base", base, {**tuned, "ru": wide})
    deep = save(tiny.network(num_hidden_layers=2), tmp_path / "deep")
    refused("has 2 layers and .* has 3", base, {**tuned, "ru": deep})


def test_no_change_at_all_is_refused(base, tuned):
    refused("said to be tuned on ru, has the weights of", base, {**tuned, "ru": base})


def test_an_adapter_without_its_base_is_refused(base, tuned, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "some/model"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": torch.ones(1)}, adapter / "adapter_model.safetensors")
    refused("adapter without its base; give the model it was trained on, some/model", adapter, tuned)
    with pytest.raises(ng.NeuroglotError, match="without its base"):
        Checkpoint(adapter)
    refused("has the weights of", base, {**tuned, "ru": adapter})  # it names none of the base's matrices
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    refused("not a plain LoRA", base, {**tuned, "ru": adapter})
    (adapter / "adapter_config.json").write_text("{")
    refused("adapter_config.json is damaged", base, {**tuned, "ru": adapter})


def test_what_is_no_checkpoint_is_refused(base, tuned, tmp_path):
    refused("There is no checkpoint", base, {**tuned, "ru": tmp_path / "nowhere"})
    (tmp_path / "empty").mkdir()
    refused("neither config.json nor", base, {**tuned, "ru": tmp_path / "empty"})
    refused("at least two", base, {"en": tuned["en"]})
    with pytest.raises(ng.NeuroglotError, match="top_fraction"):
        ng.identify.parameter_variation(base, tuned, top_fraction=0)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tuned["en"].iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"no tensors")
    refused("is damaged", base, {**tuned, "ru": broken})
    weights = load_file(tuned["en"] / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors")
    refused("holds no weight model.layers.1.mlp.up_proj.weight", base, {**tuned, "ru": broken})


def test_parameters_of_another_model_are_refused():
    model = tiny.model()
    with (
        pytest.raises(ng.NeuroglotError, match="no weight model.layers.9"),
        zeroed(model, {"model.layers.9.x": torch.zeros(1).long()}),
    ):
        pass
    name = "model.layers.0.mlp.up_proj.weight"
    before = model.network.get_parameter(name).detach().clone()
    with (
        pytest.raises(ng.NeuroglotError, match="of another model"),
        zeroed(model, {name: torch.tensor([0])}, {name: torch.tensor([10**6])}),
    ):
        pass
    assert torch.equal(model.network.get_parameter(name), before)
