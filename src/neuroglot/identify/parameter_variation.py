"""Parameters and neurons that monolingual tuning leaves as they were: parameter variation (PV).

The base model is tuned on one language's instructions, for each language (`neuroglot tune`). What tuning on French
leaves alone and tuning on other languages changes is said to be French already (Tang et al. 2024, §3.1 d, after Zhao
et al. 2023). Weights are read from files, a matrix at a time; no model runs.
"""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.artifacts.widths import stated
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.identify.registry import default_choice, method
from neuroglot.identify.selection import NEVER, Evidence, Scores
from neuroglot.languages.tags import language_tag
from neuroglot.models.checkpoint import Checkpoint
from neuroglot.progress import progress_bar
from neuroglot.stats import entropy
from neuroglot.storage.given import takes_numbers

__all__ = ["least_varied", "parameter_variation", "variation_entropy", "variation_rates", "varied_parameters"]

Tuned = Mapping[str, str | Path]


@takes_numbers
def parameter_variation(
    base: str | Path, tuned: Tuned, *, top_fraction: float = 0.01, progress: bool = True
) -> NeuronSet:
    """Parameter variation, by neuron (Tang et al. 2024, §3.1 d): those that few languages' tuning leaves unchanged.

    A neuron's parameters are its rows of gate and up and its column of down. Its rate of change r is the sum of
    |tuned − base| over them, divided by the sum of |base|: a ratio of sums, since a mean of ratios would be decided by
    the weights nearest to zero. With v = max over languages of r, less r, normalised over languages, the neurons
    whose v has the lowest entropy are chosen; a neuron belongs to each language whose share of v is above even (1/K).

    Args:
        base: the checkpoint that was tuned: a directory, packaged weights or a `.gguf` file.
        tuned: language → checkpoint or LoRA adapter.
        top_fraction: how many neurons to choose, as a share of all.
        progress: show a bar.

    Raises:
        NeuroglotError: one language, a tuned checkpoint of another shape or without any change, tuned checkpoints that
            are stored in different precision, an adapter in the place of the base, or a setting out of range.
    """
    if not 0 < top_fraction <= 1:
        raise NeuroglotError(f"top_fraction must be above 0 and at most 1, not {top_fraction}.")
    rates = variation_rates(base, tuned, progress=progress)
    widths = [layer.neurons for layer in _opened(base, tuned)[0].layout]
    neurons = sum(widths)
    chosen = least_varied(rates, top_fraction, neurons)
    count, found = round(top_fraction * neurons), int(chosen.any(0).sum())
    if found < count:
        warnings.warn(
            f"Parameter variation found {found} neurons where {count} were asked for: the others changed alike "
            "in every language.",
            NeuroglotWarning,
            stacklevel=2,
        )
    about = {"method": "pv", "top_fraction": top_fraction, "base": str(base), **stated(widths)}
    return NeuronSet(chosen, list(tuned), about)


def least_varied(
    rates: Float64[Tensor, "languages *rest"], top_fraction: float, units: int | None = None
) -> Bool[Tensor, "languages *rest"]:
    """Those of the lowest `variation_entropy`, a share of all, for the languages they belong to.

    What every language changed alike belongs to none.

    Args:
        rates: of change; 0 in all languages where a narrower layer has no neuron.
        top_fraction: how many, as a share of all.
        units: how many there are, if fewer than the table has places.
    """
    spread, member = variation_entropy(rates)
    picked = torch.zeros(spread.numel(), dtype=torch.bool)
    picked[spread.flatten().sort(stable=True).indices[: round(top_fraction * (units or spread.numel()))]] = True
    return member & picked.view(spread.shape)


def variation_rates(
    base: str | Path, tuned: Tuned, *, progress: bool = True
) -> Float64[Tensor, "languages layers neurons"]:
    """How much tuning on each language changed each neuron: Σ |tuned − base| / Σ |base| over its weights.

    Two models' weights of one layer are in memory at a time.

    Raises:
        NeuroglotError: see `parameter_variation`.
    """
    start, variants = _opened(base, tuned)
    layers = start.layout
    result = torch.zeros(len(variants), len(layers), max(layer.neurons for layer in layers), dtype=torch.float64)
    with progress_bar("reading", len(layers) * len(variants), unit="layers", shown=progress) as advance:
        for i, layer in enumerate(layers):
            names = dict.fromkeys(layer.ffn)
            before = {name: start.weight(name) for name in names}
            size = layer.by_neuron({name: weight.abs() for name, weight in before.items()}).sum(1, dtype=torch.float64)
            for k, (tag, variant) in enumerate(variants.items()):
                change = {name: variant.change(name, before[name]).abs_() for name in names}
                result[k, i, : layer.neurons] = layer.by_neuron(change).sum(1, dtype=torch.float64) / size
                advance(1, tag)
    result = result.nan_to_num_(nan=0.0, posinf=0.0)  # a neuron whose base weights are all zero has no rate
    for tag, rates in zip(variants, result, strict=True):
        if not bool(rates.any()):
            raise _unchanged(variants[tag], start, tag)
    return result


def variation_entropy(
    rates: Float64[Tensor, "languages *rest"],
) -> tuple[Float64[Tensor, "*rest"], Tensor]:
    """Entropy (nats) of how much less than the most each language changed something, and whose it would be.

    With v = max r − r over languages, normalised: the entropy of v, infinite where every language changed it alike;
    and, (languages, …) bool, where a language's share is above even.
    """
    less = rates.max(0, keepdim=True).values - rates
    ordered = less.sort(dim=0).values.movedim(
        0, -1
    )  # a sum depends on its order, and that of languages must not matter
    spread = entropy(ordered).round(decimals=12).nan_to_num_(nan=torch.inf)
    return spread, less * len(rates) > ordered.sum(-1)


@takes_numbers
def varied_parameters(
    base: str | Path, tuned: Tuned, *, top_fraction: float = 0.01, each: bool = False, progress: bool = True
) -> ParameterSet:
    """Parameter variation by single parameter (Tang et al. 2024, §3.1 d), of all matrices of attention and FFNs.

    A parameter's rate is |tuned − base| / |base|; where the base is zero there is none, and it is never chosen. The
    rest is as in `parameter_variation`.

    Args:
        base: the checkpoint that was tuned.
        tuned: language → checkpoint or LoRA adapter.
        top_fraction: how many parameters to choose, as a share of all in these matrices.
        each: choose so many for every language, and not altogether.
        progress: show a bar.

    Raises:
        NeuroglotError: see `parameter_variation`.
    """
    if not 0 < top_fraction <= 1:
        raise NeuroglotError(f"top_fraction must be above 0 and at most 1, not {top_fraction}.")
    start, variants = _opened(base, tuned)
    names = [name for layer in start.layout for name in layer.transposed]
    sizes = {name: torch.Size(shape).numel() for layer in start.layout for name, shape in layer.shapes.items()}
    wanted = round(top_fraction * sum(sizes.values()))
    lowest = [_Lowest(wanted) for _ in (variants if each else [None])]
    moved = torch.zeros(len(variants), dtype=torch.bool)
    begins = 0
    with progress_bar("reading", len(names), unit="weights", shown=progress) as advance:
        for name in names:
            rates = torch.stack(list(_parameter_rates(name, start, variants)))
            moved |= (rates > 0).any(1)
            spread, member = variation_entropy(rates)
            places = torch.arange(begins, begins + len(spread))
            if each:
                for keep, mine in zip(lowest, member, strict=True):
                    keep.add(spread[mine], places[mine], member[:, mine])
            else:
                lowest[0].add(spread, places, member)
            begins += len(spread)
            advance(1, "")
    for tag, changed in zip(variants, moved.tolist(), strict=True):
        if not changed:
            raise _unchanged(variants[tag], start, tag)
    places_of = {}
    for k, tag in enumerate(variants):
        keep = lowest[k if each else 0]
        mine = keep.places[keep.member[k]].sort().values
        places_of[tag] = _by_weight(mine, names, sizes)
    return ParameterSet(places_of, {"method": "pv", "top_fraction": top_fraction, "each": each, "base": str(base)})


class _Lowest:
    """The so many lowest of what was added, the first of equal ones, without ever holding many more."""

    def __init__(self, count: int):
        self.count = count
        self.values = torch.empty(0, dtype=torch.float64)
        self.places = torch.empty(0, dtype=torch.int64)
        self.member = torch.empty(0, 0, dtype=torch.bool)

    def add(self, values: Tensor, places: Tensor, member: Tensor) -> None:
        cut = self.values[-1] if len(self.values) == self.count else torch.inf
        some = values < cut
        values = torch.cat([self.values, values[some]])
        order = values.sort(stable=True).indices[: self.count]
        self.values = values[order]
        member = member[:, some]
        before = self.member if len(self.places) else member[:, :0]
        self.places = torch.cat([self.places, places[some]])[order]
        self.member = torch.cat([before, member], dim=1)[:, order]


def _opened(base: str | Path, tuned: Tuned) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The base and the tuned ones, of one shape."""
    if len(tuned) < 2:
        raise NeuroglotError("Parameter variation compares languages; give models tuned on at least two.")
    start = Checkpoint(base)
    variants = {language_tag(tag): Checkpoint(source, base=start) for tag, source in tuned.items()}
    for variant in variants.values():
        variant.check(start)
    stored = {variant.precision: variant.name for variant in variants.values()}
    if len(stored) > 1:
        (one, first), (other, second), *_ = stored.items()
        raise NeuroglotError(
            f"{first} is stored in {one} and {second} in {other}, which rounds changes away that the other keeps; give "
            "models that were tuned and written in one precision."
        )
    return start, variants


def _parameter_rates(name: str, start: Checkpoint, variants: Mapping[str, Checkpoint]) -> Iterator[Tensor]:
    before = start.weight(name)
    for variant in variants.values():
        rates = variant.change(name, before).abs_().div_(before.abs()).flatten().double()
        yield rates.nan_to_num_(nan=0.0, posinf=0.0)  # alike in every language, so that none has it


def _by_weight(places: Tensor, names: list[str], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Places in all weights laid end to end, as places in each of them."""
    result, begins = {}, 0
    for name in names:
        ends = begins + sizes[name]
        low, high = torch.searchsorted(places, torch.tensor([begins, ends])).tolist()
        if high > low:
            result[name] = places[low:high] - begins
        begins = ends
    return result


def _unchanged(variant: Checkpoint, base: Checkpoint, tag: str) -> NeuroglotError:
    return NeuroglotError(
        f"{variant.name}, said to be tuned on {tag}, has the weights of {base.name}: nothing was changed, so there is "
        "no variation to measure."
    )


@method("pv", title="PV", needs=("tuned",))
def _scores(evidence: Evidence) -> Scores:
    """The lowest entropy of how much less than the most tuning changed a neuron, where that is above even."""
    assert evidence.rates is not None
    spread, member = variation_entropy(evidence.rates)
    return torch.where(member, -spread, NEVER)


@default_choice("pv")
def _choice(evidence: Evidence, *, top_fraction: float = 0.01) -> NeuronSet:
    """The same as `parameter_variation`, from rates that are there.

    Args:
        evidence: needs the rates.
        top_fraction: how many neurons to choose, as a share of all.
    """
    assert evidence.rates is not None
    chosen = least_varied(evidence.rates, top_fraction, sum(evidence.recording.widths))
    about = {"method": "pv", "top_fraction": top_fraction, **stated(evidence.recording.widths)}
    return NeuronSet(chosen, evidence.recording.languages, about)
