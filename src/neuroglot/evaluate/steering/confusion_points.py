"""How likely a token of the language wanted was where an answer left it, by the logits and after every layer.

The place where language confusion begins is the confusion point of Nie et al. 2025 (*Mechanistic Understanding and
Mitigation of Language Confusion in English-Centric Large Language Models*). The states that leave each layer are read
through the final norm and the head, as in `evaluate.lens`.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.confusion import LanguageConfusion
from neuroglot.generation.prompts import prompt_tokens
from neuroglot.models.architecture.readout import Readout
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.tokens.counts import TokenLanguages

__all__ = ["confusion_points", "points_by_layer"]


@torch.inference_mode()
def confusion_points(
    model: Model,
    result: LanguageConfusion,
    prompts: Sequence[str],
    tokens_of: TokenLanguages,
    *,
    chat: bool = False,
    progress: bool = True,
) -> pd.DataFrame:
    """What the model gave the language wanted where its answers left it.

    The answer up to there is read again after its prompt. Its tokens are those that the tokenizer makes of the text.

    Args:
        model: that wrote the answers; run it inside `intervene` to read a changed one.
        result: of its answers.
        prompts: one for each of them, as they were put to the model.
        tokens_of: whose each token is; the language must be one of its languages.
        chat: whether prompts go into the model's chat template.
        progress: show a bar.

    Returns:
        A row for each answer in which confusion begins, and layer: completion (its place), line, word, token (its place
        among the answer's tokens), text (the word), written (the token as the tokenizer writes it alone); layer (from
        1; what the last one gives are the model's logits); probability, that the tokens of the language's own have
        together; rank, of the likeliest of them among all tokens, 1 if nothing is likelier; likeliest, that token; and
        written_probability.

    Raises:
        NeuroglotError: prompts and answers are not as many, the language has no tokens of its own, a text is longer
            than the model reads, or its layers cannot be read through the head.
    """
    if len(prompts) != len(result.completions):
        raise NeuroglotError(f"There are {len(prompts)} prompts for {len(result.completions)} answers; give one each.")
    if result.language not in tokens_of.languages:
        raise NeuroglotError(
            f"Tokens were counted for {', '.join(tokens_of.languages)}, not for {result.language}; count it too."
        )
    if len(tokens_of.owner) != model.vocabulary:
        raise NeuroglotError(
            f"The tokens were counted for a vocabulary of {len(tokens_of.owner):,}, and {model.name} has "
            f"{model.vocabulary:,}; count them with its tokenizer."
        )
    own = (tokens_of.owner == tokens_of.languages.index(result.language)).to(model.device)
    if not bool(own.any()):
        raise NeuroglotError(f"No token is {result.language}'s own; count more text.")
    model.check_state()
    where = [(place, check.begins) for place, check in enumerate(result.checks) if check.begins is not None]
    asked = prompt_tokens(model, [prompts[place] for place, _ in where], chat)
    readout = Readout(model.network, model.ffns) if where else None
    rows: list[dict[str, Any]] = []
    with progress_bar("confusion points", len(where), unit="answers", shown=progress) as advance:
        for (place, begins), prompt in zip(where, asked, strict=True):
            assert readout is not None
            assert begins is not None
            ids, token = _until(model, result.completions[place], begins.character)
            read = [*prompt, *ids[:token]]
            model.check_length(len(read), "A prompt and its answer", "leave it out")
            named: dict[str, Any] = {"completion": place, "line": begins.line, "word": begins.word, "token": token}
            named |= {"text": begins.text, "written": model.tokenizer.decode([ids[token]])}
            for layer, found in enumerate(_layers(model, readout, read, own, ids[token]), 1):
                rows.append(named | {"layer": layer} | found)
            advance(1, "")
    return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = ["completion", "line", "word", "token", "text", "written", "layer", "probability", "rank", "likeliest",
           "written_probability"]  # fmt: skip


def points_by_layer(points: pd.DataFrame) -> pd.DataFrame:
    """A row a layer: layer, points, probability (mean), rank (median), top10 (the share of ranks from 1 to 10)."""
    groups = points.groupby("layer")
    table = groups.agg(points=("rank", "size"), probability=("probability", "mean"), rank=("rank", "median"))
    table["top10"] = groups["rank"].apply(lambda ranks: float((ranks <= 10).mean()))
    return table.reset_index()


def _until(model: Model, text: str, character: int) -> tuple[list[int], int]:
    """The tokens of a text, and which of them is the first to hold a letter from this one on."""
    ids, before = model.encode([text, text[:character]])
    pairs = zip(ids, before, strict=False)
    shared = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(before)))
    return ids, min(shared, len(ids) - 1)


def _layers(model: Model, readout: Readout, read: Sequence[int], own: Tensor, written: int) -> list[dict[str, Any]]:
    """What each layer says of the token that comes after those read."""
    tokens = torch.tensor([list(read)], dtype=torch.int64).to(model.device)
    found = []
    for output in readout.outputs(tokens):
        logits = model.logits(readout.read(output, tokens)[:, -1]).float()[0]
        chances = logits.softmax(-1)
        mine = own.to(logits.device)
        likeliest = int(logits.masked_fill(~mine, -torch.inf).argmax())
        found.append(
            {
                "probability": float(chances[mine].sum()),
                "rank": int((logits > logits[likeliest]).sum()) + 1,
                "likeliest": model.tokenizer.decode([likeliest]),
                "written_probability": float(chances[written]),
            }
        )
    return found
