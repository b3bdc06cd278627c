"""Files with a right checksum and wrong contents, as somebody else's program may write them."""

import contextlib
import json
import math

import pytest
import shapes
import torch
from commands import notes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import neuroglot as ng
from breaking.attempts import attempts
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.evaluate.likelihood.lens import Lens
from neuroglot.storage.results import save_json
from neuroglot.storage.tensors import save_tensors

LOADERS = {
    "recording": ng.Recording.load,
    "neurons": ng.NeuronSet.load,
    "partition": ng.experts.Partition.load,
    "parameters": ParameterSet.load,
    "recipe": ng.Recipe.load,
    "recipe on drift": ng.Recipe.load,
    "lens": Lens.load,
}
WRITTEN = {"recipe on drift": "recipe"}
STEP = {"kind": "scale", "shape": [3, 4], "site": "hidden", "when": "both", "value": 2.0, "strength": None}
ABOUT = {
    "recording": {"languages": ["en", "fr"], "provenance": None},
    "neurons": {"languages": ["en", "fr"]},
    "partition": {"experts": 2},
    "parameters": {"languages": ["fr"]},
    "recipe": {"steps": [STEP], "fingerprint": "f", "about": {}},
    "recipe on drift": {
        "steps": [{**STEP, "kind": "addondrift", "site": "residual", "strength": 1.0, "value": None}],
        "fingerprint": "f",
        "about": {},
    },
    "lens": {"languages": ["fr"], "owners": ["fr", "shared"], "about": {}},
}
TENSORS = {
    "recording": {"tokens": torch.tensor([9, 8]), "active": torch.full((2, 3, 2), 3)},
    "neurons": {"mask": torch.ones(2, 3, 4, dtype=torch.bool)},
    "partition": {"labels": torch.tensor([[0, 1, 0, 1]])},
    "parameters": {"fr w": torch.tensor([1, 5])},
    "recipe": {"0.neurons": torch.tensor([[0, 1], [2, 3]], dtype=torch.int32)},
    "recipe on drift": {
        "0.neurons": torch.tensor([[0, 1], [2, 3]], dtype=torch.int32), "0.values": torch.ones(2, dtype=torch.float64),
        "0.probe": torch.ones(3, 4), "0.threshold": torch.ones(3),
    },
    "lens": {
        "mass.fr": torch.ones(5, 3, 2).double(), "likeliest.fr": torch.ones(5, 3, 2).double(),
        "entropy.fr": torch.ones(5, 3).double(), "nats.fr": torch.ones(5, 3).double(),
        "text.fr": torch.ones(2).double(),
    },
}  # fmt: skip

MANY = attempts(60, 5_000)
many = settings(
    max_examples=MANY,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([10**9, -1, 2**63]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
tensors = st.sampled_from(
    [
        torch.tensor([float("nan"), math.inf]), torch.zeros(0), torch.zeros(0, 2), torch.tensor(3), torch.ones(2, 3, 2),
        torch.tensor([[0, 9]]), torch.tensor([[-1, 0]]), torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 0]),
        torch.tensor([-4, 5]), torch.full((2, 3, 2), 99), torch.full((2, 3, 2), -1), torch.full((2, 3, 2), torch.nan),
        torch.ones(2, 3, 4, dtype=torch.uint8), torch.ones(1, 1, 1, dtype=torch.bool),
    ]
)  # fmt: skip


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value, path, new):
    if not path:
        return new
    copied = json.loads(json.dumps(value))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copied


def read(kind, path):
    """What a reader makes of a file: a value, or a sentence and nothing else."""
    found, said = None, str(path)
    with shapes.unchecked():
        try:
            found = LOADERS[kind](path)
        except ng.NeuroglotError as refusal:
            said = str(refusal)
    assert str(path) in said
    return found


@pytest.mark.parametrize("kind", LOADERS)
@many
@given(data=st.data())
def test_a_header_that_says_anything(tmp_path, tried, kind, data):
    tried("headers", MANY)
    about = ABOUT[kind]
    at = data.draw(st.sampled_from([place for place in places(about) if place]))
    path = save_tensors(
        tmp_path / "x.safetensors", WRITTEN.get(kind, kind), 1, TENSORS[kind], put(about, at, data.draw(anything))
    )
    check(kind, read(kind, path))


@pytest.mark.parametrize("kind", LOADERS)
@many
@given(data=st.data())
def test_tensors_that_are_anything(tmp_path, tried, kind, data):
    tried("tensors", MANY)
    name = data.draw(st.sampled_from([*TENSORS[kind], "0.values", "activation"]))
    held = {**TENSORS[kind], name: data.draw(tensors)}
    if data.draw(st.booleans()) and len(held) > 1:
        del held[data.draw(st.sampled_from(sorted(held)))]
    check(kind, read(kind, save_tensors(tmp_path / "x.safetensors", WRITTEN.get(kind, kind), 1, held, ABOUT[kind])))


@many
@given(data=st.data())
def test_losses_that_are_anything(tmp_path, tried, data):
    """Results in JSON: what is read can be computed with."""
    tried("results in JSON", 2 * MANY)
    nats = {"en": [1.0, 2.0], "fr": [3.0]}
    rows = {"en": nats, "fr": nats}
    sizes = {"en": 3, "fr": 4, "random": 3}
    row = {"en": 5.0, "fr": 6.0}
    whole = ng.evaluate.Perturbation(
        row, {"en": row}, {"0": row}, sizes, {"en": 9, "fr": 9}, 8, losses={"intact": {"": nats}, "off": rows}
    )
    about = {"method": "lape", "budget": 0.1, "part": "all"}
    many = Comparison(["en", "fr"], nats, {"lape": rows}, {"lape": sizes}, {"lape": about}, block=8)
    for value, use in ((whole, lambda found: (found.frame(), found.on_target)), (many, lambda found: found.summary())):
        said = vars(value)
        at = data.draw(st.sampled_from([place for place in places(said) if place]))
        path = save_json(tmp_path / "x.json", put(said, at, data.draw(anything)))
        with shapes.unchecked(), notes(), contextlib.suppress(ng.NeuroglotError):
            use(type(value).load(path))


@pytest.mark.parametrize("kind", ["recording", "neurons"])
def test_widths_of_layers_are_those_of_the_table(tmp_path, kind):
    table = torch.full((2, 3, 2), 3) if kind == "recording" else torch.ones(2, 2, 3, dtype=torch.bool)
    held = {**TENSORS[kind], "active" if kind == "recording" else "mask": table}
    beyond = table[1, 2:] if kind == "recording" else table[:, 1, 2:]

    def written(widths):
        about = {**ABOUT[kind], "widths": widths}
        return save_tensors(tmp_path / "x.safetensors", kind, 1, held, about)

    with pytest.raises(ng.NeuroglotError, match="beyond its layers' widths"):
        LOADERS[kind](written([3, 2]))
    beyond.zero_()
    assert LOADERS[kind](written([3, 2])).widths == (3, 2)
    for wrong in ([], [3], [2, 2], [3, -1], [3, 4], [3, 2.0], [3, True], "32", 7):
        with pytest.raises(ng.NeuroglotError, match="make it again"):
            LOADERS[kind](written(wrong))


@pytest.mark.parametrize("kind", LOADERS)
@many
@given(data=st.binary(max_size=200), size=st.integers(0, 2**64 - 1))
def test_bytes_that_are_anything(tmp_path, tried, kind, data, size):
    tried("files of random bytes", 3 * MANY)
    path = tmp_path / "x.safetensors"
    for content in (data, size.to_bytes(8, "little") + data, len(data).to_bytes(8, "little") + data):
        path.write_bytes(content)
        assert read(kind, path) is None


def test_no_neuron_is_without_an_expert(tmp_path):
    def written(labels):
        return save_tensors(
            tmp_path / "x.safetensors", "partition", 1, {"labels": torch.tensor(labels)}, {"experts": 2}
        )

    assert ng.experts.Partition.load(written([[0, 1, 0], [0, 1, -1]])).sizes.tolist() == [[2, 1], [1, 1]]
    for wrong in ([[0, 1, 0], [0, -1, 1]], [[-1, 0, 1], [0, 1, 0]], [[0, 1, -1], [0, 1, -1]]):
        with pytest.raises(ng.NeuroglotError, match="A neuron has no expert"):
            ng.experts.Partition.load(written(wrong))


def test_a_recipe_for_a_terabyte_is_refused_before_memory_is_asked_for(tmp_path):
    for shape in ([10**6, 10**6], [2**31, 2**31], [10**12, 1]):
        about = {**ABOUT["recipe"], "steps": [{**STEP, "shape": shape}]}
        path = save_tensors(tmp_path / "x.safetensors", "recipe", 1, TENSORS["recipe"], about)
        with pytest.raises(ng.NeuroglotError, match="does not hold a whole recipe"):
            ng.Recipe.load(path)


def check(kind, value):
    """What was read makes sense."""
    if value is None:
        return
    if kind == "recording":
        assert bool((value.tokens > 0).all()) and len(value.languages) == len(value.tokens)
        for sums in value.sums.values():
            assert bool(torch.isfinite(sums.double()).all())
            assert sums.dtype.is_floating_point or bool((sums >= 0).all())
    if kind == "lens":
        assert bool(value.curve()["nats"].notna().all()) and len(value.frame()) == value.layers * len(value.owners)
    if kind.startswith("recipe"):
        for step in value.steps:
            numbers = torch.as_tensor(getattr(step, "values", 0.0), dtype=torch.float64)
            assert step.neurons.ndim == 2 and bool(torch.isfinite(numbers).all())
