"""Prune a GGUF file, for llama.cpp: the same model with fewer neurons, its other weights untouched byte for byte.

llama.cpp's format gives the feed-forward length of every layer, but most of its architectures read one for all. Llama
is among those, and its near twin `deci` (Llama with layers of several shapes) is not; so a Llama whose layers differ in
width is written as `deci`. In other architectures narrower layers are filled up to the widest with neurons that write
nothing.
"""

import re
from pathlib import Path

import gguf
import numpy as np
from jaxtyping import Bool
from torch import Tensor

from neuroglot.errors import NeuroglotError
from neuroglot.pruning.checkpoint import kept_digest
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.given import check_file

__all__ = ["made_from", "prune_gguf"]

MADE_FROM = "neuroglot.made_from"
"""Names a digest of what a file was pruned from: the same command finds its own result."""
PER_LAYER = {"llama": "deci", "deci": "deci", "openelm": "openelm"}
"""Architectures that can have a width a layer → the architecture to write."""
ROWS = re.compile(r"blk\.(\d+)\.ffn_(gate|up)\.(weight|bias)$")
COLUMNS = re.compile(r"blk\.(\d+)\.ffn_down\.weight$")
FLOATS = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16)
BLOCK = 32  # quantised rows are made of blocks of so many weights


def prune_gguf(source: str | Path, keep: Bool[Tensor, "layers neurons"], path: str | Path) -> Path:
    """Write a GGUF file with these neurons only.

    The rows of gate and up projections are copied as they are. Columns of a quantised down-projection cannot be, as
    their blocks lie across neurons: they are quantised anew, a step finer (4 bits as Q5_1, others as Q8_0). Each layer
    is filled up to a multiple of 32 neurons, and in an architecture that has one width for all layers to the widest,
    with neurons whose down-projection is zero, so the logits are those of `keep`.

    Args:
        source: a .gguf file of the intact model.
        keep: (L, N) of the same model.
        path: a new .gguf file.

    Raises:
        NeuroglotError: `source` is missing, damaged, a mixture of experts or of another shape; `keep` keeps nothing in
            a layer; `path` exists or cannot be written.
    """
    source, path = Path(source), Path(path)
    check_file(source, "give the .gguf file of the intact model")
    ours = kept_digest(keep, str(source.resolve()), f"{source.stat().st_size} {source.stat().st_mtime_ns}")
    if path.exists():
        if made_from(path) == ours:
            return path
        raise NeuroglotError(f"{path} exists; choose a new file for the pruned model.")
    if not bool(keep.any(1).all()):
        empty = int((~keep.any(1)).nonzero()[0])
        raise NeuroglotError(f"Nothing would be kept in layer {empty + 1}; keep at least one neuron a layer.")
    try:
        reader = gguf.GGUFReader(source)
    except (ValueError, OSError, IndexError) as error:
        raise NeuroglotError(f"{source} is not a GGUF file, or is damaged ({error}).") from error
    architecture = str(_value(reader, "general.architecture"))
    if (count := _value(reader, "split.count")) not in (None, 0, 1):
        raise NeuroglotError(f"{source} is one of {count} parts of a split file; join them (gguf-split --merge) first.")
    _check(reader, source, architecture, keep)
    filled = [-(-int(width) // BLOCK) * BLOCK for width in keep.sum(1)]
    if len(set(filled)) > 1 and architecture in PER_LAYER:
        target = PER_LAYER[architecture]
    else:
        target, filled = architecture, [max(filled)] * len(filled)
    kept = [row.nonzero().flatten().numpy() for row in keep.cpu()]
    with atomic_path(path) as draft:
        writer = gguf.GGUFWriter(draft, target)
        if alignment := _value(reader, "general.alignment"):
            writer.data_alignment = int(alignment)  # type: ignore[call-overload]
        _copy_fields(reader, writer, architecture, target, filled)
        writer.add_string(MADE_FROM, ours)
        tensors = []
        for tensor in reader.tensors:
            data, kind = _pruned(tensor, kept, filled, keep.shape[1])
            tensors.append(data)
            writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for data in tensors:
            writer.write_tensor_data(data)
        writer.close()
    return path


def made_from(path: Path) -> object:
    """What a file says that it was made from; None if nothing, or if it is no GGUF file."""
    try:
        return _value(gguf.GGUFReader(path), MADE_FROM)
    except (ValueError, OSError, IndexError):
        return None


def _value(reader: gguf.GGUFReader, name: str) -> object:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _check(reader: gguf.GGUFReader, source: Path, architecture: str, keep: Tensor) -> None:
    names = {tensor.name for tensor in reader.tensors}
    layers, width = _value(reader, f"{architecture}.block_count"), _value(reader, f"{architecture}.feed_forward_length")
    if "blk.0.ffn_down.weight" not in names or "blk.0.ffn_up.weight" not in names:
        raise NeuroglotError(f"{source} ({architecture}) has no dense FFN in every layer; it cannot be pruned.")
    widths = width if isinstance(width, list) else [width] * int(layers)  # type: ignore[call-overload]
    if widths != [keep.shape[1]] * keep.shape[0]:
        raise NeuroglotError(
            f"{source} has {layers} layers of {width} neurons, but these are {keep.shape[0]} × {keep.shape[1]}; give "
            "the file of the model that they were found in."
        )


def _copy_fields(reader: gguf.GGUFReader, writer: gguf.GGUFWriter, old: str, new: str, filled: list[int]) -> None:
    """Everything that the header says, under the architecture's name, with the new widths."""
    for name, field in reader.fields.items():
        if name.startswith(("GGUF.", "split.")) or name in ("general.architecture", MADE_FROM):
            continue  # one file is written, whatever was read
        renamed = re.sub(rf"^{re.escape(old)}\.", f"{new}.", name)
        if name == f"{old}.feed_forward_length":
            if len(set(filled)) == 1:
                writer.add_uint32(renamed, filled[0])
            else:
                writer.add_array(renamed, filled)
            continue
        kind, *inner = field.types
        writer.add_key_value(renamed, field.contents(), kind, sub_type=inner[-1] if inner else None)


def _pruned(
    tensor: gguf.ReaderTensor, kept: list[np.ndarray], filled: list[int], total: int
) -> tuple[np.ndarray, gguf.GGMLQuantizationType]:
    """A tensor's data with the kept of `total` neurons, in the file's own layout, and its type."""
    kind = tensor.tensor_type
    if found := ROWS.match(tensor.name):
        layer = int(found[1])
        index = np.concatenate([kept[layer], np.repeat(kept[layer][:1], filled[layer] - len(kept[layer]))])
        if len(tensor.data) != total:  # gate and up in one matrix
            index = np.concatenate([index, total + index])
        return np.ascontiguousarray(tensor.data[index]), kind
    if found := COLUMNS.match(tensor.name):
        layer = int(found[1])
        weights = gguf.quants.dequantize(tensor.data, kind)[:, kept[layer]]
        weights = np.pad(weights, ((0, 0), (0, filled[layer] - weights.shape[1])))
        if kind not in FLOATS:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            few = 8 * size / block <= 5  # bits a weight
            kind = gguf.GGMLQuantizationType.Q5_1 if few else gguf.GGMLQuantizationType.Q8_0
        return gguf.quants.quantize(np.ascontiguousarray(weights), kind), kind
    return tensor.data, kind
