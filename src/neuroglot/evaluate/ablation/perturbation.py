"""The perplexity-change matrix: whose neurons are off, and which language suffers."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet, checked_set
from neuroglot.artifacts.widths import stated
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.conditions import INTACT, Condition
from neuroglot.edit.interventions import Deactivate
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.likelihood.perplexity import block_nll, held_out_blocks, perplexity_of
from neuroglot.identify.random_neurons import random
from neuroglot.identify.units import Units
from neuroglot.models.architecture.sites import Site
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.models.workers import spread
from neuroglot.progress import token_progress
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.results import refuse_differing

__all__ = ["RandomRow", "check_resumable", "perturb", "random_neurons"]

RandomRow = Literal["largest", "next percent"]
AGAIN = "delete it to measure again, or name another file"


@takes_numbers
def perturb(
    model: Model,
    corpus: Corpus,
    neurons: NeuronSet,
    *,
    tokens: int = 100_000,
    block: int | None = None,
    seeds: int = 3,
    random_row: RandomRow = "largest",
    matched: bool = False,
    units: Units = "neurons",
    batch_tokens: int | None = None,
    resume: str | Path | None = None,
    beside: Iterable[str | Path] = (),
    progress: bool = True,
) -> Perturbation:
    """The perplexity-change matrix (Tang et al. 2024, §3.2 and Figure 2), with a random baseline.

    For each language its neurons are deactivated and the perplexity of every language is measured. The random row
    deactivates at least as many neurons as the largest set has, so that it is no easier than any row beside it.

    Args:
        model: to perturb; left as it was.
        corpus: held-out text.
        neurons: whose languages are the rows. A language without neurons is measured too: its row is all zero.
        tokens: at most so many tokens of each language.
        block: tokens a block; see `perplexity`.
        seeds: how many random rows.
        random_row: how many neurons each of them has: as many as the `largest` set, or the `next percent` of all
            neurons above it (Zeng et al. 2025, Table 1).
        matched: also switch off, for each language, random neurons as many as its own, and measure that language only:
            the fair baseline of the effect on target where sets differ much in size.
        units: what the sets are of; random rows are of the same.
        batch_tokens: tokens a forward pass; by default 1,024 on a CPU and 16,384 on a GPU.
        resume: a file that is written after every row, and whose rows are not measured again.
        beside: such files of other neurons; where the model and the text are the same, the intact row is theirs.
        progress: show a bar.

    Raises:
        NeuroglotError: the neurons are of another shape, a language is too short, or `resume` is of other settings.
    """
    heads = units == "heads"
    site: Site = "heads" if heads else "activation"
    neurons = checked_set(neurons).of_model(model, site=site)  # so that random rows are drawn among what there is
    blocks = held_out_blocks(model, corpus, tokens=tokens, block=block)
    size = _random_size(neurons, random_row)
    fresh = Perturbation(
        intact={},
        off={},
        random={},
        sizes={**neurons.sizes(), "random": size},
        tokens={tag: piece.shape[0] * (piece.shape[1] - 1) for tag, piece in blocks.items()},
        block=next(iter(blocks.values())).shape[1],
        settings={
            "model": model.fingerprint,
            "neurons": _digest(neurons),
            "text": _digest(*blocks.values()),
            "random": str(size),
            **({"units": units} if heads else {}),
        },
    )
    result = _resumed(fresh, resume)
    rows = _rows(neurons, list(blocks), size, seeds, matched, site)
    if not result.intact and (losses := _intact(result, beside)):
        rows[0].keep(result, losses)
    cost = {tag: piece.numel() for tag, piece in blocks.items()}
    with token_progress("perturbing", sum(cost[tag] for row in rows for tag in row.conditions), shown=progress) as say:
        worth = {row.name: (sum(cost[tag] for tag in row.conditions), row.name) for row in rows}
        missing = [row for row in rows if not row.found(result)]
        for row in rows:
            if row.found(result):
                say(*worth[row.name])
        jobs = [(row.name, row.conditions, blocks, batch_tokens) for row in missing]
        told = [worth[row.name] for row in missing]
        for row, losses in zip(missing, spread(model, _row_losses, jobs, say, told), strict=True):
            row.keep(result, losses)
            if resume is not None:
                result.save(resume)
    if resume is not None:
        result.save(resume)
    return result


def _row_losses(
    model: Model,
    name: str,
    conditions: Mapping[str, Condition],
    blocks: Mapping[str, Tensor],
    batch_tokens: int | None,
    advance: Callable[[int, str], None] = lambda tokens, what: None,
) -> dict[str, list[float]]:
    """The losses of each language's blocks under its condition: a row."""
    losses = {}
    for tag, condition in conditions.items():
        label = f"{name}, {tag}"
        with condition.applied(model):
            losses[tag] = block_nll(
                model,
                blocks[tag],
                tag,
                batch_tokens,
                lambda n, _, label=label: advance(n, label),  # type: ignore[misc]
            )
    return losses


@dataclass(frozen=True)
class _Row:
    """A row of the matrix, or one that stands beside it.

    Attributes:
        kind: `intact`, `off`, `random` or `matched`.
        key: whose neurons are off, or the seed.
        conditions: language measured → what is done to the model meanwhile.
    """

    kind: str
    key: str
    conditions: Mapping[str, Condition]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.key}".strip()

    def found(self, result: Perturbation) -> bool:
        """Whether it was measured."""
        return bool(result.intact) if self.kind == INTACT else self.key in getattr(result, self.kind)

    def keep(self, result: Perturbation, losses: dict[str, list[float]]) -> None:
        """Put what was measured into its place."""
        result.losses.setdefault(self.kind, {})[self.key] = losses
        values = {tag: perplexity_of(math.fsum(nats) / len(nats)) for tag, nats in losses.items()}
        if self.kind == INTACT:
            result.intact = values
        else:
            getattr(result, self.kind)[self.key] = values


def _rows(neurons: NeuronSet, measured: list[str], size: int, seeds: int, matched: bool, site: Site) -> list[_Row]:
    """All that is measured, in its order: intact, each language's neurons off, random ones, ones as many as its own."""

    def everywhere(kind: str, key: str, *off: Tensor) -> _Row:
        steps = tuple(Deactivate(each, site=site) for each in off)
        return _Row(kind, key, dict.fromkeys(measured, Condition(key, steps)))

    rows = [everywhere(INTACT, "")]
    rows += [everywhere("off", tag, neurons[tag]) for tag in neurons.languages]
    rows += [everywhere("random", str(seed), random_neurons(neurons, size, seed)) for seed in range(seeds)]
    own = [tag for tag in neurons.languages if tag in measured]
    for seed in range(seeds if matched and own else 0):
        drawn = random(neurons.select(own), seed=seed)
        off = {tag: Condition(tag, (Deactivate(drawn[tag], site=site),), seed) for tag in own}
        rows.append(_Row("matched", str(seed), off))
    return rows


def random_neurons(like: NeuronSet, size: int, seed: int) -> Bool[Tensor, "layers neurons"]:
    """So many random neurons of the model that these sets are of: a random row."""
    one = torch.zeros_like(like.exists)
    one[tuple(like.exists.nonzero()[:size].T)] = True
    return random(NeuronSet(one[None], ["mul"], stated(like.widths)), seed=seed)["mul"]


def _random_size(neurons: NeuronSet, row: RandomRow) -> int:
    largest = max(neurons.sizes().values())
    if row == "largest":
        return largest
    percent = min(100, 100 * largest // neurons.total + 1)
    return round(percent * neurons.total / 100)


def _intact(result: Perturbation, beside: Iterable[str | Path]) -> dict[str, list[float]]:
    """The losses of the intact model that another file has of the same text, or none."""
    for path in filter(Path.is_file, map(Path, beside)):
        with suppress(NeuroglotError):  # a file that cannot be read is spoken of by whom it is for
            other = Perturbation.load(path)
            if all(other.settings.get(name) == result.settings[name] for name in ("model", "text")):
                return other.losses.get(INTACT, {}).get("", {})
    return {}


def _resumed(fresh: Perturbation, resume: str | Path | None) -> Perturbation:
    if resume is None or not Path(resume).is_file():
        return fresh
    try:
        old = Perturbation.load(resume)
    except NeuroglotError as error:
        warnings.warn(f"{error} This is done now.", NeuroglotWarning, stacklevel=3)
        return fresh
    refuse_differing(f"{resume} was measured", _settings(old), _settings(fresh), AGAIN)
    return old


def check_resumable(
    reader: Model | TextReader, corpus: Corpus, *, tokens: int, block: int | None, resume: str | Path
) -> None:
    """Refuse a file of other text before weights are opened; for the arguments and what is raised see `perturb`."""
    try:
        old = Perturbation.load(resume)
    except NeuroglotError:  # a damaged one is measured again
        return
    blocks = held_out_blocks(reader, corpus, tokens=tokens, block=block)
    refuse_differing(f"{resume} was measured", _settings(old), _settings(old) | _said_of(blocks), AGAIN)


def _settings(result: Perturbation) -> dict[str, object]:
    return {**result.settings, "block": result.block, "tokens": sum(result.tokens.values())}


def _said_of(blocks: Mapping[str, Tensor]) -> dict[str, object]:
    counted = sum(piece[:, 1:].numel() for piece in blocks.values())
    return {"text": _digest(*blocks.values()), "block": next(iter(blocks.values())).shape[1], "tokens": counted}


def _digest(*values: "torch.Tensor | NeuronSet") -> str:
    digest = hashlib.sha256()
    for value in values:
        tensor = value.mask if isinstance(value, NeuronSet) else value
        digest.update(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        digest.update(",".join(value.languages).encode() if isinstance(value, NeuronSet) else b"")
    return digest.hexdigest()[:32]
