"""Documents joined and packed into blocks of tokens, as in pre-training."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.model import Model

__all__ = ["pack", "tokenize"]

DOCUMENTS_AT_ONCE = 256


def tokenize(model: Model, documents: Iterable[str], tokens: int) -> Int[Tensor, " tokens"]:
    """The first `tokens` tokens of the documents, a line break after each, as one int32 row without special tokens.

    Raises:
        NeuroglotError: the tokenizer has tokens that the model does not.
    """
    parts: list[np.ndarray] = []
    count = 0
    for batch in _batches(documents, DOCUMENTS_AT_ONCE):
        texts = [document + "\n" for document in batch]
        for ids in model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
            parts.append(np.asarray(ids, dtype=np.int32))
            count += len(ids)
        if count >= tokens:
            break
    row = np.concatenate(parts)[:tokens] if parts else np.empty(0, dtype=np.int32)
    if len(row) and row.max() >= model.vocabulary:
        raise NeuroglotError(
            f"The tokenizer gives token {row.max()}, but the model {model.name} knows {model.vocabulary}; they do not "
            "belong together."
        )
    return torch.from_numpy(row)


def pack(
    model: Model, documents: Iterable[str], language: str, *, block: int, tokens: int
) -> Int[Tensor, "blocks block"]:
    """At most `tokens` tokens of the documents, cut into full blocks; what is left over at the end is dropped.

    A block is `block` tokens long, the first of them the BOS token where the tokenizer defines one. `tokens` counts
    text, not BOS.

    Raises:
        NeuroglotError: the text is too short for one block, or the model cannot read blocks so long.
    """
    limit = getattr(model.text_config, "max_position_embeddings", None) or block
    if not 2 <= block <= limit:
        raise NeuroglotError(f"block must be from 2 to {limit} tokens for {model.name}, not {block}.")
    bos = [] if model.bos is None else [model.bos]
    text = block - len(bos)
    row = tokenize(model, documents, tokens)
    count = len(row) // text
    if count == 0:
        raise NeuroglotError(
            f"{language} has {len(row)} tokens (at most {tokens} were asked for), too few for one block of {block}; "
            "add text, ask for more, or use a smaller block."
        )
    blocks = row[: count * text].view(count, text)
    return torch.cat([torch.tensor([bos], dtype=torch.int32).expand(count, -1), blocks], dim=1)


def _batches(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch
