"""Open a model: a directory, a hub id, a GGUF file, packaged weights, an adapter."""

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args

import torch

from neuroglot.errors import NeuroglotError, NeuroglotWarning, first_line, require
from neuroglot.models.architecture.body import decoder_config
from neuroglot.models.architecture.devices import launch_ahead
from neuroglot.models.architecture.find import find_ffns, without_empty_warnings
from neuroglot.models.gguf import PACKAGED
from neuroglot.models.layer_widths import check_kind, opener, without_weights
from neuroglot.models.model import Model, context_of
from neuroglot.models.sources import Dtype, Quantize, adapter_base, is_adapter, located
from neuroglot.models.tokenization import Bos, TextReader, beginning, reads_letters
from neuroglot.progress import without_bars
from neuroglot.storage.hub import hub_refusal

__all__ = ["auto_dtype", "load_model", "load_reader", "load_tokenizer", "load_widths"]


def load_model(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: Dtype | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    quantize: Quantize | None = None,
    trust_remote_code: bool = False,
    bos: Bos = "auto",
    count_first: bool = False,
) -> Model:
    """Open a model.

    Args:
        source: a directory, a hub id (`Qwen/Qwen3-0.6B-Base`), a `.gguf` file, or weights that an installed package
            ships: `gemma3-270m`, `smollm2-135m`. GGUF is converted once and cached. A peft adapter's directory opens
            its base with the adapter merged into it.
        revision: the branch, tag or commit of a hub id.
        dtype: of the weights; a `torch.dtype` does as well. `auto` is float32 on a CPU, and elsewhere the checkpoint's
            own (of GGUF bfloat16).
        device: `cpu`, `cuda`, `cuda:1`, `mps` …; by default a GPU if there is one.
        device_map: spread a model over several devices, as `accelerate` does (`auto`); instead of `device`.
        offload_folder: where `device_map` puts what fits neither on GPUs nor in memory.
        quantize: weights of `8bit` or `4bit` (NF4), packed as they are read; needs bitsandbytes.
        trust_remote_code: run Python code that comes with the checkpoint.
        bos: what stands before every text, wherever the model reads one: `auto` is the tokenizer's own rule, `always`
            the BOS that it names, `never` nothing.
        count_first: count the first token of a text that nothing stands before. By default it is left out of every
            statistic, as BOS is, since attention uses it as BOS is used.

    Raises:
        NeuroglotError: nothing is there, it is damaged, it lacks weights, its architecture is not supported, or a
            setting is none of those that there are.

    Warns:
        NeuroglotWarning: it has weights that its architecture does not use.
    """
    name = str(source)
    precision, device = str(dtype).removeprefix("torch."), None if device is None else str(device)
    for option, value, known in (("dtype", precision, Dtype), ("bos", bos, Bos), ("quantize", quantize, Quantize)):
        if value is not None and value not in get_args(known):
            raise NeuroglotError(f"{option} is {', '.join(get_args(known))}, not {value!r}.")
    if (device or "").startswith("cuda") and not torch.cuda.is_available():
        raise NeuroglotError(f"There is no {device} here: torch sees no such GPU; leave the device out, or say cpu.")
    how: dict[str, Any] = {
        "dtype": precision,
        "device": device,
        "device_map": device_map,
        "offload_folder": offload_folder,
        "quantize": quantize,
        "trust_remote_code": trust_remote_code,
        "bos": bos,
        "count_first": count_first,
    }
    if is_adapter(source):
        return _merged(Path(source), how)
    path = located(source)
    if device_map is None:
        device_map = {"": device or ("cuda" if torch.cuda.is_available() else "cpu")}
    elif device is not None:
        raise NeuroglotError("device and device_map say the same thing in two ways; give one of them.")
    else:
        launch_ahead()
    on_cpu = device_map == {"": "cpu"}
    elsewhere = torch.bfloat16 if _is_gguf(name) else "auto"  # the cache holds float32
    weights: Any = {"auto": torch.float32 if on_cpu else elsewhere}.get(precision) or getattr(torch, precision)
    extra: dict[str, Any] = {} if offload_folder is None else {"offload_folder": str(offload_folder)}
    if quantize is not None:
        extra["quantization_config"] = _quantization(quantize, weights)
    try:
        kind = opener(path, revision, trust_remote_code)
        tokenizer = _tokenizer(name, path, revision, trust_remote_code)  # before weights are read
        with without_bars(), without_empty_warnings():
            network, loading = kind.from_pretrained(
                path,
                revision=revision,
                dtype=weights,
                device_map=device_map,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **extra,
            )
    except NeuroglotError:
        raise
    except Exception as error:  # transformers, safetensors and the hub client each raise their own
        raise NeuroglotError(_why_not_opened(name, path, error)) from error
    if loading["missing_keys"]:
        raise NeuroglotError(
            f"{name} lacks weights that its architecture has ({sorted(loading['missing_keys'])[0]} …); it is "
            "incomplete or its config.json belongs to another model."
        )
    if left := sorted(loading["unexpected_keys"]):
        warnings.warn(
            f"{name} has {len(left):,} weights that the model of its config.json has no place for, such as {left[0]}; "
            "they are left out. Check that the two belong together.",
            NeuroglotWarning,
            stacklevel=2,
        )
    model = Model(network, tokenizer, name=name, bos=bos, count_first=count_first)
    model.load_arguments = how | {
        "source": name,
        "revision": revision,
        "device_map": None if device is not None or device_map == {"": network.device.type} else device_map,
    }
    return model


def load_tokenizer(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Open the tokenizer of a model alone; arguments and errors are those of `load_model`."""
    path = located(adapter_base(source) if is_adapter(source) else source)
    return _tokenizer(str(source), path, revision, trust_remote_code)


def _tokenizer(name: str, path: str, revision: str | None, trust_remote_code: bool) -> Any:
    """The tokenizer beside a model's weights.

    Where its files are missing, transformers makes an empty one for some types: every text is no token, or unknown.

    Raises:
        NeuroglotError: it is not there, or is damaged.
    """
    from transformers import AutoTokenizer

    missing = NeuroglotError(
        f"{name} has no tokenizer; put the files of the one that it was trained with (tokenizer.json …) beside its "
        "weights."
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the hub client each raise their own
        if "instantiate the backend tokenizer" in str(error):
            raise missing from error
        if Path(path).is_dir() and "trust_remote_code" not in str(error):
            raise NeuroglotError(
                f"The tokenizer of {name} cannot be opened ({first_line(error)}); put its files there again."
            ) from error
        raise NeuroglotError(_why_not_opened(name, path, error)) from error
    if not reads_letters(tokenizer):
        raise missing
    return tokenizer


def _is_gguf(name: str) -> bool:
    return name in PACKAGED or name.endswith(".gguf")


def auto_dtype(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Dtype:
    """What `auto` is for a model that is not on a CPU; `auto` where its config does not say it.

    Raises:
        NeuroglotError: there is no model.
    """
    name = str(source)
    if is_adapter(source):
        return auto_dtype(adapter_base(source), trust_remote_code=trust_remote_code)
    if _is_gguf(name):
        return "bfloat16"
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(located(source), revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise NeuroglotError(_why_not_opened(name, located(source), error)) from error
    said = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return next((known for known in get_args(Dtype) if known == said), "auto")


def load_reader(
    source: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    bos: Bos = "auto",
    count_first: bool = False,
) -> TextReader:
    """How a model reads text, without its weights; arguments and errors are those of `load_model`.

    Raises:
        NeuroglotError: as `load_model`, of what tokenizer and config alone say: also an architecture without neurons.
    """
    path = located(adapter_base(source) if is_adapter(source) else source)
    try:
        config = check_kind(path, revision, trust_remote_code)
        opener(path, revision, trust_remote_code)
    except NeuroglotError:
        raise
    except Exception as error:  # transformers and the hub client each raise their own
        raise NeuroglotError(_why_not_opened(str(source), path, error)) from error
    tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    text = decoder_config(config)
    begin = beginning(tokenizer, bos)
    start = getattr(config, "decoder_start_token_id", None)
    if getattr(config, "is_encoder_decoder", False) and bos != "never" and start is not None:
        begin = (int(start),)  # see `Model.begin`
    vocabulary = getattr(text, "vocab_size", None) or len(tokenizer)
    return TextReader(str(source), tokenizer, begin, len(begin) or int(not count_first), context_of(text), vocabulary)


def load_widths(
    source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[int, ...] | None:
    """How many neurons each layer of a model has, from its config; None where only its weights can say it.

    Raises:
        NeuroglotError: as `load_model`, of what the config says.
    """
    path = located(adapter_base(source) if is_adapter(source) else source)
    config = check_kind(path, revision, trust_remote_code)
    try:
        return tuple(ffn.neurons for ffn in find_ffns(without_weights(config)))
    except Exception:  # an architecture that is found by running it, or code of the checkpoint's own
        return None


def _merged(path: Path, how: dict[str, Any]) -> Model:
    """The base of an adapter, with the adapter's changes in its weights.

    Raises:
        NeuroglotError: there is no base, or the adapter is damaged, of another base, or not one of weights.
    """
    if not any((path / f"adapter_model.{kind}").exists() for kind in ("safetensors", "bin")):
        raise NeuroglotError(f"{path} is an adapter without its weights, adapter_model.safetensors; save it again.")
    peft = require("peft", "tune", needed_by=f"{path} is an adapter, which")
    try:
        model = load_model(adapter_base(path), **how)
    except NeuroglotError as error:
        raise NeuroglotError(f"{path} is an adapter without its base: {error}") from error
    try:
        adapted = peft.PeftModel.from_pretrained(model.network, str(path))
    except Exception as error:  # peft, safetensors and torch each raise their own
        raise NeuroglotError(
            f"{path} is no adapter of {model.name} ({first_line(error)}); it is damaged or was trained on another base."
        ) from error
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise NeuroglotError(
            f"{path} is a prompt adapter, which changes no weights; give one such as LoRA, or its base."
        )
    network = adapted.merge_and_unload()
    merged = Model(network, model.tokenizer, str(path), bos=how["bos"], count_first=how["count_first"])
    merged.load_arguments = how | {"source": str(path), "revision": None}
    return merged


def _quantization(quantize: Quantize, weights: Any) -> Any:
    """What transformers needs to know to pack the weights.

    Raises:
        NeuroglotError: bitsandbytes is missing.
    """
    from transformers import BitsAndBytesConfig

    require("bitsandbytes", "quantize", needed_by=f"Packing weights to {quantize}")
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if weights == "auto" else weights
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _why_not_opened(name: str, path: str, error: Exception) -> str:
    refusal = None if Path(path).exists() else hub_refusal(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = refusal or first_line(error)
    if isinstance(error, UnpicklingError):  # torch says how to run it nonetheless
        return f"{name} holds code, or other things than weights, in a .bin file; ask its authors for safetensors."
    if any("trust_remote_code" in line for line in lines):
        return (
            f"{name} comes with Python code of its own, which is not run unasked; read it, and if you trust it, give "
            "--trust-remote-code (trust_remote_code=True)."
        )
    if not Path(path).exists() and (refusal or "/" in path or isinstance(error, OSError)):
        packaged_names = ", ".join(PACKAGED)
        return (
            f"{name} is neither a file nor a directory here, nor packaged weights ({packaged_names}), and the Hugging "
            f"Face hub did not give it ({reason}); check the name, the network and your access."
        )
    if "ignore_mismatched_sizes" in reason:
        reason = "weights are of other shapes than its config.json says"
    return (
        f"{name} cannot be opened as a causal language model ({reason}); it is damaged, incomplete or of another kind."
    )
