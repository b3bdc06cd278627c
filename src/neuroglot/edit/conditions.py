"""Conditions: what is done to a model while it is measured, under a name and with a digest."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neuroglot.artifacts.parameters import Places
from neuroglot.edit.interventions import Intervention, UnitChange, intervene
from neuroglot.edit.parameters import zeroed
from neuroglot.models.model import Model

__all__ = ["INTACT", "Condition", "Step", "digest_of_steps", "plain_steps"]

INTACT = "intact"
"""What the condition is called in which nothing is done."""

Step = UnitChange | Places
"""An intervention, or parameters that are zeroed: name of the weight → places in it."""


@dataclass(frozen=True, eq=False)
class Condition:
    """What is done to a model while it is measured.

    Attributes:
        name: what rows, matrices and files are called. Conditions of one name and several seeds are draws of one.
        steps: in force while it is measured, interventions in their order; none is the intact model.
        seed: of random neurons, None for others.
        only: the measurements that it is for, as a pattern of their names (`_fr$`); all by default.
    """

    name: str
    steps: tuple[Step, ...] = ()
    seed: int | None = None
    only: str = ""

    @cached_property
    def digest(self) -> str:
        """A digest of what is done; its name and its seed do not count, nor do steps that change nothing."""
        return digest_of_steps([step for step in self.steps if _acts(step)])

    @property
    def neurons(self) -> int:
        """How many neurons it changes; dimensions of the residual stream and heads do not count."""
        steps = [
            step for step in self.steps if isinstance(step, Intervention) and step.site in ("activation", "hidden")
        ]
        return int(torch.stack([step.neurons for step in steps]).any(0).sum()) if steps else 0

    @contextmanager
    def applied(self, model: Model) -> Iterator[None]:
        """Put the steps in force inside the block, and leave the model exactly as it was.

        Raises:
            NeuroglotError: a step is of another model's shape.
        """
        zeroes = [step for step in self.steps if isinstance(step, Mapping)]
        with intervene(model, *(step for step in self.steps if not isinstance(step, Mapping))), zeroed(model, *zeroes):
            yield


def digest_of_steps(steps: Sequence[Step], *bound: str) -> str:
    """A digest of what steps do, and of what they are bound to, such as a model's fingerprint.

    Values of neurons that a step does not change do not count.
    """
    tensors, said = plain_steps(steps)
    digest = hashlib.sha256(json.dumps([*bound, said]).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def plain_steps(steps: Sequence[Step]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Steps as tensors (indices of neurons or other units, and their values) and plain values, as files hold them."""
    tensors: dict[str, Tensor] = {}
    said: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        if isinstance(step, Mapping):
            tensors |= {f"{number}.{name}": index for name, index in step.items()}
            said.append({"kind": "zero"})
            continue
        index = step.units.nonzero()
        tensors[f"{number}.neurons"] = index.to(torch.int32)
        more = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
        for name in ("neurons", "experts", "site", "when"):
            more.pop(name, None)
        values, strength = more.pop("values", None), more.pop("strength", None)
        if isinstance(values, Tensor) and values.ndim:
            tensors[f"{number}.values"] = values[index[:, 0], index[:, 1]].to(torch.float64)
            values = None
        said.append(
            {
                "kind": type(step).__name__.lower(),
                "shape": list(step.units.shape),
                "site": step.site,
                "when": step.when,
                "value": None if values is None else float(values),
                "strength": strength,
            }
        )
        for name, value in more.items():  # of an intervention that somebody else wrote
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
            else:
                said[-1][name] = str(value)
    return tensors, said


def _acts(step: Step) -> bool:
    """Whether a step changes anything."""
    return any(map(len, step.values())) if isinstance(step, Mapping) else bool(step.units.any())
