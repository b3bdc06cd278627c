"""A model for one language: vocabulary and neurons cut to a size, the rest re-fitted, and what that cost."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from neuroglot.artifacts.widths import padded
from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.interventions import Deactivate, intervene
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.bits import bits_per_character
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model
from neuroglot.models.vocabulary import Changed, changed, token_counts
from neuroglot.pruning.checkpoint import prune
from neuroglot.pruning.moments import hidden_moments
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import kept_tokens, trimmed
from neuroglot.storage.atomic import read_json, save_text
from neuroglot.storage.made import check_place
from neuroglot.storage.results import refuse_differing

__all__ = ["Shrunk", "shrink"]

REPORT = "neuroglot_shrink.json"
Keep = Bool[Tensor, "layers neurons"]


@dataclass(frozen=True)
class Shrunk:
    """What was written, and what it cost.

    Attributes:
        parameters: intact, and after.
        vocabulary: tokens, intact and after.
        neurons: the share of FFN neurons kept.
        bits: bits a held-out character: `intact`, `vocabulary` (trimmed alone), `shrunk`, and where neurons went, as
            many of each layer at `random`, and the kept ones (`magnitude`), both without a re-fit.
        tokenised: how differently held-out documents are cut into tokens.
    """

    parameters: tuple[int, int]
    vocabulary: tuple[int, int]
    neurons: float
    bits: dict[str, float]
    tokenised: Changed


def shrink(
    model: Model,
    text: Corpus,
    language: str,
    share: float,
    path: str | Path,
    *,
    held_out: Corpus,
    tokens: int = 20_000,
    characters: int = 50_000,
    seed: int = 0,
    progress: bool = True,
) -> Shrunk:
    """Write the model at a share of its parameters, for one language.

    The vocabulary loses what the text does not use. If that is not enough, neurons that write least on the text go
    from all layers, and the rest is re-fitted (`prune`).

    Args:
        model: intact; left as it was.
        text: decides which tokens and neurons stay, and fits what is left.
        language: of the text.
        share: of all parameters, at most.
        path: a new directory; `neuroglot_shrink.json` in it says what was done.
        held_out: text to measure on.
        tokens: how many of the text the fit reads.
        characters: how many are measured.
        seed: of the random baseline.
        progress: show bars.

    Raises:
        NeuroglotError: the share is below what must stay, or see `prune`.
    """
    if not 0 < share < 1:
        raise NeuroglotError(f"A size is a share of the parameters between 0 and 1, such as 50%, not {share:g}.")
    path = Path(path)
    recipe = {"model": model.name, "language": language, "size": share, "tokens": tokens, "seed": seed}
    check_place(path, "smaller model")
    if said := read_json(path / REPORT):
        refuse_differing(f"{path} was made", said.get("recipe", {}), recipe, "choose another place, or delete it")
    ids = _tokens_of(model, text, language)
    before = size(model.network)
    keep, bits = (
        model.exists,
        {"intact": bits_per_character(model, held_out[language], language, characters=characters)},
    )
    with trimmed(model, ids):
        smaller = size(model.network).parameters
    room = int(share * before.parameters) - (smaller - before.ffn_parameters)
    if room < before.ffn_parameters:
        room -= model.layers * model.ffns[0].down_columns.shape[0]  # biases that a re-fit may add
        least = smaller - int(0.9 * before.ffn_parameters)
        if room < 0.1 * before.ffn_parameters:
            raise NeuroglotError(
                f"{share:.0%} of {model.name} is below what must stay: the tokens of the text in {language}, attention "
                f"and a tenth of the neurons are {least / before.parameters:.0%}."
            )
        read = hidden_moments(model, text[language], language, tokens=tokens, progress=progress)
        total = int(model.exists.sum())
        left = int(total * room / before.ffn_parameters) / total
        keep = _largest(model, [of.second.diagonal().sqrt() for of in read], round(left * total))
    with trimmed(model, ids):
        now = model.tokenizer
        masks = {"vocabulary": model.exists}
        if not bool(keep[model.exists].all()):
            masks |= {"random": _random(keep, model.exists, seed), "magnitude": keep}
        for name, mask in masks.items():
            with intervene(model, *([] if bool((mask == model.exists).all()) else [Deactivate(~mask)])):
                bits[name] = bits_per_character(model, held_out[language], language, characters=characters)
    tokenised = changed(model.tokenizer, now, ids, held_out[language])
    whole = bool(keep[model.exists].all())
    prune(
        model, keep, path, text=text, language=language, compensate=None if whole else "refit", vocabulary=True,
        tokens=tokens, progress=progress,
    )  # fmt: skip
    written = load_model(path, device=str(model.device))
    bits["shrunk"] = bits_per_character(written, held_out[language], language, characters=characters)
    done = Shrunk(
        (before.parameters, size(written.network).parameters),
        (model.vocabulary, len(ids)),
        float(keep.sum() / model.exists.sum()),
        bits,
        tokenised,
    )
    save_text(path / REPORT, json.dumps({"recipe": recipe, **asdict(done)}, indent=1) + "\n")
    return done


def _tokens_of(model: Model, text: Corpus, language: str) -> Int64[np.ndarray, " kept"]:
    counts = token_counts(model.tokenizer, text[language])
    occurs = np.zeros(max(model.vocabulary, max(counts, default=0) + 1), dtype=np.int64)
    for token, count in counts.items():
        occurs[token] = count
    return kept_tokens(model, occurs)


def _random(keep: Keep, exists: Keep, seed: int) -> Keep:
    """As many of each layer."""
    scores = torch.rand(keep.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(~exists, -1.0)
    return scores.argsort(1, descending=True).argsort(1) < keep.sum(1, keepdim=True)


def _largest(model: Model, rms: list[Tensor], count: int) -> Keep:
    """The neurons that write most on the text: the root mean square of a hidden unit times the norm of its column."""
    norms = [ffn.down_columns.detach().float().norm(dim=0).cpu() for ffn in model.ffns]
    scores = padded([norm * size for norm, size in zip(norms, rms, strict=True)]).masked_fill(~model.exists, -1.0)
    scores.scatter_(1, scores.argmax(1, keepdim=True), torch.inf)  # a layer keeps one, whatever it writes
    chosen = torch.zeros_like(model.exists)
    chosen.view(-1)[scores.flatten().topk(count).indices] = True
    return chosen
