"""Perplexity over samples that are not packed: each on its own, cut to a length."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.corpus.corpus import Corpus, check_is_corpus
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.perplexity import finite_mean, perplexity_of, sum_nll
from neuroglot.models.fitting import fitting_tokens, rows_within
from neuroglot.models.model import Model
from neuroglot.storage.given import takes_numbers

__all__ = ["TokenRows", "mean_sample_nll", "sample_perplexity", "tokenized_samples"]

LENGTH = 200
"""Tokens a sample at most, as in Liu et al. (2024, §4.5); fewer where a model cannot read as many."""

TokenRows = list[Int[Tensor, " _"]]  # each of its own length


def tokenized_samples(model: Model, corpus: Corpus, *, samples: int, length: int | None = None) -> dict[str, TokenRows]:
    """The first samples of each language, BOS in front where the tokenizer puts one, shortest first.

    Each is cut to `length` tokens, by default to 200 or as many as the model reads.

    Raises:
        NeuroglotError: no sample of a language has two tokens, or the model cannot read samples so long.
    """
    check_is_corpus(corpus)
    first = list(model.begin)
    length = length or min(LENGTH, model.context or LENGTH)
    model.check_length(length, "A sample of that length", f"use a length of at most {model.context}")
    result = {}
    for tag in corpus.languages:
        rows: TokenRows = []
        for text in corpus[tag]:
            (ids,) = model.encode([text], length - len(first))
            if len(first) + len(ids) >= 2:
                rows.append(torch.tensor([*first, *ids]))
            if len(rows) == samples:
                break
        if not rows:
            raise NeuroglotError(f"No sample in {tag} has two tokens to predict one from the other; add text.")
        result[tag] = sorted(rows, key=len)
    return result


@torch.inference_mode()
def mean_sample_nll(
    model: Model,
    samples: TokenRows,
    language: str,
    *,
    batch_tokens: int | None = None,
    advance: Callable[[int, str], None] = lambda tokens, what: None,
) -> float:
    """Mean negative log-likelihood (nats) of a token, over all samples together; padding is never counted.

    A forward pass takes `batch_tokens`, by default 1,024 on a CPU and 16,384 on a GPU.

    Raises:
        NeuroglotError: a logit is not a number.
    """
    model.check_state()
    total, count, start = 0.0, 0, 0
    sizes = [len(row) for row in samples]  # the shortest come first

    def some(start: int, at_once: int) -> tuple[int, float, int, int]:
        """From a sample on: where the batch stops, its summed nats, and how many tokens were predicted and read."""
        stop = start + len(rows_within(range(start, len(samples)), sizes, at_once))
        batch = samples[start:stop]
        tokens = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        lengths = torch.tensor([len(row) for row in batch])
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        states = model.hidden_states(tokens, mask.to(torch.int64))[:, :-1]
        wanted = mask[:, 1:]
        targets = tokens[:, 1:][wanted].to(states.device)
        nats = float(sum_nll(model, states[wanted.to(states.device)], targets))
        return stop, nats, len(targets), int(lengths.sum())

    while start < len(samples):
        run = partial(some, start)
        start, nats, predicted, read = fitting_tokens(model, run, batch_tokens, least=len(samples[start]))
        total += nats
        count += predicted
        advance(read, language)
    return finite_mean(model, total, count, language)


@takes_numbers
def sample_perplexity(
    model: Model, corpus: Corpus, *, samples: int = 1_000, length: int | None = None, batch_tokens: int | None = None
) -> dict[str, float]:
    """Perplexity of each language over samples of at most 200 tokens (Liu et al. 2024, §4.5); see `perplexity`.

    Raises:
        NeuroglotError: a language has no sample, or the model gives logits that are not numbers.
    """
    made = tokenized_samples(model, corpus, samples=samples, length=length)
    return {
        tag: perplexity_of(mean_sample_nll(model, rows, tag, batch_tokens=batch_tokens)) for tag, rows in made.items()
    }
