"""All methods measured on the same text: which sets of neurons harm their own language, and no other."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.conditions import INTACT, Condition
from neuroglot.edit.interventions import Deactivate
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.ablation.selectivity import (
    coverage,
    diagonal_dominant,
    jaccard,
    off_target_effect,
    on_target_effect,
    relation_correlation,
    selectivity,
)
from neuroglot.evaluate.ablation.units import UnitCosts, unit_costs
from neuroglot.evaluate.ablation.whole import check_losses, check_sizes
from neuroglot.evaluate.likelihood.perplexity import (
    blocks_nll,
    finite_mean,
    held_out_blocks,
    increase_of,
    perplexity_of,
)
from neuroglot.identify.units import units_of
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.models.workers import spread
from neuroglot.progress import token_progress
from neuroglot.stats import Contrast, contrast, interval, mean_interval
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.results import JsonResult, ResultCache

__all__ = ["ALL", "Ablation", "Comparison", "measure_conditions"]

ALL = "all"


@dataclass(frozen=True, eq=False)
class Ablation:
    """One choice of sets that is measured: a condition for each language, in which that language's set is off.

    Attributes:
        method: which found them.
        budget: neurons a language, as a share of all; None for what the method chooses by itself.
        part: of the evidence: `all`, `half 1`, `half 2`, `seed 1`, `500 tokens` ….
        sets: language → what is switched off.
        measured: whether it is, or only compared with other sets.

    A method of heads is called after them, `lape heads`; its sets are (attentions, heads).
    """

    method: str
    budget: float | None
    part: str
    sets: NeuronSet | ParameterSet
    measured: bool = True

    @property
    def name(self) -> str:
        """How it is called in files: `lape 0.01 all`."""
        return f"{_choice(self.method, self.budget)} {self.part}"

    def condition(self, tag: str) -> Condition:
        """The condition in which one language's set is off."""
        off = self.sets[tag]
        site: Site = "heads" if units_of(self.method) == "heads" else "activation"
        step = Deactivate(off, site=site) if isinstance(off, Tensor) else off
        return Condition(f"{self.name}, {tag} off", (step,))


@dataclass
class Comparison(JsonResult):
    """The losses of a model on held-out text, block by block, intact and with the sets of each ablation off.

    Attributes:
        languages: K tags, the rows and the columns of every matrix.
        intact: language → nats a token of each block.
        off: ablation → whose set is off → language measured → nats a token of each block.
        sizes: ablation → language → how many neurons (or parameters).
        conditions: ablation → method, budget and part.
        stability: method and budget → Jaccard index of the sets of two halves, of seeds, and of each part with all.
        seconds: method → what finding its neurons took, by step.
        block: tokens a block.
        settings: what the cells were measured with.
        costs: what a unit and the model hold; see `UnitCosts`.
    """

    remedy = "run compare again"
    renamed: ClassVar[Mapping[str, str]] = {"arms": "conditions"}

    languages: list[str]
    intact: dict[str, list[float]] = field(default_factory=dict)
    off: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    stability: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    block: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)

    def check_whole(self) -> None:
        """Refuse what cannot have been measured on the same blocks of each language."""
        tags = {*self.languages}
        if not tags or len(tags) < len(self.languages) or {*self.intact} != tags or self.block < 1:
            raise ValueError("it does not say which text was read")
        check_losses(INTACT, self.intact, self.intact)
        for name, rows in self.off.items():
            if {*rows} != tags or any({*cells} != tags for cells in rows.values()):
                raise ValueError(f"{name} was not measured in each language")
            for tag, cells in rows.items():
                check_losses(f"{name}, {tag}", cells, self.intact)
            check_sizes(name, self.sizes.get(name, {}), tags)
            about = self.conditions.get(name, {})
            kinds = {"method": str, "budget": int | float | None, "part": str}
            if not all(key in about and isinstance(about[key], kind) for key, kind in kinds.items()):
                raise ValueError(f"{name} does not say what was measured")
        if not {*self.conditions} <= {*self.off}:
            raise ValueError("it names more conditions than were measured")
        if self.costs:
            UnitCosts(**self.costs)  # type: ignore[arg-type]

    def add(self, before: "Comparison") -> None:
        """Take in what an earlier one measured on the same blocks, and first; what both have stays as it is here."""
        for name in ("off", "sizes", "conditions"):
            setattr(self, name, {**getattr(before, name), **getattr(self, name)})
        if not self.costs.get("heads"):
            self.costs = before.costs or self.costs
        self.seconds |= before.seconds  # a second time, most of it is only read
        both = {choice: before.stability.get(choice, {}) | found for choice, found in self.stability.items()}
        self.stability = {**before.stability, **both}

    def effects(self, condition: str) -> Float64[Tensor, "languages languages"]:
        """Nats a token that are lost: row = whose set is off, column = language measured."""
        return self._effects(condition, None)

    def _effects(self, condition: str, weights: Mapping[str, Tensor] | None) -> Tensor:
        rows = []
        for off in self.languages:
            cells = []
            for tag in self.languages:
                change = _tensor(self.off[condition][off][tag]) - _tensor(self.intact[tag])
                cells.append(change.mean() if weights is None else weights[tag] @ change)
            rows.append(torch.stack(cells, dim=-1))
        return torch.stack(rows, dim=-2)

    def perturbation(self, condition: str) -> Perturbation:
        """An ablation's perplexity-change matrix; its baseline are those of random neurons of the same budget.

        Random neurons are drawn for each language by itself; the baseline of a column is its own language's draw.
        """
        budget, units = self.conditions[condition]["budget"], units_of(self.conditions[condition]["method"])
        rival = "random" if units == "neurons" else f"random {units}"
        random = [
            name for name, what in self.conditions.items() if what["method"] == rival and what["budget"] == budget
        ]
        perplexity = {
            name: {off: _perplexities(cells) for off, cells in self.off[name].items()} for name in [condition, *random]
        }
        drawn = {
            str(seed): {tag: perplexity[name][tag][tag] for tag in self.languages} for seed, name in enumerate(random)
        }
        size = max((max(self.sizes[name].values()) for name in random), default=0)
        tokens = {tag: len(values) * (self.block - 1) for tag, values in self.intact.items()}
        sizes = {**self.sizes[condition], "random": size}
        losses = {
            INTACT: {"": self.intact},
            "off": self.off[condition],
            "random": {
                str(seed): {tag: self.off[name][tag][tag] for tag in self.languages} for seed, name in enumerate(random)
            },
        }
        settings: dict[str, str] = {"units": units} if units == "heads" else {}
        return Perturbation(
            _perplexities(self.intact), perplexity[condition], drawn, sizes, tokens, self.block, settings,
            losses=losses,
        )  # fmt: skip

    def contrast(
        self, condition: str, off: str, more: str, less: str, *, level: float = 0.95, seed: int = 0
    ) -> Contrast:
        """Does a language's set do more to one language than to another? See `Perturbation.contrast`."""
        return self.perturbation(condition).contrast(off, more, less, level=level, seed=seed)

    def contrast_sets(
        self, first: str, second: str, off: str, measured: str | None = None, *, level: float = 0.95, seed: int = 0
    ) -> Contrast:
        """Does one ablation's set of a language cost more than another's, on the same blocks?

        Args:
            first: an ablation, such as `margin 0.01 all`.
            second: another, such as `lape 0.01 all`.
            off: whose set is off, in both.
            measured: on which language; by default the same.
            level: of the interval.
            seed: of the permutations and the bootstrap.

        Raises:
            NeuroglotError: an ablation or a language was not measured.
        """
        tag = measured or off
        for name in (first, second):
            if name not in self.off or tag not in self.off[name].get(off, {}):
                raise NeuroglotError(
                    f"{name!r} with {off} off was not measured on {tag}; it has {', '.join(self.off)}."
                )
        return contrast(self.off[first][off][tag], self.off[second][off][tag], matched=True, level=level, seed=seed)

    def summary(self, distance: Tensor | None = None, *, resamples: int = 2_000, seed: int = 0) -> pd.DataFrame:
        """One row an ablation: its sizes, and what its matrix says, with 95 % intervals over held-out blocks.

        `on_target` and `off_target` are nats a token; `diagonal_dominant` is the number of languages whose own cell is
        the largest of its row, `coverage` their share; `relation` see `relation_correlation`; `split_half` and `seeds`
        are the Jaccard indices of the sets that two halves of the text, or several seeds, give; `seconds` is what
        finding them took; `units` are neurons or heads, `parameters` and `flops` the shares of the model's (without
        embeddings and head) that a language's set holds, mean over languages. The bootstrap draws blocks with
        replacement, in each language by itself, the same for all.
        Where a language has one block only, no interval is known and all ends are NaN.

        Args:
            distance: (K, K) between languages, for the rank correlation.
            resamples: of the bootstrap.
            seed: of the bootstrap.
        """
        generator = torch.Generator().manual_seed(seed)
        weights = {}
        for tag in self.languages:
            count = len(self.intact[tag])
            drawn = torch.randint(count, (resamples, count), generator=generator)
            weights[tag] = torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(
                1, drawn, torch.full((resamples, count), 1 / count, dtype=torch.float64)
            )
        known = min(map(len, self.intact.values())) > 1
        rows = []
        for condition, what in self.conditions.items():
            effects, draws = self.effects(condition), self._effects(condition, weights)
            sizes = self.sizes[condition].values()
            row = {**what, "fewest": min(sizes), "most": max(sizes)}
            units = units_of(what["method"])
            row["units"] = units
            if self.costs and not what["method"].endswith(" parameters"):
                row |= UnitCosts(**self.costs).held(units, sum(sizes) / len(sizes))  # type: ignore[arg-type]
            for name, measure in MEASURES.items():
                row[name] = float(measure(effects))
                # where nothing is lost off target the ratio is infinite, and so may the upper end be
                low, high = interval(measure(draws), interpolation="nearest") if known else (math.nan, math.nan)
                row |= {f"{name}_low": low, f"{name}_high": high}
            row["diagonal_dominant"] = int(diagonal_dominant(effects).sum())
            row["relation"] = float("nan") if distance is None else relation_correlation(effects, distance)
            found = self.stability.get(_choice(what["method"], what["budget"]), {})
            row["split_half"], row["seeds"] = found.get("half", math.nan), found.get("seed", math.nan)
            row["seconds"] = sum(self.seconds.get(what["method"], {}).values()) if what["part"] == ALL else math.nan
            rows.append(row)
        return pd.DataFrame(rows)

    def frame(self) -> pd.DataFrame:
        """Every cell as one long table.

        Columns: method, budget, part, off, neurons, measured, perplexity, change (relative, of the perplexity), nats
        (the change of the loss), nats_low and nats_high (its 95 % bootstrap interval over blocks, NaN for one block).
        """
        rows = []
        for condition, what in self.conditions.items():
            ends = {}
            for tag in self.languages:
                after = torch.stack([_tensor(cells[tag]) for cells in self.off[condition].values()])
                low, high = mean_interval(after - _tensor(self.intact[tag]))
                ends[tag] = dict(zip(self.off[condition], zip(low.tolist(), high.tolist(), strict=True), strict=True))
            for off, cells in self.off[condition].items():
                for tag, values in cells.items():
                    before, now = _mean(self.intact[tag]), _mean(values)
                    rows.append(
                        {
                            **what,
                            "off": off,
                            "neurons": self.sizes[condition][off],
                            "measured": tag,
                            "perplexity": perplexity_of(now),
                            "change": increase_of(now - before),
                            "nats": now - before,
                            "nats_low": ends[tag][off][0],
                            "nats_high": ends[tag][off][1],
                        }
                    )
        return pd.DataFrame(rows)

    changes = frame  # as earlier scripts call it


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "on_target": on_target_effect,
    "off_target": off_target_effect,
    "selectivity": selectivity,
    "coverage": coverage,
}


def _tensor(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _perplexities(losses: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {tag: perplexity_of(_mean(values)) for tag, values in losses.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@takes_numbers
def measure_conditions(
    model: Model,
    corpus: Corpus,
    conditions: Sequence[Ablation],
    *,
    tokens: int = 100_000,
    block: int | None = None,
    batch_tokens: int | None = None,
    directory: str | Path,
    progress: bool = True,
) -> Comparison:
    """Switch the sets of each ablation off, one language's at a time, and measure every language on the same blocks.

    Each matrix row is kept under a digest of what is off, so that ablations share rows, another budget costs only what
    is new, and interrupted work goes on.

    Args:
        model: left as it was.
        corpus: held-out text; its languages are the rows and columns.
        conditions: what to switch off, in this order; their sets hold every language of the corpus.
        tokens: at most so many tokens of each language.
        block: tokens a block; see `perplexity`. Intervals are over blocks, so there should be several.
        batch_tokens: tokens a forward pass.
        directory: where rows are kept.
        progress: show a bar.

    Raises:
        NeuroglotError: sets are of another shape or lack a language, a language is too short, or a loss is no number.
    """
    blocks = held_out_blocks(model, corpus, tokens=tokens, block=block)
    languages = list(corpus.languages)
    for ablation in conditions:
        _check(ablation, model, languages)
    text = hashlib.sha256(b"".join(piece.numpy().tobytes() for piece in blocks.values())).hexdigest()[:16]
    settings = {"model": model.fingerprint, "dtype": str(model.network.dtype), "text": text}
    folder = Path(directory) / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    result = Comparison(languages, block=next(iter(blocks.values())).shape[1], settings=settings)
    intact = Condition(INTACT)
    rows = {(what.name, tag): what.condition(tag) for what in conditions if what.measured for tag in languages}
    wanted = {condition.digest: condition for condition in (intact, *rows.values())}  # what is done, each once
    found = _measured(model, wanted, blocks, batch_tokens or model.batch_tokens, ResultCache(folder), progress)
    result.intact = found[intact.digest]
    heads = any(units_of(what.method) == "heads" for what in conditions)
    result.costs = dataclasses.asdict(unit_costs(model, result.block, heads=heads))
    for what in conditions:
        if what.measured:
            sizes = what.sets.sizes()
            result.off[what.name] = {tag: found[rows[what.name, tag].digest] for tag in languages}
            result.sizes[what.name] = {tag: sizes[tag] for tag in languages}
            result.conditions[what.name] = {"method": what.method, "budget": what.budget, "part": what.part}
    result.stability = _stability(conditions)
    return result


def _measured(
    model: Model,
    wanted: Mapping[str, Condition],
    blocks: Mapping[str, Int[Tensor, "blocks block"]],
    batch_tokens: int,
    cache: ResultCache,
    progress: bool,
) -> dict[str, dict[str, list[float]]]:
    """Digest of a condition → language → losses; what is kept is not measured again."""
    each = sum(piece.numel() for piece in blocks.values())
    kept = {digest: cache.find(digest, lambda kept: set(blocks) <= set(kept)) for digest in wanted}
    missing = [digest for digest, losses in kept.items() if losses is None]
    jobs = [(wanted[digest], blocks, batch_tokens) for digest in missing]
    with token_progress("comparing", each * len(wanted), shown=progress) as advance:
        advance(each * (len(wanted) - len(missing)), "")
        made = spread(model, _block_losses, jobs, advance, [(each, "")] * len(jobs))
        kept |= {digest: cache.keep(digest, losses) for digest, losses in zip(missing, made, strict=True)}
    return {digest: losses for digest, losses in kept.items() if losses is not None}


@torch.inference_mode()
def _block_losses(
    model: Model,
    condition: Condition,
    blocks: Mapping[str, Int[Tensor, "blocks block"]],
    batch_tokens: int,
    advance: Callable[[int, str], None] = lambda tokens, what: None,
) -> dict[str, list[float]]:
    """Mean negative log-likelihood (nats) of each block's tokens. Languages share batches, so that they are full."""
    together = torch.cat(list(blocks.values()))
    with condition.applied(model):
        found = torch.cat([nll.mean(1) for nll in blocks_nll(model, together, "", batch_tokens, advance)])
    by_language = found.split([len(piece) for piece in blocks.values()])
    for tag, values in zip(blocks, by_language, strict=True):
        finite_mean(model, float(values.sum()), len(values), tag)
    return {tag: values.tolist() for tag, values in zip(blocks, by_language, strict=True)}


def _check(ablation: Ablation, model: Model, languages: Sequence[str]) -> None:
    missing = [tag for tag in languages if tag not in ablation.sets.languages]
    if missing:
        raise NeuroglotError(f"{ablation.name} has no set of {missing[0]}; find the neurons of all languages measured.")
    if isinstance(ablation.sets, NeuronSet):
        ablation.sets.of_model(model, site="heads" if units_of(ablation.method) == "heads" else "activation")


def _stability(conditions: Sequence[Ablation]) -> dict[str, dict[str, float]]:
    """How alike a method's sets are: of the two halves, of seeds, and of each part with all of the evidence."""
    result: dict[str, dict[str, float]] = {}
    groups: dict[tuple[str, float | None], dict[str, NeuronSet]] = {}
    for ablation in conditions:
        if isinstance(ablation.sets, NeuronSet):
            groups.setdefault((ablation.method, ablation.budget), {})[ablation.part] = ablation.sets
    for (method, budget), parts in groups.items():
        found = {}
        for kind in ("half", "seed"):
            found[kind] = jaccard([sets for part, sets in parts.items() if part.startswith(kind)])
        if ALL in parts:
            found |= {part: jaccard([sets, parts[ALL]]) for part, sets in parts.items() if part != ALL}
        result[_choice(method, budget)] = found
    return result


def _choice(method: str, budget: float | None) -> str:
    return f"{method} {'default' if budget is None else f'{budget:g}'}"
