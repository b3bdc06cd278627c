"""What the kept neurons of a layer are given so that its output stays what it was, as nearly as can be.

`down` is the down-projection, one column a neuron; K are the kept neurons and P the pruned ones. The output lacks
`down[:, P] @ hidden[P]`. `mean` puts its mean over a language's text into the bias. `refit` changes the kept columns,
too, to the least-squares prediction of the whole output from what is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from neuroglot.artifacts.moments import Moments, Sketch
from neuroglot.artifacts.recording import Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.models.model import Model
from neuroglot.pruning.moments import Of, blocks_for_moments, hidden_moments, moments_by_layer

__all__ = ["FEW_RIDGES", "RIDGE", "RIDGES", "Change", "compensated", "loss", "mean_bias", "refits", "refitted"]

RIDGE = 1e-3
"""As a share of the mean second moment of a hidden unit."""
RIDGES = (1e-3, 1e-2, 0.1, 1.0, 10.0)  # the largest leaves the columns nearly as they were
FEW_RIDGES = (1e-2, 1.0)
HELD_OUT = 8  # one block of so many chooses the ridge


@dataclass(frozen=True)
class Change:
    """What one layer is given.

    Attributes:
        columns: of its down-projection, the kept ones.
        bias: what its bias gains; None where nothing is.
    """

    columns: Float[Tensor, "width kept"]
    bias: Float[Tensor, " width"] | None


@torch.no_grad()
def compensated(
    model: Model,
    keep: Bool[Tensor, "layers neurons"],
    how: str,
    language: str,
    *,
    recording: Recording | None = None,
    text: Corpus | None = None,
    tokens: int = 20_000,
    intercept: bool = True,
    ridges: Sequence[float] = RIDGES,
    progress: bool = False,
) -> list[Change | None]:
    """What each layer is given by `mean` or `refit`; None where it keeps all its neurons. Nothing is changed yet.

    Args:
        model: intact.
        keep: the neurons that stay.
        how: `mean` or `refit`.
        language: of the recording's or the text's.
        recording: gives the means of `mean`.
        text: gives the moments of `refit`, and those of `mean` without a recording. A part of it that is not fitted
            chooses the ridge.
        tokens: how many of the text are read.
        intercept: whether a re-fit may change biases.
        ridges: from which a re-fit chooses.
        progress: show a bar.

    Raises:
        NeuroglotError: the recording is of another model or lacks `hidden` or the language; or the text is too short.
    """
    masks = [kept[: ffn.neurons] for ffn, kept in zip(model.ffns, keep, strict=True)]
    if how == "mean":
        means = _recorded_means(model, recording, language) if recording is not None else None
        if means is None:
            assert text is not None
            read = hidden_moments(model, text[language], language, tokens=tokens, progress=progress)
            means = [moments.mean for moments in read]
        return [
            None if bool(mask.all()) else Change(ffn.down_columns[:, mask], mean_bias(ffn.down_columns, mean, mask))
            for ffn, mean, mask in zip(model.ffns, means, masks, strict=True)
        ]
    assert text is not None
    blocks = blocks_for_moments(model, text[language], language, tokens=tokens)
    downs = [ffn.down_columns for ffn in model.ffns]
    return refits(downs, masks, model, blocks, language, "neurons", intercept=intercept, ridges=ridges,
                  progress=progress)  # fmt: skip


@torch.no_grad()
def refits(
    weights: Sequence[Float[Tensor, "width _"]],
    masks: Sequence[Bool[Tensor, " _"]],
    model: Model,
    blocks: Int[Tensor, "blocks block"],
    language: str,
    of: Of,
    *,
    intercept: bool,
    ridges: Sequence[float] = RIDGES,
    progress: bool = False,
) -> list[Change | None]:
    """The re-fit of each layer's last projection; None where it keeps all that it reads.

    Args:
        weights: the projections: of every FFN, or of every attention.
        masks: which of their inputs stay.
        model: intact.
        blocks: of text; an eighth of them is not fitted and chooses the ridge.
        language: of the text.
        of: which projections they are.
        intercept: whether biases may change.
        ridges: to choose from.
        progress: show a bar.
    """
    apart = len(blocks) // HELD_OUT
    fitted = moments_by_layer(model, blocks[: len(blocks) - apart], language, of=of, progress=progress)
    held: Iterator[Moments | Sketch] | None = None
    if apart:
        held = moments_by_layer(model, blocks[len(blocks) - apart :], language, of=of, progress=progress)
    changes: list[Change | None] = []
    for weight, mask, moments in zip(weights, masks, fitted, strict=True):
        check = next(held) if held is not None else None
        if bool(mask.all()):
            changes.append(None)
            continue
        some = (RIDGE,) if check is None else ridges
        columns, bias = _best_refit(weight, moments, check, mask, intercept, some)
        changes.append(Change(columns, bias if intercept else None))
    return changes


def _recorded_means(model: Model, recording: Recording, language: str) -> list[Tensor]:
    about = recording.provenance
    if about is not None and about.fingerprint != model.fingerprint:
        raise NeuroglotError(
            f"The recording is of other weights ({about.model}) than {model.name}; record this model, or give text=."
        )
    means = recording.language_mean(language, "hidden")
    if means.shape != (model.layers, model.neurons):
        raise NeuroglotError(f"The recording is of a model of another shape than {model.name}; record this model.")
    return [mean[: ffn.neurons].float() for ffn, mean in zip(model.ffns, means, strict=True)]


def _best_refit(
    down: Tensor,
    moments: Moments | Sketch,
    check: Moments | Sketch | None,
    keep: Tensor,
    intercept: bool,
    ridges: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """The re-fit whose ridge is best on held-out text."""
    found = [refitted(down, moments, keep, intercept=intercept, ridge=ridge) for ridge in ridges]
    if check is None:
        return found[0]

    def error(fit: tuple[Tensor, Tensor]) -> float:
        whole = torch.zeros_like(down)
        whole[:, keep.to(down.device)] = fit[0]
        return loss(down, check, whole, fit[1])

    return min(found, key=error)


def mean_bias(
    down: Float[Tensor, "width neurons"], mean: Float[Tensor, " neurons"], keep: Bool[Tensor, " neurons"]
) -> Float[Tensor, " width"]:
    """What the pruned neurons add to the output on average."""
    gone = (~keep).nonzero().flatten()
    return (down[:, gone.to(down.device)].double() @ mean[gone].to(down.device).double()).to(down.dtype)


def refitted(
    down: Float[Tensor, "width neurons"],
    moments: Moments | Sketch,
    keep: Bool[Tensor, " neurons"],
    *,
    intercept: bool = True,
    ridge: float = RIDGE,
) -> tuple[Float[Tensor, "width kept"], Float[Tensor, " width"]]:
    """The kept columns and a bias that give the layer's whole output with the least squared error.

    The ridge pulls the columns towards what they were, not towards nothing. So the error on the text of the moments is
    at most that of `mean_bias` with an intercept, and at most that of no compensation without one.

    Args:
        down: the down-projection.
        moments: of this layer.
        keep: the neurons that stay.
        intercept: whether the layer can have a bias.
        ridge: as a share of the mean second moment of a unit (about its mean where there is an intercept).

    Returns:
        The columns, in the order of the neurons; and what the bias gains (zeros without an intercept).
    """
    weight = down.detach().double()
    if bool(keep.all()):
        return down.detach().clone(), torch.zeros_like(down[:, 0])
    kept, gone = (which.nonzero().flatten().to(weight.device) for which in (keep, ~keep))
    if isinstance(moments, Sketch):
        gained = _by_sketch(weight, moments, kept, gone, intercept, ridge)
    else:
        gained = _by_moments(weight, moments, kept, gone, intercept, ridge)
    bias = torch.zeros_like(weight[:, 0])
    if intercept:
        mean = moments.mean.to(weight)
        bias = weight[:, gone] @ mean[gone] - gained @ mean[kept]
    return (weight[:, kept] + gained).to(down), bias.to(down)


def _by_moments(
    weight: Tensor, moments: Moments, kept: Tensor, gone: Tensor, intercept: bool, ridge: float
) -> Float[Tensor, "width kept"]:
    """What the kept columns gain."""
    second = (moments.covariance if intercept else moments.second).to(weight)
    within = second[kept][:, kept]
    within.diagonal().add_(ridge * float(second.diagonal().mean()) + torch.finfo(torch.float64).tiny)
    wanted = second[kept][:, gone] @ weight[:, gone].T
    factor, failed = torch.linalg.cholesky_ex(within)  # half of the work, where rounding lets it be definite
    gained: Tensor = torch.linalg.solve(within, wanted) if bool(failed) else torch.cholesky_solve(wanted, factor)
    return gained.T


def _by_sketch(
    weight: Tensor, sketch: Sketch, kept: Tensor, gone: Tensor, intercept: bool, ridge: float
) -> Float[Tensor, "width kept"]:
    """The same by as many equations as the sketch has rows."""
    rows = (sketch.centred if intercept else sketch.rows).to(weight)
    squares = (sketch.squares - sketch.mean.square() if intercept else sketch.squares).to(weight)
    within = rows[:, kept] @ rows[:, kept].T
    within.diagonal().add_(max(ridge, 1e-9) * float(squares.mean()) + torch.finfo(torch.float64).tiny)
    missing = rows[:, gone] @ weight[:, gone].T
    gained: Tensor = rows[:, kept].T @ torch.linalg.solve(within, missing)
    return gained.T


def loss(
    down: Float[Tensor, "width neurons"],
    moments: Moments | Sketch,
    changed: Float[Tensor, "width neurons"],
    bias: Float[Tensor, " width"] | None = None,
) -> float:
    """Mean squared error of a layer's output, summed over its width, where its down-projection and bias change.

    Args:
        down: as it was.
        moments: of this layer.
        changed: the columns after; zero for a pruned neuron.
        bias: what the bias gains.
    """
    apart = (down - changed).double()
    error = moments.energy(apart)
    if bias is not None:
        offset = bias.to(apart)
        error += float(offset @ offset - 2 * (apart @ moments.mean.to(apart)) @ offset)
    return max(0.0, error)
