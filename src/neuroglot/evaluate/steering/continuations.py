"""What a model writes on from real beginnings, with each language's region off."""

from collections.abc import Mapping, Sequence

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet, checked_set
from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.texts import texts_of
from neuroglot.edit.conditions import Condition
from neuroglot.edit.interventions import Deactivate
from neuroglot.generation.engine import generate
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.storage.given import takes_numbers

__all__ = ["beginnings", "continuations"]


@takes_numbers
def beginnings(
    model: Model | TextReader, corpus: Corpus, *, prompts: int = 3, tokens: int = 12
) -> dict[str, list[str]]:
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


@takes_numbers
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
    neurons = checked_set(neurons).of_model(model)
    conditions = {tag: Condition(tag, (Deactivate(neurons[tag]),)) for tag in prompts}
    asked = [(tag, prompt) for tag, texts in prompts.items() for prompt in texts_of(texts, "prompts")]
    recipes = [None] * len(asked) + [conditions[tag] for tag, _ in asked]
    written = generate(model, [prompt for _, prompt in asked] * 2, recipes=recipes, tokens=tokens)
    rows = [(*row, *both) for row, both in zip(asked, zip(*_halves(written), strict=True), strict=True)]
    return pd.DataFrame(rows, columns=["language", "prompt", "intact", "off"])


def _halves(written: list[str]) -> tuple[list[str], list[str]]:
    return written[: len(written) // 2], written[len(written) // 2 :]
