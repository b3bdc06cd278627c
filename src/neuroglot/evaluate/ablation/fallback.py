"""The fallback curve: a text's language is switched off, then what the model turns to, and so on."""

from typing import Any

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet, checked_set
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import Deactivate, intervene
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.lens import owner_mass
from neuroglot.evaluate.likelihood.perplexity import held_out_blocks
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.stats import mean_interval
from neuroglot.storage.given import takes_numbers
from neuroglot.tokens.counts import TokenLanguages

__all__ = ["fallback"]


@takes_numbers
def fallback(
    model: Model,
    corpus: Corpus,
    neurons: NeuronSet,
    tokens_of: TokenLanguages,
    *,
    steps: int | None = None,
    site: Site = "activation",
    tokens: int = 2_000,
    block: int | None = None,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """On each language's text: whose tokens does the model turn to as one language after another is ablated?

    First nothing is off, then the neurons of the text's own language. After that, each time, those of the language
    whose own tokens are then the likeliest are off too (Gurgurov et al. 2025, *Language Arithmetics*, where languages
    are taken away one after another and the answers' language is detected; here it is read off the next token's
    probabilities, which needs no detector). Give random sets of the same sizes for the baseline.

    Args:
        model: left as it was.
        corpus: held-out text.
        neurons: whose sets are ablated.
        tokens_of: whose each token is; its languages are those that can be turned to.
        steps: how many languages are switched off; by default all that have a set and tokens.
        site: `heads` for sets of heads.
        tokens: at most so many of each language.
        block: tokens a block; see `perplexity`.
        batch_tokens: tokens a forward pass.
        progress: show a bar.

    Returns:
        A row a language of text, step and owner of tokens: language, step (0: intact), off (the languages, in the order
        in which they were switched off, joined by +), leading (of the languages not off, the one with the most),
        tokens_of, mass, low and high (95 % over blocks).

    Raises:
        NeuroglotError: a text's language has no set or no tokens of its own, or is too short for a block.
    """
    neurons = checked_set(neurons).of_model(model, site=site)
    both = [tag for tag in tokens_of.languages if tag in neurons.languages]
    if apart := [tag for tag in corpus.languages if tag not in both]:
        raise NeuroglotError(f"{apart[0]} has no set of neurons or no counted tokens, so it cannot be switched off.")
    blocks = held_out_blocks(model, corpus, tokens=tokens, block=block)
    most = min(len(both), steps if steps is not None else len(both))
    rows: list[dict[str, Any]] = []
    with progress_bar("fallback", len(blocks) * (most + 1), unit="step", shown=progress) as advance:
        for tag, piece in blocks.items():
            off, leading = list[str](), ""
            for step in range(most + 1):
                if step:
                    off.append(tag if step == 1 else leading)
                ablated = [Deactivate(neurons.union(*off), site=site)] if off else []
                with intervene(model, *ablated):
                    mass = owner_mass(model, piece, tokens_of, batch_tokens or model.batch_tokens)
                means = dict(zip(tokens_of.owners, mass.mean(0).tolist(), strict=True))
                left = [each for each in both if each not in off]
                leading = max(left, key=means.__getitem__) if left else ""
                ends = [each.tolist() for each in mean_interval(mass.T)]
                for number, owner in enumerate(tokens_of.owners):
                    rows.append(
                        {
                            "language": tag, "step": step, "off": "+".join(off), "leading": leading,
                            "tokens_of": owner, "mass": means[owner], "low": ends[0][number], "high": ends[1][number],
                        }
                    )  # fmt: skip
                advance(1, tag)
    return pd.DataFrame(rows)
