"""The part of a run's report that is about alignment: its tables, its figures, and what they show in words."""

from typing import Any

import pandas as pd

from neuroglot.alignment import scores, sentence_similarity, similarity
from neuroglot.artifacts.samples import Samples
from neuroglot.figures.alignment import agreement_figure, dominance_figure, score_figure, ses_figure, similarity_figure
from neuroglot.identify.overlap import compare
from neuroglot.report.files import keep_figure, keep_table
from neuroglot.run.directory import Run
from neuroglot.storage.tables import load_table

__all__ = ["alignment_findings", "alignment_section"]


def alignment_section(run: Run) -> dict[str, Any]:
    """Write the tables and figures of a run's samples, and gather what the page shows of them."""
    samples = Samples.load(run.samples_path)
    settings, model = run.manifest.align, run.manifest.model.source
    assert settings is not None
    has_regions = "regions" in run.manifest.identify
    threshold = settings.threshold if has_regions else None
    summary = scores.summary(samples, threshold=threshold)
    layers = scores.by_layer(samples, threshold=threshold)
    dominance = None if samples.states is None else sentence_similarity.dominance(samples)
    best = 1 + int(layers["sads"].to_numpy().argmax())
    whole, of_best = similarity.similarity_map(samples), similarity.similarity_map(samples, layer=best - 1)
    what = f"{model}: {len(samples)} samples in each of {len(samples.languages)} languages"
    keep_table(run.path, "alignment", summary.reset_index())
    keep_table(run.path, "alignment-layers", layers.reset_index())
    figures = {
        "similarity": similarity_figure(whole, samples.languages, what),
        "similarity-layer": similarity_figure(of_best, samples.languages, f"{what}; layer {best}"),
        "similarity-meaning": similarity_figure(of_best, samples.languages, f"{what}; layer {best}", centred=True),
        "alignment-layers": score_figure(layers, f"Alignment of {model} by layer"),
    }
    if dominance is not None:
        keep_table(run.path, "dominance", dominance.reset_index())
        figures["dominance"] = dominance_figure(dominance, f"Dominance in {model}")
    for method in ("lape", "regions"):
        if method in run.manifest.identify and "ses" in layers:
            what = "LAPE" if method == "lape" else "region"
            figures[f"ses-{method}"] = ses_figure(
                layers, run.neurons(method), what, f"SES over {what} neurons, {model}"
            )
    agreement = None
    if has_regions and "lape" in run.manifest.identify:
        agreement = compare(run.neurons("regions"), run.neurons("lape"))
        keep_table(run.path, "agreement", agreement.reset_index())
        figures["agreement"] = agreement_figure(agreement, "region", "LAPE", f"Key regions and LAPE neurons, {model}")
    written = run.continuations_path
    return {
        "samples": len(samples),
        "best": best,
        "settings": settings,
        "summary": summary,
        "findings": alignment_findings(layers, dominance, agreement),
        "figures": {name: keep_figure(run.path, figure, name) for name, figure in figures.items()},
        "continuations": load_table(written, keep_default_na=False) if written.is_file() else None,
    }


def alignment_findings(
    layers: pd.DataFrame, dominance: pd.DataFrame | None, agreement: pd.DataFrame | None
) -> list[str]:
    """What the curves show, in sentences that hold whatever they show."""
    depth = len(layers)
    third = max(1, depth // 3)
    parts = {"first": layers[:third], "middle": layers[third : depth - third], "last": layers[depth - third :]}
    said = []
    for name, words in (("lrds", "LRDS (language)"), ("sads", "SADS (meaning)")):
        means = ", ".join(f"{part} {table[name].mean():.3f}" for part, table in parts.items() if len(table))
        said.append(
            f"{words} is highest in layer {layers[name].idxmax()} ({layers[name].max():.3f}) and lowest in layer "
            f"{layers[name].idxmin()} ({layers[name].min():.3f}); mean of the thirds of the layers: {means}."
        )
    if layers["sads_low"].isna().all():
        said.append("No interval is known: there are too few samples; give more.")
    else:
        above = int((layers["sads_low"] > 0).sum())
        said.append(f"SADS is above zero with its whole 95 % interval in {above} of {depth} layers.")
    if "ses" in layers:
        margin = layers["ses_margin"]
        said.append(
            f"SES peaks in layer {layers['ses'].idxmax()} ({layers['ses'].max():.3f}). Its excess over the similarity "
            f"of different meanings is largest in layer {margin.idxmax()} ({margin.max():.3f}): where states are alike "
            "whatever they mean, SES alone does not show alignment."
        )
    if dominance is not None:
        targets = dominance.mean().sort_values(ascending=False)
        leading = ", ".join(f"{tag} {value:.3f}" for tag, value in targets.iloc[:3].items())
        said.append(
            f"Most dominant over the mean of all layers: {leading}; least: {targets.index[-1]} {targets.iloc[-1]:.3f}."
        )
    if agreement is not None and agreement["second"].sum():
        shared, chance = agreement["shared"].sum(), agreement["by_chance"].sum()
        said.append(
            f"{shared / agreement['second'].sum():.0%} of the LAPE neurons lie in the same language's key region, "
            f"{shared / chance if chance else float('nan'):.1f} times what chance would put there."
        )
    return said
