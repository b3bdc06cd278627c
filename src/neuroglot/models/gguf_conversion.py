"""A GGUF file as a checkpoint of transformers, in float32: a dequantised weight does not fit a shorter float exactly.

The file is read once, its tensors by several threads. llama.cpp's names of tensors, and what its converters do to some
of them, are undone by what transformers has for that. Nothing is left as it was initialised, and nothing is left over.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroglot.errors import NeuroglotError
from neuroglot.models.gguf_header import GgufTensor, Header, read_header
from neuroglot.models.gguf_keys import ROPE_FACTORS, config_of
from neuroglot.models.gguf_tokenizer import check_tokenizer, tokenizer_of
from neuroglot.progress import without_bars
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.sums import keep_sums

__all__ = ["convert"]


def convert(file: Path, target: Path) -> None:
    """Write the checkpoint that a GGUF file stands for, whole or not at all.

    Raises:
        NeuroglotError: the file is damaged, lacks tensors, or holds what would not be honoured.
    """
    header = read_header(file)
    check_tokenizer(header)
    settings = config_of(header)
    tokenizer = tokenizer_of(header)
    network = _network(header, settings)
    weights = _weights(header, network, settings)
    network.load_state_dict(weights, strict=False, assign=True)
    network.tie_weights()
    _check_whole(header, network)
    with atomic_path(target) as draft, without_bars():
        network.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        keep_sums(draft, target)


def _network(header: Header, settings: dict[str, Any]) -> Any:
    """The architecture, without weights."""
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    from neuroglot.models.layer_widths import without_weights

    try:
        return without_weights(AutoConfig.for_model(**settings), dtype=torch.float32)
    except (ValueError, KeyError, TypeError, RuntimeError, ArithmeticError, StrictDataclassError) as error:
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise NeuroglotError(f"{header.path} says what cannot be a {header.architecture} model ({reason}).") from error


def _weights(header: Header, network: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Name in transformers → weight."""
    import torch
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    kind = "llama" if header.architecture == "deci" else header.architecture
    processor = TENSOR_PROCESSORS.get(kind, TensorProcessor)(config=settings)
    with _one_name_map():
        names = get_gguf_hf_weights_map(network, processor)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    gathered: dict[str, Any] = {"tensors": {}}

    def read(tensor: GgufTensor) -> tuple[str, Any]:
        made = processor.process(
            weights=tensor.values(), name=tensor.name, tensor_key_mapping=names, parsed_parameters=gathered
        )
        if made.name is None:
            return "", None
        if made.name not in names:
            raise NeuroglotError(
                f"{header.path} holds a tensor {tensor.name}, which {header.architecture} has no place for here; give "
                "the checkpoint that it was made from."
            )
        weight = torch.from_numpy(made.weights.copy() if not made.weights.flags.writeable else made.weights)
        return names[made.name], weight.contiguous()

    wanted = [tensor for name, tensor in header.tensors.items() if name != ROPE_FACTORS and not _copy(header, name)]
    try:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            read_ones = dict(pool.map(read, wanted))
    except (ValueError, NotImplementedError, KeyError, IndexError) as error:
        raise NeuroglotError(f"{header.path} has a tensor that cannot be read ({error}).") from error
    weights: dict[str, Any] = {name: weight for name, weight in read_ones.items() if name} | gathered["tensors"]
    for name, weight in weights.items():
        if name in shapes and tuple(weight.shape) != shapes[name]:
            raise NeuroglotError(
                f"{header.path} has a tensor for {name} of {tuple(weight.shape)} in place of {shapes[name]}; it is "
                "damaged, or its keys are of another model."
            )
    return weights


def _copy(header: Header, name: str) -> bool:
    """Whether a tensor is the embedding once more, which `config_of` has seen to be the same."""
    return name == "output.weight" and header.architecture in ("falcon", "bloom")


def _check_whole(header: Header, network: Any) -> None:
    """Refuse a network that has weights of which nothing was read."""
    lacking = [name for name, weight in network.named_parameters() if weight.device.type == "meta"]
    if lacking:
        raise NeuroglotError(
            f"{header.path} lacks weights that its architecture has ({lacking[0]} …, {len(lacking)} in all); it is "
            "incomplete; download it again."
        )


@contextmanager
def _one_name_map() -> Iterator[None]:
    """Make the table of names once: transformers asks the `gguf` package for it anew for every module."""
    import functools

    import gguf

    before = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = functools.lru_cache(maxsize=1)(before)
    try:
        yield
    finally:
        gguf.get_tensor_name_map = before
