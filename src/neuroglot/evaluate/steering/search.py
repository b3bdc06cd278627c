"""The best of many ways to steer, at a bounded loss of fluency and a bounded number of answers."""

import math
import random as chance
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pandas as pd

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.corpus.texts import prompts_by_language
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.answers import summary
from neuroglot.evaluate.steering.candidates import Candidate
from neuroglot.evaluate.steering.forcing import Cell, Forcing, Prompts, Steering
from neuroglot.evaluate.steering.scores import steering_scores
from neuroglot.generation.settings import Generation
from neuroglot.languages.identifiers import Identification
from neuroglot.languages.tags import language_tag
from neuroglot.models.model import Model
from neuroglot.storage.given import takes_numbers

__all__ = ["Found", "Rater", "SearchPlan", "plan_search", "search"]


class Rater(Protocol):
    """Says how relevant answers are: `LikelihoodRule`, or a `Judge` by the rubric of relevance."""

    name: str

    def rate(self, answers: pd.DataFrame, *, progress: bool = True) -> pd.DataFrame:
        """The answers with a column `relevance` more, 0 to 2."""


@dataclass
class Found:
    """What a search found.

    Attributes:
        chosen: the best on the development half.
        families: of each family its best on the development half, by name.
        table: a row a candidate of each rung on the development half, then on the other half (`reported`) the chosen
            one, the best of each other family, `intact` and `native`: intact answers asked in the source and in the
            target language. `within` says whether the bounds of fluency hold.
        answers: those of the reported half.
    """

    chosen: Candidate
    families: dict[str, Candidate]
    table: pd.DataFrame
    answers: pd.DataFrame = field(repr=False)

    def frame(self) -> pd.DataFrame:
        """The table."""
        return self.table


@takes_numbers
def search(
    model: Model,
    recording: Recording,
    neurons: NeuronSet,
    prompts: Prompts,
    settings: Sequence[Candidate | Steering],
    *,
    targets: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    more: Prompts | None = None,
    budget: int | None = None,
    relevance: Rater | None = None,
    max_loss: float = 1.0,
    max_degenerate: float = 0.2,
    samples: Samples | None = None,
    identification: Identification = "lingua",
    generation: Generation | None = None,
    directory: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Found:
    """The way to steer with the best steering score at a bounded loss of fluency, by successive halving.

    Candidates are tried on the development half of the prompts (the first, third …), for every source → target pair of
    different languages. With a budget the first rung asks only a few of them; the better half of each family (the same
    methods and prompting, whatever the strength and the layers) goes on to a rung with twice as many, until one asks
    them all. The best of each family is then measured on the other half. The measure of fluency is what the intact
    model writes when it is asked in the target language itself.

    Args:
        model: see `force`.
        recording: see `force`.
        neurons: see `force`.
        prompts: see `force`; they must include the targets.
        settings: those to try; see `candidates` and `grid`. A `Steering` is tried with the source ablated.
        targets: see `force`.
        sources: languages to ask in; by default all that have prompts.
        more: prompts that are only reported on, in the sources.
        budget: answers on the development half at most; by default every candidate answers every prompt. Where it is
            too small for all candidates, some of each family are drawn at random.
        relevance: rates the answers. The score is then the harmonic mean of LFS and relevance, else LFS alone.
        max_loss: the perplexity of the answers may exceed the native ones' by this share: 1 allows twice.
        max_degenerate: the share of degenerate answers may exceed the native ones' by this.
        samples: see `force`.
        identification: see `force`.
        generation: see `force`.
        directory: see `force`.
        seed: of the draw of candidates.
        progress: see `force`.

    Returns:
        See `Found`. If the bounds hold for no candidate, the one with the fewest degenerate answers is chosen.

    Raises:
        NeuroglotError: no setting, too few prompts, a budget that no family could share in, or what `force` raises.
    """
    targets, sources = targets or neurons.languages, sources or list(prompts)
    planned = plan_search(prompts, settings, targets=targets, sources=sources, budget=budget, seed=seed)
    wanted, asked, pairs, report = planned.targets, planned.sources, planned.pairs, dict(planned.report)
    for tag, texts in prompts_by_language(more or {}).items():
        report[tag] = [*report.get(tag, []), *texts]
    work = Forcing(
        model, recording, neurons, languages=[*wanted, *asked], samples=samples, identification=identification,
        generation=generation, directory=directory, progress=progress,
    )  # fmt: skip
    halves = [
        _Half(work, half, pairs, wanted, relevance, max_loss, max_degenerate) for half in (planned.develop, report)
    ]
    rows, best = _halving(halves[0], planned.first, planned.shares)
    chosen = best[0]
    named = {candidate.family: candidate for candidate in best}
    reported, answers = halves[1].reported(named)
    return Found(chosen, named, pd.DataFrame([*rows, *reported]), answers)


class SearchPlan(NamedTuple):
    """Who is asked what in a search, as far as it is known before a model answers.

    Attributes:
        targets: languages to answer in.
        sources: languages to ask in.
        pairs: of different languages.
        develop: the prompts of the half that is searched on, by language.
        report: those of the other half.
        first: the candidates of the first rung.
        shares: how many prompts of each source have been asked after every rung.
    """

    targets: list[str]
    sources: list[str]
    pairs: list[tuple[str, str]]
    develop: dict[str, list[str]]
    report: dict[str, list[str]]
    first: list[Candidate]
    shares: list[int]


def plan_search(
    prompts: Prompts,
    settings: Sequence[Candidate | Steering],
    *,
    targets: Sequence[str],
    sources: Sequence[str],
    budget: int | None,
    seed: int = 0,
) -> SearchPlan:
    """What `search` will ask; arguments are as there, and no model is needed.

    Raises:
        NeuroglotError: no setting, too few prompts, or a budget that no family could share in.
    """
    wanted, asked = ([language_tag(tag) for tag in some] for some in (targets, sources))
    tried = [each if isinstance(each, Candidate) else Candidate(each) for each in settings]
    if not tried:
        raise NeuroglotError("There is no setting to try; see evaluate.candidates.")
    develop, report = _halves(prompts, wanted, asked)
    pairs = [(source, target) for source in asked for target in wanted if source != target]
    most = max(len(develop[source]) for source, _ in pairs)
    first, shares = _plan(list(dict.fromkeys(tried)), most, len(pairs), budget, seed)
    return SearchPlan(wanted, asked, pairs, develop, report, first, shares)


def _halves(prompts: Prompts, targets: Sequence[str], sources: Sequence[str]) -> list[dict[str, list[str]]]:
    """The prompts that develop (the first, third …) and those that report."""
    given = prompts_by_language(prompts)
    halves = [{tag: texts[part::2] for tag, texts in given.items()} for part in (0, 1)]
    if missing := [tag for tag in (*targets, *sources) if tag not in halves[0]]:
        raise NeuroglotError(f"The measure of fluency needs prompts in {missing[0]} too; give some.")
    if not any(source != target for source in sources for target in targets):
        raise NeuroglotError("Forcing is between languages: give prompts in at least two.")
    if not all(half[tag] for half in halves for tag in half):
        raise NeuroglotError("Half of the prompts develop and half report: give at least two in each language.")
    return halves


@dataclass
class _Half:
    """Half of the prompts, whom they are put to, and how fluent answers must be."""

    work: Forcing
    prompts: Mapping[str, list[str]]
    pairs: Sequence[tuple[str, str]]
    targets: Sequence[str]
    relevance: Rater | None
    max_loss: float
    max_degenerate: float

    def __post_init__(self) -> None:
        cells = [Cell("intact", tag, tag, self.prompts[tag], name="native") for tag in self.targets]
        self.native_answers = self.work.answers(cells)
        self.native = summary(self.native_answers, ["condition"]).iloc[0]

    def answers(self, named: Mapping[str, Candidate], start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """What candidates answer to some of the prompts, all in one queue; `condition` is the name."""
        cells = [
            Cell(each.condition, source, target, texts, each.how, each.prompting, name=name)
            for name, each in named.items()
            for source, target in self.pairs
            if (texts := self.prompts[source][start:stop])
        ]
        return self.rated(self.work.answers(cells))

    def rated(self, answers: pd.DataFrame) -> pd.DataFrame:
        return answers if self.relevance is None else self.relevance.rate(answers, progress=self.work.progress)

    def rates(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Rates and scores by name; the score is LFS where nobody said what is relevant."""
        table = summary(answers, ["condition"])
        scores = steering_scores(answers.assign(relevance=answers.get("relevance", 2.0)))
        if self.relevance is None:
            scores[["steering_score", "steering_score_low", "steering_score_high"]] = scores[
                ["lfs", "lfs_low", "lfs_high"]
            ].to_numpy()
            scores = scores.drop(columns=[name for name in scores if str(name).startswith("relevance")])
        table = table.join(scores.drop(columns="answers"))
        table["perplexity"] = table["perplexity"].map(lambda value: value if math.isfinite(value) else math.inf)
        table["within"] = [self._holds(row) for _, row in table.iterrows()]
        return table

    def _holds(self, rates: Any) -> bool:
        """Whether answers of these rates are fluent enough beside native ones."""
        return bool(
            rates["perplexity"] <= (1 + self.max_loss) * self.native["perplexity"]
            and rates["degenerate"] <= self.native["degenerate"] + self.max_degenerate
        )

    def reported(self, named: Mapping[str, Candidate]) -> tuple[list[dict[str, Any]], pd.DataFrame]:
        """Rows of the table for the best of each family, intact and native; and their answers."""
        answers = self.answers({**named, "intact": Candidate(condition="intact")})
        answers = pd.concat([answers, self.rated(self.native_answers)], ignore_index=True)
        rates = self.rates(answers)
        rows = []
        for name, row in rates.iterrows():
            candidate = named.get(str(name))
            words = str(name) if candidate is None else candidate.words()
            single = candidate is not None and candidate.single
            rows.append({"half": "reported", "rung": 0, "family": name, "setting": words, "single": single, **row})
        return rows, answers


def _order(rates: Any) -> tuple[bool, float, float]:
    """What is best is largest: the best score where the bounds hold, else the least degenerate."""
    held = bool(rates["within"])
    return held, float(rates["steering_score"] if held else -rates["degenerate"]), -float(rates["perplexity"])


def _halving(
    half: _Half, chosen: Sequence[Candidate], shares: Sequence[int]
) -> tuple[list[dict[str, Any]], list[Candidate]]:
    """The rows of the table of the development half; the best of each family, best first."""
    left = {str(place): candidate for place, candidate in enumerate(chosen)}
    rows: list[dict[str, Any]] = []
    answers = pd.DataFrame()
    for rung, (start, stop) in enumerate(zip([0, *shares], shares, strict=False), 1):
        known = answers[answers["condition"].isin(left)] if len(answers) else answers
        answers = pd.concat([known, half.answers(left, start, stop)], ignore_index=True)
        rates = half.rates(answers)
        for name, row in rates.iterrows():
            each = left[str(name)]
            words = {"family": each.family, "setting": each.words(), "single": each.single}
            rows.append({"half": "development", "rung": rung, **words, **row})
        order = sorted(left, key=lambda name: _order(rates.loc[name]), reverse=True)
        room = {family: 1 if stop == shares[-1] else -(-size // 2) for family, size in _sizes(left.values()).items()}
        kept: dict[str, Candidate] = {}
        for name in order:
            if room[left[name].family]:
                room[left[name].family] -= 1
                kept[name] = left[name]
        left = kept
    return rows, list(left.values())


def _sizes(candidates: Iterable[Candidate]) -> Counter[str]:
    return Counter(candidate.family for candidate in candidates)


def _plan(
    tried: Sequence[Candidate], most: int, pairs: int, budget: int | None, seed: int
) -> tuple[list[Candidate], list[int]]:
    """The candidates of the first rung, and how many prompts of each source have been asked after every rung."""
    if budget is None:
        return list(tried), [most]
    sizes = _sizes(tried)
    starts = list(dict.fromkeys(-(-most // (1 << halvings)) for halvings in range(most.bit_length() + 1)))
    for first in starts:
        if _answers(sizes, first, most, pairs) <= budget:
            return list(tried), _shares(first, most)
    order = chance.Random(seed).sample(range(len(tried)), len(tried))
    for few in range(max(sizes.values()) - 1, 0, -1):
        if _answers({family: min(size, few) for family, size in sizes.items()}, 1, most, pairs) <= budget:
            room, drawn = Counter(dict.fromkeys(sizes, few)), []
            for place in order:
                if room[tried[place].family]:
                    room[tried[place].family] -= 1
                    drawn.append(place)
            return [tried[place] for place in sorted(drawn)], _shares(1, most)
    least = _answers(dict.fromkeys(sizes, 1), 1, most, pairs)
    raise NeuroglotError(
        f"A budget of {budget:,} answers is too small for one candidate of each of {len(sizes)} families; give "
        f"{least:,}, or fewer families, targets or prompts."
    )


def _shares(first: int, most: int) -> list[int]:
    shares = [first]
    while shares[-1] < most:
        shares.append(min(2 * shares[-1], most))
    return shares


def _answers(sizes: Mapping[str, int], first: int, most: int, pairs: int) -> int:
    """How many answers successive halving takes; a rung asks only the prompts that were not asked before."""
    left, total, shares = list(sizes.values()), 0, _shares(first, most)
    for start, stop in zip([0, *shares], shares, strict=False):
        total += sum(left) * (stop - start) * pairs
        left = [-(-size // 2) for size in left]
    return total
