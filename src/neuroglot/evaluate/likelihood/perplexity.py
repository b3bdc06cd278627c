"""Perplexity by language, without ever holding the logits of a whole block."""

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.progress import token_progress
from neuroglot.tokens.packing import pack, tokenize

__all__ = ["finite_mean", "held_out_blocks", "mean_nll", "perplexity", "sum_nll", "token_nll"]

LOGITS_AT_ONCE = 1 << 26  # tokens × vocabulary, in float32 a quarter of a GiB
AUTO_BLOCKS = (512, 256, 128, 64, 32)


def perplexity(
    model: Model,
    corpus: Corpus,
    *,
    tokens: int = 100_000,
    block: int | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> dict[str, float]:
    """Perplexity of each language: exp of the mean negative log-likelihood of a token, over packed blocks.

    Run it inside `intervene` to measure a changed model. BOS begins every block where the tokenizer puts one, and
    is never predicted.

    Args:
        model: intact or changed.
        corpus: text that was not recorded.
        tokens: at most so many tokens of each language.
        block: tokens a block, with BOS; by default the longest of 512, 256, … 32 of which every language fills four.
        batch_tokens: tokens a forward pass; by default 1,024 on a CPU and 16,384 on a GPU.
        progress: show a bar.

    Returns:
        language → perplexity.

    Raises:
        NeuroglotError: a language is too short for one block, or the model gives logits that are not numbers.
    """
    blocks = held_out_blocks(model, corpus, tokens=tokens, block=block)
    total = sum(piece.numel() for piece in blocks.values())
    with token_progress("perplexity", total, shown=progress) as advance:
        return {
            language: math.exp(mean_nll(model, piece, language, batch_tokens, advance))
            for language, piece in blocks.items()
        }


def held_out_blocks(
    model: Model, corpus: Corpus, *, tokens: int, block: int | None
) -> dict[str, Int[Tensor, "blocks block"]]:
    """The packed blocks of each language; see `perplexity` for the arguments and what is raised."""
    if block is None:
        shortest = min(len(tokenize(model, corpus[tag], 4 * AUTO_BLOCKS[0])) for tag in corpus.languages)
        limit = model.context or AUTO_BLOCKS[0]
        fitting = [size for size in AUTO_BLOCKS if size <= limit and shortest >= 4 * size]
        block = fitting[0] if fitting else AUTO_BLOCKS[-1]
    return {tag: pack(model, corpus[tag], tag, block=block, tokens=tokens) for tag in corpus.languages}


@torch.inference_mode()
def mean_nll(
    model: Model,
    blocks: Int[Tensor, "blocks block"],
    language: str,
    batch_tokens: int | None = None,
    advance: Callable[[int, str], None] = lambda tokens, what: None,
) -> float:
    """Mean negative log-likelihood (nats) of a block's tokens, each given those before it, over all blocks.

    The logits are made and reduced a few tokens at a time; sums are float64.

    Raises:
        NeuroglotError: a logit is not a number.
    """
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for batch in blocks.to(model.device).split(max(1, (batch_tokens or model.batch_tokens) // blocks.shape[1])):
        states = model.hidden_states(batch)[:, :-1].flatten(0, 1)
        targets = batch[:, 1:].flatten().to(states.device, torch.int64)
        total += sum_nll(model, states, targets).to(total.device)
        advance(batch.numel(), language)
    return finite_mean(model, float(total), blocks.shape[0] * (blocks.shape[1] - 1), language)


def sum_nll(
    model: Model, states: Float[Tensor, "tokens width"], targets: Int[Tensor, " tokens"]
) -> Float64[Tensor, ""]:
    """Sum of the negative log-likelihoods of targets, from last hidden states, a few tokens' logits at a time."""
    total = torch.zeros((), dtype=torch.float64, device=states.device)
    for nll in _token_nll(model, states, targets):
        total += nll.sum(dtype=torch.float64).to(total.device)
    return total


def token_nll(
    model: Model, states: Float[Tensor, "tokens width"], targets: Int[Tensor, " tokens"]
) -> Float64[Tensor, " tokens"]:
    """The negative log-likelihood (nats) of each target, on the CPU, from last hidden states."""
    return torch.cat([nll.double().cpu() for nll in _token_nll(model, states, targets)])


def _token_nll(model: Model, states: Tensor, targets: Tensor) -> Iterator[Float[Tensor, " some"]]:
    """A few tokens' logits at a time."""
    size = max(1, LOGITS_AT_ONCE // model.vocabulary)
    for some, wanted in zip(states.split(size), targets.split(size), strict=True):
        logits = model.logits(some).float()
        yield logits.logsumexp(-1) - logits.gather(1, wanted[:, None].to(logits.device)).squeeze(1)


def finite_mean(model: Model, total: float, count: int, language: str) -> float:
    """`total / count`, refused if it is not a number.

    Raises:
        NeuroglotError: as said.
    """
    if not math.isfinite(total):
        raise NeuroglotError(
            f"{model.name} gives logits that are not numbers (NaN or infinite) on text in {language}; load it in "
            "float32 or bfloat16, or check its weights and the interventions in force."
        )
    return total / count
