"""A flipped bit, anywhere in any kind of file that is read back, is refused with a sentence."""

import random
from dataclasses import replace

import pandas as pd
import pytest
import torch

import neuroglot as ng
from breaking.attempts import attempts
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.artifacts.provenance import Provenance
from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.benchmarks.harness import TaskScore
from neuroglot.storage.atomic import read_json
from neuroglot.storage.results import ResultCache, save_json
from neuroglot.storage.tables import load_table, save_table

PERTURBATION = Perturbation(
    {"fr": 12.5}, {"fr": {"fr": 99.5}}, {"0": {"fr": 13.0}}, {"fr": 4, "random": 4}, {"fr": 60}, 16
)


def recording():
    made = ng.Recording.from_counts(torch.full((1, 4, 2), 3), [9, 8], ["en", "fr"])
    return replace(made, provenance=Provenance(model="m", fingerprint="f", tokenizer="t", block=16))


def samples(path):
    ng.Samples.from_vectors(torch.rand(2, 3, 8) + 0.1, ["en", "fr"], layers=2).save(path)
    return path


def recipe():
    return ng.Recipe([ng.Scale(torch.eye(3, 4, dtype=torch.bool), 1.0)], "f", {"to": "fr"})


def cache(path):
    ResultCache(path.parent).keep(path.stem, {"answers": ["oui"], "likely": [[1.5, 2]]})


def from_cache(path):
    if ResultCache(path.parent).find(path.stem, lambda kept: "answers" in kept) is None:
        raise ng.NeuroglotError("made again")


def from_json(path):
    if read_json(path) is None:
        raise ng.NeuroglotError("made again")


def sidecar(path):
    return path.with_name(f".{path.name}.sha256")


TABLE = pd.DataFrame({"choice": ["share 0.5"], "language": ["fr"], "experts": [12.25]})
SCORE = TaskScore("t", "1", 0, {"acc,none": 0.5}, {}, [])

KINDS = {
    "recording.safetensors": (lambda path: recording().save(path), ng.Recording.load),
    "neurons.safetensors": (
        lambda path: ng.NeuronSet(torch.rand(2, 3, 4) < 0.5, ["en", "fr"], {"method": "lape"}).save(path),
        ng.NeuronSet.load,
    ),
    "partition.safetensors": (
        lambda path: ng.experts.Partition(torch.tensor([[0, 1, 0, 1]]), 2).save(path),
        ng.experts.Partition.load,
    ),
    "parameters.safetensors": (
        lambda path: ParameterSet({"fr": {"w": torch.tensor([1, 5])}}, {"top_fraction": 0.1}).save(path),
        ParameterSet.load,
    ),
    "recipe.safetensors": (lambda path: recipe().save(path), ng.Recipe.load),
    "perturbation.json": (PERTURBATION.save, Perturbation.load),
    "comparison.json": (Comparison(["fr"], {"fr": [1.25]}, block=16).save, Comparison.load),
    "task.json": (lambda path: SCORE.save(path, {"limit": 4}), TaskScore.load),
    "cell.json": (cache, from_cache),
    "tuning.json": (lambda path: save_json(path, {"loss": 1.0, "seconds": 2.0}), from_json),
    "pruning.csv": (lambda path: save_table(path, TABLE), load_table),
}
"""Name of a file → how it is written, and how it is read."""


@pytest.mark.parametrize("name", KINDS)
def test_every_flipped_bit_is_refused(tmp_path, tried, name):
    path = tmp_path / name
    write, read = KINDS[name]
    write(path)
    read(path)
    tried("flipped bits", flip_each(path, lambda: read(path)))


@pytest.mark.parametrize("name", ["samples.json", "vectors.npy"])
def test_of_samples_too(tmp_path, tried, name):
    path = samples(tmp_path / "samples")
    ng.Samples.load(path)
    tried("flipped bits", flip_each(path / name, lambda: ng.Samples.load(path)))


def test_what_lies_beside_a_table_as_well(tmp_path, tried):
    path = save_table(tmp_path / "pruning.csv", TABLE)
    tried("flipped bits", flip_each(sidecar(path), lambda: load_table(path)))


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_ends_early_or_late_is_refused(tmp_path, tried, name):
    path = tmp_path / name
    write, read = KINDS[name]
    write(path)
    good = path.read_bytes()
    cuts = (b"", good[:1], good[: len(good) // 2], good[:-1], good + b"\0", good + b" x", b"\0" * len(good))
    tried("cut or longer files", len(cuts))
    for bad in cuts:
        path.write_bytes(bad)
        with pytest.raises(ng.NeuroglotError):
            read(path)


def flip_each(path, read):
    good = path.read_bytes()
    every = range(8 * len(good))
    bits = random.Random(0).sample(every, min(attempts(80, 8_000), len(every)))
    for bit in bits:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(ng.NeuroglotError) as refusal:
            read()
        assert "\n" not in str(refusal.value).strip()
    path.write_bytes(good)
    read()
    return len(bits)
