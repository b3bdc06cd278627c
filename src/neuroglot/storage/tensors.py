"""Tensor files that carry their kind, a format version and a digest of all of the file."""

import hashlib
import json
import mmap
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from neuroglot.errors import NeuroglotError, first_line
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.given import check_file
from neuroglot.storage.sealed import BLANK, SEAL, digest_of_bytes, note_unsealed

if TYPE_CHECKING:  # processes that only read text do without torch, which takes seconds to import
    from torch import Tensor

__all__ = ["load_tensors", "save_tensors", "whole"]

# the seal in the header: JSON within JSON, so its quotes are escaped; nothing that a caller gives comes after it
_SEALED = re.compile(rb'\\"' + SEAL.encode() + rb'\\": \\"([0-9a-f]{64})\\"\}"')


def save_tensors(
    path: str | Path, kind: str, version: int, tensors: Mapping[str, "Tensor"], about: Mapping[str, Any]
) -> Path:
    """Write CPU tensors as one safetensors file with its kind, format version, digest and `about` (JSON) inside."""
    from safetensors.torch import save_file

    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kept = tensor.cpu().contiguous()
        shared = any(kept.untyped_storage().data_ptr() == each.untyped_storage().data_ptr() for each in apart.values())
        apart[name] = kept.clone() if shared else kept  # safetensors refuses memory that two names share
    tensors = apart
    header = {"kind": kind, "version": version, "about": dict(about), SEAL: BLANK}
    with atomic_path(path) as draft:
        save_file(tensors, draft, metadata={"neuroglot": json.dumps(header, ensure_ascii=False)})
        found = _seal(draft)
        assert found is not None
        place, _, digest = found
        with draft.open("r+b") as file:
            file.seek(place)
            file.write(digest.encode())
    return Path(path)


def load_tensors(path: str | Path, kind: str, version: int) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read back what `save_tensors` wrote: the tensors and `about`.

    Raises:
        NeuroglotError: the file is missing, damaged, of another kind, or of a newer format.
    """
    path = Path(path)
    check_file(path, f"give the path of a {kind} file")
    try:
        found = _seal(path)
        if found is not None and found[1] != found[2]:
            raise NeuroglotError(f"{path} is damaged: its checksum does not match; make it again.")
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("neuroglot", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except NeuroglotError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError, RecursionError) as error:
        raise NeuroglotError(f"{path} is damaged or not a safetensors file ({error}); make it again.") from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        other = header.get("kind", "some other program's file") if isinstance(header, dict) else "damaged"
        raise NeuroglotError(f"{path} is not a {kind} file but {other}; give the right path.")
    with whole(path, kind):
        if header["version"] > version:
            raise NeuroglotError(f"{path} was written by a newer Neuroglot; update Neuroglot to read it.")
        about = dict(header["about"])
        if found is None:  # written before files were sealed: only the tensors have a checksum
            if _checksum(tensors) != header["sha256"]:
                raise NeuroglotError(f"{path} is damaged: its checksum does not match; make it again.")
            note_unsealed(path)
    return tensors, about


@contextmanager
def whole(path: str | Path, kind: str) -> Iterator[None]:
    """Say in one sentence that what a file holds is not a whole value of its kind, if it is not.

    Raises:
        NeuroglotError: something is missing, of another type or shape, or out of range.
    """
    try:
        yield
    except NeuroglotError as error:
        if str(path) in str(error):
            raise
        raise NeuroglotError(f"{path} does not hold a whole {kind}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError) as error:
        said = first_line(error)[:160]
        missing = f"it lacks {said}" if isinstance(error, KeyError) else said
        raise NeuroglotError(f"{path} does not hold a whole {kind} ({missing}); make it again.") from error


def _seal(path: Path) -> tuple[int, str, str] | None:
    """Where a file's digest is, what it says, and what it should say; None if it has none."""
    with path.open("rb") as file:
        if path.stat().st_size < 8:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            size = 8 + int.from_bytes(data[:8], "little")
            found = list(_SEALED.finditer(data, 8, min(size, len(data))))
            if not found:
                return None
            start, end = found[-1].span(1)
            should = digest_of_bytes(view[:start], BLANK.encode(), view[end:])
            return start, data[start:end].decode(), should


def _checksum(tensors: Mapping[str, "Tensor"]) -> str:
    """What files of earlier versions hold in place of a seal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        array = tensors[name].contiguous().numpy()
        digest.update(array.data.cast("B") if array.size else b"")  # no bytes, no view of them
    return digest.hexdigest()
