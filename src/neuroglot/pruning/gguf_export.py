"""A changed model as a GGUF file: trimmed, pruned, healed; the intact model's own file says all that did not change.

A weight that is as it was is copied, byte for byte. Another is quantised as the intact one was, or a step finer, as the
`gguf` package writes no K-quants.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf_conversion import tensor_names
from neuroglot.models.gguf_header import GgufTensor, Header, read_header
from neuroglot.models.model import Model
from neuroglot.storage.atomic import atomic_path

__all__ = ["takes_fewer_heads", "write_gguf"]

ARCHITECTURES = ("llama", "deci", "qwen2", "qwen3", "gemma2", "gemma3")
"""Whose weights are laid out as transformers has them, but for norms and the rotation of queries and keys."""
FINER = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q4_1", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q8_K": "Q8_0"}
WRITABLE = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
FFN = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.(weight|bias)$")
FFN_BIAS = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.bias$")
BIASED = ("llama", "deci")
"""Whose feed-forward networks may have biases in llama.cpp."""
BLOCK = 32


def takes_fewer_heads(source: str | Path) -> bool:
    """Whether llama.cpp runs the architecture with fewer heads; Qwen 2's must be as wide as the stream together."""
    return read_header(Path(source)).architecture != "qwen2"


def write_gguf(model: Model, source: str | Path, path: str | Path) -> Path:
    """Write a model that was made of a GGUF file's as such a file.

    Layers of different widths are filled up to the widest with neurons that write nothing, except in Llama's
    architecture, where each has its own.

    Args:
        model: trimmed, pruned or tuned; in memory.
        source: the intact model's .gguf file.
        path: a new .gguf file.

    Raises:
        NeuroglotError: the architecture is not one of those that are written, the model has tokens, heads or weights
            that the file has no place for, or `path` exists or cannot be written.
    """
    import gguf

    source, path = Path(source), Path(path)
    if path.exists():
        raise NeuroglotError(f"{path} exists; choose a new file.")
    header = read_header(source)
    if header.architecture not in ARCHITECTURES:
        raise NeuroglotError(
            f"Models of the architecture {header.architecture} are not written as GGUF (only "
            f"{', '.join(ARCHITECTURES)}); write a checkpoint and convert it with llama.cpp's convert_hf_to_gguf.py."
        )
    ids = _kept(model, header)
    filled = [-(-width // BLOCK) * BLOCK for width in model.widths] if model.uneven else list(model.widths)
    target = header.architecture
    if len(set(filled)) > 1:
        target, filled = ("deci", filled) if target in ("llama", "deci") else (target, [max(filled)] * len(filled))
    tensors = _tensors(model, header, ids, filled)
    with atomic_path(path) as draft:
        writer = gguf.GGUFWriter(draft, target)
        for name, value in _keys(model, header, target, ids, filled).items():
            _add(writer, name, value)
        for name, (data, kind) in tensors.items():
            writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for data, _ in tensors.values():
            writer.write_tensor_data(data)
        writer.close()
    return path


def _kept(model: Model, header: Header) -> np.ndarray | None:
    """Which of the file's tokens the model has, in its order; None for all."""
    if model.vocabulary == header.tensors["token_embd.weight"].shape[0]:
        return None
    gemma = header.architecture.startswith("gemma")
    tokens: list[str] = header.keys["tokenizer.ggml.tokens"]
    number = {}
    for index, token in enumerate(tokens):
        number["▁" * len(token) if gemma and " " in token and not token.strip() else token] = index
    words = model.tokenizer.convert_ids_to_tokens(list(range(model.vocabulary)))
    lacking = [word for word in words if word not in number]
    if lacking:
        raise NeuroglotError(f"{header.path} has no token {lacking[0]!r}; give the file that {model.name} was made of.")
    return np.array([number[word] for word in words])


def _keys(model: Model, header: Header, target: str, ids: np.ndarray | None, filled: Sequence[int]) -> dict[str, Any]:
    """The file's keys, with the new vocabulary, widths and heads."""
    old = header.architecture
    keys = {
        re.sub(rf"^{re.escape(old)}\.", f"{target}.", name): value
        for name, value in header.keys.items()
        if name != "general.architecture" and not name.startswith(("split.", "neuroglot."))
    }
    keys[f"{target}.feed_forward_length"] = list(filled) if len(set(filled)) > 1 else filled[0]
    heads = int(model.text_config.num_attention_heads)
    if heads != keys[f"{target}.attention.head_count"]:
        if old == "qwen2":
            raise NeuroglotError(
                f"llama.cpp takes no Qwen 2 with fewer heads than {header.path} has; keep all heads (--no-heads)."
            )
        keys[f"{target}.attention.head_count"] = heads
        keys[f"{target}.attention.head_count_kv"] = int(model.text_config.num_key_value_heads)
        for name in ("attention.key_length", "attention.value_length"):  # else the stream's width over the heads
            keys[f"{target}.{name}"] = int(model.text_config.head_dim)
    if ids is None:
        return keys
    new = {int(before): after for after, before in enumerate(ids)}
    for name in ("tokens", "scores", "token_type"):
        if (values := keys.get(f"tokenizer.ggml.{name}")) is not None:
            keys[f"tokenizer.ggml.{name}"] = [values[i] for i in ids]
    known = set(keys["tokenizer.ggml.tokens"])
    if (merges := keys.get("tokenizer.ggml.merges")) is not None:
        pairs = (merge.split(" ") for merge in merges)
        keys["tokenizer.ggml.merges"] = [" ".join(pair) for pair in pairs if known.issuperset([*pair, "".join(pair)])]
    for name in [name for name in keys if name.startswith("tokenizer.ggml.") and name.endswith("_token_id")]:
        token = keys.pop(name)
        if token in new:
            keys[name] = new[token]
    if f"{target}.vocab_size" in keys:
        keys[f"{target}.vocab_size"] = len(ids)
    return keys


def _add(writer: Any, name: str, value: Any) -> None:
    """A key, of the type that llama.cpp's converters give it."""
    if name == "general.alignment":
        writer.add_custom_alignment(int(value))
    elif isinstance(value, list):
        if value:
            writer.add_array(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif value < 0:
        writer.add_int32(name, value)
    else:
        writer.add_uint32(name, value)


def _tensors(
    model: Model, header: Header, ids: np.ndarray | None, filled: Sequence[int]
) -> dict[str, tuple[np.ndarray, Any]]:
    """Name → data and type of each tensor, in the file's order."""
    import gguf

    config = model.text_config
    _, names = tensor_names(model.network, header.architecture, {})
    weights = {name: weight.detach() for name, weight in model.network.state_dict().items()}
    tied = model.network.get_input_embeddings().weight is model.network.get_output_embeddings().weight
    done = {"lm_head.weight"} if tied else set()
    found: dict[str, tuple[np.ndarray, Any]] = {}
    for name, tensor in header.tensors.items():
        if name not in names:
            found[name] = _copied(tensor)  # such as rope_freqs.weight
            continue
        values = weights[names[name]].float().cpu().numpy()
        done.add(names[name])
        if header.architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
            values = values + 1
        if header.architecture in ("llama", "deci") and re.search(r"attn_[qk]\.", name):
            heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
        if FFN.match(name):
            values = _filled(name, values, filled[int(name.split(".")[1])])
        of_tokens = name in ("token_embd.weight", "output.weight")
        found[name] = _as_before(tensor, values, ids if of_tokens else None) or _quantised(tensor, values)
    for name, gained in names.items():  # by a re-fit; the intact model has none
        if header.architecture in BIASED and gained in weights.keys() - done and FFN_BIAS.match(name):
            values = weights[gained].float().cpu().numpy()
            found[name] = _filled(name, values, filled[int(name.split(".")[1])]), gguf.GGMLQuantizationType.F32
            done.add(gained)
    beyond = [name for name in weights if name not in done]
    if beyond:
        raise NeuroglotError(
            f"{model.name} has {beyond[0]}, for which a GGUF file of {header.architecture} has no place; write a "
            "checkpoint."
        )
    return found


def _filled(name: str, values: np.ndarray, width: int) -> np.ndarray:
    """Neurons up to a width that write nothing."""
    axis = 1 if "ffn_down.weight" in name else 0
    if "ffn_down.bias" in name or values.shape[axis] == width:
        return values
    more = [(0, 0)] * values.ndim
    more[axis] = (0, width - values.shape[axis])
    return np.pad(values, more)


def _rows(tensor: GgufTensor) -> tuple[np.ndarray, Any]:
    """A tensor's bytes, a row a row, and its type."""
    import gguf

    kind = gguf.GGMLQuantizationType(tensor.kind)
    if kind.name in ("F32", "F16"):
        return tensor.data.view(f"float{kind.name[1:]}").reshape(tensor.shape), kind
    return tensor.data.reshape(gguf.quant_shape_to_byte_shape(tensor.shape, kind)), kind


def _copied(tensor: GgufTensor) -> tuple[np.ndarray, Any]:
    data, kind = _rows(tensor)
    return np.array(data), kind


def _as_before(tensor: GgufTensor, values: np.ndarray, ids: np.ndarray | None) -> tuple[np.ndarray, Any] | None:
    """The tensor's own bytes, or those of some rows, if they say these values."""
    data, kind = _rows(tensor)
    data = data if ids is None else data[ids]
    some = GgufTensor(tensor.name, tensor.kind, values.shape, np.ascontiguousarray(data).view(np.uint8).reshape(-1))
    if (tensor.shape if ids is None else (len(ids), *tensor.shape[1:])) != values.shape:
        return None
    return (np.array(data), kind) if np.array_equal(some.values(), values) else None


def _quantised(tensor: GgufTensor, values: np.ndarray) -> tuple[np.ndarray, Any]:
    import gguf

    name = gguf.GGMLQuantizationType(tensor.kind).name
    name = FINER.get(name, name)
    if name not in WRITABLE or values.ndim < 2:
        name = "Q8_0" if values.ndim > 1 else "F32"
    if name.startswith("Q") and values.shape[-1] % BLOCK:
        name = "F16"
    kind = gguf.GGMLQuantizationType[name]
    values = np.ascontiguousarray(values, dtype=np.float32)
    if name in ("F32", "F16"):
        return values.astype(f"float{name[1:]}"), kind
    return gguf.quants.quantize(values, kind), kind
