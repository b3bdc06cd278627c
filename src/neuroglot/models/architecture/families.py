"""How declared model families lay out their FFN: exact, and the oracle of what is discovered in others."""

import tomllib
import warnings
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint
from pathlib import Path

from torch import nn

from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.models.architecture.ffn import Layout, Rows, is_matrix, out_features
from neuroglot.plugins import load_plugin, package_of, plugins
from neuroglot.storage.given import check_file

__all__ = ["FAMILIES", "Family", "declaration", "declare", "declared", "note_others", "own_families", "read_families"]

GROUP = "neuroglot.families"


@dataclass(frozen=True)
class Family:
    """Where one family of architectures keeps its FFN, as dotted attribute names.

    Attributes:
        types: the `model_type`s of the configs that follow this layout.
        activation: the activation module, from a layer.
        down: the down-projection, from a layer.
        up: the up-projection of a gated FFN, or the only projection (fc1) of a plain one, from a layer.
        gate: the gate projection, from a layer; empty for a plain FFN; the same as `up` where one matrix holds the
            gate's rows and then the up-projection's.
        layers: the list of layers, from the decoder.
        width: the config's name for the neurons a layer; empty where the architecture fixes it.
    """

    types: tuple[str, ...]
    activation: str
    down: str
    up: str
    gate: str = ""
    layers: str = "layers"
    width: str = "intermediate_size"

    @property
    def gated(self) -> bool:
        """Whether the FFN multiplies a gate into the activation."""
        return bool(self.gate)

    def layout(self, layer: nn.Module) -> Layout:
        """Where a layer of this family keeps its FFN.

        Raises:
            AttributeError: the layer has no such part, or it is no projection.
        """
        for name in (self.down, self.up, self.gate or self.up):
            if not is_matrix(part := layer.get_submodule(name)):
                raise AttributeError(f"{name or 'the layer'} is a {type(part).__name__} and no projection")
        down, up = layer.get_submodule(self.down), layer.get_submodule(self.up)
        gate = layer.get_submodule(self.gate) if self.gate else None
        rows = Rows(up)
        if gate is up:  # the gate's rows first
            size = out_features(up) // 2
            gate_rows, rows = Rows(up, 0, 1, size), Rows(up, size, 1, size)
        else:
            gate_rows = None if gate is None else Rows(gate)  # type: ignore[assignment]
        return Layout(layer, layer.get_submodule(self.activation), down, rows, gate_rows, width=self.width)


FAMILIES = (
    Family(
        (
            "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "olmo", "olmo2",
            "smollm3", "cohere", "cohere2", "granite",
        ),
        activation="mlp.act_fn", down="mlp.down_proj", up="mlp.up_proj", gate="mlp.gate_proj",
    ),
    Family(("phi3",), "mlp.activation_fn", down="mlp.down_proj", up="mlp.gate_up_proj", gate="mlp.gate_up_proj"),
    Family(("phi",), "mlp.activation_fn", down="mlp.fc2", up="mlp.fc1"),
    Family(("opt", "xglm"), "activation_fn", down="fc2", up="fc1", width="ffn_dim"),
    Family(("gpt2",), "mlp.act", down="mlp.c_proj", up="mlp.c_fc", layers="h", width="n_inner"),
    Family(("bloom",), "mlp.gelu_impl", down="mlp.dense_4h_to_h", up="mlp.dense_h_to_4h", layers="h", width=""),
    Family(
        ("falcon",), "mlp.act", down="mlp.dense_4h_to_h", up="mlp.dense_h_to_4h", layers="h", width="ffn_hidden_size",
    ),
    Family(("gpt_neox",), "mlp.act", down="mlp.dense_4h_to_h", up="mlp.dense_h_to_4h"),
)  # fmt: skip

_own: list[Family] = []
_said = set[str]()  # of packages that are left out


def declare(*families: Family) -> None:
    """Add families of your own; they come before those that Neuroglot declares.

    An installed package does so by an entry point in the group `neuroglot.families` that names a `Family`.
    """
    _own[:0] = families


def own_families() -> list[Family]:
    """Those that `declare` added in this process."""
    return list(_own)


def note_others(kind: str) -> None:
    """Say that all that `declare` added is of other types than a model's: one may be misspelt."""
    said = sorted({each for family in _own for each in family.types})
    if said and kind not in said:
        warnings.warn(
            f"You declared families of the types {', '.join(said)}; this model is of type {kind}, so they do not "
            "concern it.",
            NeuroglotWarning,
            stacklevel=4,
        )


def declared(kind: str) -> Family | None:
    """The family that a `model_type` was declared to be of, if any."""
    found = declaration(kind)
    return found and found[0]


def declaration(kind: str) -> tuple[Family, str] | None:
    """The same, and who says so: `you`, the package whose entry point it is, or `Neuroglot`.

    A package whose family cannot be had is left out, which is said once; only models of the type that its entry point
    is named by are refused.

    Raises:
        NeuroglotError: the package whose entry point has the name of this type offers something that is no family, or
            cannot be imported.
    """
    said = [(family, "you") for family in _own]
    if not any(kind in family.types for family, _ in said):
        said += [(family, package_of(entry)) for entry in plugins(GROUP) if (family := _offered(entry, kind))]
    said += [(family, "Neuroglot") for family in FAMILIES]
    return next(((family, who) for family, who in said if kind in family.types), None)


def _offered(entry: EntryPoint, kind: str) -> Family | None:
    """The family of an entry point; None where it cannot be had, unless it is named by the type that is asked for.

    Raises:
        NeuroglotError: see `declaration`.
    """
    try:
        family = load_plugin(entry)
        if not isinstance(family, Family):
            raise NeuroglotError(
                f"The package {package_of(entry)} offers {entry.name} in {GROUP}, which is of type "
                f"{type(family).__name__} and no Family; update or uninstall it."
            )
    except NeuroglotError as error:
        if entry.name == kind:
            raise
        if (sentence := str(error)) not in _said:
            _said.add(sentence)
            warnings.warn(f"{sentence} Models of other families are read without it.", NeuroglotWarning, stacklevel=4)
        return None
    return family


def read_families(path: str | Path) -> list[Family]:
    """The families that a TOML file describes, each a table `[[family]]` with the fields of `Family`.

    Raises:
        NeuroglotError: it cannot be read, or a table lacks a field or has an unknown one.
    """
    check_file(path, "give a TOML file that describes model families")
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8-sig")).get("family", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise NeuroglotError(f"{path} cannot be read as TOML ({error}).") from error
    known = [field.name for field in fields(Family)]
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise NeuroglotError(f"{path} has no table [[family]]; see docs/families.md.")
    families = []
    for table in tables:
        lacking = [name for name in ("types", "activation", "down", "up") if name not in table]
        unknown = [name for name in table if name not in known]
        wrong = [name for name, value in table.items() if not _fits(name, value)]
        if lacking or unknown or wrong:
            raise NeuroglotError(
                f"A family of {path} {'lacks ' + lacking[0] if lacking else 'cannot have ' + (unknown or wrong)[0]}; "
                f"it has types, a list of names, and {', '.join(known[1:])}, which are text."
            )
        families.append(Family(**{**table, "types": tuple(table["types"])}))
    return families


def _fits(name: str, value: object) -> bool:
    """Whether a field may have a value: a list of names, or text."""
    if name != "types":
        return isinstance(value, str)
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
