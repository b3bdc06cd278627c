"""What answers are like: their language, their script, whether they repeat themselves, and how likely they are."""

import math
from collections.abc import Sequence

import pandas as pd
import torch

from neuroglot.evaluate.likelihood.perplexity import perplexity_of, sum_nll
from neuroglot.evaluate.steering.mixing import mixed_words
from neuroglot.evaluate.steering.refusals import refuses
from neuroglot.languages.detection import LanguageIdentifier, mixed_script
from neuroglot.languages.tags import closest
from neuroglot.models.model import Model

__all__ = ["answer_nll", "degenerate", "describe", "summary", "well_formed"]


def degenerate(text: str, *, share: float = 0.5) -> bool:
    """Whether a text repeats itself: at least this share of its 4-grams of characters occurred before in it.

    Spaces, digits and punctuation do not count, so it means the same in languages written with and without spaces.
    Ordinary prose of a few hundred characters stays below 0.3. A text of fewer than 8 letters is never called so.
    """
    letters = [letter for letter in text.lower() if letter.isalpha()]
    grams = ["".join(letters[i : i + 4]) for i in range(len(letters) - 3)]
    return len(letters) >= 8 and 1 - len(set(grams)) / len(grams) >= share


@torch.inference_mode()
def answer_nll(model: Model, answers: Sequence[str], *, batch: int = 16) -> list[tuple[float, int]]:
    """How likely each answer is to the model, read on its own after BOS: summed nats, and tokens predicted.

    A cheap signal of fluency when the model is intact: run it outside `intervene`. The prompt is left out, so that a
    fluent answer in another language than the question's is not called unlikely.
    """
    rows = [torch.tensor([*model.begin, *ids], dtype=torch.int64) for ids in model.encode(answers)]
    for row in rows:
        model.check_length(len(row), "An answer", "write shorter ones")
    results = [(0.0, 0)] * len(rows)
    readable = [i for i, row in enumerate(rows) if len(row) >= 2]
    for first in range(0, len(readable), batch):
        some = readable[first : first + batch]
        tokens = torch.nn.utils.rnn.pad_sequence([rows[i] for i in some], batch_first=True)
        lengths = torch.tensor([len(rows[i]) for i in some])
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).to(torch.int64)
        states = model.hidden_states(tokens, mask)
        for i, length, row in zip(some, lengths.tolist(), states, strict=True):
            results[i] = (float(sum_nll(model, row[: length - 1], rows[i][1:].to(row.device))), length - 1)
    return results


def describe(
    model: Model, answers: Sequence[str], target: str, identify: LanguageIdentifier, *, perplexity: bool = True
) -> pd.DataFrame:
    """A row an answer: answer, language, on_target, mixed_script, mixed_words, refusal, degenerate, nll, tokens.

    Args:
        model: intact; the perplexity is by it.
        answers: what was written.
        target: the language they should be in.
        identify: which tells their language.
        perplexity: measure `nll` and `tokens` too (NaN and 0 otherwise).
    """
    languages = [identify(answer) for answer in answers]
    likely = answer_nll(model, answers) if perplexity else [(math.nan, 0)] * len(answers)
    return pd.DataFrame(
        {
            "answer": list(answers),
            "language": [language or "" for language in languages],
            "on_target": [language is not None and closest(language, [target]) is not None for language in languages],
            "mixed_script": [mixed_script(answer) for answer in answers],
            "mixed_words": [mixed_words(answer, target, identify) for answer in answers],
            "refusal": [refuses(answer) for answer in answers],
            "degenerate": [degenerate(answer) for answer in answers],
            "nll": [nll for nll, _ in likely],
            "tokens": [tokens for _, tokens in likely],
        }
    )


FAULTS = ("mixed_script", "mixed_words", "refusal", "degenerate")
"""What a well-formed answer is not, each a column of described answers."""


def well_formed(answers: pd.DataFrame) -> pd.Series:
    """Of each described answer, 1.0 if it is on target, in one script, free of words of another language, no refusal
    and does not repeat itself, 0.0 if not; NaN where an earlier version described it, which did not look for all that.
    """
    if not set(FAULTS) <= {*answers.columns}:
        return pd.Series(math.nan, index=answers.index)
    return (answers["on_target"] & ~answers[list(FAULTS)].astype(bool).any(axis=1)).astype(float)


def summary(answers: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Rates of groups of described answers.

    Returns:
        Indexed by `by`: answers; on_target, the share in the target language; off_target, the share identified as
        another; undetermined, the share that is too short or empty to tell; mixed_script, mixed_words, refusal and
        degenerate, shares; well_formed, the share on target with none of these faults; perplexity of the group's
        tokens, under the intact model. Rates of faults that an earlier version did not look for are NaN.
    """
    table = answers.assign(
        off_target=~answers["on_target"] & (answers["language"] != ""),
        undetermined=answers["language"] == "",
        well_formed=well_formed(answers),
        **{fault: math.nan for fault in FAULTS if fault not in answers},
    )
    groups = table.groupby(list(by), sort=False)
    rates = ("on_target", "off_target", "undetermined", *FAULTS, "well_formed")
    result = groups.agg(answers=("answer", "size"), **{rate: (rate, "mean") for rate in rates})
    sums = groups[["nll", "tokens"]].sum(min_count=1)
    mean = sums["nll"] / sums["tokens"].where(sums["tokens"] > 0)
    result["perplexity"] = mean.map(perplexity_of)
    return result
