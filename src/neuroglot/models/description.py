"""What was found in a model, and what can be done with it: values; `neuroglot doctor MODEL` prints them."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from neuroglot.models.architecture.families import declaration
from neuroglot.models.architecture.find import left_out
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.architecture.proof import prove
from neuroglot.models.gguf_keys import ARCHITECTURES
from neuroglot.models.layer_widths import can_be_narrowed, width_name
from neuroglot.models.model import Model

__all__ = ["Description", "describe"]


@dataclass(frozen=True)
class Description:
    """What was found.

    Attributes:
        name: of the model.
        architecture: its `model_type`.
        found: how its FFNs were found: `declared`, `declared by you` (`--family`) or by a package, or `discovered`.
        layers: how many layers have an FFN.
        widths: neurons of each.
        gated: whether a gate is multiplied into the activation.
        sites: where the activation and the hidden value of the first layer are.
        left_out: what looks like an FFN and was not taken for one, with the reason.
        proof: what a short forward pass has shown.
        bake: what interventions weights can hold, in words.
        bakes: the same by kind: at which sites.
        prune: what pruning can do, in words.
        opens: what opens a pruned model whose layers keep the same number: `load_model`, `transformers`.
        gguf: what can be done with its GGUF file, in words.
    """

    name: str
    architecture: str
    found: str
    layers: int
    widths: tuple[int, ...]
    gated: bool
    sites: dict[str, str]
    left_out: list[str]
    proof: str
    bake: str
    bakes: dict[str, list[str]]
    prune: str
    opens: list[str]
    gguf: str

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def describe(model: Model) -> Description:
    """Describe a model, whose sites are proved anew.

    Raises:
        NeuroglotError: a site is not what it was taken for.
    """
    names = {id(module): name for name, module in model.network.named_modules()}
    first, kind = model.ffns[0], model.text_config.model_type
    where = first.activation
    sites = {
        "activation": f"output of {names[id(where)]} ({type(where).__name__})"
        if isinstance(where, nn.Module)
        else f"{where} ({names[id(where.owner)]})",
        "hidden": "the same" if first.one_site else f"input of {names[id(first.down)]}",
    }
    prove(model.network, model.ffns)
    bake, bakes = _baking(model)
    prune, opens = _pruning(model)
    return Description(
        name=model.name,
        architecture=kind,
        found=_found(kind),
        layers=model.layers,
        widths=model.widths,
        gated=first.gated,
        sites=sites,
        left_out=left_out(model.network),
        proof=_proof(model),
        bake=bake,
        bakes=bakes,
        prune=prune,
        opens=opens,
        gguf=_gguf(model, opens),
    )


def _proof(model: Model) -> str:
    """What a short forward pass has shown, in words."""
    first, experts = model.ffns[0], len(model.mixtures)
    dense = next((ffn for ffn in model.ffns if not isinstance(ffn, Mixture)), first)
    hidden = ("activation × up" if dense.gated else "the activation") + (" and a norm" if dense.layout.normed else "")
    parts = [f"{model.layers} of {model.layers} layers"]
    if experts:
        parts.append(f"{experts} of experts, which give what their weights give on the tokens that reach them")
    if experts < model.layers:
        which = "the others passed" if experts else "passed"
        parts.append(f"{which} once, hidden is {hidden}, a zeroed neuron is a zeroed column, and nothing else reads it")
    if not all(ffn.readable for ffn in model.ffns):
        parts.append("quantised or offloaded weights are not multiplied again")
    return f"{parts[0]}: " + "; ".join(parts[1:])


def _found(kind: str) -> str:
    found = declaration(kind)
    return "discovered" if found is None else "declared" if found[1] == "Neuroglot" else f"declared by {found[1]}"


def _baking(model: Model) -> tuple[str, dict[str, list[str]]]:
    """What interventions weights can hold: in words, and for each kind the sites."""
    if model.shared is not None:
        return "no: layers share one set of weights", {}
    if not all(ffn.readable for ffn in model.ffns):
        return "no: its weights are quantised or offloaded", {}
    either, hidden = ["activation", "hidden"], ["hidden"]
    gains = hidden if model.ffns[0].layout.normed else either
    biased = all(getattr(ffn.down, "bias", None) is not None for ffn in model.ffns)
    can_be = biased or getattr(model.text_config, "mlp_bias", None) is False
    shifts = [] if not can_be or model.mixtures else either if model.ffns[0].one_site else hidden
    sites = {tuple(either): "either site", tuple(hidden): "the hidden site"}
    words = f"deactivate and scale at {sites[tuple(gains)]}"
    words += f"; replace and add at {sites[tuple(shifts)]}" if shifts else "; no replace, no add"
    return words, {"deactivate": gains, "scale": gains, "replace": shifts, "add": shifts}


def _pruning(model: Model) -> tuple[str, list[str]]:
    """What pruning can do: in words, and what opens a model whose layers keep the same number."""
    reasons = {
        "layers share one set of weights": model.shared is not None,
        "its weights are quantised or offloaded": not all(ffn.readable for ffn in model.ffns),
        "a norm over all neurons follows them": any(ffn.layout.normed for ffn in model.ffns),
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        return f"no: {reason}", []
    if model.mixtures:
        return "yes: whole experts, or neurons of each; opens with Neuroglot’s load_model", ["load_model"]
    if not width_name(model.network, model.ffns, max(1, model.neurons // 2)):
        if not can_be_narrowed(model.network):
            return "no: its neurons are found only with its weights, or transformers knows no class of its type", []
        return "yes: opens with Neuroglot’s load_model", ["load_model"]
    return (
        "yes: opens with plain transformers where all layers keep the same number, and load_model otherwise",
        ["load_model", "transformers"],
    )


def _gguf(model: Model, opens: list[str]) -> str:
    """What can be done with its GGUF file, in words."""
    kind = model.text_config.model_type
    if not opens:
        return "no: it cannot be pruned"
    if kind not in ARCHITECTURES.values():
        return "no: its type is not read from GGUF"
    return "its .gguf file can be pruned; " + (
        "layers as narrow as they are" if kind == "llama" else "layers are filled up to the widest"
    )
