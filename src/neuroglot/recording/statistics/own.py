"""Statistics of one's own: what a function makes of a batch's activations, kept by neuron and language as the rest is.

    @statistic("squares", version="1")
    def squares(activation, hidden):
        "Sum of the squares of what enters the down-projection."
        return hidden.double().square().sum((0, 1))

    record(model, corpus, statistics=("active", "squares"))

Another package offers one by an entry point in the group `neuroglot.statistics`.
"""

import ast
import hashlib
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import dill
import torch
from torch import Tensor

from neuroglot.artifacts.recording import HEADS
from neuroglot.artifacts.sums import Merge, Own, merged
from neuroglot.artifacts.widths import padded
from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import FFN
from neuroglot.plugins import load_plugin, package_of, plugins
from neuroglot.recording.statistics.gradients import GRADIENTS
from neuroglot.recording.statistics.output import OUTPUT
from neuroglot.recording.statistics.reductions import Values
from neuroglot.recording.statistics.sums import STATISTICS, Statistic

__all__ = ["GROUP", "OwnStatistic", "OwnSums", "check_statistics", "own_statistics", "statistic"]

GROUP = "neuroglot.statistics"
"""The entry points of other packages' statistics: the statistic's name = where the function is."""
BUILT_IN = (*STATISTICS, HEADS, OUTPUT, *GRADIENTS)

Reduce = Callable[[Values, Values], Tensor]


@dataclass(frozen=True)
class OwnStatistic:
    """A statistic that somebody registered.

    Attributes:
        name: in `statistics`, in recordings and in the `needs` of methods.
        reduce: activation and hidden (batch, tokens, neurons), without what does not count → (neurons, *shape).
        shape: what it has of each neuron; nothing for one number.
        kept: its digest, and how two texts' are merged, as recordings hold them.
    """

    name: str
    reduce: Reduce
    shape: tuple[int, ...]
    kept: Own

    def __reduce__(self) -> tuple[Any, ...]:
        """For a worker: with the function itself, since a worker cannot import what a script or a notebook defines.

        Raises:
            NeuroglotError: the function holds what no other process can have, such as a generator.
        """
        try:
            function = dill.dumps(self.reduce, recurse=True)
        except Exception as error:  # whatever pickling what somebody's function refers to raises
            raise NeuroglotError(
                f"The statistic {self.name} cannot be given to workers, since its function cannot be pickled "
                f"({error}); let it refer to nothing but its arguments and imported modules, or record in this process."
            ) from error
        return _of_worker, (self.name, function, self.shape, self.kept)


def _of_worker(name: str, function: bytes, shape: tuple[int, ...], kept: Own) -> OwnStatistic:
    return OwnStatistic(name, dill.loads(function), shape, kept)


_registered: dict[str, OwnStatistic] = {}


def statistic(
    name: str, *, shape: Sequence[int] = (), merge: Merge = "sum", version: str = "1"
) -> Callable[[Reduce], Reduce]:
    """Register a statistic: put it above a function of the activations of one layer of a batch.

    The function is given `activation` and `hidden`, (batch, tokens, neurons), on the device where they are, without BOS
    and padding, and gives a tensor (neurons, *shape): its sum, maximum or minimum over all these tokens. It is kept in
    float64. What two batches, shards or texts give is merged as `merge` says, so where a text is cut must not matter.

    A recording keeps a digest of name, version and code, and adds only to one of the same. Give another version where
    something that the function calls has changed.

    Args:
        name: lower-case letters, digits and _.
        shape: what each neuron has; by default one number.
        merge: `sum`, `max` or `min`.
        version: of the function.

    Raises:
        NeuroglotError: the name is taken or no such word, or `merge` is none of the three.
    """
    taken = name in (*BUILT_IN, "routed", "tokens") or name.startswith("heads_")
    if taken or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise NeuroglotError(
            f"A statistic cannot be called {name!r}; take lower-case letters, digits and _, and none of "
            f"{', '.join(BUILT_IN)}."
        )
    if merge not in get_args(Merge):
        raise NeuroglotError(f"merge is {', '.join(get_args(Merge))}, not {merge!r}.")

    def declare(reduce: Reduce) -> Reduce:
        other = _registered.get(name)
        if other is not None and _place(other.reduce) != _place(reduce):
            raise NeuroglotError(f"There is a statistic {name} already, of {_place(other.reduce)}; use another name.")
        kept = Own(digest=_digest(name, version, merge, reduce), merge=merge)
        _registered[name] = OwnStatistic(name, reduce, tuple(shape), kept)
        return reduce

    return declare


def _place(reduce: Any) -> str:
    return f"{getattr(reduce, '__module__', '')}.{getattr(reduce, '__qualname__', '')}"


def _digest(name: str, version: str, merge: str, reduce: Reduce) -> str:
    """Of what it is called and does: the code as it is parsed, so that neither comments nor line breaks count."""
    try:
        code = ast.dump(ast.parse(textwrap.dedent(inspect.getsource(reduce))))
    except (OSError, TypeError, SyntaxError):
        code = ""  # typed where no source is kept; its name and version must do
    return hashlib.sha256(f"{name}\n{version}\n{merge}\n{code}".encode()).hexdigest()[:32]


def check_statistics(names: Sequence[str], known: Sequence[str] = BUILT_IN) -> None:
    """Refuse a statistic that is unknown; a package's is imported.

    Raises:
        NeuroglotError: naming it.
    """
    for name in names:
        if name not in known and name not in _registered and known is BUILT_IN:
            for entry in plugins(GROUP):
                if entry.name == name:
                    load_plugin(entry)
                    if name not in _registered:
                        raise NeuroglotError(
                            f"The package {package_of(entry)} offers a statistic {name} and does not register it; its "
                            f'author should put @neuroglot.recording.statistic("{name}") above {entry.value}.'
                        )
    unknown = [name for name in names if name not in known and (known is not BUILT_IN or name not in _registered)]
    if unknown:
        own = sorted(_registered) if known is BUILT_IN else []
        raise NeuroglotError(f"{unknown} cannot be recorded; choose among {', '.join([*known, *own])}.")


def own_statistics(names: Sequence[str]) -> tuple[OwnStatistic, ...]:
    """Those of the names that somebody registered."""
    return tuple(_registered[name] for name in names if name in _registered)


class OwnSums(Statistic):
    """One of one's own, of every layer."""

    def __init__(self, ffns: Sequence[FFN], own: OwnStatistic):
        self.own = own
        self._totals: list[Tensor | None] = [None] * len(ffns)

    def add(self, layer: int, activation: Values, hidden: Values) -> None:
        """Add one layer of a batch."""
        values = self.own.reduce(activation, hidden)
        shape = (activation.shape[-1], *self.own.shape)
        if not isinstance(values, Tensor) or tuple(values.shape) != shape:
            what = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise NeuroglotError(f"The statistic {self.own.name} must give a tensor {shape}, not {what}.")
        values = values.to(torch.float64)
        before = self._totals[layer]
        self._totals[layer] = values.clone() if before is None else merged(before, values, self.own.kept.merge)

    def flush(self) -> dict[str, Tensor]:
        """What it has of every neuron, (L, N, *shape), 0 beyond a layer's width; it starts again from nothing."""
        layers = [total.cpu() for total in self._totals if total is not None]
        self._totals = [None] * len(self._totals)
        found = padded(layers)
        if not bool(torch.isfinite(found).all()):
            raise NeuroglotError(f"The statistic {self.own.name} gives values that are not numbers (NaN or infinite).")
        return {self.own.name: found}
