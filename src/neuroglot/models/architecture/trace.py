"""One short forward pass, watched: which tensor was computed from which, and in whose forward.

What is watched are calls of torch's functions, from `F.silu` to `x * y`, so that it does not matter whether an
architecture writes its activation as a module or in line. A module that multiplies with a matrix is one step, whatever
it does inside; so are its weights, packed or not.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Place", "Step", "Trace", "function_name", "trace"]


@dataclass(frozen=True)
class Place:
    """The n-th call of a torch function in the forward of a module, those of its children among them."""

    owner: nn.Module
    function: str
    nth: int


@dataclass(eq=False)
class Step:
    """A tensor, and what it was computed from.

    Attributes:
        function: the torch function; `matrix` for a module that multiplies with one, `embedding` for tokens.
        inputs: the tensors that depend on the tokens, in their order.
        value: the tensor itself.
        module: of a `matrix`.
        places: where it was called, from the network inwards.
        returned_by: modules whose forward returned it.
        call: the function with its arguments.
        item: which of its results, where it gave several.
        readers: the steps that have it among their inputs.
    """

    function: str
    inputs: list["Step"]
    value: Tensor
    module: nn.Module | None = None
    places: tuple[Place, ...] = ()
    returned_by: list[nn.Module] = field(default_factory=list)
    call: tuple[Any, Any, dict[str, Any]] = (None, (), {})
    item: int | None = None
    readers: list["Step"] = field(default_factory=list)

    def __post_init__(self) -> None:
        for each in self.inputs:
            each.readers.append(self)

    def replayed(self, value: Tensor) -> Tensor:
        """The same step on another tensor in the place of its input."""
        function, args, kwargs = self.call
        old = self.inputs[0].value

        def put(given: Any) -> Any:
            if isinstance(given, tuple | list) and any(each is old for each in given):
                return type(given)(put(each) for each in given)
            return value if given is old else given

        result = function(*map(put, args), **{name: put(each) for name, each in kwargs.items()})
        replayed: Tensor = result if self.item is None else result[self.item]
        return replayed


@dataclass
class Trace:
    """What was watched.

    Attributes:
        matrices: all products with matrices, in their order.
        calls: how often each module ran.
        result: what the pass gave; None where that was not computed from the tokens by what can be watched.
    """

    matrices: list[Step]
    calls: Counter[nn.Module]
    result: Step | None

    def reached(self, start: list[Step], without: Step | None = None) -> bool:
        """Whether the result is computed from any of these steps, other than through a certain one.

        True where that cannot be said, since it is not known what the result is computed from.
        """
        if self.result is None:
            return without is None
        pending, seen = list(start), {id(without)}
        while pending:
            each = pending.pop()
            if each is self.result:
                return True
            if id(each) not in seen:
                seen.add(id(each))
                pending += each.readers
        return False


@lru_cache(maxsize=1024)
def function_name(function: Any) -> str:
    """What a torch function is called, without the marks of its in-place and operator forms."""
    name = str(getattr(function, "__name__", function))
    name = name.strip("_")
    return {"rmul": "mul", "imul": "mul", "radd": "add", "iadd": "add", "rsub": "rsub", "truediv": "div"}.get(
        name, name
    )


def trace(network: nn.Module, run: Any, is_matrix: Any) -> Trace:
    """Watch what `run()` computes in a network.

    Args:
        network: in evaluation mode.
        run: the forward pass; it gives the tensor that counts.
        is_matrix: whether a module multiplies with a matrix.
    """
    watch = _Watch()
    with ExitStack() as stack:
        for module in network.modules():
            matrix = is_matrix(module)
            before = module.register_forward_pre_hook(watch.entering(matrix), prepend=True, with_kwargs=True)
            after = module.register_forward_hook(watch.leaving(matrix))
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(watch)
        result = run()
    return Trace(watch.matrices, watch.calls, watch.steps.get(id(result)))


class _Frame:
    """A module's forward that is running."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.counts: Counter[str] = Counter()


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[int, Step] = {}  # by the id of the tensor, which the step keeps alive
        self.frames: list[_Frame] = []
        self.within = 0  # matrices that are running
        self.matrices: list[Step] = []
        self.calls: Counter[nn.Module] = Counter()
        self._entered: list[Step | None] = []
        self._given: list[list[Step]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if name in ("bool", "item") and args[0].device.type == "meta":
            return True  # no values, so no padding and no packed text, which is what is asked for
        result = func(*args, **kwargs)
        for frame in self.frames:
            frame.counts[name] += 1
        if not self.within:
            self._note(name, (func, args, kwargs), result)
        return result

    def _note(self, name: str, call: tuple[Any, Any, dict[str, Any]], result: Any) -> None:
        _, args, kwargs = call
        inputs = [self.steps[id(each)] for each in _tensors((args, kwargs)) if id(each) in self.steps]
        if not inputs and name != "embedding":
            return
        if name == "setitem":
            result = args[0]
        places = tuple(Place(frame.module, name, frame.counts[name]) for frame in self.frames)
        if isinstance(result, Tensor):
            self.steps[id(result)] = Step(name, inputs, result, places=places, call=call)
        elif isinstance(result, tuple | list):
            for item, each in enumerate(result):
                if isinstance(each, Tensor):
                    step = Step(name, inputs, each, places=places, call=call, item=item)
                    self.steps[id(each)] = step

    def entering(self, matrix: bool) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.calls[module] += 1
            self.frames.append(_Frame(module))
            if matrix:
                given = next(_tensors((args, kwargs)), None)
                self._entered.append(self.steps.get(id(given)))
                self.within += 1
            else:
                self._given.append(
                    [self.steps[id(each)] for each in _tensors((args, kwargs)) if id(each) in self.steps]
                )

        return hook

    def leaving(self, matrix: bool) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            frame = self.frames.pop()
            assert frame.module is module
            if matrix:
                self.within -= 1
                entered = self._entered.pop()
                if not self.within and isinstance(output, Tensor):
                    places = tuple(Place(each.module, "matrix", 1) for each in self.frames)
                    step = Step("matrix", [entered] if entered else [], output, module, places)
                    self.steps[id(output)] = step
                    self.matrices.append(step)
                return
            given = self._given.pop()
            if self.within:
                return
            for each in _tensors(output):  # computed by what is no torch function, such as a kernel of its own
                if id(each) not in self.steps and given:
                    self.steps[id(each)] = Step("unseen", given, each)
            if isinstance(output, Tensor) and id(output) in self.steps:
                self.steps[id(output)].returned_by.append(module)

        return hook


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
