"""Keep answers in their language at a bounded cost: remedies tried on half of the prompts, measured on the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from neuroglot.artifacts.recording import Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.corpus.texts import prompts_by_language
from neuroglot.edit.recipes import Recipe
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.fixing.remedies import METHODS, Remedies, Remedy
from neuroglot.evaluate.fixing.trials import INTACT, Trials
from neuroglot.evaluate.likelihood.perplexity import held_out_blocks
from neuroglot.evaluate.steering.confusion import Identify
from neuroglot.generation.settings import Generation
from neuroglot.languages.tags import closest, language_tag
from neuroglot.models.model import Model
from neuroglot.progress import progress_bar
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.results import ResultCache
from neuroglot.tokens.counts import TokenLanguages

__all__ = ["Fixed", "fix"]

FirstOf = Mapping[str, Mapping[str, Sequence[str]]]
"""Source of prompts → language that answers should be in → prompts."""

SLIPS = 0.1
"""Of the wrong lines, the share from which a language counts as one that answers slip into."""
KEPT = 3
"""Of each method, one in so many goes on from a third of the development half to all of it."""


@dataclass
class Fixed:
    """What was found.

    Attributes:
        wanted: languages that answers should be in.
        avoided: languages that they are kept from.
        slips: into which languages wrong lines of the intact model's answers are, as shares of the lines that were
            judged, on the development half.
        chosen: the best within the bounds that is a recipe; None if nothing helps, or nothing is confused.
        best: of each method the best on the development half, by method.
        table: a row a remedy and rung on the development half, then on the other one (`reported`): see `fix`.
        by_language: the reported half by condition, source and language.
        answers: those of the reported half.
        perplexity: of the intact model on the held-out text in each language wanted.
    """

    wanted: tuple[str, ...]
    avoided: tuple[str, ...]
    slips: dict[str, float]
    chosen: Remedy | None
    best: dict[str, Remedy]
    table: pd.DataFrame
    by_language: pd.DataFrame = field(repr=False)
    answers: pd.DataFrame = field(repr=False)
    perplexity: dict[str, float] = field(repr=False)

    @property
    def recipe(self) -> Recipe | None:
        """That of what was chosen."""
        return None if self.chosen is None or not isinstance(self.chosen.change, Recipe) else self.chosen.change

    def frame(self) -> pd.DataFrame:
        """A row a remedy and rung on either half: `table`."""
        return self.table.copy()

    def reported(self, method: str) -> "pd.Series[Any] | None":
        """The row of a method, or of `intact`, on the reported half."""
        rows = self.table[(self.table["half"] == "reported") & (self.table["method"] == method)]
        return None if rows.empty else rows.iloc[0]


@takes_numbers
def fix(
    model: Model,
    recording: Recording,
    prompts: FirstOf,
    text: Corpus,
    tokens_of: TokenLanguages,
    *,
    avoided: Sequence[str] | None = None,
    methods: Sequence[str] = METHODS,
    max_cost: float = 0.02,
    tokens: int = 4_000,
    block: int | None = None,
    generation: Generation | None = None,
    identify: Identify | None = None,
    words: Sequence[str] | None = None,
    directory: str | Path | None = None,
    progress: bool = True,
) -> Fixed:
    """What keeps answers in their language, by the line pass rate, at a bounded cost of perplexity.

    Every remedy's cost is measured first, on held-out text that is read as if the model had written it. Those within
    the bounds answer a third of the development half (the first, third … prompt of each source and language), the best
    third of each method all of it. The best of each method is then measured on the other half.

    Args:
        model: intact.
        recording: of it, with `active` and `residual`, in the languages wanted and those avoided.
        prompts: source → language that the answer should be in → prompts, two at least.
        text: that was not recorded, in the languages of the recording: the cost, and the threshold of drift.
        tokens_of: whose each token is, for the rows of the head.
        avoided: languages that answers are kept from; by default those recorded that at least a tenth of the wrong
            lines are in, or where there are none, English.
        methods: of `METHODS`.
        max_cost: perplexity may rise by this share in each of the languages wanted.
        tokens: of held-out text in each language, at most.
        block: tokens a block of it; see `perplexity`.
        generation: how prompts are answered.
        identify: tells the language of a line; fastText by default, as the benchmark has it.
        words: English words; see `language_confusion`.
        directory: keep answers and costs here, each by what it depends on, and go on with what is there.
        progress: show a bar.

    Returns:
        See `Fixed`. Its table has half, rung, method, setting; answers, judged, line_passes, line_pass_rate with its
        95 % interval (line_low, line_high), word_pass_rate (of the answers that pass by line, in languages that it is
        defined for), slipped (answers with a line in an avoided language, a share), degenerate; perplexity_change, the
        largest over the languages wanted, and in which (costliest); within: the change is at most `max_cost`, at least
        0.9 times as many answers can be judged as of the intact model, and the share of degenerate ones rises by at
        most 0.1.

    Raises:
        NeuroglotError: too few prompts, an unknown method, a language that was not recorded or has no text, or what
            generation raises.
    """
    halves = _halves(prompts)
    wanted = tuple(dict.fromkeys(tag for languages in halves[0].values() for tag in languages))
    if unknown := [name for name in methods if name not in METHODS]:
        raise NeuroglotError(f"There is no method {unknown[0]!r}; choose among {', '.join(METHODS)}.")
    if not max_cost > 0:
        raise NeuroglotError(f"The bound on perplexity is a share above 0, not {max_cost:g}.")
    known = [tag for tag in recording.languages if tag in text.languages]
    if missing := [tag for tag in wanted if tag not in known]:
        raise NeuroglotError(f"There is no recorded and held-out text in {missing[0]}; there is in {', '.join(known)}.")
    blocks = held_out_blocks(model, text.select(known), tokens=tokens, block=block)
    work = Trials(
        model, {tag: blocks[tag] for tag in wanted}, generation or Generation(tokens=100, repetition_penalty=1.0),
        identify, words, ResultCache(directory), max_cost, progress,
    )  # fmt: skip
    develop, report = (work.asked(half) for half in halves)
    intact = work.answers(None, develop)
    if not intact["judged"].any():
        raise NeuroglotError(
            "No answer of the intact model has a line of five words, so none can be judged; ask for more tokens, or "
            "give other prompts."
        )
    slips = _slips(intact)
    if avoided is None:
        near = [(closest(tag, known), share) for tag, share in slips.items()]
        total = sum(slips.values())
        avoided = [tag for tag, share in near if tag and tag not in wanted and share >= SLIPS * total]
        avoided = avoided or [tag for tag in ("en", *known) if tag in known and tag not in wanted][:1]
    avoided = work.avoided = tuple(language_tag(tag) for tag in avoided)
    rows = [work.row("development", 0, None, intact, {}, intact)]
    best: dict[str, _Best] = {}
    costs: dict[str, dict[str, float]] = {}
    if avoided and _confused(intact):
        tried = Remedies(model, recording, tokens_of, blocks, wanted, avoided).all(methods)
        costs = work.costs(tried)
        more, best = _develop(work, tried, costs, develop, intact)
        rows += more
    chosen = _chosen(rows[0], best)
    intact = work.answers(None, report)
    answers = [intact.assign(condition=INTACT)]
    rows.append(work.row("reported", 0, None, intact, {}, intact))
    for method, (remedy, _) in best.items():
        found = work.answers(remedy, report)
        rows.append(work.row("reported", 0, remedy, found, costs[remedy.digest], intact))
        answers.append(found.assign(condition=method))
    everything = pd.concat(answers, ignore_index=True)
    return Fixed(
        wanted,
        avoided,
        slips,
        chosen,
        {name: remedy for name, (remedy, _) in best.items()},
        pd.DataFrame(rows),
        work.by_language(everything),
        everything.drop(columns="detected"),
        work.perplexity(),
    )


def _halves(prompts: FirstOf) -> list[dict[str, dict[str, list[str]]]]:
    """The prompts that develop (the first, third …) and those that report."""
    halves: list[dict[str, dict[str, list[str]]]] = [
        {
            source: {tag: texts[part::2] for tag, texts in prompts_by_language(languages, source).items()}
            for source, languages in prompts.items()
        }
        for part in (0, 1)
    ]
    if not any(languages for languages in prompts.values()):
        raise NeuroglotError("There are no prompts; give some in each language that answers should be in.")
    for source, languages in halves[1].items():
        if short := [tag for tag, texts in languages.items() if not texts]:
            raise NeuroglotError(
                f"Half of the prompts develop and half report: {source} needs at least two prompts in {short[0]}."
            )
    return halves


def _slips(answers: pd.DataFrame) -> dict[str, float]:
    """Of all judged lines the share that is in each other language, the most frequent first."""
    found = answers["detected"].explode().dropna()
    counts = found[found != ""].value_counts()
    total = max(1, int(answers["lines"].sum()))
    return {str(tag): int(count) / total for tag, count in counts.items()}


def _order(row: Mapping[str, Any]) -> tuple[bool, float, float, float]:
    """What is best is largest: within the bounds the most passes by line, then by word, then the least cost."""
    word = row["word_pass_rate"]
    return bool(row["within"]), float(row["line_passes"]), word if word == word else 0.0, -row["perplexity_change"]


_Best = tuple[Remedy, dict[str, Any]]
"""A remedy, and its row for the whole development half."""


def _develop(
    work: Trials,
    tried: Sequence[Remedy],
    costs: Mapping[str, Mapping[str, float]],
    asked: pd.DataFrame,
    intact: pd.DataFrame,
) -> tuple[list[dict[str, Any]], dict[str, _Best]]:
    """The rows of the development half, and the best of each method."""
    cheap = [remedy for remedy in tried if max(costs[remedy.digest].values()) <= work.max_cost]
    rows: list[dict[str, Any]] = []
    for remedy in tried:
        if remedy not in cheap:  # it is not asked anything
            cost = costs[remedy.digest]
            costliest = max(cost, key=lambda tag: cost[tag])
            rows.append(
                {"half": "development", "rung": 0, "method": remedy.method, "setting": remedy.words, "answers": 0,
                 "judged": 0, "line_passes": 0, "perplexity_change": cost[costliest], "costliest": costliest,
                 "within": False}
            )  # fmt: skip
    left = cheap
    found: dict[Remedy, dict[str, Any]] = {}
    with progress_bar("remedies", len(cheap), unit="remedies", shown=work.progress) as advance:
        for rung, count in ((1, -(-len(asked) // 3)), (2, len(asked))):
            some = asked.iloc[:count]
            written = work.written(left, some)
            found = {
                remedy: work.row(
                    "development", rung, remedy, work.judged(some.assign(answer=answers)), costs[remedy.digest],
                    intact.iloc[:count],
                )
                for remedy, answers in zip(left, written, strict=True)
            }  # fmt: skip
            rows += found.values()
            left = _ahead(found, KEPT if rung == 1 else len(found))
            advance(len(found) - len(left), f"{count} prompts")
    best: dict[str, _Best] = {remedy.method: (remedy, found[remedy]) for remedy in left}
    return rows, best


def _ahead(found: Mapping[Remedy, Mapping[str, Any]], every: int) -> list[Remedy]:
    """Of each method the best, one in so many."""
    ahead = []
    for method in dict.fromkeys(remedy.method for remedy in found):
        some = [remedy for remedy in found if remedy.method == method]
        order = sorted(some, key=lambda remedy: _order(found[remedy]), reverse=True)
        ahead += order[: -(-len(some) // every)]
    return ahead


def _chosen(intact: Mapping[str, Any], best: Mapping[str, _Best]) -> Remedy | None:
    """The recipe that is best on the whole development half, if it is within the bounds and better than nothing."""
    able = [
        (_order(row), remedy)
        for remedy, row in best.values()
        if isinstance(remedy.change, Recipe) and row["within"] and _order(row)[1:3] > _order(intact)[1:3]
    ]
    return max(able, key=lambda pair: pair[0])[1] if able else None


def _confused(answers: pd.DataFrame) -> bool:
    """Whether an answer fails by line or by word."""
    failed = answers["judged"] & ~(answers["line_pass"] & (answers["word_pass"] != False))  # noqa: E712
    return bool(failed.any())
