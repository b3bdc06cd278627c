"""A pass over a little text that gives the moments of what a layer's last projection reads, a few layers at a time."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuroglot.artifacts.moments import Moments, Sketch
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.hooks import observe_ffn, observe_heads
from neuroglot.models.fitting import fitting_tokens
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.progress import token_progress
from neuroglot.tokens.packing import blocks_of, text_of_block, tokenize
from neuroglot.tokens.shards import too_short

__all__ = ["Of", "blocks_for_moments", "check_moments", "hidden_moments", "moments_by_layer"]

LARGE = 16_384
"""Units of a layer from which on its moments are sketched."""
ROWS = 4_096
"""Of a sketch."""
Of = Literal["neurons", "heads"]
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
) -> Iterator[Moments | Sketch]:
    """The moments of every layer's hidden units over the first tokens of a text, layer after layer.

    A layer of N neurons takes 4·N² bytes, a sketch of it from 16,384 on 4·4,096·N; as many layers as fit in `memory`
    are recorded in one pass, one at least.

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
    of: Of = "neurons",
    memory: int = MEMORY,
    large: int = LARGE,
    rows: int = ROWS,
    progress: bool = True,
) -> Iterator[Moments | Sketch]:
    """The moments of every layer over packed blocks; see `hidden_moments`.

    Args:
        model: intact.
        blocks: packed.
        language: what the text is called in messages.
        of: the hidden units of every FFN, or what the heads of every attention write.
        memory: bytes.
        large: units of a layer from which on they are sketched.
        rows: of a sketch.
        progress: show a bar.
    """
    model.check_state(edited=False)
    widths = model.widths if of == "neurons" else tuple(each.columns.numel() for each in model.attentions)
    sizes = [4 * width * (rows if width >= large else width) for width in widths]
    first = 0
    while first < len(widths):
        last, held = first + 1, sizes[first]
        while last < len(widths) and held + sizes[last] <= memory:
            held += sizes[last]
            last += 1
        sketched = [(width, rows if width >= large else None) for width in widths[first:last]]
        run = partial(_read, model, blocks, language, of, range(first, last), sketched, progress)
        yield from (each.moments() for each in fitting_tokens(model, run, None, least=blocks.shape[1]))
        first = last


class _Sums:
    """What is summed of one layer.

    Args:
        width: units of the layer.
        rows: of a sketch; None for second moments.
    """

    def __init__(self, width: int, rows: int | None):
        self.rows, self.count = rows, 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, dtype=torch.float64)
        self.products = torch.zeros(width if rows is None else rows, width)
        self.ones = torch.zeros(rows or 0)
        self._signs = torch.Generator().manual_seed(0)

    def add(self, read: Float[Tensor, "tokens width"]) -> None:
        """The tokens of a pass."""
        self.total += read.sum(0).double().cpu()
        self.products = self.products.to(read.device)
        if self.rows is None:
            self.products.addmm_(read.T, read)
        else:
            places = torch.arange(self.count, self.count + len(read)) % self.rows
            signs = torch.randint(2, (len(read),), generator=self._signs) * 2.0 - 1
            self.products.index_add_(0, places.to(read.device), read * signs.to(read)[:, None])
            self.ones.index_add_(0, places, signs)
            self.squares += read.square().sum(0).double().cpu()
        self.count += len(read)

    def moments(self) -> Moments | Sketch:
        """Of all of them."""
        mean, products = (self.total / self.count).float(), self.products.cpu()
        if self.rows is None:
            return Moments(mean, products / self.count, self.count)
        root = self.count**0.5
        return Sketch(mean, (self.squares / self.count).float(), products / root, self.ones / root, self.count)


@torch.no_grad()
def _read(
    model: Model,
    blocks: Tensor,
    language: str,
    of: Of,
    layers: range,
    sketched: list[tuple[int, int | None]],
    progress: bool,
    batch_tokens: int,
) -> list[_Sums]:
    """Sum over all blocks, from the first on: a layer may have added what the next had no memory for."""
    sums = [_Sums(*each) for each in sketched]

    def add(layer: int, read: Tensor) -> None:
        sums[layer].add(read.reshape(*batch.shape, -1)[:, model.uncounted :].flatten(0, 1).float())

    if of == "neurons":
        observed = observe_ffn([model.ffns[layer] for layer in layers], lambda layer, _, hidden: add(layer, hidden))
    else:
        observed = observe_heads([model.attentions[layer] for layer in layers], add)
    doing = f"moments of {'layers' if of == 'neurons' else 'the heads of layers'} {layers[0] + 1} to {layers[-1] + 1}"
    with observed, token_progress(doing, blocks.numel(), shown=progress) as advance:
        for batch in blocks.split(max(1, batch_tokens // blocks.shape[1])):
            model.hidden_states(batch)
            advance(batch.numel(), language)
    if not sums[0].count:
        raise NeuroglotError(f"The text in {language} has no token to count; add text.")
    return sums
