"""Documents joined and packed into blocks of tokens, as in pre-training."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.model import Model

__all__ = ["check_vocabulary", "pack", "text_of_block", "token_rows", "tokenize", "too_short", "with_bos"]

DOCUMENTS_AT_ONCE = 256
CHARACTERS_AT_ONCE = 1 << 20


def token_rows(tokenizer: Any, documents: Iterable[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """The documents a few at a time, with their tokens: a line break after each, one int32 row, no special tokens."""
    for batch in _batches(documents):
        ids = tokenizer([document + "\n" for document in batch], add_special_tokens=False, verbose=False)["input_ids"]
        yield batch, np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=sum(map(len, ids)))


def check_vocabulary(row: np.ndarray, vocabulary: int, model: str) -> None:
    """Refuse tokens that the model does not know."""
    if len(row) and row.max() >= vocabulary:
        raise NeuroglotError(
            f"The tokenizer gives token {row.max()}, but the model {model} knows {vocabulary}; they do not "
            "belong together."
        )


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
    if not 2 <= block <= limit:
        raise NeuroglotError(f"block must be from 2 to {limit} tokens for {model.name}, not {block}.")
    return block - (model.bos is not None)


def with_bos(row: Int[Tensor, " tokens"], text: int, bos: int | None) -> Int[Tensor, "blocks block"]:
    """Full blocks of `text` tokens, BOS before each where there is one; what is left over at the end is dropped."""
    blocks = row[: len(row) // text * text].view(-1, text)
    begin = torch.tensor([] if bos is None else [bos], dtype=torch.int32)
    return torch.cat([begin.expand(len(blocks), -1), blocks], dim=1)


def too_short(language: str, count: int, tokens: int, block: int) -> NeuroglotError:
    """What to say of a language that does not fill one block."""
    return NeuroglotError(
        f"{language} has {count} tokens (at most {tokens} were asked for), too few for one block of {block}; "
        "add text, ask for more, or use a smaller block."
    )


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


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Some hundred documents at a time, fewer of long ones, so that they never fill the memory."""
    batch: list[str] = []
    length = 0
    for document in documents:
        batch.append(document)
        length += len(document)
        if len(batch) == DOCUMENTS_AT_ONCE or length >= CHARACTERS_AT_ONCE:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch
