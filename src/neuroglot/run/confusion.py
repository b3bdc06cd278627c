"""Where the answers of a table leave their languages, and how likely these were there to the model that wrote them."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import pandas as pd

from neuroglot.corpus.load import load_corpus
from neuroglot.run.settings import ModelSettings

if TYPE_CHECKING:
    from neuroglot.models.model import Model

__all__ = ["confusion_starts"]

COUNTED = 200_000
"""Tokens of each language that are counted to say whose each is, at most."""


def confusion_starts(
    completions: pd.DataFrame,
    *,
    words: Collection[str] | None = None,
    model: ModelSettings | None = None,
    chat: bool = False,
    counted: str = "starter",
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Where confusion begins in each answer of a table.

    Args:
        completions: of `read_completions`; with a model the column prompt too.
        words: English ones; see `language_confusion`.
        model: that wrote them, to be opened.
        chat: whether the prompts went into its chat template.
        counted: a corpus whose tokens say which language a token is of.
        progress: show a bar.

    Returns:
        A row an answer in which confusion begins: completion (its place in the table), language, line, word, character,
        text; with a model a row for each of its layers besides, see `confusion_points`. And with a model the means by
        layer, else an empty table. Answers in a language without counted text have no row for a model.

    Raises:
        NeuroglotError: what `language_confusion` and `confusion_points` raise.
    """
    from neuroglot.evaluate.steering.confusion import language_confusion
    from neuroglot.evaluate.steering.confusion_points import confusion_points, points_by_layer
    from neuroglot.tokens.counts import TokenLanguages, token_counts

    opened: Model | None = None
    owners: TokenLanguages | None = None
    if model is not None:
        opened, text = model.load(trust_remote_code=model.trust_remote_code), load_corpus(counted)
        owners = TokenLanguages.of(token_counts(opened, text, COUNTED), text.languages)
    parts = []
    for tag, group in completions.groupby("language", sort=True):
        result = language_confusion([str(text) for text in group["completion"].fillna("")], str(tag), words=words)
        found = result.frame()[["line", "word", "character", "text"]].assign(completion=range(len(group)))
        found = found.dropna(subset=["line"]).astype({"line": int, "word": int, "character": int})
        if opened is not None and owners is not None and result.language in owners.languages:
            prompts = [str(text) for text in group["prompt"]]
            points = confusion_points(opened, result, prompts, owners, chat=chat, progress=progress)
            found = found.merge(points.drop(columns=["line", "word", "text"]), on="completion", how="left")
        places = dict(enumerate(group.index))
        parts.append(found.assign(language=tag, completion=found["completion"].map(places)))
    table = pd.concat(parts, ignore_index=True)
    first = ["completion", "language", "line", "word", "character", "text"]
    table = table[[*first, *(name for name in table.columns if name not in first)]]
    measured = table.dropna(subset=["layer"]) if "layer" in table else table.iloc[:0]
    return table, points_by_layer(measured.astype({"layer": int})) if len(measured) else pd.DataFrame()
