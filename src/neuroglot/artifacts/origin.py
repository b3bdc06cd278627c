"""The model that neurons were found in, and whether their numbers mean the same in another."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from neuroglot.artifacts.provenance import Provenance
from neuroglot.artifacts.recording import Recording
from neuroglot.errors import NeuroglotError, NeuroglotWarning

__all__ = ["Origin", "check_origin", "check_precision", "origin"]

Experts = tuple[tuple[int, int], ...] | None
"""How many experts each layer has and how many neurons each of them, (0, 0) where a layer is dense; None if all are."""


class Found(Protocol):
    """What neurons are found in: a recording, or samples."""

    @property
    def provenance(self) -> Provenance | None:
        """What it was made with."""


class Numbered(Protocol):
    """A model, as far as the numbers of its neurons go: artifacts stand below models and import none."""

    name: str

    @property
    def fingerprint(self) -> str:
        """A digest of the weights."""

    @property
    def widths(self) -> tuple[int, ...]:
        """How many neurons each layer has."""

    @property
    def attentions(self) -> Sequence[Any]:
        """Its attentions; each has so many `heads`."""

    @property
    def expert_sizes(self) -> Experts:
        """Its experts."""


class Origin(NamedTuple):
    """A model whose neurons are meant; what is not known of it is not compared."""

    name: str
    fingerprint: str | None
    experts: Experts | Literal["unknown"] = "unknown"

    @classmethod
    def of(cls, model: Numbered | Recording) -> "Origin":
        """A model, or the one that was recorded."""
        if not isinstance(model, Recording):
            return cls(model.name, model.fingerprint, model.expert_sizes)
        made = model.provenance
        return cls("the recording", None) if made is None else cls(made.model, made.fingerprint, model.experts)


def origin(found: Found) -> dict[str, Any]:
    """What `about` of neurons says of the model they were found in; samples do not know its experts."""
    made = found.provenance
    if made is None:
        return {"fingerprint": None}
    known = {"fingerprint": made.fingerprint, "model": made.model}
    if not isinstance(found, Recording):
        return known
    return known | ({"experts": found.experts} if found.units == "neurons" else {"units": found.units})


def check_origin(about: Mapping[str, Any], model: Origin, units: str = "neurons") -> None:
    """Refuse neurons that have other numbers in this model, and say if they were found in other weights.

    Sets are moved from a base model to its tuned variant on purpose, so other weights are no fault. But a mixture of
    experts numbers its neurons expert by expert: a number of a dense model names another neuron in its moefied twin.

    Args:
        about: of the neurons; what it does not say is not compared.
        model: in which they are to be used.
        units: `neurons`, or `heads`, whose numbers no experts change.

    Raises:
        NeuroglotError: the neurons are numbered by other experts.
    """
    where = about.get("model") or "another model"
    if units == "neurons" and "experts" in about and model.experts != "unknown":
        theirs, ours = _plain(about["experts"]), _plain(model.experts)
        if theirs != ours:
            raise NeuroglotError(
                f"These neurons were found in {where}, {_said(theirs)}, and {model.name} is {_said(ours)}: a mixture "
                "numbers its neurons expert by expert, so the same number is another neuron; find them in this model, "
                "or take neurons.in_experts(partition) if `moefy` wrote it by a partition that you have."
            )
    found = about.get("fingerprint")
    if found and model.fingerprint and found != model.fingerprint:
        warnings.warn(
            f"These {units} were found in {where} (weights {str(found)[:8]}), and {model.name} has other weights "
            f"({model.fingerprint[:8]}); the same numbers are meant, which says something of a variant tuned from the "
            "same model only.",
            NeuroglotWarning,
            stacklevel=3,
        )


def check_precision(first: str | None, second: str | None, what: tuple[str, str]) -> None:
    """Refuse to compare a model with its variant where the two were read in different precision.

    A variant is often tuned and written in float32. Read so, beside a base in bfloat16, it would differ by more than
    what it has learnt.

    Args:
        first: the precision of one, such as bfloat16; what is not known is not compared.
        second: of the other.
        what: what each of them is called.

    Raises:
        NeuroglotError: they differ.
    """
    if first and second and first != second:
        raise NeuroglotError(
            f"{what[0]} was read in {first} and {what[1]} in {second}, so they would differ by rounding, too, and not "
            f"only by what was learnt; open {what[1]} with --dtype {first} (dtype={first!r} from Python)."
        )


def _plain(experts: Any) -> Any:
    """As a file says it, with lists for tuples."""
    return None if experts is None else [list(each) if isinstance(each, tuple) else each for each in experts]


def _said(experts: Any) -> str:
    if experts is None:
        return "a dense model"
    counts = sorted({each[0] for each in experts if isinstance(each, list) and each[:1] != [0]}, key=str)
    return f"a mixture of {' or '.join(map(str, counts))} experts a layer"
