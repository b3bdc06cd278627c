"""What a model writes on from real beginnings, with each language's region off."""

from collections.abc import Mapping, Sequence

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import Deactivate, intervene
from neuroglot.generation.engine import generate
from neuroglot.models.model import Model

__all__ = ["beginnings", "continuations"]


def beginnings(model: Model, corpus: Corpus, *, prompts: int = 3, tokens: int = 12) -> dict[str, list[str]]:
    """The first tokens of the first documents of each language, for `continuations`.

    A document that is shorter gives its first half.
    """
    chosen = {}
    for tag in corpus.languages:
        texts = [text for text, _ in zip(corpus[tag], range(prompts), strict=False)]
        encoded = model.encode(texts)
        cut = [model.tokenizer.decode(ids[: min(tokens, max(1, len(ids) // 2))]) for ids in encoded]
        chosen[tag] = [text.replace("\ufffd", "").rstrip() for text in cut]
    return chosen


def continuations(
    model: Model, prompts: Mapping[str, Sequence[str]], neurons: NeuronSet, *, tokens: int = 64
) -> pd.DataFrame:
    """Continuations of each language's prompts with its own neurons off, beside the intact model's.

    Zeng et al. 2025, appendix A.

    Args:
        model: left as it was.
        prompts: language → texts; each language is one of the neurons'.
        neurons: whose sets are switched off.
        tokens: at most so many new ones each.

    Returns:
        A row a prompt: language, prompt, intact, off.

    Raises:
        NeuroglotError: a language has no set, a prompt is empty, or the neurons are of another shape.
    """
    rows = []
    for tag, texts in prompts.items():
        intact = generate(model, texts, tokens=tokens)
        with intervene(model, Deactivate(neurons[tag])):
            off = generate(model, texts, tokens=tokens)
        rows += [
            {"language": tag, "prompt": prompt, "intact": before, "off": after}
            for prompt, before, after in zip(texts, intact, off, strict=True)
        ]
    return pd.DataFrame(rows, columns=["language", "prompt", "intact", "off"])
