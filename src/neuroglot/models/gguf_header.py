"""What is in a GGUF file: its keys, and its tensors as they lie in it. A file that was split is read as one.

The `gguf` package's own reader keeps every part of every key as an array; a vocabulary of 150,000 tokens takes it ten
seconds and this one half of one.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf_parts import parts_of

__all__ = ["GgufTensor", "Header", "read_header"]

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ALIGNMENT = 32  # where `general.alignment` says nothing


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as it is stored.

    Attributes:
        name: as llama.cpp calls it.
        kind: the number of its type, as `gguf.GGMLQuantizationType` has it.
        shape: slowest dimension first.
        data: its bytes, mapped from the file.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    data: np.ndarray

    def values(self) -> np.ndarray:
        """Its weights in float32, as the `gguf` package dequantises them."""
        import gguf

        kind = gguf.GGMLQuantizationType(self.kind)
        if kind.name in ("F64", "I8", "I16", "I32", "I64"):
            form = kind.name.lower().replace("i", "int").replace("f", "float")
            return np.asarray(self.data.view(form).reshape(self.shape))
        if kind.name in ("F32", "F16"):
            return np.asarray(self.data.view(f"float{kind.name[1:]}").reshape(self.shape), dtype=np.float32)
        rows = self.data.reshape(gguf.quant_shape_to_byte_shape(self.shape, kind))
        return np.asarray(gguf.quants.dequantize(rows, kind))


@dataclass(frozen=True)
class Header:
    """The keys of a GGUF file, and its tensors by name."""

    path: Path
    keys: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the architecture."""
        return str(self.keys["general.architecture"])


def read_header(path: Path) -> Header:
    """The header of a GGUF file and of the others that it is split into; tensors are mapped, not read.

    Raises:
        NeuroglotError: a file is missing, damaged, cut short, or says that it belongs to a split one without being
            called so; a tensor comes twice.
    """
    parts = parts_of(path)
    keys: dict[str, Any] = {}
    tensors: dict[str, GgufTensor] = {}
    for number, part in enumerate(parts):
        try:
            found, listed = _read(part)
        except (struct.error, ValueError, KeyError, OSError, ArithmeticError, MemoryError, RecursionError) as error:
            raise NeuroglotError(f"{part} is not a GGUF file, or is damaged ({error}); download it again.") from error
        if (int(found.get("split.count", 1)) or 1) != len(parts) or int(found.get("split.no", 0)) != number:
            raise NeuroglotError(
                f"{part} says that it is part {int(found.get('split.no', 0)) + 1} of {found.get('split.count', 1)}, "
                "which its name does not; call the parts NAME-00001-of-00002.gguf and so on, and give the first."
            )
        keys = keys or found
        for tensor in listed:
            if tensor.name in tensors:
                raise NeuroglotError(f"{part} holds {tensor.name} a second time; it is damaged.")
            tensors[tensor.name] = tensor
    expected = keys.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise NeuroglotError(f"{path} lacks tensors: {len(tensors)} of {expected} are there; download it again.")
    if "general.architecture" not in keys:
        raise NeuroglotError(f"{path} does not say which architecture it is of; it is damaged.")
    return Header(path, keys, tensors)


class _Cursor:
    """A place in a file that is read forwards."""

    def __init__(self, data: mmap.mmap):
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def string(self) -> str:
        (length,) = self.take("Q")
        text = self.data[self.at : self.at + length]
        if len(text) != length:
            raise ValueError("it ends within a string")
        self.at += length
        return text.decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.take(SCALARS[kind])[0]
        inner, count = self.take("IQ")
        if count > len(self.data):
            raise ValueError("an array is longer than the file")
        if inner in SCALARS:
            return list(self.take(f"{count}{SCALARS[inner]}"))
        return [self.value(inner) for _ in range(count)]


def _read(path: Path) -> tuple[dict[str, Any], list[GgufTensor]]:
    import gguf

    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(data)
    if data[:4] != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    cursor.at = 4
    version, tensors, count = cursor.take("IQQ")
    if version not in (2, 3):
        raise ValueError(f"version {version}")
    keys: dict[str, Any] = {}
    for _ in range(count):
        name = cursor.string()
        (kind,) = cursor.take("I")
        keys[name] = cursor.value(kind)
    listed = []
    for _ in range(tensors):
        name = cursor.string()
        (dimensions,) = cursor.take("I")
        shape = tuple(reversed(cursor.take(f"{dimensions}Q")))
        listed.append((name, shape, *cursor.take("IQ")))
    alignment = int(keys.get("general.alignment", ALIGNMENT))
    start = -(-cursor.at // alignment) * alignment
    every = np.frombuffer(data, dtype=np.uint8)
    result = []
    for name, shape, kind, offset in listed:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        length = int(np.prod(shape, dtype=object)) // block * size
        if start + offset + length > len(every):
            raise ValueError(f"it ends within {name}")
        result.append(GgufTensor(name, kind, shape, every[start + offset : start + offset + length]))
    return keys, result
