"""The part of a report about experts: tables, figures, and what they show in sentences."""

from typing import Any

import pandas as pd
import torch

from neuroglot.artifacts.recording import ROUTED
from neuroglot.edit.routing import language_experts
from neuroglot.errors import NeuroglotError
from neuroglot.experts.frequency import counts, high_frequency, shared, tuning_change
from neuroglot.experts.overlap import in_experts
from neuroglot.experts.routing import routing_divergence, routing_divergence_interval
from neuroglot.experts.similarity import Similarity, compare
from neuroglot.figures.experts import change_figure, expert_similarity_figure, pattern_figure, shared_figure
from neuroglot.figures.neuron_map import atlas_plot
from neuroglot.figures.plotly import embedded
from neuroglot.figures.routing import pairs_shown, routing_figure
from neuroglot.figures.screen import curves, pair_plot
from neuroglot.identify.registry import title as method_title
from neuroglot.languages.genealogy import relatedness
from neuroglot.languages.tags import language_name, named
from neuroglot.report.files import keep_figure, keep_table
from neuroglot.run.directory import Run
from neuroglot.run.experts import RunExperts, experts_of
from neuroglot.run.pruning import pruning_measured
from neuroglot.stats import mantel

__all__ = ["expert_part"]


def expert_part(run: Run) -> dict[str, Any] | None:
    """Write the tables and figures of the experts, and gather what the page shows; None if there are none yet."""
    counted = experts_of(run)
    if counted is None:
        return None
    recording, frequency, layers = counted.recording, counted.frequency, counted.layers
    tags, numbers, source = recording.languages, [layer + 1 for layer in layers], run.manifest.model.source
    parts = [
        pd.DataFrame(matrix.numpy()).rename_axis("layer").set_axis(numbers).stack().reset_index()
        for matrix in frequency
    ]
    long = parts[0].iloc[:, :2].set_axis(["layer", "expert"], axis=1)
    keep_table(run.path, "expert-frequency", long.assign(**{t: p.iloc[:, 2] for t, p in zip(tags, parts, strict=True)}))
    is_high, in_all = high_frequency(frequency, counted.high), shared(frequency, counted.high)
    by_layer = {"layer": numbers, "shared_by_all": in_all.sum(1).tolist()}
    high = {tag: matrix.sum(1).tolist() for tag, matrix in zip(tags, is_high, strict=True)}
    keep_table(run.path, "expert-high-frequency", pd.DataFrame({**by_layer, **high}))
    patterns = pattern_figure(frequency, tags, f"Activation patterns of {source}", layers=layers)
    many = shared_figure(frequency, f"High-frequency experts of {source}", counted.high, layers=layers)
    shown: dict[str, Any] = {
        "settings": None if counted.native else run.manifest.experts,
        "chosen": counted.chosen,
        "top": counted.top,
        "high": counted.high,
        "patterns": keep_figure(run.path, patterns, "expert-patterns"),
        "shared": keep_figure(run.path, many, "expert-shared"),
        "shared_share": float(in_all.double().mean()),
        "high_share": {tag: float(matrix.double().mean()) for tag, matrix in zip(tags, is_high, strict=True)},
        "findings": [],
    }
    shown["plots"] = _plots(counted)
    if len(tags) >= 2:
        similarity = compare(frequency)
        measures = {
            name: pd.DataFrame(getattr(similarity, name).numpy(), index=list(tags), columns=list(tags))
            for name in ("euclidean", "kl", "pearson")
        }
        for name, matrix in measures.items():
            keep_table(run.path, f"expert-{name}", matrix.rename_axis("language").reset_index())
        shown["plots"]["similarity"] = embedded({name: pair_plot(each, name) for name, each in measures.items()})
        drawn = expert_similarity_figure(similarity, tags, f"Similarity of activation patterns in {source}")
        shown["similarity"] = keep_figure(run.path, drawn, "expert-similarity")
        shown["smoothing"] = similarity.smoothing
        shown["findings"] = _nearest(similarity, tags) + _explained(similarity, tags)
        if counted.native:
            shown |= _routing(run, counted)
    for method in run.methods:
        place = _neurons_in_experts(run, method, counted)
        if place is not None:
            keep_table(run.path, f"expert-{method}", place.reset_index())
            inside, chance = place["inside"].sum(), place["by_chance"].sum()
            times = inside / chance if chance else float("nan")
            shown["findings"].append(
                f"{inside / max(1, place['neurons'].sum()):.0%} of the {method_title(method)} neurons lie in experts "
                f"that are high-frequency in their own language, {times:.1f} times what chance would put there."
            )
    if run.manifest.tuned is not None:
        change = tuning_change(recording, run.tuned_recording, counted.top)[:, layers]
        moved = pd.DataFrame(change.abs().mean(2).T.numpy(), columns=list(tags), index=numbers)
        keep_table(run.path, "expert-tuning", moved.rename_axis("layer").reset_index())
        drawn = change_figure(change, tags, f"{run.manifest.tuned.source} less {source}", layers=layers)
        shown["tuning"] = keep_figure(run.path, drawn, "expert-tuning")
        mean = moved.mean(axis=1)
        shown["tuning_found"] = (
            f"The frequencies change most in layer {mean.idxmax()} ({mean.max():.4f} on average over experts and "
            f"languages) and least in layer {mean.idxmin()} ({mean.min():.4f}); in the last layer by "
            f"{mean.iloc[-1]:.4f}. Most changed is {language_name(str(moved.mean().idxmax()))}, least "
            f"{language_name(str(moved.mean().idxmin()))}."
        )
    file = run.path / "experts" / "pruning.csv"
    if run.manifest.prune and file.is_file():  # without the entry it was stopped, or is not finished yet
        pruning = pruning_measured(file)
        keep_table(run.path, "pruning", pruning)
        shown["pruning"] = pruning
    return shown


def _routing(
    run: Run,
    counted: RunExperts,
) -> dict[str, Any]:
    """How differently the router treats the languages, by layer."""
    recording, tags = counted.recording, counted.recording.languages
    divergence, interval, unknown = routing_divergence(recording), None, ""
    try:
        interval = routing_divergence_interval(recording)
    except NeuroglotError as error:
        unknown = str(error)
    ends = interval or (torch.full_like(divergence, torch.nan),) * 2
    rows = [
        (layer + 1, tags[j], tags[i], *(float(each[place, i, j]) for each in (divergence, *ends)))
        for place, layer in enumerate(counted.layers)
        for i in range(len(tags))
        for j in range(i)
    ]
    keep_table(
        run.path,
        "routing-divergence",
        pd.DataFrame(rows, columns=["layer", "language", "other", "bits", "low", "high"]),
    )
    keep_table(run.path, "expert-languages", _of_languages(counted))
    title = f"Routing divergence in {run.manifest.model.source}"
    drawn = routing_figure(divergence, tags, title, interval=interval, layers=counted.layers)
    mean = divergence.mean(0)
    by_layer = divergence.sum((1, 2)) / (len(tags) * (len(tags) - 1))
    least, most = (pairs_shown(divergence)[place] for place in (-1, 0))
    said = (
        f"The router tells {language_name(tags[most[1]])} and {language_name(tags[most[0]])} apart most "
        f"({float(mean[most]):.3f} bits on average over layers), {language_name(tags[least[1]])} and "
        f"{language_name(tags[least[0]])} least ({float(mean[least]):.3f}). Over all pairs it is highest in layer "
        f"{counted.layers[int(by_layer.argmax())] + 1} ({float(by_layer.max()):.3f}) and lowest in layer "
        f"{counted.layers[int(by_layer.argmin())] + 1} ({float(by_layer.min()):.3f})."
    )
    lines = {f"{tags[j]} – {tags[i]}": divergence[:, i, j].numpy() for i, j in pairs_shown(divergence)}
    bands: dict[str, tuple[str, str]] = {}
    if interval is not None:
        for i, j in pairs_shown(divergence):
            name = f"{tags[j]} – {tags[i]}"
            bands[name] = (f"{name} low", f"{name} high")
            lines |= {end: each[:, i, j].numpy() for end, each in zip(bands[name], interval, strict=True)}
    table = pd.DataFrame(lines, index=pd.Index([layer + 1 for layer in counted.layers], name="layer"))
    plot = curves(table, x_title="layer", y_title="bits", bands=bands)
    return {
        "routing": keep_figure(run.path, drawn, "routing-divergence"),
        "routing_plot": embedded({"": plot}),
        "routing_found": said,
        "routing_unknown": unknown,
    }


def _of_languages(counted: RunExperts) -> pd.DataFrame:
    """The experts that each language is routed to more than the others are, and by how much."""
    recording, rows = counted.recording, []
    frequency = recording.mean(ROUTED)
    for k, tag in enumerate(recording.languages):
        apart = recording.language_difference(tag, ROUTED)
        for layer, expert in language_experts(recording, tag).nonzero().tolist():
            rows.append((tag, layer + 1, expert, float(frequency[layer, expert, k]), float(apart[layer, expert])))
    return pd.DataFrame(rows, columns=["language", "layer", "expert", "frequency", "above_others"])


def _plots(counted: RunExperts) -> dict[str, Any]:
    frequency, tags = counted.frequency, counted.recording.languages
    experts, numbers = frequency.shape[2], [layer + 1 for layer in counted.layers]
    top = float(frequency.flatten().quantile(0.99)) if frequency.numel() < 1 << 24 else float(frequency.max())
    patterns = {
        named(tag): atlas_plot(
            matrix.float().numpy(), experts, label=f"frequency, {tag}", high=top or 1.0, column="experts", rows=numbers
        )
        for tag, matrix in zip(tags, frequency, strict=True)
    }
    many = counts(frequency, counted.high).float().numpy()
    number = atlas_plot(many, experts, label="languages", high=float(len(tags)), column="experts", rows=numbers)
    return {"patterns": embedded(patterns), "shared": embedded({"": number})}


def _neurons_in_experts(run: Run, method: str, counted: RunExperts) -> pd.DataFrame | None:
    """How many of a method's neurons lie in their language's high-frequency experts; None without common languages."""
    neurons, tags = run.neurons(method), counted.recording.languages
    common = [tag for tag in neurons.languages if tag in tags]
    if not common or tuple(counted.labels.shape) != neurons.shape:
        return None
    _, _, experts = counted.frequency.shape
    chosen = torch.zeros(len(common), counted.recording.layers, experts, dtype=torch.bool)
    chosen[:, counted.layers] = high_frequency(counted.frequency, counted.high)[[tags.index(tag) for tag in common]]
    return in_experts(neurons.select(common), counted.labels, chosen)


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
        found = ", ".join(f"r = {test.r:z.2f} (p = {test.p:.4f}) by {name}" for name, test in tests.items())
        words = "language family and genus" if by == "family" else "script"
        said.append(f"Distance of patterns against distance by {words}, Mantel's test: {found}.")
    return said
