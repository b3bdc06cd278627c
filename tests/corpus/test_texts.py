"""Texts as scripts give them: a list, an array, a generator; and one text is never its letters."""

import re

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.corpus import check_is_corpus
from neuroglot.corpus.texts import check_texts, text_or_none

TEXT = "le chat dort près de la fenêtre"


def test_one_text_is_never_its_letters(tmp_path):
    model = tiny.model()
    (tmp_path / "fr.txt").write_text(TEXT, encoding="utf-8")
    for use in (
        lambda: ng.evaluate.generate(model, TEXT),
        lambda: ng.evaluate.language_confusion(TEXT, "fr", identify=lambda line: "fr"),
        lambda: ng.evaluate.LikelihoodRule(model, {"fr": TEXT}),
        lambda: ng.evaluate.amplification(model, ng.NeuronSet(torch.ones(1, *model.shape("hidden")) > 0, ["fr"]),
                                          {"fr": TEXT}),
        lambda: ng.Corpus({"fr": TEXT}),
        lambda: ng.load_corpus(tmp_path, languages="fr"),
        lambda: ng.NeuronSet.load(tmp_path / "none.safetensors", languages="fr"),
    ):  # fmt: skip
        with pytest.raises(ng.NeuroglotError, match=r"a list.*(put one text|put it) into a list"):
            use()


def test_a_generator_is_read_as_often_as_it_is_needed(tmp_path):
    corpus = ng.Corpus({"fr": (f"{TEXT} {i}" for i in range(4))})
    assert [*corpus["fr"]] == [*corpus["fr"]] and len([*corpus["fr"]]) == 4
    model = tiny.model()
    assert ng.evaluate.generate(model, (text for text in (TEXT, "chat")), tokens=2) == ng.evaluate.generate(
        model, np.array([TEXT, "chat"]), tokens=2
    )
    for tag in ("en", "fr"):
        (tmp_path / f"{tag}.txt").write_text(TEXT, encoding="utf-8")
    assert ng.load_corpus(tmp_path, languages=(tag for tag in ("fr", "en"))).languages == ("fr", "en")
    assert ng.load_corpus(tmp_path, languages={"fr", "en"}).languages == ("en", "fr")  # a set has no order of its own


def test_an_empty_cell_is_no_text_and_a_number_is_refused():
    cells = pd.DataFrame({"fr": [TEXT, np.nan, None, " "]})
    assert [*ng.Corpus({"fr": cells["fr"]})["fr"]] == [TEXT]
    with pytest.raises(ng.NeuroglotError, match="is text, and not 3"):
        text_or_none(3)
    with pytest.raises(ng.NeuroglotError, match="takes a list of texts, not a int"):
        check_texts(3, "prompts")


def test_samples_without_keys_are_not_lost():
    texts = {"en": ["a", "b", "c"], "fr": ["d", "e", "f"]}
    assert [key for key, _ in ng.Corpus(texts, parallel=True, keys=["x", "y", "z"]).samples()] == ["x", "y", "z"]
    with pytest.raises(ng.NeuroglotError, match="more samples than keys"):
        [*ng.Corpus(texts, parallel=True, keys=["x", "y"]).samples()]


def test_values_by_language_are_walked_as_dictionaries_are():
    corpus, neurons = tiny.corpus(), ng.NeuronSet(torch.ones(2, 1, 3) > 0, ["en", "fr"])
    assert [*corpus] == [*corpus.languages] and [*neurons] == ["en", "fr"]
    assert "FR" in neurons and "de" not in neurons and 0 not in neurons and "en" in corpus and "?" not in corpus


def test_what_is_no_corpus_is_refused_in_a_sentence():
    for text, remedy in (("my-texts", "ng.load_corpus"), ({"fr": [TEXT]}, "ng.Corpus")):
        with pytest.raises(ng.NeuroglotError, match=re.escape(remedy)):
            check_is_corpus(text)
