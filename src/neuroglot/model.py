"""A causal language model with its tokenizer and its FFN neurons."""

import hashlib
import importlib.util
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoTokenizer, BitsAndBytesConfig

from neuroglot.checkpoint import base_of, is_adapter
from neuroglot.errors import NeuroglotError
from neuroglot.ffn import FFN, find_ffns
from neuroglot.files import whole
from neuroglot.gguf import PACKAGED, converted, packaged
from neuroglot.narrow import opener
from neuroglot.progress import without_bars

__all__ = ["Model", "load_model", "load_tokenizer"]

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantize = Literal["8bit", "4bit"]


class Model:
    """A Hugging Face causal language model whose FFN neurons are known.

    Make one with `load_model`, or wrap what you have: `Model(network, tokenizer)`.

    Attributes:
        network: the Hugging Face model, in evaluation mode.
        tokenizer: its tokenizer.
        name: what it is called in results.
        ffns: the FFN of each layer.
        prompt_tokens: how many positions are the prompt, while `prompt_length` says so.
        opened: the arguments of `load_model`, if that opened it, so that another process can.

    Raises:
        NeuroglotError: the architecture is not supported.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, name: str | None = None):
        self.network: Any = network.eval()
        self.tokenizer = tokenizer
        config: Any = network.config
        self.name: str = name or getattr(config, "name_or_path", "") or config.model_type
        self.opened: dict[str, Any] | None = None
        self.ffns: list[FFN] = find_ffns(network)
        self.prompt_tokens: int | None = None

    def __repr__(self) -> str:
        least, most = min(self.widths), max(self.widths)
        widths = f"{most}" if least == most else f"{least} to {most}"
        return f"<model {self.name}: {self.layers} layers of {widths} neurons>"

    @property
    def layers(self) -> int:
        """How many layers, L."""
        return len(self.ffns)

    @property
    def widths(self) -> tuple[int, ...]:
        """How many neurons each layer has. They differ in a model that `prune` wrote so."""
        return tuple(ffn.neurons for ffn in self.ffns)

    @property
    def neurons(self) -> int:
        """How many neurons a layer, N.

        Raises:
            NeuroglotError: the layers differ.
        """
        if len(set(self.widths)) > 1:
            raise NeuroglotError(
                f"The layers of {self.name} have from {min(self.widths)} to {max(self.widths)} neurons, since it was "
                "pruned; it can be run and measured, but record the model that it was made from."
            )
        return self.widths[0]

    @property
    def device(self) -> torch.device:
        """Where the input goes."""
        return torch.device(self.network.device)

    @property
    def batch_tokens(self) -> int:
        """Tokens a forward pass that keep the device busy: as many as its cache likes on a CPU, many on a GPU."""
        return 1024 if self.device.type == "cpu" else 16_384

    @property
    def bos(self) -> int | None:
        """The token that begins every block, where the tokenizer defines one."""
        return self.tokenizer.bos_token_id

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return int(self.network.get_input_embeddings().weight.shape[0])

    @property
    def text_config(self) -> Any:
        """The configuration of the language model, also where it is one part of a larger model."""
        return self.network.config.get_text_config(decoder=True)

    def body(
        self, tokens: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        """The last hidden states: everything but the language-model head."""
        output = self.network.base_model(
            input_ids=tokens.to(self.device),
            attention_mask=None if mask is None else mask.to(self.device),
            use_cache=False,
        )
        return output.last_hidden_state

    def save(self, path: str | Path) -> Path:
        """Write it as a checkpoint with its tokenizer, whole or not at all; a directory that is there is replaced."""
        with whole(path) as draft, without_bars():
            self.network.save_pretrained(draft)
            self.tokenizer.save_pretrained(draft)
        return Path(path)

    def head(self, states: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens vocabulary"]:
        """The logits of last hidden states, with the scaling or soft cap that the architecture has."""
        projection = self.network.get_output_embeddings()
        logits = projection(states.to(projection.weight.device))
        config = self.text_config
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if divisor := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / divisor
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = torch.tanh(logits / cap) * cap
        return logits

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the architecture and the weights, the same in float32 and bfloat16.

        Every weight counts (in a sum of their bfloat16 bits), so a fine-tuned or edited model has another fingerprint.
        """
        widths = self.widths if len(set(self.widths)) > 1 else self.widths[0]
        digest = hashlib.sha256(f"{self.text_config.model_type} {self.layers} {widths}".encode())
        for name, weight in sorted(self.network.named_parameters()):  # a tied weight comes once
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            if weight.device.type == "meta":
                weight = _offloaded(self.network, name)
                if weight is None:
                    continue  # nowhere: its name and shape must do
            if not weight.is_floating_point():  # quantised: its bytes as they are
                packed = weight.detach().flatten().view(torch.uint8)
                digest.update(
                    f"{int(packed.sum())}".encode() + packed[:: max(1, len(packed) // 64)].cpu().numpy().tobytes()
                )
                continue
            bits = weight.detach().flatten().to(torch.bfloat16)
            words = bits[: len(bits) // 4 * 4].clone().view(torch.int64)  # four weights at once; sums may wrap around
            digest.update(f"{int(words.sum())} {bits[len(words) * 4 :].tolist()}".encode())
            digest.update(bits[:: max(1, len(bits) // 64)].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """A digest of the vocabulary and the beginning-of-sequence rule."""
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        return hashlib.sha256(json.dumps([vocabulary, self.bos]).encode()).hexdigest()[:32]


def load_model(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    device: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
    quantize: Quantize | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Open a model.

    Args:
        source: a directory, a hub id (`Qwen/Qwen3-0.6B-Base`), a `.gguf` file, or weights that an installed package
            ships: `gemma3-270m`, `smollm2-135m`. GGUF is converted once and cached. A peft adapter's directory opens
            its base with the adapter merged into it.
        revision: the branch, tag or commit of a hub id.
        dtype: of the weights. `auto` is float32 on a CPU, and the checkpoint's own elsewhere.
        device: `cpu`, `cuda`, `cuda:1`, `mps` …; by default a GPU if there is one.
        device_map: spread a model over several devices, as `accelerate` does (`auto`); instead of `device`.
        offload_folder: where `device_map` puts what fits neither on GPUs nor in memory.
        quantize: weights of `8bit` or `4bit` (NF4), packed as they are read; needs bitsandbytes.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        NeuroglotError: nothing is there, it is damaged, it lacks weights, or its architecture is not supported.
    """
    name = str(source)
    how: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "device_map": device_map,
        "offload_folder": offload_folder,
        "quantize": quantize,
        "trust_remote_code": trust_remote_code,
    }
    if is_adapter(source):
        return _merged(Path(source), how)
    path = _located(source)
    if device_map is None:
        device_map = {"": device or ("cuda" if torch.cuda.is_available() else "cpu")}
    elif device is not None:
        raise NeuroglotError("device and device_map say the same thing in two ways; give one of them.")
    on_cpu = device_map == {"": "cpu"}
    weights: Any = {"auto": torch.float32 if on_cpu else "auto"}.get(dtype) or getattr(torch, dtype)
    extra: dict[str, Any] = {} if offload_folder is None else {"offload_folder": str(offload_folder)}
    if quantize is not None:
        extra["quantization_config"] = _quantization(quantize, weights)
    try:
        with without_bars():
            network, loading = opener(path, revision, trust_remote_code).from_pretrained(
                path,
                revision=revision,
                dtype=weights,
                device_map=device_map,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **extra,
            )
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers, safetensors and the hub client each raise their own
        raise NeuroglotError(_why_not_opened(name, path, error)) from error
    if loading["missing_keys"]:
        raise NeuroglotError(
            f"{name} lacks weights that its architecture has ({sorted(loading['missing_keys'])[0]} …); it is "
            "incomplete or its config.json belongs to another model."
        )
    model = Model(network, tokenizer, name=name)
    model.opened = how | {
        "source": name,
        "revision": revision,
        "device_map": None if device is not None or device_map == {"": network.device.type} else device_map,
    }
    return model


def load_tokenizer(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Open the tokenizer of a model alone; arguments and errors are those of `load_model`."""
    path = _located(_base_of(Path(source)) if is_adapter(source) else source)
    try:
        return AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers and the hub client each raise their own
        raise NeuroglotError(_why_not_opened(str(source), path, error)) from error


def _located(source: str | Path) -> str:
    """The directory or the hub id that a source stands for; GGUF is converted first."""
    name = str(source)
    if name in PACKAGED:
        return str(packaged(name))
    if name.endswith(".gguf"):
        return str(converted(Path(source)))
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise NeuroglotError(
                f"{source} holds no config.json, so it is not a Hugging Face model; give another directory."
            )
    elif Path(source).exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise NeuroglotError(f"There is no model at {source}; give a directory, a .gguf file or a hub id.")
    return name


def _base_of(adapter: Path) -> str:
    """The model that an adapter was made of."""
    base = base_of(adapter)
    if base is None:
        raise NeuroglotError(f"{adapter} is an adapter that does not name its base; merge it into that with peft.")
    return base


def _merged(path: Path, how: dict[str, Any]) -> Model:
    """The base of an adapter, with the adapter's changes in its weights."""
    if importlib.util.find_spec("peft") is None:
        raise NeuroglotError(f'{path} is an adapter, which needs peft; pip install "neuroglot[tune]".')
    try:
        model = load_model(_base_of(path), **how)
    except NeuroglotError as error:
        raise NeuroglotError(f"{path} is an adapter without its base: {error}") from error
    from peft import PeftModel

    network = PeftModel.from_pretrained(model.network, str(path)).merge_and_unload()
    merged = Model(network, model.tokenizer, name=str(path))
    merged.opened = how | {"source": str(path), "revision": None}
    return merged


def _quantization(quantize: Quantize, weights: Any) -> Any:
    """What transformers needs to know to pack the weights.

    Raises:
        NeuroglotError: bitsandbytes is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise NeuroglotError(f'{quantize} weights need bitsandbytes; pip install "neuroglot[quantize]".')
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if weights == "auto" else weights
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _offloaded(network: Any, name: str) -> Tensor | None:
    """A weight that accelerate keeps in memory or on disk until its layer runs."""
    module, _, leaf = name.rpartition(".")
    hook = getattr(network.get_submodule(module), "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        kept = getattr(each, "weights_map", None)
        if kept is not None:
            return torch.as_tensor(kept[leaf])
    return None


def _why_not_opened(name: str, path: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    if not Path(path).exists() and ("/" in path or isinstance(error, OSError)):
        packaged_names = ", ".join(PACKAGED)
        return (
            f"{name} is neither a file or directory here, nor packaged weights ({packaged_names}), and the Hugging "
            f"Face hub did not give it ({reason}); check the name, the network and your access."
        )
    return (
        f"{name} cannot be opened as a causal language model ({reason}); it is damaged, incomplete or of another kind."
    )
