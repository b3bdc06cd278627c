"""Tensor files that carry their kind, a format version and a checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:  # processes that only read text do without torch, which takes seconds to import
    from torch import Tensor
from neuroglot.storage.atomic import atomic_path

__all__ = ["load_tensors", "save_tensors"]


def _checksum(tensors: Mapping[str, "Tensor"]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        array = tensors[name].contiguous().numpy()
        digest.update(array.data.cast("B") if array.size else b"")  # no bytes, no view of them
    return digest.hexdigest()


def save_tensors(
    path: str | Path, kind: str, version: int, tensors: Mapping[str, "Tensor"], about: Mapping[str, Any]
) -> Path:
    """Write CPU tensors as one safetensors file with its kind, format version, checksum and `about` (JSON) inside."""
    from safetensors.torch import save_file

    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    header = {"kind": kind, "version": version, "sha256": _checksum(tensors), "about": dict(about)}
    with atomic_path(path) as draft:
        save_file(tensors, draft, metadata={"neuroglot": json.dumps(header, ensure_ascii=False)})
    return Path(path)


def load_tensors(path: str | Path, kind: str, version: int) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read back what `save_tensors` wrote: the tensors and `about`.

    Raises:
        NeuroglotError: the file is missing, damaged, of another kind, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise NeuroglotError(f"{path} does not exist; give the path of a {kind} file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("neuroglot", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, ValueError, SafetensorError) as error:
        raise NeuroglotError(f"{path} is damaged or not a safetensors file ({error}); make it again.") from error
    if header.get("kind") != kind:
        found = header.get("kind", "some other program's file")
        raise NeuroglotError(f"{path} is not a {kind} file but {found}; give the right path.")
    if header["version"] > version:
        raise NeuroglotError(f"{path} was written by a newer Neuroglot; update Neuroglot to read it.")
    if _checksum(tensors) != header["sha256"]:
        raise NeuroglotError(f"{path} is damaged: its checksum does not match; make it again.")
    return tensors, header["about"]
