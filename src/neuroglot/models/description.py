"""What was found in a model, and what can be done with it: values; `neuroglot doctor MODEL` prints them."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from neuroglot.models.architecture.families import declared
from neuroglot.models.architecture.proof import prove
from neuroglot.models.model import Model

__all__ = ["Description", "describe"]


@dataclass(frozen=True)
class Description:
    """What was found.

    Attributes:
        name: of the model.
        architecture: its `model_type`.
        found: how its FFNs were found: `declared` or `discovered`.
        layers: how many layers have an FFN.
        widths: neurons of each.
        gated: whether a gate is multiplied into the activation.
        sites: where the activation and the hidden value of the first layer are.
        proof: what a short forward pass has shown.
        bake: what interventions weights can hold, in words.
        prune: what pruning can do, in words.
        gguf: whether a pruned model opens in llama.cpp, in words.
    """

    name: str
    architecture: str
    found: str
    layers: int
    widths: tuple[int, ...]
    gated: bool
    sites: dict[str, str]
    proof: str
    bake: str
    prune: str
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
    return Description(
        name=model.name,
        architecture=kind,
        found="declared" if declared(kind) else "discovered",
        layers=model.layers,
        widths=model.widths,
        gated=first.gated,
        sites=sites,
        proof=f"{model.layers} of {model.layers} layers: passed once, hidden is "
        f"{'activation × up' if first.gated else 'the activation'}{' and a norm' if first.layout.normed else ''}, "
        "a zeroed neuron is a zeroed column",
        bake=_baking(model),
        prune=_pruning(model),
        gguf="pruned models open in llama.cpp"
        if kind == "llama"
        else "no: only Llama's layout has layers of own widths",
    )


def _baking(model: Model) -> str:
    biased = all(getattr(ffn.down, "bias", None) is not None for ffn in model.ffns)
    can_be = biased or getattr(model.text_config, "mlp_bias", None) is False
    site = "either site" if not model.ffns[0].layout.normed else "the hidden site"
    where = "either site" if model.ffns[0].one_site else "the hidden site"
    return f"deactivate and scale at {site}" + (f"; replace and add at {where}" if can_be else "; no replace, no add")


def _gguf(model: Model) -> str:
    if any(ffn.layout.normed for ffn in model.ffns):
        return "no"
    own = model.text_config.model_type == "llama"
    return "pruned from a .gguf file; " + ("layers as narrow as they are" if own else "layers filled up to the widest")


def _pruning(model: Model) -> str:
    if any(ffn.layout.normed for ffn in model.ffns):
        return "no: a norm over all neurons follows them"
    opens = "plain transformers where all layers keep the same number, " if model.ffns[0].layout.width else ""
    return f"yes: opens with {opens}{'and' if opens else 'Neuroglot’s'} load_model" + (" otherwise" if opens else "")
