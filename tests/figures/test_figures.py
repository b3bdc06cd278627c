"""Every figure is one call, alone or in a place of a figure of one's own."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import neuroglot as ng
from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.evaluate.ablation.matrix import Perturbation
from neuroglot.evaluate.likelihood.lens import Lens
from neuroglot.experts.similarity import compare

TAGS = ("en", "fr", "zh")


def _perturbation() -> Perturbation:
    off = {tag: {other: 30.0 if tag == other else 10.5 for other in TAGS} for tag in TAGS}
    random = {str(seed): dict.fromkeys(TAGS, 10.1 + seed / 10) for seed in range(2)}
    sizes = {**dict.fromkeys(TAGS, 7), "random": 7}
    return Perturbation(dict.fromkeys(TAGS, 10.0), off, random, sizes, dict.fromkeys(TAGS, 99), 16)


def _comparison() -> Comparison:
    draws = np.random.default_rng(0)
    losses = lambda extra: {tag: (3 + extra + draws.random(4)).tolist() for tag in TAGS}  # noqa: E731
    result = Comparison([*TAGS], losses(0.0), block=16)
    for budget in (0.01, 0.05):
        name = f"lape {budget:g} all"
        result.off[name] = {tag: losses(budget * 10) for tag in TAGS}
        result.sizes[name] = dict.fromkeys(TAGS, 5)
        result.conditions[name] = {"method": "lape", "budget": budget, "part": "all"}
    result.stability = {"lape 0.01": {"100 tokens": 0.5, "200 tokens": 0.8}}
    return result


def _divergence():
    each = torch.rand(3, len(TAGS), len(TAGS), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (each + each.mT) * (1 - torch.eye(len(TAGS), dtype=torch.float64))


def _lens() -> Lens:
    generator = torch.Generator().manual_seed(0)
    owners = (*TAGS, "shared", "unseen")
    table = {tag: torch.rand(4, 3, 5, generator=generator, dtype=torch.float64).softmax(-1) for tag in TAGS}
    curve = {tag: torch.rand(4, 3, generator=generator, dtype=torch.float64) for tag in TAGS}
    return Lens(TAGS, owners, table, table, curve, curve, {tag: table[tag][0, 0] for tag in TAGS})


def values() -> dict[str, tuple]:
    generator = torch.Generator().manual_seed(0)
    neurons = ng.NeuronSet(torch.rand(3, 4, 20, generator=generator) < 0.3, TAGS)
    frequencies = torch.rand(3, 4, 8, generator=generator, dtype=torch.float64)
    layers = pd.DataFrame(
        {
            f"{name}{end}": np.linspace(0, 1, 4)
            for name in ("lrds", "sads", "ses", "ses_margin")
            for end in ("", "_low", "_high")
        },
        index=pd.RangeIndex(1, 5, name="layer"),
    )
    evolution = pd.DataFrame(
        {"checkpoint": ["a", "b"], "step": [1, 2], "parameters": [10, 20], "lrds": [0.1, 0.2], "sads": [0.2, 0.1],
         "sklr_share": [0.1, 0.3], "perplexity": [20.0, 10.0], "error": [None, None]}
    )  # fmt: skip
    share = pd.DataFrame(
        {"language": ["en"] * 2, "proportion": [0.7, 0.9], "random": [50.0, 20.0], "random_std": [1.0, np.nan],
         "experts": [20.0, 11.0], "original": [10.0, 10.0]}
    )  # fmt: skip
    answers = pd.DataFrame(
        [
            {"condition": c, "source": s, "target": t, "on_target": s != t}
            for c in ("intact", "both")
            for s in TAGS
            for t in TAGS
        ]
    )
    agreement = pd.DataFrame({"shared": [3, 0], "by_chance": [1.0, 0.5], "second": [5, 0]}, index=["en", "fr"])
    comparison = _comparison()
    growth = pd.DataFrame({"en": [0.0, 0.1], "fr": [0.5, 2.0]}, index=[0.01, 0.05])
    pair = pd.DataFrame(
        {name: [0.1, 0.2] for name in ("own", "base", "random")}
        | {
            f"steer_{name}{end}": [0.2, 0.3]
            for name in ("intact", "own", "base", "random")
            for end in ("", "_low", "_high")
        },
        index=["en", "fr"],
    )
    similarity = torch.rand(6, 6, generator=generator)
    return {
        "similarity_figure": (similarity, TAGS),
        "score_figure": (layers,),
        "ses_figure": (layers, neurons, "LAPE"),
        "dominance_figure": (pd.DataFrame({tag: np.linspace(0, 1, 4) for tag in TAGS}, index=range(1, 5)),),
        "agreement_figure": (agreement, "LAPE", "regions"),
        "evolution_figure": (evolution, "step", []),
        "region_layers_figure": ({"a": neurons.counts(), "b": neurons.counts()},),
        "sizes_figure": (evolution, []),
        "budget_figure": (comparison, "lape"),
        "curve_figure": (comparison.summary(),),
        "matrices_figure": (comparison, [*comparison.conditions]),
        "text_figure": (comparison, comparison.summary(), 0.01),
        "pattern_figure": (frequencies, TAGS),
        "change_figure": (frequencies - 0.5, TAGS),
        "shared_figure": (frequencies,),
        "expert_similarity_figure": (compare(frequencies), TAGS),
        "layer_figure": (neurons,),
        "overlap_figure": (neurons,),
        "perturbation_figure": (_perturbation(),),
        "pair_figure": (pair, pd.DataFrame({"both": [1, 2], "base": [2, 0], "tuned": [1, 1]}, index=[1, 2])),
        "lens_figure": (_lens(),),
        "lens_curve_figure": (_lens(),),
        "growth_figure": (growth, "fr"),
        "share_figure": (share,),
        "region_figure": (pd.Series({"en": 5, "fr": 9}), 100),
        "forcing_figure": (answers,),
        "routing_figure": (_divergence(), TAGS),
    }


DRAWN = values()
NAMES = [name for name in dir(ng.figures) if name.endswith("_figure") and name != "save_figure"]


def test_all_are_known_here():
    assert sorted(DRAWN) == sorted(NAMES)
    assert all("ax" in inspect.signature(getattr(ng.figures, name)).parameters for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_alone_and_beside_something_else(name, tmp_path):
    """In a place of one's own figure nothing is drawn outside it, and what stands beside it stays."""
    draw = getattr(ng.figures, name)
    alone = draw(*DRAWN[name])
    assert isinstance(alone, Figure) and len(alone.axes) >= 1
    own = Figure(figsize=(16, 7))
    left, right = own.subplots(1, 2)
    left.plot([1, 2], [1, 2])
    assert draw(*DRAWN[name], ax=right) is own
    part = own.subfigs[0]
    assert own.axes[0] is left and len(part.axes) == len(alone.axes)
    own.draw_without_rendering()
    middle = own.bbox.width / 2
    assert part.bbox.x0 >= middle - 1 and all(axes.bbox.x0 >= middle - 1 for axes in part.axes)
    alone.savefig(tmp_path / "alone.png", dpi=40)


def test_an_axes_of_no_grid_is_refused():
    free = Figure().add_axes((0.1, 0.1, 0.8, 0.8))
    with pytest.raises(ng.NeuroglotError, match="of a grid"):
        ng.figures.overlap_figure(*DRAWN["overlap_figure"], ax=free)


def test_a_deviation_above_the_mean_does_not_stretch_a_logarithmic_axis():
    """The axis begins just below what was measured, and not at 1 or at nothing."""
    row = {"language": "fr", "random": 9e4, "random_std": 2e5, "experts": 500.0, "original": 60.0}
    (axes,) = ng.figures.share_figure(pd.DataFrame([{**row, "proportion": share} for share in (0.7, 0.9)])).axes
    low, high = axes.get_ylim()
    assert 20 < low < 60 and 2.9e5 < high < 1e6
