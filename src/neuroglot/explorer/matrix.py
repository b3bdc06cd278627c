"""The Matrix tab: the perplexity-change matrices of the run's methods, side by side on one scale."""

from collections.abc import Sequence

import numpy as np

from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.explorer.run_view import RunView
from neuroglot.figures.screen import Plot, perturbation_plot
from neuroglot.figures.words import findings
from neuroglot.storage.names import is_name

__all__ = ["matrices", "measured", "sentences"]


def measured(run_view: RunView) -> dict[str, Perturbation]:
    """Method → its perplexities, of the methods that were measured, at least in part."""
    run = run_view.run
    found = {}
    for path in sorted((run.path / "perturbation").glob("*.json")):
        if not is_name(path.stem):
            continue  # no method of ours has such a name
        try:
            result = Perturbation.load(path)
        except NeuroglotError:
            continue  # damaged: the next `neuroglot perturb` measures it again
        if result.intact and result.off:
            found[path.stem] = result
    return found


def matrices(results: dict[str, Perturbation], methods: Sequence[str]) -> list[Plot]:
    """A heatmap for each of the methods, whose colours mean the same."""
    highest = 2.0
    for method in methods:
        ratios = results[method].change.to_numpy(dtype=float) + 1
        finite = ratios[np.isfinite(ratios)]
        highest = max(highest, float(finite.max()) if finite.size else 2.0)
    return [perturbation_plot(results[method], highest=highest) for method in methods]


def sentences(result: Perturbation, finished: bool) -> list[str]:
    """What a matrix shows; that it is not finished, if it is not."""
    if not finished or not result.random:
        return [f"Not finished: {len(result.off)} rows measured so far, {len(result.random)} random ones."]
    return findings(result)
