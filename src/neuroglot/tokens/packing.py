"""Documents joined and packed into blocks of tokens, as in pre-training."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.tokens.shards import check_vocabulary, token_rows, too_short

__all__ = ["pack", "text_of_block", "tokenize", "with_bos"]


def tokenize(model: Model, documents: Iterable[str], tokens: int) -> Int[Tensor, " tokens"]:
    """The first `tokens` tokens of the documents, a line break after each, as one int32 row without special tokens.

    Raises:
        NeuroglotError: the tokenizer has tokens that the model does not.
    """
    parts: list[np.ndarray] = []
    count = 0
    for _, row in token_rows(model.tokenizer, documents):
        parts.append(row)
        count += len(row)
        if count >= tokens:
            break
    row = np.concatenate(parts)[:tokens] if parts else np.empty(0, dtype=np.int32)
    check_vocabulary(row, model.vocabulary, model.name)
    return torch.from_numpy(row)


def text_of_block(model: Model, block: int) -> int:
    """How many tokens of text a block of `block` tokens holds: all but BOS.

    Raises:
        NeuroglotError: the model cannot read blocks so long.
    """
    limit = getattr(model.text_config, "max_position_embeddings", None) or block
    limit = block if limit < 1 else limit  # XLNet says -1: none
    if not 2 <= block <= limit:
        raise NeuroglotError(f"block must be from 2 to {limit} tokens for {model.name}, not {block}.")
    return block - (model.bos is not None)


def with_bos(row: Int[Tensor, " tokens"], text: int, bos: int | None) -> Int[Tensor, "blocks block"]:
    """Full blocks of `text` tokens, BOS before each where there is one; what is left over at the end is dropped."""
    blocks = row[: len(row) // text * text].view(-1, text)
    begin = torch.tensor([] if bos is None else [bos], dtype=torch.int32)
    return torch.cat([begin.expand(len(blocks), -1), blocks], dim=1)


def pack(
    model: Model, documents: Iterable[str], language: str, *, block: int, tokens: int
) -> Int[Tensor, "blocks block"]:
    """At most `tokens` tokens of the documents, cut into full blocks; what is left over at the end is dropped.

    A block is `block` tokens long, the first of them the BOS token where the tokenizer defines one. `tokens` counts
    text, not BOS.

    Raises:
        NeuroglotError: the text is too short for one block, or the model cannot read blocks so long.
    """
    text = text_of_block(model, block)
    row = tokenize(model, documents, tokens)
    if len(row) < text:
        raise too_short(language, len(row), tokens, block)
    return with_bos(row, text, model.bos)
