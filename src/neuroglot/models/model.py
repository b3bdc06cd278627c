"""A causal language model with its tokenizer and its FFN neurons."""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.attention import Attention, find_attentions
from neuroglot.models.architecture.body import (
    few_tokens,
    has_encoder,
    input_device,
    last_hidden_states,
    logits_by_head,
    text_config,
    whole_logits,
)
from neuroglot.models.architecture.devices import share_copies
from neuroglot.models.architecture.families import note_others
from neuroglot.models.architecture.ffn import FFN
from neuroglot.models.architecture.find import find_ffns
from neuroglot.models.architecture.hooks import observe_residual
from neuroglot.models.architecture.moe import Mixture
from neuroglot.models.architecture.proof import prove_heads, prove_once
from neuroglot.models.architecture.sites import Site
from neuroglot.models.architecture.weights import kept_buffers
from neuroglot.models.crew import Crew
from neuroglot.models.fingerprint import digest_of_weights
from neuroglot.models.sources import Bos
from neuroglot.models.tokenization import beginning, known_tokens
from neuroglot.progress import without_bars
from neuroglot.storage.atomic import atomic_path
from neuroglot.storage.caches import cache_directory
from neuroglot.storage.made import sign

__all__ = ["Model", "context_of"]


def context_of(text_config: Any) -> int | None:
    """How many tokens a model can read at once, where its config says so."""
    limit: int | None = getattr(text_config, "max_position_embeddings", None)
    return limit if limit and limit > 0 else None  # XLNet says -1: none


class Model:
    """A Hugging Face causal language model whose FFN neurons are known.

    Make one with `load_model`, or wrap what you have: `Model(network, tokenizer)`.

    Attributes:
        network: the Hugging Face model, in evaluation mode.
        tokenizer: its tokenizer.
        name: what it is called in results.
        count_first: whether the first token of a text that nothing stands before is counted in statistics.
        ffns: the FFN of each layer.
        prompt_tokens: how many positions are the prompt, while `prompt_length` says so.
        load_arguments: of `load_model`, if that made it, so that another process can.
        workers: other processes that take part of its work; see `with_workers`.

    Raises:
        NeuroglotError: the architecture is not supported.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any,
        name: str | None = None,
        *,
        bos: Bos = "auto",
        count_first: bool = False,
    ):
        network = getattr(network, "_orig_mod", network)  # that `torch.compile` wraps
        _check_plain(network)
        self.network: Any = network.eval()
        self.tokenizer = tokenizer
        config: Any = network.config
        self.name: str = name or getattr(config, "name_or_path", "") or config.model_type
        self.count_first = count_first
        self._bos: Bos = bos
        self.load_arguments: dict[str, Any] | None = None
        self.workers: Crew | None = None
        self.ffns: list[FFN] = find_ffns(network)
        note_others(self.text_config.model_type)
        if self.device.type == "meta":
            raise NeuroglotError(f"{self.name} has no weights (it is on the meta device); load it from a checkpoint.")
        prove_once(network, self.ffns, cache_directory())
        share_copies(network)
        self.prompt_tokens: int | None = None
        self._fingerprint: str | None = None
        self._fingerprint_of: tuple[Any, ...] = ()

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
        """How many neurons each layer has. They differ in some architectures, and in a model that `prune` wrote so."""
        return tuple(ffn.neurons for ffn in self.ffns)

    @property
    def shared(self) -> tuple[int, int] | None:
        """Two layers (from 0) whose FFNs are one set of weights, as Zamba's are; None where each has its own."""
        first: dict[int, int] = {}
        for layer, ffn in enumerate(self.ffns):
            before = layer if isinstance(ffn, Mixture) else first.setdefault(id(ffn.down.weight), layer)
            if before != layer:
                return before, layer
        return None

    @property
    def mixtures(self) -> dict[int, Mixture]:
        """The layers that are native mixtures of experts, by their number; none in a dense model."""
        return {layer: ffn for layer, ffn in enumerate(self.ffns) if isinstance(ffn, Mixture)}

    @cached_property
    def attentions(self) -> list[Attention]:
        """The attentions whose heads can be read and written, from the input to the output; found when first asked for.

        There are as many as layers, but in hybrid models, some of whose layers have none.

        Raises:
            NeuroglotError: there are none, or one is not what it was taken for.
        """
        found = find_attentions(self.network)
        prove_heads(self.network, found)
        return found

    @property
    def heads(self) -> int:
        """How many heads an attention has, H; of the one with the most: masks are (attentions, H)."""
        return max(attention.heads for attention in self.attentions)

    def parts(self, site: Site) -> Sequence[FFN | Attention]:
        """What holds a site, from the input to the output: each row of a mask at that site is one's."""
        return self.attentions if site == "heads" else self.ffns

    def shape(self, site: Site) -> tuple[int, int]:
        """The shape of a mask at a site: (L, N) neurons, (L, width) dimensions of the stream, (attentions, H) heads."""
        if site == "heads":
            return len(self.attentions), self.heads
        return self.layers, self.stream_width if site == "residual" else self.neurons

    @property
    def edited(self) -> bool:
        """Whether an intervention is in force."""
        found = self.__dict__.get("attentions", ())
        return any(ffn.edited for ffn in self.ffns) or any(attention.edited for attention in found)

    @property
    def expert_sizes(self) -> tuple[tuple[int, int], ...] | None:
        """How many experts each layer has and how many neurons each of them, (0, 0) where a layer is dense."""
        found = self.mixtures
        sizes = [(found[i].experts, found[i].width) if i in found else (0, 0) for i in range(self.layers)]
        return tuple(sizes) if found else None

    def check_dense(self, what: str, remedy: str) -> None:
        """Refuse a native mixture of experts.

        Raises:
            NeuroglotError: as said.
        """
        if self.mixtures:
            raise NeuroglotError(f"{self.name} is a native mixture of experts, so {what}; {remedy}.")

    @property
    def neurons(self) -> int:
        """How many neurons a layer, N; of the widest, where they differ: masks are (L, N), False beyond a width."""
        return max(self.widths)

    @property
    def uneven(self) -> tuple[int, ...] | None:
        """The widths, where layers differ."""
        return self.widths if len(set(self.widths)) > 1 else None

    @property
    def exists(self) -> Bool[Tensor, "layers neurons"]:
        """Which entries of a mask (L, N) are neurons: all, unless layers differ in width."""
        return torch.arange(self.neurons)[None] < torch.tensor(self.widths)[:, None]

    @property
    def device(self) -> torch.device:
        """Where the input goes."""
        return input_device(self.network)

    @property
    def dtype(self) -> str:
        """The precision of its weights, such as bfloat16."""
        return str(self.network.dtype).removeprefix("torch.")

    @property
    def batch_tokens(self) -> int:
        """Tokens a forward pass that keep the device busy: as many as its cache likes on a CPU, many on a GPU."""
        return 1024 if self.device.type == "cpu" else 16_384

    @property
    def bos(self) -> int | None:
        """The token that begins every text, where the tokenizer puts one there, or was to be made to."""
        return self.begin[0] if self.begin else None

    @cached_property
    def begin(self) -> tuple[int, ...]:
        """All tokens that stand before every text: BOS, nothing, or more than one (GLM); see `beginning`.

        Raises:
            NeuroglotError: BOS is to be put there always, but the tokenizer names none.
        """
        if has_encoder(self.network) and self._bos != "never":
            for said in (self.network.generation_config, self.network.config, self.text_config):
                start = getattr(said, "decoder_start_token_id", None)
                if start is not None:
                    return (int(start),)  # whatever its tokenizer puts before the texts that an encoder reads
        return beginning(self.tokenizer, self._bos)

    @property
    def uncounted(self) -> int:
        """How many tokens at the start of a block or sample no statistic counts.

        They are those of `begin`. Where nothing stands before a text, its first token is the attention sink in BOS's
        place, and is not counted either, unless `count_first`.
        """
        return len(self.begin) or int(not self.count_first)

    @property
    def context(self) -> int | None:
        """How many tokens it can read at once, where its config says so."""
        return context_of(self.text_config)

    def check_length(self, tokens: int, what: str, remedy: str) -> None:
        """Refuse a text that is longer than what the model can read.

        Raises:
            NeuroglotError: as said.
        """
        if self.context is not None and tokens > self.context:
            raise NeuroglotError(f"{what} has {tokens} tokens, and {self.name} reads {self.context}; {remedy}.")

    def encode(self, texts: Iterable[str], limit: int | None = None) -> list[list[int]]:
        """The tokens of each text, at most `limit`, without `begin`; nothing that a text spells is special."""
        return known_tokens(self, texts, limit)

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return int(self.network.get_input_embeddings().weight.shape[0])

    @property
    def text_config(self) -> Any:
        """The configuration of the language model, also where it is one part of a larger model."""
        return text_config(self.network)

    def hidden_states(
        self, tokens: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        """The last hidden states: everything but the language-model head."""
        mask = None if mask is None else mask.to(self.device)
        return last_hidden_states(self.network, tokens.to(self.device), mask)

    def save(self, path: str | Path, made_from: str | None = None) -> Path:
        """Write it as a checkpoint with its tokenizer, whole or not at all; a directory that is there is replaced.

        Args:
            path: the directory.
            made_from: a digest of what it was made from, kept beside it; see `storage.made`.
        """
        with atomic_path(path, replaces="config.json") as draft, without_bars():
            self.network.save_pretrained(draft)
            self.tokenizer.save_pretrained(draft)
            if made_from is not None:
                sign(draft, made_from)
        return Path(path)

    def logits(self, states: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens vocabulary"]:
        """The logits of last hidden states, with the scaling or soft cap that the architecture has.

        Raises:
            NeuroglotError: its head is something else than a function of its last hidden states.
        """
        return self._head(states)

    @cached_property
    def _head(self) -> Callable[[Tensor], Tensor]:
        """The head: a projection and what the config says of it, where that gives the network's own logits."""
        tokens = few_tokens(self.network)
        with torch.no_grad():
            states, whole = self.hidden_states(tokens), whole_logits(self.network, tokens)
            # two passes may take different kernels, which bfloat16 rounds differently
            slack = (1e-3 if whole.dtype == torch.float32 else 5e-2) * max(1.0, float(whole.float().abs().max()))
            for head in (self._projected, partial(logits_by_head, self.network)):
                try:
                    got = head(states)
                except (RuntimeError, AttributeError, TypeError, KeyError, IndexError, ValueError):
                    continue
                near = got.shape == whole.shape and bool(((got.to(whole) - whole).abs() <= slack).all())
                if near or not bool(torch.isfinite(whole).all()):
                    return head
        raise NeuroglotError(
            f"The logits of {self.text_config.model_type} are no function of its last hidden states that could be "
            "found, so its perplexity cannot be measured; it can be recorded."
        )

    def _projected(self, states: Tensor) -> Tensor:
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

    def check_state(self, *, edited: bool = True) -> None:
        """Refuse a state in which the same weights give other numbers.

        Args:
            edited: whether interventions may be in force.

        Raises:
            NeuroglotError: it is being trained (dropout), or computed in another type (autocast), or edited.
        """
        if any(module.training for module in self.network.modules()):
            raise NeuroglotError(f"{self.name} is in training mode, where dropout is random; call network.eval().")
        if torch.is_autocast_enabled(self.device.type):
            raise NeuroglotError(
                f"Autocast is on, so {self.name} would be computed in another type than its weights; leave it, or "
                "load the model with that dtype."
            )
        if not edited and self.edited:
            raise NeuroglotError(
                f"An intervention is in force on {self.name}, and a recording would bear the intact model's name; "
                "record outside the block, or bake the intervention and record that model."
            )

    @cached_property
    def stream_width(self) -> int:
        """The width of the residual stream, which is not always that of the embeddings (OPT-350M).

        Raises:
            NeuroglotError: there are several streams side by side, as in Gemma 3n.
        """
        found: list[int] = []
        with (
            torch.inference_mode(),
            observe_residual(self.ffns[:1], lambda _, states: found.append(states.shape[-1])),
        ):
            self.hidden_states(torch.zeros(1, 1, dtype=torch.int64))
        return found[0]

    @property
    def one_stream(self) -> bool:
        """Whether layers hand on one residual stream, the state of a token; Gemma 3n has four side by side."""
        try:
            return self.stream_width > 0
        except NeuroglotError:
            return False

    @property
    def fingerprint(self) -> str:
        """A digest of the architecture and the weights, the same in float32 and bfloat16; kept until a weight changes.

        Every weight counts (in a sum of their bfloat16 bits), so a fine-tuned or edited model has another fingerprint.
        So does how many experts a router chooses.
        """
        state = self._weights_state()
        if self._fingerprint is None or state != self._fingerprint_of:
            widths = self.widths[0] if self.uneven is None else self.widths
            about = f"{self.text_config.model_type} {self.layers} {widths}"
            if self.mixtures:
                about += f" {[mixture.routing.chosen for mixture in self.mixtures.values()]}"
            self._fingerprint, self._fingerprint_of = digest_of_weights(self.network, about), state
        return self._fingerprint

    @cached_property
    def _kept_buffers(self) -> list[tuple[nn.Module, str]]:
        """Where the weights are that are no parameters: looked for once, since the whole network is gone through."""
        return [(module, name) for _, module, name in kept_buffers(self.network)]

    def _weights_state(self) -> tuple[Any, ...]:
        """What changes when a weight is written to or replaced, but not when one is written through `.data`."""
        chosen = (mixture.routing.chosen for mixture in self.mixtures.values())
        weights = chain(self.network.parameters(), (module.get_buffer(name) for module, name in self._kept_buffers))
        return *chosen, *(
            (id(weight), weight.data_ptr() if weight.device.type != "meta" else 0,
             0 if weight.is_inference() else weight._version)
            for weight in weights
        )  # fmt: skip

    def weights_changed(self) -> None:
        """Take the fingerprint anew when it is next asked for."""
        self._fingerprint = None

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """A digest of the vocabulary, of what texts begin with, and of whether that is counted."""
        vocabulary = sorted(self.tokenizer.get_vocab().items(), key=lambda item: item[1])
        rule: list[Any] = [vocabulary, self.bos]  # with one BOS as it always was, so that old recordings go on
        if len(self.begin) != 1:
            rule += [list(self.begin), self.uncounted]
        return hashlib.sha256(json.dumps(rule).encode()).hexdigest()[:32]


def _check_plain(network: Any) -> None:
    """Refuse a network that peft has put adapters into: its modules are not what their names say.

    What reads or writes weights would see those of the base alone, and some adapters act outside the layers.

    Raises:
        NeuroglotError: as said.
    """
    peft = sys.modules.get("peft")  # where it was never imported, nothing is wrapped
    if peft is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, (peft.PeftModel, BaseTunerLayer)) for module in network.modules()):
        raise NeuroglotError(
            "This network is wrapped by peft, so the weights of its layers are not what they compute; give "
            "network.merge_and_unload(), or the adapter's directory to load_model. A prompt adapter cannot be merged."
        )
