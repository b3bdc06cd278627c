"""What answers are like: their language, their script, whether they repeat themselves, and how likely they are."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from neuroglot.evaluate.likelihood.perplexity import perplexity_of, token_nll
from neuroglot.evaluate.steering.mixing import mixed_words
from neuroglot.evaluate.steering.refusals import refuses
from neuroglot.languages.detection import LanguageIdentifier, mixed_script
from neuroglot.languages.identifiers import Identifier
from neuroglot.languages.tags import closest
from neuroglot.models.fitting import fitting_tokens, rows_within
from neuroglot.models.model import Model

__all__ = ["answer_nll", "choice_nll", "degenerate", "describe", "nll_after", "summary", "well_formed"]


def degenerate(text: str, *, share: float = 0.5) -> bool:
    """Whether a text repeats itself: at least this share of its 4-grams of characters occurred before in it.

    Spaces, digits and punctuation do not count, so it means the same in languages written with and without spaces.
    Ordinary prose of a few hundred characters stays below 0.3. A text of fewer than 8 letters is never called so.
    """
    letters = [letter for letter in text.lower() if letter.isalpha()]
    grams = ["".join(letters[i : i + 4]) for i in range(len(letters) - 3)]
    return len(letters) >= 8 and 1 - len(set(grams)) / len(grams) >= share


def answer_nll(model: Model, answers: Sequence[str], *, batch_tokens: int | None = None) -> list[tuple[float, int]]:
    """How likely each answer is to the model, read on its own after BOS: summed nats, and tokens predicted.

    A cheap signal of fluency when the model is intact: run it outside `intervene`. The prompt is left out, so that a
    fluent answer in another language than the question's is not called unlikely.
    """
    begin = tuple(model.begin)
    return nll_after(model, [(begin, tuple(ids)) for ids in model.encode(answers)], batch_tokens=batch_tokens)


@torch.inference_mode()
def nll_after(
    model: Model, rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_tokens: int | None = None
) -> list[tuple[float, int]]:
    """How likely tokens are after others: summed nats, and tokens predicted (without any before it, the first is not).

    Args:
        model: as it is at the moment.
        rows: what is read first, and what is predicted after it.
        batch_tokens: tokens a forward pass, padding included; by default as many as the device likes.
    """
    results = [(0.0, 0)] * len(rows)

    def take(some: list[int], states: Tensor, ids: list[Tensor], starts: list[int]) -> None:
        before = [row[start - 1 : len(one) - 1] for row, one, start in zip(states, ids, starts, strict=True)]
        predicted = [one[start:] for one, start in zip(ids, starts, strict=True)]
        nll = torch.cat(list(token_nll(model, torch.cat(before), torch.cat(predicted).to(states.device))))
        counts = [len(one) for one in predicted]
        sums = torch.stack([part.sum() for part in nll.to("cpu", torch.float64).split(counts)])
        for i, total, count in zip(some, sums.tolist(), counts, strict=True):
            results[i] = (total, count)

    _read(model, rows, [i for i, (_, after) in enumerate(rows) if len(after)], take, batch_tokens)
    return results


@torch.inference_mode()
def choice_nll(
    model: Model, befores: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], *, batch_tokens: int | None = None
) -> list[list[float]]:
    """How unlikely each of some replies is after each text, in nats; what several of them begin with is read once.

    Args:
        model: as it is at the moment.
        befores: the tokens of each text, one at least.
        replies: the tokens of each reply, one at least.
        batch_tokens: see `nll_after`.

    Returns:
        Of each text, a number a reply.
    """
    begun = sorted({tuple(reply[:-1]) for reply in replies}, key=len, reverse=True)
    paths = [path for i, path in enumerate(begun) if not any(longer[: len(path)] == path for longer in begun[:i])]
    of = [next(k for k, path in enumerate(paths) if path[: len(reply) - 1] == tuple(reply[:-1])) for reply in replies]
    rows = [(before, path) for before in befores for path in paths]
    results = [[0.0] * len(replies) for _ in befores]

    def take(some: list[int], states: Tensor, ids: list[Tensor], starts: list[int]) -> None:
        for i, row, one, start in zip(some, states, ids, starts, strict=True):
            said = model.logits(row[start - 1 : len(one)]).float().log_softmax(-1).to("cpu", torch.float64)
            for place, reply in enumerate(replies):
                if of[place] == i % len(paths):
                    wanted = torch.tensor(list(reply))[:, None]
                    results[i // len(paths)][place] = -float(said[: len(reply)].gather(1, wanted).sum())

    _read(model, rows, range(len(rows)), take, batch_tokens)
    return results


def _read(
    model: Model,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    readable: Iterable[int],
    take: Callable[[list[int], Tensor, list[Tensor], list[int]], None],
    batch_tokens: int | None,
) -> None:
    """Read rows of two parts in batches of like length; those of two tokens and more.

    Args:
        model: as it is at the moment.
        rows: the two parts of each.
        readable: which of them are read.
        take: is given which rows they are, their last hidden states, their tokens, and where the second part begins.
        batch_tokens: see `nll_after`.
    """
    lengths = [len(before) + len(after) for before, after in rows]
    for length in lengths:
        model.check_length(length, "An answer", "write shorter ones")
    order = sorted((i for i in readable if lengths[i] >= 2), key=lambda i: (lengths[i], i))

    def read(start: int, at_once: int) -> list[int]:
        some = rows_within(order[start:], lengths, at_once)
        ids = [torch.tensor([*rows[i][0], *rows[i][1]], dtype=torch.int64) for i in some]
        tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = (torch.arange(tokens.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]).to(torch.int64)
        take(some, model.hidden_states(tokens, mask), ids, [max(len(rows[i][0]), 1) for i in some])
        return some

    start = 0
    while start < len(order):
        start += len(fitting_tokens(model, partial(read, start), batch_tokens, least=lengths[order[start]]))


def describe(
    model: Model,
    answers: Sequence[str],
    target: str,
    identify: LanguageIdentifier,
    *,
    tell: Identifier | None = None,
    perplexity: bool = True,
) -> pd.DataFrame:
    """A row an answer: answer, language, on_target, mixed_script, mixed_words, refusal, degenerate, nll, tokens.

    Args:
        model: intact; the perplexity is by it.
        answers: what was written.
        target: the language they should be in.
        identify: which tells the language of their sentences, for `mixed_words`.
        tell: which tells the language of an answer; by default the same.
        perplexity: measure `nll` and `tokens` too (NaN and 0 otherwise).
    """
    languages = [(tell or identify)(answer) for answer in answers]
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
