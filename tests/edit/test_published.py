"""Directions that others published, read and added."""

import pytest
import tiny
import torch
from safetensors.torch import save_file

import neuroglot as ng
from neuroglot.edit.published import load_directions, steer_along

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))


def test_every_shape_in_which_they_are_published(tmp_path):
    values = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    said = {
        "vector.fr.tiny": {"steering_vectors": values, "token_counts": torch.ones(3), "num_tokens": 9},
        "probe.fr.tiny": {"probes": {i: {"weight": values[i : i + 1], "bias": torch.zeros(1)} for i in range(3)}},
        "plain.pt": values,
    }
    for name, value in said.items():
        torch.save(value, tmp_path / name)
    save_file({f"layer.{i}": values[i].clone() for i in (0, 2)}, tmp_path / "some.safetensors", {"layers": "3"})
    save_file({"directions": values}, tmp_path / "one.safetensors")
    for name in (*said, "one.safetensors"):
        torch.testing.assert_close(load_directions(tmp_path / name), values.double())
    some = load_directions(tmp_path / "some.safetensors")
    torch.testing.assert_close(some, values.double() * torch.tensor([[1.0], [0.0], [1.0]]))


def test_what_is_none_is_refused(tmp_path):
    for name, value in (
        ("list.pt", [torch.ones(2)]), ("row.pt", torch.ones(4)), ("other.pt", {"a": torch.ones(2), "b": torch.ones(2)}),
        ("nan.pt", torch.full((2, 2), torch.nan)), ("code.pt", {"steering_vectors": pytest.raises}),
    ):  # fmt: skip
        torch.save(value, tmp_path / name)
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    for path in (*sorted(tmp_path.iterdir()), tmp_path / "gone"):
        with pytest.raises(ng.NeuroglotError, match=path.name):
            load_directions(path)


def test_a_published_direction_is_added_after_its_layers(tmp_path):
    model = tiny.model()
    values = torch.randn(model.layers, model.stream_width, generator=torch.Generator().manual_seed(0)).double()
    recipe = steer_along(model, values, layers=[1], strength=3.0, about={"to": "fr"})
    by_hand = ng.Add(recipe.steps[0].neurons, values / values.norm(dim=1, keepdim=True), 3.0, site="residual")
    assert recipe.digest == ng.Recipe([by_hand], model.fingerprint).digest and recipe.about["to"] == "fr"
    back = load_directions(recipe.export(tmp_path / "fr.safetensors"))
    assert float(back[1].norm()) == pytest.approx(3.0, rel=1e-6) and not back[[0, 2]].any()
    plain = steer_along(model, back, layers=[0, 1], unit=False)
    with torch.no_grad(), recipe.applied(model):
        steered = model.network(TOKENS).logits
    with torch.no_grad(), plain.applied(model):
        torch.testing.assert_close(model.network(TOKENS).logits, steered)
    for wrong, layers in ((values[:, :-1], [0]), (values, [9]), (values, []), (back, [0, 2])):
        with pytest.raises(ng.NeuroglotError):
            steer_along(model, wrong, layers=layers)
