"""Write a model with only some of its neurons and tokens: smaller on disk, in memory and in FLOPs."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from neuroglot.artifacts.recording import Recording
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import check_mask
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.head_groups import check_heads, keep_heads
from neuroglot.models.architecture.undo import configure, taking_back
from neuroglot.models.layer_widths import BIASES, WIDTHS, can_be_narrowed, width_name
from neuroglot.models.model import Model
from neuroglot.pruning.biases import attach, plain_biases
from neuroglot.pruning.compensation import Change, compensated
from neuroglot.pruning.heads import HeadCut, refitted_heads
from neuroglot.pruning.mixtures import expert_mask, prune_mixture
from neuroglot.pruning.moments import blocks_for_moments
from neuroglot.pruning.vocabulary import kept_tokens, language_counts, trimmed
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.made import check_place, is_made

__all__ = ["Compensate", "cut", "kept_digest", "may_gain_biases", "prune"]

Compensate = Literal["mean", "refit"]


@torch.no_grad()
@takes_numbers
def prune(
    model: Model,
    keep: Bool[Tensor, "layers units"],
    path: str | Path,
    *,
    recording: Recording | None = None,
    text: Corpus | None = None,
    language: str | None = None,
    compensate: Compensate | None = None,
    vocabulary: bool | int = False,
    heads: Bool[Tensor, "attentions heads"] | None = None,
    tokens: int = 20_000,
    progress: bool = False,
) -> Path:
    """Save a copy of the model with these neurons only (Liu et al. 2024, §4.5).

    Without compensation its logits are those of `Deactivate(~keep)`, to rounding. Layers may keep different numbers.
    `load_model` opens the directory; plain transformers does too where all layers keep the same number and the
    architecture lets its config say how many (BLOOM does not). The model itself is left as it was.

    Args:
        model: whole and in memory.
        keep: the neurons that stay; of a native mixture of experts those, or the experts, (L, E): see `prune_mixture`.
        path: a new directory.
        recording: of this model, with `hidden`; what `mean` takes its means from.
        text: text in the language. `refit` reads its first tokens, and a smaller vocabulary all of it.
        language: which of the recording's or the text's.
        compensate: `mean` adds what the pruned neurons wrote on average to the bias of each down-projection; `refit`
            fits the kept columns, and the bias where the written format has one, to the intact layer's output by least
            squares. A layer that has no bias is given one where its architecture's config can say so (`mlp_bias` of
            Llama); otherwise only `load_model` opens what `mean` wrote, and `refit` does without.
        vocabulary: keep only the tokens that the text uses and those that any text needs; a number keeps at most so
            many, the most frequent.
        heads: the attention heads that stay (attentions, H): as many in every layer, and as many query heads of each
            key-value head, since a config says one number. By default all. `refit` re-fits the output projections, too.
        tokens: how many of the text `refit` reads.
        progress: show a bar.

    Raises:
        NeuroglotError: `keep` is not a boolean (L, N) of this model or keeps nothing in a layer, a compensation is
            asked for of a mixture, `heads` is not one of heads or its architecture's config cannot say it, the weights
            are not all in memory, what a compensation or a smaller vocabulary is made of was not given, the tokenizer
            cannot be rewritten, or `path` exists or cannot be written.
    """
    if model.mixtures and keep.shape != (model.layers, model.neurons):
        keep = expert_mask(model, keep)
    check_mask(keep, (model.layers, model.neurons))
    if model.shared is not None:
        one, two = model.shared
        raise NeuroglotError(
            f"Layers {one + 1} and {two + 1} of {model.name} share one set of weights, so neither can be narrowed "
            "alone; deactivate the neurons instead."
        )
    keep = keep & model.exists
    if heads is not None:
        model.check_dense("its heads stay", "leave heads out")
        check_mask(heads, model.shape("heads"))
        check_heads(model.network, model.attentions, heads)
    path = Path(path)
    if compensate is not None:
        model.check_dense("its experts are pruned as they are", "leave compensate out")
    _check_asked(recording, text, language, compensate, vocabulary)
    check_place(path, "pruned model")
    bound = [model.fingerprint, str(model.network.dtype)]
    if compensate is not None or vocabulary is not False:
        bound += [f"{compensate} {vocabulary} {language} {tokens}", *_sources(recording, text, language)]
    if heads is not None:
        bound.append(kept_digest(heads))
    made_from = kept_digest(keep, *bound)
    if is_made(path, made_from, "pruned model"):
        return path
    if 0 in (widths := keep.sum(1).tolist()):
        raise NeuroglotError(f"Nothing would be kept in layer {widths.index(0) + 1}; keep at least one neuron a layer.")
    if not all(ffn.readable for ffn in model.ffns):
        raise NeuroglotError(f"{model.name} is offloaded or quantised; load it whole, without device_map, to prune it.")
    ids = None
    if vocabulary is not False:
        assert text is not None
        assert language is not None
        counts = language_counts(model, text[language], language)
        ids = kept_tokens(model, counts, size=None if vocabulary is True else vocabulary)
    if model.mixtures:
        with nullcontext() if ids is None else trimmed(model, ids):
            return prune_mixture(model, keep, path, made_from)
    if not _one_width(model, keep) and not can_be_narrowed(model.network):
        raise NeuroglotError(
            f"The neurons of {model.text_config.model_type} are found only with its weights, or transformers knows no "
            "class of that type, so a model with fewer could not be opened; deactivate the neurons instead."
        )
    changes: list[Change | None] | None = None
    left = None if heads is None else HeadCut(heads)
    if heads is not None and compensate == "refit":
        assert text is not None
        assert language is not None
        blocks = blocks_for_moments(model, text[language], language, tokens=tokens)
        left = refitted_heads(model, heads, blocks, language, progress=progress)
    if compensate is not None:
        assert language is not None
        changes = compensated(
            model, keep, compensate, language, recording=recording, text=text, tokens=tokens,
            intercept=may_gain_biases(model, keep), progress=progress,
        )  # fmt: skip
    with cut(model, keep, changes, ids, left):
        model.save(path, made_from)
    return path


def may_gain_biases(model: Model, keep: Bool[Tensor, "layers neurons"]) -> bool:
    """Whether a re-fit may give down-projections biases and the result still open as widely as it would without."""
    return not _one_width(model, keep) or plain_biases(model)


def _one_width(model: Model, keep: Bool[Tensor, "layers neurons"]) -> str:
    """The config's name for the neurons of every layer; empty where layers keep different numbers, or it has none."""
    widths = set(keep.sum(1).tolist())
    return width_name(model.network, model.ffns, widths.pop()) if len(widths) == 1 else ""


@contextmanager
def cut(
    model: Model,
    keep: Bool[Tensor, "layers neurons"],
    changes: Sequence[Change | None] | None = None,
    ids: Int64[np.ndarray, " kept"] | None = None,
    heads: HeadCut | None = None,
) -> Iterator[Model]:
    """The model with these units and tokens only, inside the block: measured or saved there, afterwards as it was.

    Args:
        model: whole and in memory.
        keep: the neurons that stay, one a layer at least.
        changes: of `compensated`.
        ids: the tokens that stay; see `kept_tokens`.
        heads: the attention heads that stay; by default all.
    """
    widths = keep.sum(1).tolist()
    said = _one_width(model, keep)
    even = bool(said)
    plain = even and plain_biases(model)
    changes = [None] * model.layers if changes is None else changes
    biased = any(change is not None and change.bias is not None for change in changes)
    with ExitStack() as restore, torch.no_grad():
        restore.callback(model.weights_changed)
        if heads is not None:
            restore.callback(_keep_heads(model, heads))
        for ffn, kept in zip(model.ffns, keep, strict=True):
            restore.callback(ffn.keep(kept[: ffn.neurons].nonzero().flatten()))
        for ffn, change in zip(model.ffns, changes, strict=True):
            if change is not None:
                ffn.down_columns.copy_(change.columns)
        if biased:
            restore.callback(attach(model, [None if change is None else change.bias for change in changes], plain))
        if even and (plain or not biased):  # else plain transformers must not open it, as it has no such bias
            restore.callback(configure(model.text_config, said, widths[0]))
            if getattr(model.text_config, WIDTHS, None) is not None:  # of the uneven model that it was
                restore.callback(configure(model.text_config, WIDTHS, None))
        else:
            restore.callback(configure(model.text_config, WIDTHS, widths))
            if biased and not plain:
                restore.callback(configure(model.text_config, BIASES, True))
        if ids is not None:
            restore.enter_context(trimmed(model, ids))
        model.weights_changed()
        yield model


def _keep_heads(model: Model, heads: HeadCut) -> Callable[[], None]:
    undo = [keep_heads(model.network, model.attentions, heads.keep)]
    for attention, change in zip(model.attentions, heads.changes or [None] * len(heads.keep), strict=True):
        if change is not None:
            attention.weight.copy_(change.columns)
            if change.bias is not None:
                bias: Any = attention.projection.bias
                undo.append(configure(attention.projection, "bias", torch.nn.Parameter(bias + change.bias.to(bias))))

    return taking_back(undo)


def kept_digest(keep: Bool[Tensor, "layers neurons"], *bound: str) -> str:
    """A digest of which neurons are kept, and of what."""
    about = f"{bound} {tuple(keep.shape)}".encode()
    return hashlib.sha256(about + keep.cpu().contiguous().numpy().tobytes()).hexdigest()[:32]


def _sources(recording: Recording | None, text: Corpus | None, language: str | None) -> list[str]:
    """Digests of what a compensation or a smaller vocabulary is made of; a text is read for it."""
    known = text is not None and language is not None and language in text.languages
    parts = [text.digest(language) if known else hashlib.sha256().hexdigest()]  # type: ignore[union-attr, arg-type]
    for name, sums in sorted(recording.sums.items()) if recording is not None else ():
        parts.append(name + hashlib.sha256(sums.contiguous().numpy().tobytes()).hexdigest())
    return parts


def _check_asked(
    recording: Recording | None,
    text: Corpus | None,
    language: str | None,
    compensate: str | None,
    vocabulary: bool | int,
) -> None:
    """Refuse what nothing was given for, before anything is computed."""
    if compensate not in (None, "mean", "refit"):
        raise NeuroglotError(f"compensate takes 'mean', 'refit' or None, not {compensate!r}.")
    if compensate == "refit" and text is None:
        raise NeuroglotError('compensate="refit" needs second moments of hidden units; give text=, a corpus.')
    if compensate == "mean" and recording is None and text is None:
        raise NeuroglotError('compensate="mean" needs the means of hidden units; give recording= or text=.')
    if vocabulary is not False and text is None:
        raise NeuroglotError("A smaller vocabulary keeps the tokens that a text uses; give text=, a corpus.")
    if (compensate is not None or vocabulary is not False) and language is None:
        raise NeuroglotError("Say which language the model is kept for: language=.")
