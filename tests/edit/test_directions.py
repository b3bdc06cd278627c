"""Directions of the residual stream against plain loops, and steps on the stream against a layer written by hand."""

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

import neuroglot as ng
from neuroglot.edit.directions import diffmean, lda, probe, shuffled, sparse_dimensions
from neuroglot.evaluate.steering.forcing import Steering
from neuroglot.generation.settings import Generation
from neuroglot.models.architecture.hooks import observe_residual
from neuroglot.tokens.packing import pack

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))
STATISTICS = ("active", "activation", "hidden", "residual")


def streams(model, tokens, *steps):
    """The stream after each layer."""
    seen: list = []
    with (
        torch.no_grad(),
        ng.intervene(model, *steps),
        observe_residual(model.ffns, lambda i, s: seen.append(s.clone())),
    ):
        logits = model.network(tokens).logits
    return seen, logits


@pytest.fixture(scope="module")
def recorded():
    model = tiny.model()
    return model, ng.record(model, tiny.corpus(), block=16, statistics=STATISTICS, progress=False)


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(3, 20, 2, 6, generator=generator) + torch.randn(3, 1, 2, 6, generator=generator)
    vectors = torch.rand(3, 20, 8, generator=generator)
    return ng.Samples.from_vectors(vectors, ["en", "fr", "zh"], layers=2, states=states)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_step_on_the_stream_is_a_layer_whose_output_is_changed(family):
    """The layers after it read the sum, as if the layer had given it."""
    model = tiny.model(family)
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(model.layers, model.stream_width, generator=generator)
    mask = torch.zeros(values.shape, dtype=torch.bool)
    mask[1] = torch.rand(model.stream_width, generator=generator) < 0.5
    before, intact = streams(model, TOKENS)
    for step, by_hand in (
        (ng.Add(mask, values, 2.0, site="residual"), lambda x: torch.where(mask[1], x + 2 * values[1], x)),
        (ng.Replace(mask, values, site="residual"), lambda x: torch.where(mask[1], values[1], x)),
    ):
        after, logits = streams(model, TOKENS, step)
        torch.testing.assert_close(after[0], before[0])
        torch.testing.assert_close(after[1], by_hand(before[1]))
        layer = model.ffns[1].layer
        own = layer.forward

        def written(*args, own=own, by_hand=by_hand, **named):
            output = own(*args, **named)
            return (by_hand(output[0]), *output[1:]) if isinstance(output, tuple) else by_hand(output)

        layer.forward = written
        try:
            torch.testing.assert_close(streams(model, TOKENS)[1], logits)
        finally:
            del layer.forward
    torch.testing.assert_close(streams(model, TOKENS)[1], intact)


def test_the_sums_are_those_of_a_loop_over_tokens(recorded):
    model, recording = recorded
    plain = ng.record(model, tiny.corpus(), block=16, progress=False)
    assert set(plain.sums) == set(STATISTICS) - {"residual"}
    assert all(torch.equal(plain.sum(name), recording.sum(name)) for name in plain.sums)
    total = recording.sum("residual")
    assert tuple(total.shape) == (model.layers, model.stream_width, len(recording.languages))
    for k, tag in enumerate(recording.languages):
        found = torch.zeros(total.shape[:2], dtype=torch.float64)
        for block in pack(model, tiny.corpus()[tag], tag, block=16, tokens=1_000_000):
            for layer, states in enumerate(streams(model, block[None])[0]):
                for token in states[0, model.uncounted :]:
                    found[layer] += token.double()
        torch.testing.assert_close(total[..., k], found, rtol=1e-5, atol=1e-5)


def test_diffmean_is_the_mean_less_the_others_mean(recorded):
    _, recording = recorded
    found = diffmean(recording, "fr")
    means = [recording.sum("residual")[..., k] / int(n) for k, n in enumerate(recording.tokens)]
    place = recording.languages.index("fr")
    others = [mean for k, mean in enumerate(means) if k != place]
    torch.testing.assert_close(found, means[place] - sum(others) / len(others))


def test_diffmean_of_two_equal_languages_is_zero(recorded):
    _, recording = recorded
    one = recording.select(["fr"]).sums
    sums = {name: torch.cat([values, values], -1) for name, values in one.items()}
    tokens = recording.select(["fr"]).tokens.repeat(2)
    twice = ng.Recording.from_counts(
        sums.pop("active"), tokens, ["fr", "en"], **{name: values for name, values in sums.items()}
    )
    assert bool((diffmean(twice, "fr") == 0).all())


def test_lda_is_a_plain_loop(samples):
    found = lda(samples, "fr", 0.3)
    states = samples.states.double()
    for layer in range(2):
        x = states[:, :, layer]
        scatter = torch.zeros(6, 6, dtype=torch.float64)
        for k in range(3):
            for row in x[k]:
                scatter += torch.outer(row - x[k].mean(0), row - x[k].mean(0)) / 60
        mixed = 0.7 * scatter + 0.3 * scatter.trace() / 6 * torch.eye(6)
        way = x[1].mean(0) - (x[0].mean(0) + x[2].mean(0)) / 2
        unit = torch.linalg.inv(mixed) @ way
        unit = unit / unit.norm()
        torch.testing.assert_close(found[layer], (unit @ way) * unit)


def test_a_probe_is_where_the_loss_has_no_slope(samples):
    found = probe(samples, "zh", 2.0)
    states = samples.states.double()
    side = torch.zeros(3, 20)
    side[2] = 1
    for layer in range(2):
        x = states[:, :, layer].flatten(0, 1)
        x = (x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()
        y, w, b = side.flatten().double(), torch.zeros(6, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        weight = torch.where(y > 0, 0.5 / 20, 0.5 / 40).double()
        for _ in range(20_000):  # plain gradient descent
            error = weight * (torch.sigmoid(x @ w + b) - y)
            w, b = w - 0.5 * (x.T @ error + 2.0 / 60 * w), b - 0.5 * error.sum()
        assert float(torch.cosine_similarity(w, found[layer], 0)) > 1 - 1e-9


def test_sparse_dimensions_are_the_farthest(recorded):
    _, recording = recorded
    far = diffmean(recording, "fr").abs()
    chosen = sparse_dimensions(recording, "fr", 5)
    for layer in range(len(far)):
        assert set(chosen[layer].nonzero().flatten().tolist()) == set(far[layer].topk(5).indices.tolist())
    (step,) = ng.steer(recording, to="fr", method="sparse", layers=[1]).steps
    assert int(step.neurons.sum()) == round(far.shape[1] * 400 / 4096) == int(step.neurons[1].sum())


def test_steering_saves_loads_and_refuses(recorded, tmp_path, neurons):
    model, recording = recorded
    recipe = ng.steer(recording, to="fr", method="diffmean", layers=[1], strength=4.0)
    (step,) = recipe.steps
    assert step.site == "residual" and int(step.neurons.sum()) == model.stream_width
    loaded = ng.Recipe.load(recipe.save(tmp_path / "fr.safetensors"))
    assert loaded.digest == recipe.digest
    with loaded.applied(model):
        steered = streams(model, TOKENS)[1]
    expected = streams(model, TOKENS)[0][1] + 4 * diffmean(recording, "fr")[1].float()
    torch.testing.assert_close(streams(model, TOKENS, *recipe.steps)[0][1], expected)
    both = ng.steer(recording, neurons, to="fr", source="en", method="diffmean", strength=0.0)
    only = ng.steer(recording, neurons, to="fr", source="en")
    torch.testing.assert_close(streams(model, TOKENS, *both.steps)[1], streams(model, TOKENS, *only.steps)[1])
    assert not torch.allclose(steered, streams(model, TOKENS)[1])
    with pytest.raises(ng.NeuroglotError, match="other weights"):
        recipe.check(tiny.model(seed=9))
    for wrong in (
        {"method": "replace"}, {"source": "en"}, {"method": "probe"}, {"when": "never"}, {"strength": torch.nan},
        {"layers": []}, {"layers": [9]},
    ):  # fmt: skip
        with pytest.raises(ng.NeuroglotError):
            ng.steer(recording, to="fr", **{"method": "diffmean", **wrong})
    with pytest.raises(ng.NeuroglotError, match="residual"):
        ng.steer(ng.record(model, tiny.corpus(), block=16, progress=False), to="fr", method="diffmean")


@pytest.mark.parametrize("when", ["prompt", "generated"])
def test_when_says_on_which_tokens(recorded, when):
    from neuroglot.edit.positions import prompt_length

    model, recording = recorded
    steps = ng.steer(recording, to="fr", method="diffmean", layers=[1], when=when).steps
    before = streams(model, TOKENS)[0][1]
    with prompt_length(model, 4):
        moved = (streams(model, TOKENS, *steps)[0][1] != before).any(-1)
    assert bool((moved == ((torch.arange(9) < 4) == (when == "prompt"))).all())


def test_recipes_join_and_a_random_baseline_is_as_long(recorded, neurons):
    _, recording = recorded
    first, second = ng.steer(recording, neurons, to="fr"), ng.steer(recording, to="fr", method="diffmean")
    assert (first + second).steps == (*first.steps, *second.steps)
    with pytest.raises(ng.NeuroglotError, match="different models"):
        first + ng.Recipe((), "other")
    random = shuffled(second.steps[0], 3)
    torch.testing.assert_close(random.values.norm(dim=1), second.steps[0].values.norm(dim=1))
    assert not torch.equal(random.values, second.steps[0].values)


def test_forcing_by_a_direction(recorded, neurons):
    model, recording = recorded
    table = ng.evaluate.force(
        model, recording, neurons, {"en": ["the cats"]}, targets=["fr"], how=Steering(method="diffmean", layers=(1,)),
        generation=Generation(tokens=4), progress=False,
    )  # fmt: skip
    assert list(table["condition"]) == ["intact", "source off", "raised", "both", "random"]


def test_a_setting_with_neurons_is_both_recipes(recorded, neurons):
    _, recording = recorded
    how = Steering(method="diffmean", strength=2.0, layers=(1,), raised="difference", site="hidden")
    moved = ng.steer(recording, to="fr", method="diffmean", strength=2.0, layers=[1])
    changed = ng.steer(recording, neurons, to="fr", source="en", method="difference", site="hidden")
    assert how.recipe(recording, neurons, "fr", "en").digest == (changed + moved).digest
    off = ng.steer(recording, neurons, source="en", site="hidden")
    assert how.recipe(recording, neurons, None, "en").digest == off.digest
    assert how.words() == "difference at hidden + diffmean × 2 at residual, layer 2"


def test_fits_of_some_layers_are_those_of_all(samples):
    for fit in (probe, lda):
        found = fit(samples, "fr", layers=[1])
        torch.testing.assert_close(found[1], fit(samples, "fr")[1])
        assert not found[0].any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite", "mistral"])
def test_a_baked_direction_gives_the_same_logits_or_is_refused(family, tmp_path):
    model = tiny.model(family)
    values = torch.randn(model.layers, model.stream_width, generator=torch.Generator().manual_seed(3))
    step = ng.Add(torch.ones_like(values, dtype=torch.bool), values, 0.5, site="residual")
    before = streams(model, TOKENS)[1]
    if family != "mistral":
        baked = ng.load_model(ng.bake(model, step, tmp_path / "baked"))
        torch.testing.assert_close(streams(baked, TOKENS)[1], streams(model, TOKENS, step)[1], rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(ng.NeuroglotError, match="keep"):
            ng.bake(model, step, tmp_path / "baked")
        assert not (tmp_path / "baked").exists()
    assert torch.equal(streams(model, TOKENS)[1], before)


def test_a_factor_behind_the_ffn_refuses_a_bias(tmp_path):
    model = tiny.model("gpt2")
    mlp = model.ffns[1].layer.mlp
    handle = mlp.register_forward_hook(lambda module, _, output: 0.9 * output)
    values = torch.ones(model.layers, model.stream_width)
    with pytest.raises(ng.NeuroglotError, match="normed or scaled"):
        ng.bake(model, ng.Add(values > 0, values, site="residual"), tmp_path / "baked")
    handle.remove()
    for wrong in (
        ng.Scale(values > 0, 2.0, site="residual"),
        ng.Add(values > 0, values, site="residual", when="prompt"),
    ):
        with pytest.raises(ng.NeuroglotError):
            ng.bake(model, wrong, tmp_path / "baked")


def test_an_exported_control_vector_added_by_hand_gives_the_steered_logits(recorded, tmp_path, neurons):
    """As llama.cpp does: `direction.i` is added to what layer i gives."""
    gguf = pytest.importorskip("gguf")
    model, recording = recorded
    recipe = ng.steer(recording, to="fr", method="diffmean", layers=[1, 2], strength=4.0)
    reader = gguf.GGUFReader(recipe.export(tmp_path / "fr.gguf"))
    assert reader.get_field("general.architecture").contents() == "controlvector"
    read = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert set(read) == {"direction.1", "direction.2"}
    handles = [
        model.ffns[layer].layer.register_forward_hook(
            lambda module, _, output, vector=read[f"direction.{layer}"]: output + vector
        )
        for layer in (1, 2)
    ]
    by_hand = streams(model, TOKENS)[1]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(by_hand, streams(model, TOKENS, *recipe.steps)[1])
    plain = load_file(recipe.export(tmp_path / "fr.safetensors"))
    assert all(torch.equal(plain[f"layer.{layer}"], read[f"direction.{layer}"]) for layer in (1, 2))
    for wrong, why in (
        (ng.steer(recording, to="fr", method="diffmean"), "first layer"),
        (ng.steer(recording, to="fr", method="sparse", layers=[1]), "constant"),
        (ng.steer(recording, to="fr", method="diffmean", layers=[1], when="prompt"), "all"),
        (ng.steer(recording, neurons, to="fr"), "neurons"),
    ):
        with pytest.raises(ng.NeuroglotError, match=why):
            wrong.export(tmp_path / "no.gguf")
    assert not (tmp_path / "no.gguf").exists()


def test_layers_may_come_in_any_form_and_are_never_none(recorded):
    _, recording = recorded
    wanted = ng.steer(recording, to="fr", method="diffmean", layers=[1]).steps[0]
    for layers in (1, (1,), range(1, 2), np.array([1]), (layer for layer in [1])):
        step = ng.steer(recording, to="fr", method="diffmean", layers=layers).steps[0]
        assert torch.equal(step.neurons, wanted.neurons) and torch.equal(step.values, wanted.values)
    for layers, words in (
        ([], "names no layer"), ([-1], "numbered from 0"), ([99], "numbered from 0"), ([True, False], "numbered from"),
        ((layer for layer in []), "names no layer"),
    ):  # fmt: skip
        with pytest.raises(ng.NeuroglotError, match=words):
            ng.steer(recording, to="fr", method="diffmean", layers=layers)
    with pytest.raises(ng.NeuroglotError, match="strength must be a number, not nan"):
        ng.steer(recording, to="fr", method="diffmean", strength=float("nan"))
