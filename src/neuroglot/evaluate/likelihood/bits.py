"""Bits a character: how well a model knows a text, whatever its tokenizer."""

import math
from collections.abc import Iterable

import torch

from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.perplexity import blocks_nll, finite_mean
from neuroglot.models.model import Model

__all__ = ["bits_per_character"]


@torch.inference_mode()
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
    parts, length = [], 0
    for document in documents:
        parts.append(document)
        length += len(document) + 1
        if length >= characters:
            break
    text = "\n".join(parts)[:characters]
    (ids,) = model.encode([text])
    begin = list(model.begin)
    room = min(block, model.context or block) - len(begin)
    rows = [torch.tensor([*begin, *ids[start : start + room]]) for start in range(0, len(ids), room)]
    full = [row for row in rows if len(row) == len(begin) + room]
    groups = [group for group in (full, rows[len(full) :]) if group and len(group[0]) > 1]
    if not groups:
        raise NeuroglotError(f"The text in {language} has nothing to predict; add text.")
    total = 0.0
    skip = max(0, len(begin) - 1)
    for group in groups:
        for nll in blocks_nll(model, torch.stack(group), language, None, lambda tokens, what: None):
            total += float(nll[:, skip:].sum())
    return finite_mean(model, total, len(text), language) / math.log(2)
