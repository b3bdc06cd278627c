"""Bits a character: how well a model knows a text, whatever its tokenizer."""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float64
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.perplexity import blocks_nll, finite_mean
from neuroglot.models.model import Model
from neuroglot.models.tokenization import pieces

__all__ = ["bits_by_piece", "bits_per_character"]

PIECE = 2_000
"""Characters of a piece at most: what an interval takes as one."""


def bits_per_character(
    model: Model, documents: Iterable[str], language: str, *, characters: int = 50_000, block: int = 512
) -> float:
    """The negative log-likelihood of a text in bits, over its characters (code points).

    Perplexity is of a token, so it does not compare models whose tokenizers differ; this does.

    Args:
        model: intact or changed.
        documents: text that nothing was fitted on; a line break joins them.
        language: what the text is called in messages.
        characters: the first so many are read.
        block: tokens a block. `Model.begin` stands before each; where nothing does, a block's first token is given.

    Raises:
        NeuroglotError: there is no text, or the model gives logits that are not numbers.
    """
    found, length = bits_by_piece(model, documents, language, characters=characters, block=block)
    return float(found.sum()) / length


@torch.inference_mode()
def bits_by_piece(
    model: Model, documents: Iterable[str], language: str, *, characters: int = 50_000, block: int = 512
) -> tuple[Float64[Tensor, " pieces"], int]:
    """The bits of each piece of a text: some 2,000 characters, up to a line break where there is one.

    Two models whose tokenizers differ have the same pieces, so that `stats.ratio_interval` compares them. Arguments and
    errors are those of `bits_per_character`.

    Returns:
        The bits of each piece, given what stands before it in its block; and how many characters all have.
    """
    parts, length = [], 0
    for document in documents:
        parts.append(document)
        length += len(document) + 1
        if length >= characters:
            break
    text = "\n".join(parts)[:characters]
    encoded = model.encode(list(pieces(text, PIECE)))
    ids = [token for piece in encoded for token in piece]
    of_piece = torch.repeat_interleave(torch.arange(len(encoded)), torch.tensor([len(piece) for piece in encoded]))
    begin = list(model.begin)
    room = min(block, model.context or block) - len(begin)
    starts = range(0, len(ids), room)
    rows = [torch.tensor([*begin, *ids[start : start + room]]) for start in starts]
    given = max(0, 1 - len(begin))  # a block's first token, where nothing stands before it
    places = [of_piece[start + given : start + room] for start in starts]
    full = sum(len(row) == len(begin) + room for row in rows)
    groups = [group for group in ((rows[:full], places[:full]), (rows[full:], places[full:])) if group[0]]
    groups = [group for group in groups if len(group[0][0]) > 1]
    if not groups:
        raise NeuroglotError(f"The text in {language} has nothing to predict; add text.")
    found = torch.zeros(len(encoded), dtype=torch.float64)
    skip = max(0, len(begin) - 1)
    for some, where in groups:
        losses = blocks_nll(model, torch.stack(some), language, None, lambda tokens, what: None)
        nats = torch.cat([nll[:, skip:].flatten().cpu() for nll in losses])
        found.index_add_(0, torch.cat(where), nats)
    finite_mean(model, float(found.sum()), len(text), language)
    return found / math.log(2), len(text)
