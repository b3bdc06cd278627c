"""Pruning in a run: which experts each language keeps, what that costs, and the model that is left."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from neuroglot.artifacts.partition import Partition
from neuroglot.artifacts.widths import padded
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import intervene
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.evaluate.ablation.pruning import measure_pruning, pruning_table, without
from neuroglot.evaluate.likelihood.perplexity import increase_of
from neuroglot.evaluate.likelihood.sample_perplexity import mean_sample_nll, sample_perplexity, tokenized_samples
from neuroglot.experts.keep import keep_budget, keep_share, keep_threshold, keep_width, neuron_salience
from neuroglot.experts.keep import salience as measured_salience
from neuroglot.experts.moefy import moefy
from neuroglot.models.architecture.weights import column_norms
from neuroglot.models.gguf import gguf_file
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model
from neuroglot.pruning.checkpoint import prune
from neuroglot.pruning.mixtures import save_ranking
from neuroglot.pruning.size import Size, largest_budget, size
from neuroglot.run.directory import Run
from neuroglot.storage.locks import locked
from neuroglot.storage.tables import csv_text, load_table, save_table

__all__ = ["RULES", "expert_scores", "intact_file", "moefy_run", "prune_run", "pruning_measured", "rank_experts"]

Kept = Bool[Tensor, "layers units"]  # the experts that a language keeps; or the neurons of native ones

RULES: dict[str, Callable[[Any, float], Kept]] = {
    "threshold": keep_threshold,
    "share": keep_share,
    "budget": keep_budget,
}


def prune_run(
    run: Run,
    model: Model,
    languages: Sequence[str],
    rules: Sequence[tuple[str, float]],
    *,
    limit: float | None = None,
    salience: str = "magnitude",
    samples: int = 1_000,
    seeds: int = 3,
    path: Path | None = None,
    gguf: Path | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Measure choices of experts on the run's held-out text, and write the pruned model of one of them.

    Args:
        run: has counted experts, or is of a native mixture of experts.
        model: the run's.
        languages: each keeps the experts that it uses.
        rules: `threshold`, `share` or `budget`, and its value; or `width`, of a native mixture, the share of each
            expert's neurons that stays, those of the highest `magnitude`.
        limit: search for the largest budget that raises perplexity by no more than this, too.
        salience: what a budget ranks experts by.
        samples: held-out samples of each language.
        seeds: how many random choices each is compared with.
        path: where to write the model of the one language and choice; a .gguf file is made from `gguf`.
        gguf: the GGUF file of the intact model; by default what the run's model was converted from.

    Returns:
        The table of `pruning_table`, which `experts/pruning.csv` holds for all measurements of the run; and what was
        written, in words.

    Raises:
        NeuroglotError: a layer would keep no expert, or see what `measure_pruning` and `prune` raise.
    """
    partition = None if model.mixtures else run.partition
    if partition is not None:
        partition.check(model)
    gguf = intact_file(run, path, gguf)
    scores = expert_scores(run, model)
    recorded, held_out = (part.select(languages) for part in run.manifest.text.load())
    keep: dict[str, dict[str, Kept]] = {}
    for rule, value in rules:
        if rule == "width":
            keep[f"width {value:g} by magnitude"] = {tag: _narrowed(run, model, tag, value) for tag in languages}
            continue
        by = salience if rule == "budget" else "frequency"
        name = f"{rule} {value:g}" + (f" by {by}" if rule == "budget" else "")
        keep[name] = {tag: _chosen(model, rule, scores(tag, by), value) for tag in languages}
    if limit is not None:
        by_language = {tag: scores(tag, salience) for tag in languages}
        found = _at_most(model, partition, by_language, recorded, limit, samples)
        keep[f"at most {limit:+.0%} by {salience}"] = found
    table = pruning_table(measure_pruning(model, held_out, partition, keep, samples=samples, seeds=seeds))
    _keep_table(run.path / "experts" / "pruning.csv", table)
    with run.changing() as manifest:
        manifest.prune = {"samples": samples, "seeds": seeds, "salience": salience}
    if path is None:
        return table, []
    (only,) = (kept for of in keep.values() for kept in of.values())
    return table, _write(model, only if partition is None else partition.neurons(only), path, gguf)


def intact_file(run: Run, path: Path | None, gguf: Path | None) -> Path | None:
    """The intact model's .gguf file, if there is one. What is wrong with a .gguf file to be written is said.

    Raises:
        NeuroglotError: a .gguf file is to be written where another is, or of a mixture, or without the intact file.
    """
    gguf = gguf or gguf_file(run.manifest.model.source)
    if path is None or path.suffix != ".gguf":
        return gguf
    if run.native_experts():
        raise NeuroglotError("The experts of a mixture in a GGUF file cannot be pruned; give a directory as --out.")
    if gguf is None:
        raise NeuroglotError(
            f"{run.manifest.model.source} is not a GGUF file: convert the intact model with llama.cpp's "
            "convert_hf_to_gguf.py, and give the file by --gguf."
        )
    if path.exists():
        from neuroglot.pruning.gguf import made_from

        if made_from(path) is None:
            raise NeuroglotError(f"{path} exists; choose a new file for the pruned model.")
    return gguf


def _chosen(model: Model, rule: str, scores: Float64[Tensor, "layers experts"], value: float) -> Kept:
    """The experts that a rule keeps, in the layers that have some.

    Raises:
        NeuroglotError: it keeps fewer than a router chooses, or layers have different numbers of experts.
    """
    if not model.mixtures:
        return RULES[rule](scores, value)
    routers = sorted(model.mixtures)
    if len({mixture.experts for mixture in model.mixtures.values()}) > 1:
        raise NeuroglotError(f"The layers of {model.name} have different numbers of experts already.")
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    kept[routers] = (
        keep_budget(scores[routers], value, _least(model)) if rule == "budget" else RULES[rule](scores[routers], value)
    )
    for layer, mixture in model.mixtures.items():
        mixture.routing.check_left(~kept[layer])
    return kept


def _narrowed(run: Run, model: Model, language: str, share: float) -> Kept:
    """The neurons that each native expert keeps for a language."""
    scores = neuron_salience(run.recording, language, "magnitude", _norms(model))
    return keep_width(run.recording, scores, share)


def _norms(model: Model) -> Tensor:
    return padded([column_norms(ffn.down_columns, ffn.readable) for ffn in model.ffns])


def _least(model: Model) -> int:
    """How many experts a layer has at least to keep."""
    return max((mixture.routing.chosen for mixture in model.mixtures.values()), default=1)


def _at_most(
    model: Model,
    partition: Partition | None,
    scores: Mapping[str, Float64[Tensor, "layers experts"]],
    corpus: Corpus,
    limit: float,
    samples: int,
) -> dict[str, Kept]:
    """For each language the fewest experts, by their scores, that raise its perplexity by no more than the limit.

    The corpus is the recorded text: held-out text is for measuring what was found.
    """
    found = {}
    for tag, rows in tokenized_samples(model, corpus, samples=samples).items():
        intact = mean_sample_nll(model, rows, tag)

        def increase(budget: float, tag: str = tag, rows: list[Tensor] = rows, intact: float = intact) -> float:
            with intervene(model, without(model, partition, _chosen(model, "budget", scores[tag], budget))):
                return increase_of(mean_sample_nll(model, rows, tag) - intact)

        most = scores[tag].shape[1]
        budget = largest_budget(increase, limit, highest=min(0.9, 1 - _least(model) / most))
        found[tag] = _chosen(model, "budget", scores[tag], budget)
    return found


def _keep_table(file: Path, table: pd.DataFrame) -> None:
    """Write a table of measurements; rows of other choices and languages that are there stay."""
    with locked(file.parent):
        text = csv_text(table)
        if file.is_file():
            fresh = pd.read_csv(StringIO(text), dtype=str, keep_default_na=False)
            try:
                old = pruning_measured(file, dtype=str)
            except NeuroglotError as error:
                warnings.warn(f"{error} What it held of other choices is dropped.", NeuroglotWarning, stacklevel=3)
            else:
                text = replaced_rows(old, fresh, ["choice", "language"])
        save_table(file, text)


def pruning_measured(file: Path, **how: Any) -> pd.DataFrame:
    """The table of what pruning costs that a run keeps.

    Raises:
        NeuroglotError: it is damaged, or something else.
    """
    remedy = f"delete it and run `neuroglot prune {file.parent.parent}` again"
    table = load_table(file, remedy, keep_default_na=False, **how)
    if missing := [name for name in ("choice", "language", "proportion", "experts", "original") if name not in table]:
        raise NeuroglotError(f"{file} is missing or damaged (it has no column {missing[0]}); {remedy}.")
    for name in ("proportion", "experts", "original"):
        if not bool((pd.to_numeric(table[name], errors="coerce") >= 0).all()):
            raise NeuroglotError(f"{file} is missing or damaged (not all of {name} are numbers); {remedy}.")
    return table


def replaced_rows(old: pd.DataFrame, fresh: pd.DataFrame, key: list[str]) -> str:
    """A table of cells as they are written, as CSV: what was measured again takes the place that it had.

    So measuring the same again changes nothing, down to the order of the rows.
    """
    again = fresh.groupby(key, sort=False)
    parts = [again.get_group(name) if name in again.groups else rows for name, rows in old.groupby(key, sort=False)]
    had = set(old.groupby(key, sort=False).groups)
    parts += [rows for name, rows in again if name not in had]
    return csv_text(pd.concat(parts))


def _write(model: Model, keep: Bool[Tensor, "layers units"], path: Path, gguf: Path | None) -> list[str]:
    """Write the pruned model, and say in words what it saves."""
    from neuroglot.pruning.gguf import prune_gguf  # reads gguf, which a report need not

    if path.suffix == ".gguf":
        assert gguf is not None
        written = prune_gguf(gguf, keep, path)
        return [f"wrote {written} ({written.stat().st_size:,} of {gguf.stat().st_size:,} bytes)"]
    before = size(model.network)
    written = prune(model, keep, path)
    return [f"wrote {written}", *_saved(before, size(load_model(written, device="cpu").network))]


def expert_scores(run: Run, model: Model) -> Callable[[str, str], Float64[Tensor, "layers experts"]]:
    """A function from a language and a kind of salience (see `experts.salience`) to the scores of the run's experts.

    Raises:
        NeuroglotError: the run has counted no experts.
    """
    recording = run.recording if model.mixtures else run.expert_recording
    partition, top = None, None
    if not model.mixtures:
        assert run.manifest.experts is not None
        partition, top = run.partition, run.manifest.experts.top[0]
    norms = _norms(model)

    def scores(tag: str, kind: str) -> Float64[Tensor, "layers experts"]:
        return measured_salience(recording, partition, tag, kind=kind, down_norms=norms, top=top)

    return scores


def rank_experts(run: Run, model: Model, language: str, salience: str, path: Path) -> Path:
    """Write the experts of each layer in the order in which a language uses them; see `save_ranking`."""
    layers = sorted(model.mixtures) or None
    return save_ranking(expert_scores(run, model)(language, salience), path, layers)


def moefy_run(
    run: Run, model: Model, top: int, path: Path, *, tokens: int = 20_000, samples: int = 1_000
) -> tuple[dict[str, float], dict[str, float]]:
    """Write the run's model as a mixture of its experts, with routers fitted to the recorded text.

    Args:
        run: has counted experts.
        model: the run's.
        top: how many experts a token is given.
        path: a new directory.
        tokens: how many the routers are fitted to.
        samples: held-out samples of each language to measure on.

    Returns:
        The perplexity of each language on held-out samples: of the model, and of what was written.

    Raises:
        NeuroglotError: see `moefy`.
    """
    recorded, held_out = run.manifest.text.load()
    moefy(model, run.partition, top, path, text=recorded, tokens=tokens)
    made = load_model(path, device=str(model.device), dtype=model.dtype)  # type: ignore[arg-type]
    before, after = (sample_perplexity(each, held_out, samples=samples) for each in (model, made))
    return before, after


def _saved(before: Size, after: Size) -> list[str]:
    def line(what: str, old: int, new: int) -> str:
        return f"{what}: {new:,} of {old:,} ({new / old - 1:+.1%})"

    return [
        line("parameters", before.parameters, after.parameters),
        line("FFN parameters", before.ffn_parameters, after.ffn_parameters),
        line("FLOPs a token", before.flops, after.flops),
    ]
