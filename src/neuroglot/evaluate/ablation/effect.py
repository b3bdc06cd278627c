"""Does a set do more to one language than to another? Measured and tested in one call."""

import torch
from jaxtyping import Bool
from torch import Tensor

from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import Deactivate, Intervention, intervene
from neuroglot.evaluate.likelihood.perplexity import block_nll, held_out_blocks
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.progress import token_progress
from neuroglot.stats import Contrast, contrast
from neuroglot.storage.given import takes_numbers

__all__ = ["does_more"]


@takes_numbers
def does_more(
    model: Model,
    corpus: Corpus,
    off: Bool[Tensor, "layers units"] | Intervention,
    more: str,
    less: str,
    *,
    site: Site = "activation",
    tokens: int = 100_000,
    block: int | None = None,
    batch_tokens: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> Contrast:
    """Whether ablating a set costs one language more than another, with an interval and a permutation test.

    Both languages are read intact and with the set off. The change of a block's loss, in nats a token, is one value;
    see `contrast` for the test. Blocks of two languages are not the same text, so they are not matched.

    Args:
        model: left as it was.
        corpus: held-out text with both languages.
        off: what is ablated, such as `neurons["fr"]`; or any intervention.
        more: the language that is to lose more, `fr`.
        less: the language that is to lose less, `es`.
        site: `heads` for a set of heads.
        tokens: at most so many of each language.
        block: tokens a block; see `perplexity`. One block a language gives no interval and no p.
        batch_tokens: tokens a forward pass.
        level: of the interval.
        seed: of permutations and bootstrap.
        progress: show a bar.

    Raises:
        NeuroglotError: the corpus lacks a language or has too little of it, or the set is of another shape.
    """
    step = Deactivate(off, site=site) if isinstance(off, torch.Tensor) else off
    blocks = held_out_blocks(model, corpus.select([more, less]), tokens=tokens, block=block)
    total = 2 * sum(piece.numel() for piece in blocks.values())
    changes = []
    with token_progress("measuring", total, shown=progress) as advance:
        for tag, piece in blocks.items():
            before = block_nll(model, piece, tag, batch_tokens, advance)
            with intervene(model, step):
                after = block_nll(model, piece, tag, batch_tokens, advance)
            changes.append([b - a for a, b in zip(before, after, strict=True)])
    return contrast(changes[0], changes[1], level=level, seed=seed)
