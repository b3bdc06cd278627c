"""Every value gives a DataFrame."""

import tiny
import torch

import neuroglot as ng
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.evaluate.benchmarks.harness import TaskScore
from neuroglot.experts.similarity import compare
from neuroglot.stats import contrast, mantel, paired
from neuroglot.tokens.counts import TokenLanguages, token_counts


def test_of_tokens(model):
    corpus = tiny.corpus()
    owners = TokenLanguages.of(token_counts(model, corpus, 500), corpus.languages)
    table = owners.frame(model.tokenizer)
    assert table.owner.value_counts().to_dict() == owners.sizes()
    assert list(table) == ["token", "owner", "text"] and len(table) == model.vocabulary
    assert list(owners.frame()) == ["token", "owner"]


def test_of_parameters_and_similarities():
    places = {"fr": {"a": torch.tensor([1, 4]), "b": torch.tensor([0])}, "ru": {"a": torch.tensor([2])}}
    assert ParameterSet(places).frame().groupby(["language", "parameter"]).size().tolist() == [2, 1, 1]
    found = compare(torch.rand(2, 3, 4, dtype=torch.float64))
    table = found.frame(["fr", "ru"]).set_index(["language", "other"])
    assert table.kl["fr", "ru"] == float(found.kl[0, 1])


def test_of_examples(model):
    made = ng.record(model, tiny.corpus(), block=16, examples=2, progress=False)
    table = made.examples.frame(made.languages, 1, 3)
    assert set(table.language) <= set(made.languages) and set(table["rank"]) <= {1, 2}
    first = made.examples.of(0, 1, 3)
    assert table[table.language == "en"].value.tolist() == [each.value for each in first]


def test_of_contrasts_and_tasks():
    found = contrast([3.0, 4.0, 5.0], [1.0, 2.0, 1.5])
    distance = torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    others = [paired([0.0, 1.0, 1.0], [1.0, 1.0, 0.5]), mantel(distance, distance, permutations=9)]
    for each in (found, *others):
        assert each.frame().iloc[0].to_dict() == vars(each)
    score = TaskScore("x", "1", 0, {"acc,none": 0.5, "acc_norm,none": 0.25}, {"acc,none": 0.1}, [])
    table = score.frame().set_index("metric")
    assert table.value["acc_norm,none"] == 0.25 and table.stderr.isna().tolist() == [False, True]
