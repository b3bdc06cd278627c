"""Find the FFNs of an architecture that nobody has declared, from what one short forward pass computes.

An FFN is a product with a matrix (the down-projection) whose input is an activation function of another such product
(the only projection of a plain FFN, or the gate), or that times a third one (the up-projection). Everything between
must act on each token alone, so a state-space model's scan or an attention's output is none. What leaves it must reach
the last hidden states, and its neurons must reach them through the down-projection only. Names play no part.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from neuroglot.models.architecture.ffn import Layout, Rows, is_matrix, out_features
from neuroglot.models.architecture.sites import InlineCall
from neuroglot.models.architecture.trace import Step, Trace, trace

__all__ = ["Discovery", "discover", "layer_of"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# what moves values or leaves them as they are
MOVES = _names(
    "view reshape flatten unflatten squeeze unsqueeze transpose permute contiguous chunk split tensor_split "
    "narrow getitem unbind to float half bfloat16 double type type_as dropout clone detach expand expand_as cat "
    "stack T t mT view_as reshape_as split_with_sizes unsafe_chunk unsafe_split alias get requires_grad"
)
# what changes a value by a constant or bounds it, which makes no activation function
CONSTANT = _names("mul add sub rsub div neg clamp clip clamp_min clamp_max minimum maximum multiply nan_to_num")
# activation functions, and what they are written with
ACTIVATIONS = _names(
    "relu relu6 gelu silu swish sigmoid logsigmoid tanh softplus elu selu celu leaky_relu mish hardswish hardtanh "
    "hardsigmoid erf exp expm1 prelu rrelu softsign threshold where special_erf xielu quick_gelu"
)
# what an activation function or a norm is written with besides
OTHERS = _names(
    "pow square rsqrt sqrt mean var std sum norm abs layer_norm rms_norm var_mean rpow reciprocal log log1p sign "
    "gt lt ge le linalg_vector_norm masked_fill amax max topk kthvalue eq ne quantile min"
)
NORMS = _names("mean var std sum norm layer_norm rms_norm var_mean linalg_vector_norm rsqrt topk kthvalue amax")


@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        layouts: of the FFNs, from the input to the output.
        doubts: what looked like an FFN and was left out, with the reason.
    """

    layouts: list[Layout]
    doubts: list[str]


@dataclass(frozen=True)
class _Path:
    """What lies between a tensor and the one product with a matrix that it is computed from."""

    matrix: Step
    steps: list[Step]

    @property
    def functions(self) -> set[str]:
        return {step.function for step in self.steps}


@dataclass(frozen=True)
class _Repeated:
    """An FFN that runs several times a token."""

    words: str
    width: int


def discover(network: nn.Module, run: Any, several: Collection[nn.Module] = ()) -> Discovery:
    """Find the FFNs of a network.

    There are none where one that is as wide as the others runs several times a token: those of some layers alone would
    not be all of its neurons.

    Args:
        network: in evaluation mode.
        run: a short forward pass of it, which gives its last hidden states.
        several: layers of which all FFNs are found; of others the widest, or those that are equally wide.
    """
    seen = trace(network, run, is_matrix)
    names = {module: name for name, module in network.named_modules()}
    doubts: list[str] = []
    found: list[tuple[str, Layout]] = []
    repeated: list[_Repeated] = []
    for down in seen.matrices:
        layout = _ffn_of(down, seen, names)
        if isinstance(layout, _Repeated):
            repeated.append(layout)
        elif isinstance(layout, str):
            doubts.append(layout)
        elif layout is not None:
            found.append((names[layout.down], layout))
    least = min((_width_in(layout.down) for _, layout in found), default=0)
    if lost := [each.words for each in repeated if each.width >= least]:
        return Discovery([], lost)
    doubts += [each.words for each in repeated]
    return Discovery(_of_layers(_in_lists(found, names, doubts), doubts, several), doubts)


def _ffn_of(down: Step, seen: Trace, names: dict[nn.Module, str]) -> Layout | _Repeated | str | None:
    """The FFN that ends in a product with a matrix; a sentence if it is one that cannot be used; None if it is none."""
    if not down.inputs:
        return None
    reached = _up_to_product(down.inputs[0])
    assert down.module is not None
    if reached is None:
        return None
    top, between = reached
    operands = [_path(each) for each in top.inputs] if _is_product(top) else [_path(top)]
    paths = [path for path in operands if path is not None]
    if len(paths) < len(operands):
        return None
    acting = [path for path in paths if path.functions & ACTIVATIONS]
    others = [path for path in paths if path not in acting]
    if len(acting) == 2 or not acting or any(path.functions & (OTHERS | ACTIVATIONS) for path in others):
        return None
    gate, up = acting[0], others[0] if others else None
    width = _width_in(down.module)
    found = [_rows(path, width) for path in (gate, up) if path is not None]
    rows = [each for each in found if each is not None]
    sizes = [path.matrix.module for path in (gate, up) if path is not None]
    stream = out_features(down.module)
    if len(rows) < len(found) or any(_width_in(part) != stream for part in sizes if part is not None):
        return None
    name = names[down.module]
    if not seen.reached([down]):
        return f"what leaves {name} reaches nothing that the network gives"
    used = {module: seen.calls[module] for module in (down.module, *sizes) if module is not None}
    if max(used.values()) > 1:
        return _Repeated(f"{name} runs {max(used.values())} times a token, so it belongs to no one layer", width)
    placed = _site(gate, down, seen)
    if placed is None:
        return f"the activation function before {name} has no place of its own"
    site, acted = placed
    if seen.reached([acted, top], without=down):
        return f"what enters {name} is used elsewhere too, so zeroing its columns would not switch a neuron off"
    return Layout(
        layer=layer_of(down.module, names),
        activation=site,
        down=down.module,
        up=rows[-1],
        gate=rows[0] if up is not None else None,
        normed=bool(between & NORMS),
    )


def _up_to_product(step: Step) -> tuple[Step, set[str]] | None:
    """From the input of a matrix back to the product of two of its own, or to where it is a function of one only.

    Returns:
        It, and the functions between.
    """
    between: set[str] = set()
    while True:
        if step.function == "matrix":
            return None
        if _is_product(step) or (_path(step) is not None and not _is_product(_unscaled(step))):
            return step, between
        if step.function not in MOVES | CONSTANT | OTHERS or not step.inputs:
            return None
        # a norm multiplies with a function of the same values
        between |= {step.function, *(each.function for each in step.inputs)}
        step = step.inputs[0]


def _unscaled(step: Step) -> Step:
    """What a tensor was before it was moved, or multiplied with a constant."""
    while step.function in MOVES | CONSTANT and len(step.inputs) == 1:
        step = step.inputs[0]
    return step


def _is_product(step: Step) -> bool:
    """Whether two functions of different columns are multiplied."""
    if step.function not in ("mul", "multiply") or len(step.inputs) != 2:
        return False
    first, second = (_path(each) for each in step.inputs)
    if first is None or second is None:
        return False
    if first.matrix is not second.matrix:
        return True
    one, two = (_columns(path) for path in (first, second))
    return one is not None and two is not None and not set(one.tolist()) & set(two.tolist())


def _path(step: Step) -> _Path | None:
    """The way back to one product with a matrix, if there is only one, over steps that act on each token alone."""
    steps: list[Step] = []
    matrix: Step | None = None
    pending, seen = [step], set()
    while pending:
        each = pending.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        if each.function == "matrix":
            if matrix is not None and matrix is not each:
                return None
            matrix = each
            continue
        if each.function not in MOVES | CONSTANT | ACTIVATIONS | OTHERS or not each.inputs or len(steps) > 100:
            return None
        steps.append(each)
        pending += each.inputs
    return None if matrix is None else _Path(matrix, steps)


def _columns(path: _Path) -> Tensor | None:
    """Which of its matrix's columns each column is; None where they are not one a column."""
    columns = torch.arange(path.matrix.value.shape[-1], device="cpu").expand(path.matrix.value.shape)
    done: dict[int, Tensor] = {id(path.matrix): columns}
    for step in _in_order(path):
        known = [done[id(each)] for each in step.inputs if id(each) in done]
        if step.function in MOVES and step.function not in ("cat", "stack", "dropout", "type_as", "to", "float"):
            try:
                done[id(step)] = step.replayed(known[0])
            except (RuntimeError, TypeError, IndexError):
                return None
        else:
            same = [each for each in known if each.shape == step.value.shape]
            if same:
                done[id(step)] = same[0]
            elif known:
                done[id(step)] = known[0]
    last = done.get(id(path.steps[0])) if path.steps else columns
    if last is None or last.shape[-1] == 0:
        return None
    flat = last.reshape(-1, last.shape[-1])
    return flat[0] if bool((flat == flat[0]).all()) else None


def _in_order(path: _Path) -> Iterator[Step]:
    """The steps of a path, each after those it needs."""
    done: set[int] = set()

    def visit(step: Step) -> Iterator[Step]:
        if step is path.matrix or id(step) in done:
            return
        done.add(id(step))
        for each in step.inputs:
            yield from visit(each)
        yield step

    if path.steps:
        yield from visit(path.steps[0])


def _rows(path: _Path, width: int) -> Rows | None:
    """The rows of a matrix that belong to the neurons, as a slice."""
    columns = _columns(path)
    if columns is None or len(columns) != width or path.matrix.module is None:
        return None
    step = int(columns[1] - columns[0]) if width > 1 else 1
    first = int(columns[0])
    if step < 1 or not torch.equal(columns, torch.arange(first, first + step * width, step, device="cpu")):
        return None
    return Rows(path.matrix.module, first, step, width)


def _site(path: _Path, down: Step, seen: Trace) -> tuple[nn.Module | InlineCall, Step] | None:
    """Where the output of the activation function can be had, and the step that computes it.

    A module of its own, where all that follows is moves and constants; or the last call in another's forward.
    """
    last = next((step for step in path.steps if step.function not in MOVES), None)
    if last is None or _normed_after(path):
        return None
    acting = {place.owner for step in path.steps if step.function in ACTIVATIONS for place in step.places}
    step = path.steps[0]
    while step is not path.matrix:
        for module in step.returned_by:
            alone = seen.calls[module] == 1 and not any(is_matrix(part) for part in module.modules())
            if alone and module in acting:
                return module, step
        if step.function not in MOVES | CONSTANT or len(step.inputs) != 1:
            break
        step = step.inputs[0]
    outer = {place.owner for place in down.places}
    place = next((place for place in reversed(last.places) if place.owner in outer), None)
    return None if place is None else (InlineCall(place.owner, place.function, place.nth), last)


def _normed_after(path: _Path) -> bool:
    """Whether a norm follows the activation function, whose sign is then no longer the neuron's."""
    after: set[int] = set()  # what is computed from its output
    for step in _in_order(path):
        below = any(id(each) in after for each in step.inputs)
        if below and step.function in NORMS:
            return True
        if below or step.function in ACTIVATIONS:
            after.add(id(step))
    return False


def layer_of(part: nn.Module, names: dict[nn.Module, str]) -> nn.Module:
    """The decoder layer of a part: what lies in the outermost list of modules.

    Where no list is, the outermost of several modules of one class that lie side by side; else what holds the part.
    """
    modules = {name: module for module, name in names.items()}
    parts = names[part].split(".")
    above = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    for holder, inside in pairwise(above):
        if isinstance(modules[holder], nn.ModuleList):
            return modules[inside]
    for containers in (False, True):  # a pair of nn.Sequential may be anything, and is asked last
        for holder, inside in pairwise(["", *above]):
            kind = type(modules[inside])
            alike = [each for each in modules[holder].children() if type(each) is kind]
            if len(alike) > 1 and not is_matrix(modules[inside]) and (containers or kind is not nn.Sequential):
                return modules[inside]
    return modules[".".join(parts[:-1])]


def _in_lists(
    found: list[tuple[str, Layout]], names: dict[nn.Module, str], doubts: list[str]
) -> list[tuple[str, Layout]]:
    """Those of a stack of layers, where there is one: what stands before or after it is no layer's."""
    stacks = {name: names[layout.layer].rpartition(".")[0] for name, layout in found}
    layers = {stack: {id(layout.layer) for name, layout in found if stacks[name] == stack} for stack in stacks.values()}
    if max(map(len, layers.values()), default=0) < 2:
        return found
    kept = [(name, layout) for name, layout in found if len(layers[stacks[name]]) > 1]
    doubts += [f"{name} lies in no layer" for name, layout in found if len(layers[stacks[name]]) < 2]
    return kept


def _of_layers(found: list[tuple[str, Layout]], doubts: list[str], several: Collection[nn.Module]) -> list[Layout]:
    """Where a layer has several, as an adapter beside its FFN, the widest; all, if they are equally wide."""
    layers: dict[nn.Module, list[tuple[str, Layout]]] = defaultdict(list)
    for name, layout in found:
        layers[layout.layer].append((name, layout))
    result = []
    for layer, own in layers.items():
        if layer in several:
            result += [layout for _, layout in own]
            continue
        name, widest = max(own, key=lambda each: _width_in(each[1].down))
        for other, layout in own:
            if _width_in(layout.down) == _width_in(widest.down):
                result.append(layout)
            else:
                doubts.append(f"{other} is narrower than {name} in the same layer")
    return result


def _width_in(projection: nn.Module) -> int:
    return int(getattr(projection, "in_features", 0) or getattr(projection, "nx", 0))
