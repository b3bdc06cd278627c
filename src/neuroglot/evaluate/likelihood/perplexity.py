"""Perplexity by language, without ever holding the logits of a whole block."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuroglot.corpus.corpus import Corpus, check_is_corpus
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.devices import sent
from neuroglot.models.fitting import fitting_batches
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.progress import token_progress
from neuroglot.storage.given import takes_numbers
from neuroglot.tokens.packing import check_fills, pack, tokenize

__all__ = [
    "block_losses",
    "block_nll",
    "blocks_nll",
    "check_held_out",
    "finite_mean",
    "held_out_blocks",
    "increase_of",
    "mean_nll",
    "perplexity",
    "perplexity_of",
    "sum_nll",
    "token_losses",
    "token_nll",
]

LOGITS_AT_ONCE = 1 << 26  # tokens × vocabulary, in float32 a quarter of a GiB
AUTO_BLOCKS = (512, 256, 128, 64, 32)


@takes_numbers
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
        # a language is begun before the one before it is asked for: no device waits meanwhile
        found = {tag: _block_means(model, piece, tag, batch_tokens, advance) for tag, piece in blocks.items()}
        return {tag: perplexity_of(_mean(_finite(model, means, tag))) for tag, means in found.items()}


def held_out_blocks(
    model: Model | TextReader, corpus: Corpus, *, tokens: int, block: int | None
) -> dict[str, Int[Tensor, "blocks block"]]:
    """The packed blocks of each language; see `perplexity` for the arguments and what is raised."""
    check_is_corpus(corpus)
    if block is None:
        shortest = min(len(tokenize(model, corpus[tag], 4 * AUTO_BLOCKS[0])) for tag in corpus.languages)
        limit = min(model.context or AUTO_BLOCKS[0], tokens)  # a block of more than was asked for is refused
        fitting = [size for size in AUTO_BLOCKS if size <= limit and shortest >= 4 * size]
        block = fitting[0] if fitting else AUTO_BLOCKS[-1]
    check_fills(model, corpus, block, tokens)
    return {tag: pack(model, corpus[tag], tag, block=block, tokens=tokens) for tag in corpus.languages}


def check_held_out(reader: Model | TextReader, corpus: Corpus, *, tokens: int, block: int | None) -> None:
    """Refuse text that `perplexity` would refuse as too short, before weights are opened; arguments are as there.

    Raises:
        NeuroglotError: as said.
    """
    check_fills(reader, corpus, block or AUTO_BLOCKS[-1], tokens)


def perplexity_of(nll: float) -> float:
    """exp of a mean negative log-likelihood in nats; infinite where it is beyond the largest float (from 709.8 on).

    A model that is damaged enough gives its text such likelihoods. An infinite perplexity says so; one that is cut off
    would be a wrong number.
    """
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def increase_of(nats: float) -> float:
    """The relative change of perplexity, exp − 1, that a change of the mean likelihood makes; see `perplexity_of`."""
    try:
        return math.expm1(nats)
    except OverflowError:
        return math.inf


@takes_numbers
def block_losses(
    model: Model,
    corpus: Corpus,
    *,
    tokens: int = 100_000,
    block: int | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The loss of every block that `perplexity` reads, whose arguments and errors these are.

    Returns:
        A row a block: language, block (from 0), tokens (how many are predicted), nats (the mean negative
        log-likelihood of one of them). Blocks are of one size, so exp of a language's mean is its perplexity.
    """

    def rows(tag: str, piece: Tensor, advance: Callable[[int, str], None]) -> pd.DataFrame:
        nats = block_nll(model, piece, tag, batch_tokens, advance)
        return pd.DataFrame({"language": tag, "block": range(len(nats)), "tokens": piece.shape[1] - 1, "nats": nats})

    return _losses(held_out_blocks(model, corpus, tokens=tokens, block=block), rows, progress)


@torch.inference_mode()
@takes_numbers
def token_losses(
    model: Model,
    corpus: Corpus,
    *,
    tokens: int = 10_000,
    block: int | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The loss of every token that `perplexity` predicts, whose arguments and errors these are.

    Returns:
        A row a token: language, block (from 0), position in it (0 is never predicted), token (its number), text (as the
        tokenizer writes it alone), nats (its negative log-likelihood given what stands before it in the block).
    """

    def rows(tag: str, piece: Tensor, advance: Callable[[int, str], None]) -> pd.DataFrame:
        nats = torch.cat([nll.flatten() for nll in blocks_nll(model, piece, tag, batch_tokens, advance)]).cpu()
        finite_mean(model, float(nats.sum()), len(nats), tag)
        count, width = piece.shape[0], piece.shape[1] - 1
        number = piece[:, 1:].flatten().tolist()
        return pd.DataFrame(
            {
                "language": tag,
                "block": np.repeat(np.arange(count), width),
                "position": np.tile(np.arange(1, width + 1), count),
                "token": number,
                "text": model.tokenizer.batch_decode([[token] for token in number]),
                "nats": nats.numpy(),
            }
        )

    return _losses(held_out_blocks(model, corpus, tokens=tokens, block=block), rows, progress)


def _losses(
    blocks: Mapping[str, Tensor],
    rows: Callable[[str, Tensor, Callable[[int, str], None]], pd.DataFrame],
    progress: bool,
) -> pd.DataFrame:
    """The rows of every language's blocks, one language after another."""
    with token_progress("losses", sum(piece.numel() for piece in blocks.values()), shown=progress) as advance:
        return pd.concat([rows(tag, piece, advance) for tag, piece in blocks.items()], ignore_index=True)


def mean_nll(
    model: Model,
    blocks: Int[Tensor, "blocks block"],
    language: str,
    batch_tokens: int | None = None,
    advance: Callable[[int, str], None] = lambda tokens, what: None,
) -> float:
    """Mean negative log-likelihood (nats) of a block's tokens, each given those before it, over all blocks.

    Raises:
        NeuroglotError: a logit is not a number.
    """
    return _mean(block_nll(model, blocks, language, batch_tokens, advance))


@torch.inference_mode()
def block_nll(
    model: Model,
    blocks: Int[Tensor, "blocks block"],
    language: str,
    batch_tokens: int | None = None,
    advance: Callable[[int, str], None] = lambda tokens, what: None,
) -> list[float]:
    """Mean negative log-likelihood (nats) of the tokens of each block.

    The logits are made and reduced a few tokens at a time; means are float64.

    Raises:
        NeuroglotError: a logit is not a number.
    """
    return _finite(model, _block_means(model, blocks, language, batch_tokens, advance), language)


@torch.inference_mode()
def _block_means(
    model: Model, blocks: Tensor, language: str, batch_tokens: int | None, advance: Callable[[int, str], None]
) -> Float64[Tensor, " blocks"]:
    """As `block_nll`, on the device and not checked: nothing is waited for."""
    return torch.cat([nll.mean(1) for nll in blocks_nll(model, blocks, language, batch_tokens, advance)])


def _finite(model: Model, means: Tensor, language: str) -> list[float]:
    """The means, or a refusal."""
    losses: list[float] = means.tolist()
    finite_mean(model, sum(losses), len(losses), language)
    return losses


def _mean(losses: list[float]) -> float:
    return math.fsum(losses) / len(losses)


def blocks_nll(
    model: Model,
    blocks: Tensor,
    language: str,
    batch_tokens: int | None,
    advance: Callable[[int, str], None],
) -> Iterator[Float64[Tensor, "some predicted"]]:
    """The negative log-likelihood (nats) of every predicted token, a batch of blocks after another; not checked."""
    model.check_state()
    if not len(blocks) or blocks.shape[1] < 2:
        raise _nothing_to_predict(language)
    blocks, wanted = sent(blocks, model.device), blocks[:, 1:].to(torch.int64)

    def losses(part: slice) -> Tensor:
        nonlocal wanted
        batch = blocks[part]
        states = model.hidden_states(batch)[:, :-1].flatten(0, 1)
        # all at once: to a head on another device than the first layer, a copy for each batch would wait for both
        wanted = sent(wanted, states.device)
        nll = token_nll(model, states, wanted[part].flatten())
        return torch.cat([some.to(states.device, torch.float64) for some in nll]).view(len(batch), -1)

    for batch, found in fitting_batches(model, blocks, batch_tokens, losses):
        yield found
        advance(batch.numel(), language)


def sum_nll(
    model: Model, states: Float[Tensor, "tokens width"], targets: Int[Tensor, " tokens"]
) -> Float64[Tensor, ""]:
    """Sum of the negative log-likelihoods of targets, from last hidden states, a few tokens' logits at a time."""
    total = torch.zeros((), dtype=torch.float64, device=states.device)
    for nll in token_nll(model, states, targets):
        total += nll.sum(dtype=torch.float64).to(total.device)
    return total


def token_nll(model: Model, states: Tensor, targets: Tensor) -> Iterator[Float[Tensor, " some"]]:
    """A few tokens' logits at a time."""
    size = max(1, LOGITS_AT_ONCE // model.vocabulary)
    for some, wanted in zip(states.split(size), targets.split(size), strict=True):
        logits = model.logits(some).float()
        yield logits.logsumexp(-1) - logits.gather(1, wanted[:, None].to(logits.device)).squeeze(1)


def finite_mean(model: Model, total: float, count: int, language: str) -> float:
    """`total / count`, refused if there is nothing to take the mean of, or it is not a number.

    Raises:
        NeuroglotError: as said.
    """
    if not count:
        raise _nothing_to_predict(language)
    if not math.isfinite(total):
        raise NeuroglotError(
            f"{model.name} gives logits that are not numbers (NaN or infinite) on text in {language}; load it in "
            "float32 or bfloat16, or check its weights and the interventions in force."
        )
    return total / count


def _nothing_to_predict(language: str) -> NeuroglotError:
    """It is the text's fault, and not the model's."""
    return NeuroglotError(f"The text in {language} has no token that follows another, so nothing to predict; add text.")
