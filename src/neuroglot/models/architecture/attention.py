"""The attention heads of a model: found from what a short forward pass computes, read and written before `o_proj`.

An attention is a product with a matrix (the output projection) whose input is a mixture of tokens, moved or scaled or
gated on its way: `scaled_dot_product_attention`, or a product with a softmax. Where its columns come from says how
many heads there are and which columns are whose, so grouped-query, fused and latent attention are one. The mixture must
reach the last hidden states through that projection only, so a mixture of layers is none. Names play no part.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.body import body, few_tokens, has_encoder, last_hidden_states, text_config
from neuroglot.models.architecture.discovery import ACTIVATIONS, CONSTANT, MOVES, OTHERS, layer_of
from neuroglot.models.architecture.edits import Edits, at_input
from neuroglot.models.architecture.ffn import is_matrix, is_transposed
from neuroglot.models.architecture.sites import EAGER, UNWATCHED, Edit
from neuroglot.models.architecture.trace import Step, trace
from neuroglot.models.architecture.weights import is_readable

__all__ = ["Attention", "find_attentions"]

FUSED = "scaled_dot_product_attention"
PRODUCTS = ("matmul", "bmm", "einsum", "baddbmm")
KEEPS = ("cat", "stack", "dropout", "type_as", "to", "float")  # moves of one tensor that leave every value in its place


class Attention:
    """The heads of one attention.

    Attributes:
        layer: the decoder layer it is part of.
        projection: the output projection.
        heads: how many heads enter it, H; query heads, where several share a key and a value.
        columns: (H, D) which of the projection's inputs are each head's.
    """

    def __init__(self, layer: nn.Module, projection: nn.Module, columns: Int64[Tensor, "heads width"]):
        self.layer, self.projection, self.columns = layer, projection, columns
        self.heads, self.width = columns.shape
        self._edits = Edits(layer, at_input(projection), "its attention's output projection was not passed")

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The output projection's weight, as (out, in).

        Raises:
            NeuroglotError: it is packed or elsewhere.
        """
        weight: Any = self.projection.weight
        if not is_readable(weight):
            raise NeuroglotError(
                "The weights of this model's attention are quantised or offloaded, so the share of a head cannot be "
                "computed; load it whole, or leave heads out."
            )
        rows: Tensor = weight.T if is_transposed(self.projection) else weight
        return rows

    def factors(self) -> Float[Tensor, "heads rank width"]:
        """For each head a matrix R of which ‖R x‖ is the norm of what the projection makes of the head's part x.

        The triangular factor of W[:, head], which keeps norms and has the width of a head, not that of the stream.
        """
        parts = self.weight.detach().float()[:, self.columns.flatten().to(self.weight.device)]
        parts = parts.unflatten(1, self.columns.shape).movedim(1, 0)  # (H, out, D)
        factors: Tensor = torch.linalg.qr(parts, mode="r").R
        return factors

    def parts(self, entered: Float[Tensor, "*tokens in"]) -> Float[Tensor, "*tokens heads width"]:
        """What enters the projection, by head."""
        index = self.columns.flatten().to(entered.device)
        split: Tensor = entered.index_select(-1, index).unflatten(-1, self.columns.shape)
        return split

    @property
    def edited(self) -> bool:
        """Whether an intervention is in force."""
        return bool(self._edits)

    @contextmanager
    def edit(self, site: str, change: Edit) -> Iterator[None]:
        """Put `change(x)` in the place of what enters the projection, (…, in), inside the block; see `Edits.edit`.

        Raises:
            NeuroglotError: the layer ran and the projection was not passed, or another thread runs the model.
        """
        with self._edits.edit(change):
            yield

    def observe(self, observer: Callable[[Tensor], None]) -> Callable[[], None]:
        """Call `observer(x)` with what enters the projection, after interventions, until what is given is called."""
        thread = threading.get_ident()

        def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module is self.projection and threading.get_ident() == thread:
                with UNWATCHED():
                    observer(inputs[0])

        handle = self.projection.register_forward_pre_hook(read)
        EAGER.__enter__()

        def stop() -> None:
            EAGER.__exit__()
            handle.remove()

        return stop


def find_attentions(network: nn.Module) -> list[Attention]:
    """The attentions of a network, from the input to the output; a layer without one (a state-space layer) has none.

    Raises:
        NeuroglotError: there are none, or it cannot be run on a few tokens.
    """
    kind = text_config(network).model_type
    tokens = few_tokens(network)
    try:
        inside = body(network) if has_encoder(network) else network  # what the encoder computes is no part of it
        seen = trace(inside, lambda: last_hidden_states(network, tokens), is_matrix)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError) as error:
        raise NeuroglotError(f"{kind} cannot be run on tokens alone, so its heads cannot be found.") from error
    names = {module: name for name, module in network.named_modules()}
    found = []
    for step in seen.matrices:
        if step.inputs and step.module is not None and seen.calls[step.module] == 1:
            path = _from_mixture(step.inputs[0])
            if path is None or not seen.reached([step]) or seen.reached([path[0]], without=step):
                continue
            columns = _columns(path)
            if columns is not None:
                found.append(Attention(layer_of(step.module, names), step.module, columns))
    if not found:
        raise NeuroglotError(
            f"No attention whose heads enter an output projection one by one was found in {kind}; leave heads out."
        )
    return found


def _from_mixture(step: Step) -> list[Step] | None:
    """The steps from a mixture of tokens to this one, both among them; None if none leads here without a matrix."""
    pending: list[list[Step]] = [[step]]
    done: set[int] = set()
    while pending:
        path = pending.pop()
        first = path[0]
        if id(first) in done or len(path) > 40:
            continue
        done.add(id(first))
        if _mixes(first):
            return path
        if first.function in MOVES | CONSTANT | OTHERS | ACTIVATIONS:
            pending += [[each, *path] for each in reversed(first.inputs)]
    return None


def _mixes(step: Step) -> bool:
    """Whether a step mixes tokens by weights that a softmax gives."""
    if step.function == FUSED:
        return True
    return step.function in PRODUCTS and any(_is_softmax(each) for each in step.inputs)


def _is_softmax(step: Step) -> bool:
    for _ in range(12):
        if step.function == "softmax":
            return True
        if step.function not in MOVES | CONSTANT or not step.inputs:
            return False
        step = step.inputs[0]
    return False


def _columns(path: list[Step]) -> Int64[Tensor, "heads width"] | None:
    """Which columns of the last step are each head's, by following where every number of the first one goes."""
    shape = path[0].value.shape
    labels = torch.arange(path[0].value.numel(), device="cpu").view(shape)
    for before, step in pairwise(path):
        if step.function in MOVES and step.function not in KEEPS:
            try:
                labels = _moved(step, before, labels)
            except (RuntimeError, TypeError, IndexError, ValueError):
                return None
        if labels.shape != step.value.shape:
            return None
    if all(step.function in MOVES for step in path[1:]):  # then they are the same numbers in other places
        came, left = path[0].value.flatten(), path[-1].value
        if not torch.equal(came[labels.to(came.device).flatten()].to(left.dtype), left.flatten()):
            return None
    first = labels.reshape(-1, labels.shape[-1])[0]  # of one token
    head = first // shape[-1]
    order = torch.unique(head)
    places = [(head == each).nonzero().flatten() for each in order]
    if len({len(each) for each in places}) != 1 or len(first.unique()) != len(first):
        return None
    places.sort(key=lambda each: int(each[0]))
    return torch.stack(places)


def _moved(step: Step, before: Step, labels: Tensor) -> Tensor:
    """What a step makes of the labels in the place of its input."""
    function, args, kwargs = step.call
    old = before.value

    def put(given: Any) -> Any:
        return labels if given is old else given

    result = function(*map(put, args), **{name: put(each) for name, each in kwargs.items()})
    moved: Tensor = result if step.item is None else result[step.item]
    return moved
