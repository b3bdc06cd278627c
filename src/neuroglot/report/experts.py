"""The part of a report about experts: tables, figures, and what they show in sentences."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from neuroglot.errors import NeuroglotError
from neuroglot.experts.frequency import counts, frequencies, high_frequency, shared, tuning_change
from neuroglot.experts.overlap import in_experts
from neuroglot.experts.similarity import Similarity, compare
from neuroglot.figures.experts import change_figure, expert_similarity_figure, pattern_figure, shared_figure
from neuroglot.figures.neuron_map import atlas_plot
from neuroglot.figures.plotly import embedded
from neuroglot.figures.screen import pair_plot
from neuroglot.identify.registry import title as method_title
from neuroglot.languages.genealogy import relatedness
from neuroglot.languages.tags import language_name, named
from neuroglot.run.directory import Run
from neuroglot.run.pruning import pruning_measured
from neuroglot.stats import mantel

__all__ = ["expert_part"]


def expert_part(
    run: Run, figure: Callable[[Run, Figure, str], str], save_table: Callable[[Run, str, pd.DataFrame], None]
) -> dict[str, Any] | None:
    """Write the tables and figures of the experts, and gather what the page shows; None if there are none yet."""
    settings = run.manifest.experts
    if settings is None:
        return None
    try:
        recording = run.expert_recording
    except NeuroglotError:
        return None  # begun, and not finished
    tags, top = recording.languages, settings.top[0]
    frequency = frequencies(recording, top)
    source = run.manifest.model.source
    parts = [
        pd.DataFrame(matrix.numpy()).rename_axis("layer").set_axis(range(1, len(matrix) + 1)).stack().reset_index()
        for matrix in frequency
    ]
    long = parts[0].iloc[:, :2].set_axis(["layer", "expert"], axis=1)
    save_table(run, "expert-frequency", long.assign(**{t: p.iloc[:, 2] for t, p in zip(tags, parts, strict=True)}))
    number = counts(frequency)
    by_layer = {"layer": range(1, len(number) + 1), "shared_by_all": shared(frequency).sum(1).tolist()}
    high = {tag: (matrix >= 0.05).sum(1).tolist() for tag, matrix in zip(tags, frequency, strict=True)}
    save_table(run, "expert-high-frequency", pd.DataFrame({**by_layer, **high}))
    shown: dict[str, Any] = {
        "settings": settings,
        "top": top,
        "patterns": figure(run, pattern_figure(frequency, tags, f"Activation patterns of {source}"), "expert-patterns"),
        "shared": figure(run, shared_figure(frequency, f"High-frequency experts of {source}"), "expert-shared"),
        "shared_share": float(shared(frequency).double().mean()),
        "high_share": {
            tag: float((matrix >= 0.05).double().mean()) for tag, matrix in zip(tags, frequency, strict=True)
        },
        "findings": [],
    }
    shown["plots"] = _plots(frequency, tags)
    if len(tags) >= 2:
        similarity = compare(frequency)
        measures = {
            name: pd.DataFrame(getattr(similarity, name).numpy(), index=list(tags), columns=list(tags))
            for name in ("euclidean", "kl", "pearson")
        }
        for name, matrix in measures.items():
            save_table(run, f"expert-{name}", matrix.rename_axis("language").reset_index())
        shown["plots"]["similarity"] = embedded({name: pair_plot(each, name) for name, each in measures.items()})
        drawn = expert_similarity_figure(similarity, tags, f"Similarity of activation patterns in {source}")
        shown["similarity"] = figure(run, drawn, "expert-similarity")
        shown["smoothing"] = similarity.smoothing
        shown["findings"] = _nearest(similarity, tags) + _explained(similarity, tags)
    for method in run.manifest.identify:
        place = _neurons_in_experts(run, method, frequency, tags)
        if place is not None:
            save_table(run, f"expert-{method}", place.reset_index())
            inside, chance = place["inside"].sum(), place["by_chance"].sum()
            times = inside / chance if chance else float("nan")
            shown["findings"].append(
                f"{inside / max(1, place['neurons'].sum()):.0%} of the {method_title(method)} neurons lie in experts "
                f"that are high-frequency in their own language, {times:.1f} times what chance would put there."
            )
    if run.manifest.tuned is not None:
        change = tuning_change(recording, run.tuned_recording, top)
        moved = pd.DataFrame(change.abs().mean(2).T.numpy(), columns=list(tags), index=range(1, change.shape[1] + 1))
        save_table(run, "expert-tuning", moved.rename_axis("layer").reset_index())
        drawn = change_figure(change, tags, f"{run.manifest.tuned.source} less {source}")
        shown["tuning"] = figure(run, drawn, "expert-tuning")
        mean = moved.mean(axis=1)
        shown["tuning_found"] = (
            f"The frequencies change most in layer {mean.idxmax()} ({mean.max():.4f} on average over experts and "
            f"languages) and least in layer {mean.idxmin()} ({mean.min():.4f}); in the last layer by "
            f"{mean.iloc[-1]:.4f}. Most changed is {language_name(str(moved.mean().idxmax()))}, least "
            f"{language_name(str(moved.mean().idxmin()))}."
        )
    file = run.path / "experts" / "pruning.csv"
    if file.is_file():
        pruning = pruning_measured(file)
        save_table(run, "pruning", pruning)
        shown["pruning"] = pruning
    return shown


def _plots(frequency: torch.Tensor, tags: tuple[str, ...]) -> dict[str, Any]:
    experts = frequency.shape[2]
    top = float(frequency.flatten().quantile(0.99)) if frequency.numel() < 1 << 24 else float(frequency.max())
    patterns = {
        named(tag): atlas_plot(
            matrix.float().numpy(), experts, label=f"frequency, {tag}", high=top or 1.0, column="experts"
        )
        for tag, matrix in zip(tags, frequency, strict=True)
    }
    number = atlas_plot(
        counts(frequency).float().numpy(), experts, label="languages", high=float(len(tags)), column="experts"
    )
    return {"patterns": embedded(patterns), "shared": embedded({"": number})}


def _neurons_in_experts(run: Run, method: str, frequency: torch.Tensor, tags: tuple[str, ...]) -> pd.DataFrame | None:
    """How many of a method's neurons lie in their language's high-frequency experts; None without common languages."""
    neurons = run.neurons(method)
    common = [tag for tag in neurons.languages if tag in tags]
    labels = run.partition.labels
    if not common or tuple(labels.shape) != neurons.shape:
        return None
    chosen = high_frequency(frequency)[[tags.index(tag) for tag in common]]
    return in_experts(neurons.select(common), labels, chosen)


def _nearest(similarity: Similarity, tags: tuple[str, ...]) -> list[str]:
    distance = similarity.euclidean.clone().fill_diagonal_(torch.inf)
    near = [
        f"{language_name(tag)} – {language_name(tags[int(row.argmin())])}"
        for tag, row in zip(tags, distance, strict=True)
    ]
    return [f"Nearest to each language by Euclidean distance: {', '.join(near)}."]


def _explained(similarity: Similarity, tags: tuple[str, ...]) -> list[str]:
    said = []
    for by in ("family", "script"):
        try:
            related = relatedness(tags, by)
            tests = {name: mantel(matrix, related) for name, matrix in similarity.distances().items()}
        except NeuroglotError as error:
            said.append(f"Whether {by} explains the pattern was not tested: {error}")
            continue
        found = ", ".join(f"r = {test.r:.2f} (p = {test.p:.4f}) by {name}" for name, test in tests.items())
        words = "language family and genus" if by == "family" else "script"
        said.append(f"Distance of patterns against distance by {words}, Mantel's test: {found}.")
    return said
