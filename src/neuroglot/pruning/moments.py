"""A pass over a little text that gives the moments of `hidden`, a few layers at a time."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from neuroglot.artifacts.moments import Moments
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.hooks import observe_ffn
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.progress import token_progress
from neuroglot.tokens.packing import blocks_of, text_of_block, tokenize
from neuroglot.tokens.shards import too_short

__all__ = ["blocks_for_moments", "check_moments", "hidden_moments", "moments_by_layer"]

BLOCK = 512
"""Tokens a block, where the text fills so many of them as are enough."""
ENOUGH = 8
"""Blocks."""
MEMORY = 1 << 30
"""Bytes of second moments held at once: a wide model is read several times, a few layers each."""


def hidden_moments(
    model: Model,
    documents: Iterable[str],
    language: str,
    *,
    tokens: int = 20_000,
    block: int = BLOCK,
    memory: int = MEMORY,
    progress: bool = True,
) -> Iterator[Moments]:
    """The moments of every layer's hidden units over the first tokens of a text, layer after layer.

    A layer of N neurons takes 4·N² bytes; as many layers as fit in `memory` are recorded in one pass, one at least.

    Args:
        model: intact.
        documents: text in the language.
        language: what the text is called in messages.
        tokens: how many are read. With fewer than a layer has neurons, a re-fit leans on its ridge.
        block: tokens a block, with BOS.
        memory: bytes.
        progress: show a bar.

    Raises:
        NeuroglotError: the text is too short for one block, an intervention is in force, or a value is not a number.
    """
    blocks = blocks_for_moments(model, documents, language, tokens=tokens, block=block)
    return moments_by_layer(model, blocks, language, memory=memory, progress=progress)


def check_moments(reader: Model | TextReader, documents: Iterable[str], language: str, tokens: int) -> None:
    """Refuse text that `hidden_moments` would refuse as too short, before weights are opened.

    Raises:
        NeuroglotError: as said.
    """
    blocks_for_moments(reader, documents, language, tokens=min(tokens, ENOUGH * BLOCK))  # more does not matter


def blocks_for_moments(
    model: Model | TextReader, documents: Iterable[str], language: str, *, tokens: int, block: int = BLOCK
) -> Int[Tensor, "blocks block"]:
    """The blocks that `hidden_moments` reads; shorter ones where the text fills no long one."""
    limit = min(block, model.context or block)
    row = tokenize(model, documents, tokens)
    while limit >= 64 and len(row) < ENOUGH * text_of_block(model, limit):
        limit //= 2
    if len(row) < text_of_block(model, limit):
        raise too_short(language, len(row), tokens, limit)
    return blocks_of(row, text_of_block(model, limit), model.begin)


def moments_by_layer(
    model: Model,
    blocks: Int[Tensor, "blocks block"],
    language: str = "",
    *,
    memory: int = MEMORY,
    progress: bool = True,
) -> Iterator[Moments]:
    """The moments of every layer over packed blocks; see `hidden_moments`."""
    model.check_state(edited=False)
    first = 0
    while first < model.layers:
        last, held = first + 1, 4 * model.widths[first] ** 2
        while last < model.layers and held + 4 * model.widths[last] ** 2 <= memory:
            held += 4 * model.widths[last] ** 2
            last += 1
        yield from _recorded(model, blocks, language, range(first, last), progress)
        first = last


@torch.no_grad()
def _recorded(model: Model, blocks: Tensor, language: str, layers: range, progress: bool) -> list[Moments]:
    ffns = [model.ffns[layer] for layer in layers]
    second = [torch.zeros(ffn.neurons, ffn.neurons) for ffn in ffns]
    total = [torch.zeros(ffn.neurons, dtype=torch.float64) for ffn in ffns]

    def observe(layer: int, _: Tensor, hidden: Tensor) -> None:
        rows = hidden.reshape(*batch.shape, -1)[:, model.uncounted :].flatten(0, 1).float()
        second[layer] = second[layer].to(rows.device).addmm_(rows.T, rows)
        total[layer] += rows.sum(0).double().cpu()

    count = 0
    with (
        observe_ffn(ffns, observe),
        token_progress(f"moments of layers {layers[0] + 1} to {layers[-1] + 1}", blocks.numel(), shown=progress) as go,
    ):
        for batch in blocks.split(max(1, model.batch_tokens // blocks.shape[1])):
            model.hidden_states(batch)
            count += len(batch) * (blocks.shape[1] - model.uncounted)
            go(batch.numel(), language)
    if not count:
        raise NeuroglotError(f"The text in {language} has no token to count; add text.")
    return [
        Moments((of / count).float(), products.cpu() / count, count) for of, products in zip(total, second, strict=True)
    ]
