"""Samples are cut to what a model reads, and a length beyond it is refused."""

import pytest
import tiny

import neuroglot as ng
from neuroglot.evaluate.likelihood.sample_perplexity import tokenized_samples


def test_samples_are_cut_to_what_the_model_reads_and_longer_ones_refused():
    model = tiny.model(max_position_embeddings=32)
    corpus = ng.Corpus({"en": ["a" * 500], "fr": ["b" * 10]})
    rows = tokenized_samples(model, corpus, samples=1)
    assert {tag: len(some[0]) for tag, some in rows.items()} == {"en": 32, "fr": 11}
    assert len(tokenized_samples(model, corpus, samples=1, length=20)["en"][0]) == 20
    with pytest.raises(ng.NeuroglotError, match="33 tokens, and tiny-llama reads 32; use a length of at most 32"):
        tokenized_samples(model, corpus, samples=1, length=33)
