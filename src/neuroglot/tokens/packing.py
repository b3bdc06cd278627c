"""Documents joined and packed into blocks of tokens, as in pre-training."""

from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.corpus.corpus import Corpus, check_is_corpus
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader, check_vocabulary
from neuroglot.tokens.shards import token_rows, too_short

__all__ = ["blocks_of", "check_fills", "pack", "text_of_block", "tokenize"]


def tokenize(model: Model | TextReader, documents: Iterable[str], tokens: int) -> Int[Tensor, " tokens"]:
    """The first `tokens` tokens of the documents, a line break after each, as one int32 row; see `token_rows`.

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


def text_of_block(model: Model | TextReader, block: int) -> int:
    """How many tokens of text a block of `block` tokens holds: all but what begins it.

    Raises:
        NeuroglotError: the model cannot read blocks so long, or a block has no token to count.
    """
    limit = model.context or max(2, block)
    least = max(2, model.uncounted + 1)
    if not isinstance(block, Integral) or not least <= block <= limit:
        raise NeuroglotError(f"block must be from {least} to {limit} tokens for {model.name}, not {block!r}.")
    return block - len(model.begin)


def check_fills(model: Model | TextReader, corpus: Corpus, block: int, tokens: int) -> None:
    """Refuse a corpus of which a language is too short for one block. No more of each than a block is read.

    Raises:
        NeuroglotError: as said, or the model cannot read blocks so long.
    """
    check_is_corpus(corpus)
    text = text_of_block(model, block)
    for tag in corpus.languages:
        count = len(tokenize(model, corpus[tag], min(text, tokens)))
        if count < text:
            raise too_short(tag, count, tokens, block)


def blocks_of(row: Int[Tensor, " tokens"], text: int, begin: Sequence[int]) -> Int[Tensor, "blocks block"]:
    """Full blocks of `text` tokens, `begin` before each; what is left over at the end is dropped."""
    blocks = row[: len(row) // text * text].view(-1, text)
    first = torch.tensor(begin, dtype=torch.int32)
    return torch.cat([first.expand(len(blocks), -1), blocks], dim=1)


def pack(
    model: Model | TextReader, documents: Iterable[str], language: str, *, block: int, tokens: int
) -> Int[Tensor, "blocks block"]:
    """At most `tokens` tokens of the documents, cut into full blocks; what is left over at the end is dropped.

    A block is `block` tokens long, `Model.begin` (BOS, as a rule) among them. `tokens` counts text alone.

    Raises:
        NeuroglotError: the text is too short for one block, or the model cannot read blocks so long.
    """
    text = text_of_block(model, block)
    row = tokenize(model, documents, tokens)
    if len(row) < text:
        raise too_short(language, len(row), tokens, block)
    return blocks_of(row, text, model.begin)
