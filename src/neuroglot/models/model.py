"""A causal language model with its tokenizer and its FFN neurons."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.find import find_ffns
from neuroglot.progress import without_bars
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.made import sign

__all__ = ["Model"]


class Model:
    """A Hugging Face causal language model whose FFN neurons are known.

    Make one with `load_model`, or wrap what you have: `Model(network, tokenizer)`.

    Attributes:
        network: the Hugging Face model, in evaluation mode.
        tokenizer: its tokenizer.
        name: what it is called in results.
        ffns: the FFN of each layer.
        prompt_tokens: how many positions are the prompt, while `prompt_length` says so.
        load_arguments: of `load_model`, if that made it, so that another process can.

    Raises:
        NeuroglotError: the architecture is not supported.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, name: str | None = None):
        self.network: Any = network.eval()
        self.tokenizer = tokenizer
        config: Any = network.config
        self.name: str = name or getattr(config, "name_or_path", "") or config.model_type
        self.load_arguments: dict[str, Any] | None = None
        self.ffns: list[FFN] = find_ffns(network)
        self.prompt_tokens: int | None = None
        self._fingerprint: str | None = None

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
        token: int | None = self.tokenizer.bos_token_id
        return token

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return int(self.network.get_input_embeddings().weight.shape[0])

    @property
    def text_config(self) -> Any:
        """The configuration of the language model, also where it is one part of a larger model."""
        return self.network.config.get_text_config(decoder=True)

    def hidden_states(
        self, tokens: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        """The last hidden states: everything but the language-model head."""
        output = self.network.base_model(
            input_ids=tokens.to(self.device),
            attention_mask=None if mask is None else mask.to(self.device),
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state
        return states

    def save(self, path: str | Path, made_from: str | None = None) -> Path:
        """Write it as a checkpoint with its tokenizer, whole or not at all; a directory that is there is replaced.

        Args:
            path: the directory.
            made_from: a digest of what it was made from, kept beside it; see `storage.made`.
        """
        with atomic_path(path) as draft, without_bars():
            self.network.save_pretrained(draft)
            self.tokenizer.save_pretrained(draft)
            if made_from is not None:
                sign(draft, made_from)
        return Path(path)

    def logits(self, states: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocabulary"]:
        """The logits of last hidden states, with the scaling or soft cap that the architecture has."""
        projection = self.network.get_output_embeddings()
        logits: Tensor = projection(states.to(projection.weight.device))
        config = self.text_config
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if divisor := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / divisor
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
            logits = torch.tanh(logits / cap) * cap
        return logits

    @property
    def fingerprint(self) -> str:
        """A digest of the architecture and the weights, the same in float32 and bfloat16; taken once, and kept.

        Every weight counts (in a sum of their bfloat16 bits), so a fine-tuned or edited model has another fingerprint.
        """
        if self._fingerprint is None:
            self._fingerprint = self._digest()
        return self._fingerprint

    def weights_changed(self) -> None:
        """Take the fingerprint anew when it is next asked for."""
        self._fingerprint = None

    def _digest(self) -> str:
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


def _offloaded(network: Any, name: str) -> Tensor | None:
    """A weight that accelerate keeps in memory or on disk until its layer runs."""
    module, _, leaf = name.rpartition(".")
    hook = getattr(network.get_submodule(module), "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        kept = getattr(each, "weights_map", None)
        if kept is not None:
            return torch.as_tensor(kept[leaf])
    return None
