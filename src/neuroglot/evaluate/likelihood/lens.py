"""Latent language: which language the likeliest tokens are of after each layer, by the language of the text.

The residual stream that leaves a layer is put through the final norm and the head, as if it were the last one's (the
logit lens; Wendler et al. 2024, *Do Llamas Work in English?*, §3). Their curves are of prompts that they made. Here any
text is read, and what a language's share means follows from which tokens are its own; see `TokenLanguages`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from neuroglot.corpus.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.perplexity import LOGITS_AT_ONCE, held_out_blocks
from neuroglot.models.architecture.readout import Readout
from neuroglot.models.fitting import fitting_batches
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.progress import token_progress
from neuroglot.stats import mean_interval
from neuroglot.storage.given import takes_numbers
from neuroglot.storage.tensors import load_tensors, save_tensors, whole
from neuroglot.tokens.counts import SHARED, UNSEEN, TokenLanguages

__all__ = ["Lens", "lens", "owner_mass"]

KIND, VERSION = "lens", 1
ROUNDING = 1e-3
BATCH_TOKENS = 4096  # a pass at most, since the streams of all its layers are kept until they are read

ByBlock = Float64[Tensor, "blocks layers owners"]


@dataclass(frozen=True, eq=False)
class Lens:
    """What the likeliest tokens are after each layer, block by block, so that intervals are over blocks of text.

    Attributes:
        languages: of the texts.
        owners: of the tokens: the languages that were counted, `shared` and `unseen`; see `TokenLanguages`.
        mass: language of the text → (blocks, L, owners): the probability that the tokens of each owner have together.
        likeliest: likewise, the share of the `top` likeliest tokens that are each owner's.
        entropy: language → (blocks, L): of the distribution over tokens, in nats.
        nats: language → (blocks, L): the negative log-likelihood of the token that comes next.
        text: language → (owners,): the share of the text's own tokens that are each owner's.
        about: how it was measured (JSON).
    """

    languages: tuple[str, ...]
    owners: tuple[str, ...]
    mass: Mapping[str, ByBlock]
    likeliest: Mapping[str, ByBlock]
    entropy: Mapping[str, Float64[Tensor, "blocks layers"]]
    nats: Mapping[str, Float64[Tensor, "blocks layers"]]
    text: Mapping[str, Float64[Tensor, " owners"]]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return self.entropy[self.languages[0]].shape[1]

    def __repr__(self) -> str:
        return f"<lens of {self.layers} layers on text in {', '.join(self.languages)}>"

    def frame(self) -> pd.DataFrame:
        """A row for each language of text, layer and owner of tokens.

        Columns: language (of the text), layer (from 1), tokens_of, mass, mass_low, mass_high, likeliest, likeliest_low,
        likeliest_high (95 % bootstrap intervals over blocks; NaN for one block), and text, the share of the text's own
        tokens that are of that owner.
        """
        parts = []
        for tag in self.languages:
            columns: dict[str, Tensor] = {}
            for name, values in (("mass", self.mass[tag]), ("likeliest", self.likeliest[tag])):
                low, high = mean_interval(values.movedim(0, -1))
                columns |= {name: values.mean(0), f"{name}_low": low, f"{name}_high": high}
            index = pd.MultiIndex.from_product(
                [[tag], range(1, self.layers + 1), self.owners], names=["language", "layer", "tokens_of"]
            )
            table = pd.DataFrame({name: values.flatten().numpy() for name, values in columns.items()}, index=index)
            table["text"] = self.text[tag].repeat(self.layers).numpy()
            parts.append(table.reset_index())
        return pd.concat(parts, ignore_index=True)

    def curve(self) -> pd.DataFrame:
        """A row for each language of text and layer.

        Columns: language, layer (from 1), own (the probability of the language's own tokens), other (which other
        language's own tokens have the most), other_mass, entropy and nats, each but `other` with its 95 % bootstrap
        interval over blocks as `_low` and `_high`.
        """
        parts = []
        for tag in self.languages:
            others = [i for i, owner in enumerate(self.owners) if owner not in (tag, SHARED, UNSEEN)]
            mass = self.mass[tag]
            own = mass[..., self.owners.index(tag)] if tag in self.owners else torch.full_like(mass[..., 0], torch.nan)
            columns: dict[str, Any] = {"language": tag, "layer": range(1, self.layers + 1)}
            measures = {"own": own, "entropy": self.entropy[tag], "nats": self.nats[tag]}
            if others:
                most = mass[..., others].mean(0).argmax(1)
                columns["other"] = [self.owners[others[i]] for i in most.tolist()]
                index = torch.tensor(others)[most][None, :, None].expand(len(mass), -1, 1)
                measures = {"own": own, "other_mass": mass.gather(2, index)[..., 0]} | measures
            for name, values in measures.items():
                low, high = mean_interval(values.T)
                columns |= {name: values.mean(0).numpy(), f"{name}_low": low.numpy(), f"{name}_high": high.numpy()}
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file."""
        named = {"mass": self.mass, "likeliest": self.likeliest, "entropy": self.entropy, "nats": self.nats,
                 "text": self.text}  # fmt: skip
        tensors = {f"{name}.{tag}": values[tag] for name, values in named.items() for tag in self.languages}
        about = {"languages": self.languages, "owners": self.owners, "about": dict(self.about)}
        return save_tensors(path, KIND, VERSION, tensors, about)

    @classmethod
    def load(cls, path: str | Path) -> "Lens":
        """Read what `save` wrote.

        Raises:
            NeuroglotError: the file is missing, damaged, or of another kind.
        """
        tensors, about = load_tensors(path, KIND, VERSION)
        with whole(path, KIND):
            tags, owners = tuple(about["languages"]), tuple(about["owners"])
            named = [
                {tag: tensors[f"{name}.{tag}"] for tag in tags}
                for name in ("mass", "likeliest", "entropy", "nats", "text")
            ]
            mass, likeliest, entropy, nats, text = named
            depths = {entropy[tag].shape[1:] for tag in tags}
            shapes = {tag: (*entropy[tag].shape, len(owners)) for tag in tags}
            if (
                len(depths) != 1
                or any(0 in shape or len(shape) != 3 for shape in shapes.values())
                or any(each[tag].shape != shapes[tag] for each in (mass, likeliest) for tag in tags)
                or any(nats[tag].shape != shapes[tag][:2] or text[tag].shape != shapes[tag][2:] for tag in tags)
            ):
                raise ValueError("its tables are not of one number of blocks, layers and owners")
            if any(
                each.dtype != torch.float64 or not bool(torch.isfinite(each).all()) or bool((each < -ROUNDING).any())
                for values in named
                for each in values.values()
            ):
                raise ValueError("its tables hold something else than shares and nats")
            if not all(isinstance(name, str) for name in (*tags, *owners)) or len({*owners}) < len(owners):
                raise ValueError("its languages or owners are not names")
            return cls(tags, owners, mass, likeliest, entropy, nats, text, about["about"])


def check_top(reader: Model | TextReader, top: int) -> None:
    """Refuse a number of likeliest tokens that the vocabulary has not; no weights are needed.

    Raises:
        NeuroglotError: as said.
    """
    if not 1 <= top <= reader.vocabulary:
        raise NeuroglotError(f"top must be from 1 to {reader.vocabulary:,}, the size of the vocabulary, not {top}.")


@takes_numbers
def lens(
    model: Model,
    corpus: Corpus,
    tokens_of: TokenLanguages,
    *,
    tokens: int = 10_000,
    block: int | None = None,
    top: int = 10,
    batch_tokens: int | None = None,
    progress: bool = True,
) -> Lens:
    """Read every layer's residual stream through the final norm and the head.

    What the last layer says is what the model says: its `nats` are those of `perplexity`. Each token costs the head
    once for every layer, which is several times the pass itself in a small model with a large vocabulary.

    Args:
        model: intact or changed.
        corpus: text that was not counted for `tokens_of`.
        tokens_of: whose each token is.
        tokens: at most so many tokens of each language.
        block: tokens a block; see `perplexity`.
        top: how many of the likeliest tokens are looked at.
        batch_tokens: tokens a forward pass.
        progress: show a bar.

    Raises:
        NeuroglotError: a language is too short for one block, a layer's stream cannot be read through the head, or
            `top` is not from 1 to the vocabulary.
    """
    check_top(model, top)
    if len(tokens_of.owner) != model.vocabulary:
        raise NeuroglotError(
            f"The tokens were counted for a vocabulary of {len(tokens_of.owner):,}, and {model.name} has "
            f"{model.vocabulary:,}; count them with its tokenizer."
        )
    blocks = held_out_blocks(model, corpus, tokens=tokens, block=block)
    readout = Readout(model.network, model.ffns)
    size = batch_tokens or min(model.batch_tokens, BATCH_TOKENS)
    found: dict[str, list[Tensor]] = {}
    total = sum(piece.numel() for piece in blocks.values())
    with token_progress("lens", total, shown=progress) as advance:
        for tag, piece in blocks.items():
            found[tag] = _read(model, readout, piece, tokens_of, top, size, advance, tag)
    owner, count = tokens_of.owner, len(tokens_of.owners)
    begin = len(model.begin)
    text = {
        tag: owner[piece[:, begin:].flatten().long()].bincount(minlength=count).to(torch.float64)
        / piece[:, begin:].numel()
        for tag, piece in blocks.items()
    }
    about = {"model": model.name, "fingerprint": model.fingerprint, "top": top, "tokens": tokens,
             "block": next(iter(blocks.values())).shape[1], "sizes": tokens_of.sizes()}  # fmt: skip
    mass, likeliest, entropy, nats = ({tag: parts[i] for tag, parts in found.items()} for i in range(4))
    return Lens(tuple(blocks), tokens_of.owners, mass, likeliest, entropy, nats, text, about)


@torch.inference_mode()
def _read(
    model: Model,
    readout: Readout,
    blocks: Int[Tensor, "blocks block"],
    tokens_of: TokenLanguages,
    top: int,
    batch_tokens: int,
    advance: Callable[[int, str], None],
    language: str,
) -> list[Tensor]:
    """Mass, likeliest, entropy and nats of each block and layer of one language's text."""
    model.check_state()
    blocks = blocks.to(model.device)

    def read(part: slice) -> list[Tensor]:
        batch = blocks[part]
        targets = batch[:, 1:].flatten().long()
        layers = []
        for output in readout.outputs(batch):
            states = readout.read(output, batch)[:, :-1].flatten(0, 1)
            values = _of_tokens(model, states, targets, tokens_of, top)
            layers.append([each.view(len(batch), -1, *each.shape[1:]).mean(1).cpu() for each in values])
        return [torch.stack(each, 1) for each in zip(*layers, strict=True)]

    batches: list[list[Tensor]] = []
    for batch, found in fitting_batches(model, blocks, batch_tokens, read):
        batches.append(found)
        advance(batch.numel(), language)
    return [torch.cat(each) for each in zip(*batches, strict=True)]


def _of_tokens(
    model: Model, states: Tensor, targets: Tensor, tokens_of: TokenLanguages, top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the head makes of states, a few tokens' logits at a time: (tokens, owners) twice, and (tokens,) twice."""
    size = max(1, LOGITS_AT_ONCE // model.vocabulary)
    members = _members(tokens_of, model)
    parts = []
    for some, wanted in zip(states.split(size), targets.split(size), strict=True):
        logs = model.logits(some).float().log_softmax(-1)
        probabilities = logs.exp()
        likeliest = members[logs.topk(top, -1).indices].mean(1)
        entropy = torch.special.entr(probabilities).sum(-1)
        nats = -logs.gather(1, wanted[:, None].to(logs.device))[:, 0]
        parts.append((probabilities @ members, likeliest, entropy, nats))
    mass, likeliest, entropy, nats = (torch.cat(each).to(torch.float64) for each in zip(*parts, strict=True))
    return mass, likeliest, entropy, nats


def _members(tokens_of: TokenLanguages, model: Model) -> Float[Tensor, "vocabulary owners"]:
    """1 where a token is an owner's."""
    return torch.nn.functional.one_hot(tokens_of.owner, len(tokens_of.owners)).to(model.device, torch.float32)


@torch.inference_mode()
def owner_mass(
    model: Model, blocks: Int[Tensor, "blocks block"], tokens_of: TokenLanguages, batch_tokens: int
) -> Float64[Tensor, "blocks owners"]:
    """What the model itself says, without its layers: the probability of each owner's tokens in each block.

    Run it inside `intervene` to read a changed model.
    """
    size, members = max(1, LOGITS_AT_ONCE // model.vocabulary), _members(tokens_of, model)
    blocks = blocks.to(model.device)

    def read(part: slice) -> Tensor:
        batch = blocks[part]
        states = model.hidden_states(batch)[:, :-1].flatten(0, 1).split(size)
        mass = torch.cat([model.logits(some).float().softmax(-1).to(members) @ members for some in states])
        return mass.to(torch.float64).view(len(batch), -1, mass.shape[1]).mean(1).cpu()

    return torch.cat([mass for _, mass in fitting_batches(model, blocks, batch_tokens, read)])
