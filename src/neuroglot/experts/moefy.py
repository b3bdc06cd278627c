"""A dense model written as an ordinary mixture of experts."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuroglot.artifacts.partition import Partition
from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.experts.moefication import partition
from neuroglot.models.architecture.body import few_tokens
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.hooks import observe_ffn
from neuroglot.models.fitting import fitting_tokens
from neuroglot.models.model import Model
from neuroglot.models.moe_layouts import MoeLayout, layout_of, moe_network
from neuroglot.progress import token_progress
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.made import check_place, is_made
from neuroglot.storage.results import digest_of_settings

__all__ = ["moefy"]

MULTIPLE = 8  # of an expert's width: grouped kernels read 16 bytes at once, and bfloat16 has 2
LENGTH = 256  # of the rows of text that routers are fitted to
SPREAD = 2.0**-10  # of the router's logits, so that the chosen experts weigh the same to a thousandth

Router = Float[Tensor, "experts width"]


@torch.no_grad()
@takes_numbers
def moefy(
    model: Model,
    experts: int | Partition,
    top: int,
    path: str | Path,
    *,
    text: Corpus | None = None,
    tokens: int = 20_000,
    progress: bool = True,
) -> Path:
    """Write a dense model as a mixture of experts that plain transformers opens (Zhang et al. 2022, MoEfication).

    Llama and Mistral become Mixtral, Qwen 2 and 3 their own mixtures, and Gemma 3 becomes Gemma 4. With all experts
    chosen (`top` = E) its logits are the dense model's, to rounding, and neuron j of a layer is the dense model's
    neuron `partition.order[layer, j]`.

    With fewer, each layer's router is fitted to the text: by least squares, in closed form, it predicts from what
    the FFN reads each expert's share of a token, the length of the expert's hidden values, each times the length of
    its down-projection column. The chosen experts weigh what they weigh in the dense model; the others are left out.

    Args:
        model: dense, whole and in memory; left as it was.
        experts: a partition of the model into experts of one width, a multiple of 8; or how many to split each layer
            into (`experts.partition`).
        top: how many experts a token is given, from 1 to E.
        path: a new directory; one that holds what the same call made is left as it is.
        text: what the routers are fitted to, each language alike; needed where `top` is less than E.
        tokens: how many are read, of all languages together.
        progress: show a bar.

    Raises:
        NeuroglotError: no mixture of experts in transformers is known that computes what the model's block does, the
            experts are of several widths or of another model, `top` is out of range, text is missing or too short,
            the weights are not all in memory, or `path` exists.
    """
    layout = layout_of(model)
    path = Path(path)
    count = experts if isinstance(experts, int) else experts.experts
    if not 1 <= top <= count:
        raise NeuroglotError(f"top must be from 1 to the {count} experts of a layer, not {top}.")
    if top < count and text is None:
        raise NeuroglotError(f"A router that chooses {top} of {count} experts is fitted to text; give text=, a corpus.")
    check_place(path, "mixture of experts")
    width = expert_width(model.name, model.widths, count)
    if not all(ffn.readable for ffn in model.ffns):
        raise NeuroglotError(f"{model.name} is offloaded or quantised; load it whole, without device_map.")
    split = partition(model, experts, progress=progress) if isinstance(experts, int) else experts
    split.check(model)
    if int(split.sizes.min()) != width or int(split.sizes.max()) != width:
        raise NeuroglotError(
            f"The experts have from {int(split.sizes.min())} to {int(split.sizes.max())} neurons, and those of a "
            f"mixture share one width; make a partition of equal ones."
        )
    bound: list[Any] = [model.fingerprint, str(model.network.dtype), split.digest, top]
    if top < count and text is not None:
        bound += [tokens, *(f"{tag} {text.digest(tag)}" for tag in text.languages)]
    made_from = digest_of_settings(bound)
    if is_made(path, made_from, "mixture of experts"):
        return path
    routers = None
    if top < count:
        assert text is not None
        fit = partial(_routers, model, split, text, tokens, progress)
        routers = fitting_tokens(model, fit, None, least=LENGTH)
    made = _filled(model, split, layout, width)
    if routers is not None:
        _choose(made, model, layout, routers, top)
    return made.save(path, made_from)


def expert_width(name: str, widths: Sequence[int], experts: int) -> int:
    """The neurons of an expert of a mixture.

    Args:
        name: of the dense model.
        widths: how many neurons each of its layers has.
        experts: how many a layer.

    Raises:
        NeuroglotError: layers or experts would differ in width, or experts be of a width that kernels do not take.
    """
    if len(set(widths)) > 1:
        raise NeuroglotError(f"The layers of {name} differ in width, and the experts of a mixture do not.")
    neurons = widths[0]
    width = neurons // experts
    if width * experts != neurons or width % MULTIPLE:
        fits = [each for each in range(1, neurons + 1) if neurons % (each * MULTIPLE) == 0]
        instead = (
            f"split them into {', '.join(map(str, fits))}" if fits else "no number of experts does, so keep it dense"
        )
        raise NeuroglotError(
            f"{neurons} neurons cannot be split into {experts} experts whose width is a multiple of {MULTIPLE}, "
            f"as kernels of mixtures need it; {instead}."
        )
    return width


def _filled(model: Model, split: Partition, layout: MoeLayout, width: int) -> Model:
    """The mixture with the dense model's neurons in its experts, all of them chosen.

    Raises:
        NeuroglotError: it does not compute what the dense model does.
    """
    network = moe_network(model, layout, split.experts, width)
    made = Model(network, model.tokenizer, name=model.name)
    for layer, (ffn, order) in enumerate(zip(model.ffns, split.order, strict=True)):
        mixture = made.mixtures[layer]
        rows = order.to(ffn.up_rows.device)
        gate, up = mixture.weights.gate, mixture.weights.up
        assert gate is not None
        assert ffn.gate_rows is not None
        gate.copy_(ffn.gate_rows[rows].view_as(gate))
        up.copy_(ffn.up_rows[rows].view_as(up))
        down = ffn.down_columns[:, rows].view(-1, split.experts, width).transpose(0, 1)
        mixture.weights.down.copy_(down)
        assert mixture.routing.owner is not None
        mixture.routing.owner.weight.zero_()  # type: ignore[operator]
        layout.prepare_router(mixture, ffn.layer)
        layout.scale(mixture, split.experts)
    tokens = few_tokens(model.network, 16)
    want, got = (each.hidden_states(tokens).float().cpu() for each in (model, made))
    allowed = 1e-3 if model.network.dtype == torch.float32 else 0.05
    if not float((got - want).norm()) <= allowed * float(want.norm()):
        raise NeuroglotError(
            f"Written as {layout.kind}, {model.name} does not compute what it did, so it is built in another way than "
            "its family; it cannot be written as a mixture of experts."
        )
    made.weights_changed()
    return made


def _choose(made: Model, dense: Model, layout: MoeLayout, routers: list[Router], top: int) -> None:
    """Put the fitted routers in, and have them choose so many."""
    for mixture, router in zip(made.mixtures.values(), routers, strict=True):
        assert mixture.routing.owner is not None
        mixture.routing.owner.weight.copy_(router)  # type: ignore[operator]
        if layout.normalised:
            layout.scale(mixture, top / mixture.experts)
    setattr(made.network.config, layout.chosen, top)


def _rows(model: Model, documents: Iterable[str], tokens: int, batch_tokens: int) -> list[Int64[Tensor, "_ _"]]:
    """The first tokens of a text as batches of full rows and one of the rest, each row begun as a text is."""
    length = min(LENGTH, model.context or LENGTH) - len(model.begin)
    ids: list[int] = []
    for document in documents:
        ids += model.encode([document + "\n"])[0]
        if len(ids) >= tokens:
            break
    rows = [torch.tensor([*model.begin, *ids[i : i + length]]) for i in range(0, min(len(ids), tokens), length)]
    full = [row for row in rows if len(row) == length + len(model.begin)]
    size = max(1, batch_tokens // LENGTH)
    batches = [torch.stack(full[i : i + size]) for i in range(0, len(full), size)]
    return batches + [row[None] for row in rows[len(full) :]]


def _routers(
    model: Model, split: Partition, text: Corpus, tokens: int, progress: bool, batch_tokens: int
) -> list[Router]:
    """Each layer's router, (E, width of the stream): least squares from what its FFN reads to its experts' shares.

    The text is read from its first token on: a layer may have added what the next had no memory for.
    """
    model.check_state(edited=False)
    inputs: dict[int, Tensor] = {}
    stream = [ffn.up_rows.shape[1] for ffn in model.ffns]
    gram = [torch.zeros(size, size, dtype=torch.float64) for size in stream]
    cross = [torch.zeros(size, split.experts, dtype=torch.float64) for size in stream]
    lengths = [ffn.down_columns.float().norm(dim=0) for ffn in model.ffns]

    def observe(layer: int, _: Tensor, hidden: Tensor) -> None:
        x = inputs.pop(layer).flatten(0, -2).float()
        order = split.order[layer].to(hidden.device)
        written = (hidden.flatten(0, -2).float() * lengths[layer])[:, order]
        norms = written.view(len(written), split.experts, -1).norm(dim=-1)
        shares = norms / norms.mean(1, keepdim=True).clamp_min(1e-30) - 1  # every token counts alike, BOS too
        gram[layer] += (x.T @ x).double().cpu()
        cross[layer] += (x.T @ shares).double().cpu()

    handles = [_before(ffn, layer, inputs) for layer, ffn in enumerate(model.ffns)]
    each = -(-tokens // len(text.languages))
    batches = {tag: _rows(model, text[tag], each, batch_tokens) for tag in text.languages}
    total = sum(batch.numel() for of in batches.values() for batch in of)
    if not total:
        raise NeuroglotError(f"{text.name} has no token to fit routers to; give more text.")
    try:
        with observe_ffn(model.ffns, observe), token_progress("fitting routers", total, shown=progress) as advance:
            for tag, of in batches.items():
                for batch in of:
                    model.hidden_states(batch)
                    advance(batch.numel(), tag)
    finally:
        for handle in handles:
            handle.remove()
    return [_solved(*pair, total) for pair in zip(gram, cross, strict=True)]


def _before(ffn: FFN, layer: int, inputs: dict[int, Tensor]) -> "torch.utils.hooks.RemovableHandle":
    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[layer] = args[0]

    return ffn.layout.up.projection.register_forward_pre_hook(keep)


def _solved(gram: Tensor, cross: Tensor, tokens: int) -> Router:
    """Ridge regression; its logits are scaled to the same small root mean square in every layer."""
    ridge = 1e-4 * gram.diagonal().mean()
    fitted = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), cross)
    square = (fitted * (gram @ fitted)).sum() / (tokens * cross.shape[1])
    scaled: Tensor = fitted.T * SPREAD / square.clamp_min(1e-30).sqrt()
    return scaled.float()
