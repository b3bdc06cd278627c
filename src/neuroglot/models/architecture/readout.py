"""The stack of decoder layers, and what a network makes of a residual stream that leaves one of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.body import few_tokens, last_hidden_states, text_config
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.residual import stream_of, with_stream

__all__ = ["Readout"]

States = Float[Tensor, "batch length width"]


class Readout:
    """What comes after the last decoder layer and before the head: a norm as a rule, in some families a projection too.

    It is run by the network's own code: a second pass in which every layer gives the states that are to be read. So no
    name of a norm is needed, and a layer without an FFN (of a hybrid model) is read too.

    Args:
        network: in evaluation mode.
        ffns: of the network; the list that their layers stand in is the stack.

    Attributes:
        layers: the decoder layers, from the input to the output.

    Raises:
        NeuroglotError: what leaves the last layer does not decide the last hidden states, or there are several
            residual streams side by side.
    """

    def __init__(self, network: nn.Module, ffns: Sequence[FFN]):
        self.network = network
        self.layers = _stack(network, [ffn.layer for ffn in ffns])
        self._check()

    def outputs(self, tokens: Int[Tensor, "batch length"]) -> list[Any]:
        """What every layer gives in one pass over the tokens."""
        found: dict[int, Any] = {}

        def keep(place: int, module: nn.Module, _: Any, output: Any) -> None:
            if module is self.layers[place]:
                found[place] = output

        with ExitStack() as stack:
            for place, layer in enumerate(self.layers):
                stack.callback(layer.register_forward_hook(partial(keep, place)).remove)
            last_hidden_states(self.network, tokens)
        return [found[place] for place in range(len(self.layers))]

    def read(self, output: Any, tokens: Int[Tensor, "batch length"]) -> States:
        """The last hidden states if this were what the last layer gave, for `Model.logits`.

        Args:
            output: of a layer, as `outputs` gives it.
            tokens: those that were read.
        """
        with ExitStack() as stack:
            for layer in self.layers:
                before = layer.__dict__.get("forward")
                stack.callback(_put_back, layer, before)
                layer.__dict__["forward"] = lambda *_, **__: with_stream(output, stream_of(output).clone())
            return last_hidden_states(self.network, tokens)

    @torch.no_grad()
    def _check(self) -> None:
        tokens = few_tokens(self.network)
        expected = last_hidden_states(self.network, tokens)
        got = self.read(self.outputs(tokens)[-1], tokens)
        if not bool(torch.isfinite(expected).all()):
            return  # weights that give no numbers prove nothing
        # two passes may take different kernels, which bfloat16 rounds differently
        slack = (1e-3 if expected.dtype == torch.float32 else 5e-2) * max(1.0, float(expected.float().abs().max()))
        if got.shape != expected.shape or not bool(((got.to(expected) - expected).abs() <= slack).all()):
            raise NeuroglotError(
                f"What leaves the last layer of {text_config(self.network).model_type} does not decide its last hidden "
                "states alone, so its layers cannot be read through the head; it can be recorded."
            )


def _put_back(layer: nn.Module, forward: Any) -> None:
    if forward is None:
        del layer.__dict__["forward"]
    else:
        layer.__dict__["forward"] = forward  # that a library has wrapped


def _stack(network: nn.Module, layers: list[nn.Module]) -> list[nn.Module]:
    """The list that the layers stand in, those without an FFN among them; the layers alone where they stand in none."""
    names = {module: name for name, module in network.named_modules()}
    above = network.get_submodule(names[layers[0]].rpartition(".")[0])
    if isinstance(above, nn.ModuleList) and all(layer in set(above) for layer in layers):
        return list(above)
    return layers
