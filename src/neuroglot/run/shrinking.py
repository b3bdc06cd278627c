"""A model for one language: vocabulary and neurons cut to a size, the rest re-fitted and healed, and what that cost."""

import json
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from pydantic import BaseModel, Field
from torch import Tensor

from neuroglot.corpus.corpus import Corpus
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.likelihood.bits import bits_per_character
from neuroglot.models.gguf import gguf_file
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.models.vocabulary import Changed, changed
from neuroglot.progress import status
from neuroglot.pruning.budget import magnitudes, neurons_within, random_like, splits
from neuroglot.pruning.checkpoint import cut, may_gain_biases
from neuroglot.pruning.compensation import FEW_RIDGES, RIDGES, Change, compensated
from neuroglot.pruning.gguf_export import write_gguf
from neuroglot.pruning.moments import blocks_for_moments, check_moments, hidden_moments
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import TokenRanking, expected_counts, language_counts, trimmed
from neuroglot.run.shrink_cost import Cost, cost
from neuroglot.storage.atomic import read_json, save_text
from neuroglot.tokens.packing import check_fills, pack

__all__ = ["Plan", "ShrinkSettings", "Shrunk", "check_shrink", "heal", "plan_cut", "shrink"]

REPORT = "neuroglot_shrink.json"
EXPECTED = 4_096  # tokens on which tokens that did not occur are ranked
Keep = Bool[Tensor, "layers neurons"]
Ids = Int64[np.ndarray, " kept"]


class ShrinkSettings(BaseModel):
    """How a model is made smaller."""

    share: float = Field(0.5, gt=0, lt=1)
    """Of all parameters, at most."""
    tokens: int = Field(20_000, ge=1)
    """Fit what is left on so many tokens of the text."""
    characters: int = Field(50_000, ge=1)
    """Measure on so many held-out characters."""
    even: bool = True
    """Keep equally many neurons in every layer, so that plain transformers opens the result."""
    heal: int = Field(0, ge=0)
    """Train what is left on so many tokens of the text, with the intact model as teacher."""
    learning_rate: float = Field(2e-4, gt=0)
    """The highest of the healing."""
    distil: float = Field(0.5, ge=0, le=1)
    """The teacher's share of the loss."""
    block: int = Field(512, ge=8)
    """Tokens a block of the healing, as far as the model reads so many."""
    batch: int = Field(16, ge=1)
    """Blocks a step of the healing."""
    at_once: int = Field(8, ge=1)
    """Blocks a forward pass of the healing."""
    save_every: int = Field(500, ge=0)
    """Keep the state of the healing after so many steps; 0 never."""
    seed: int = 0
    """Of the random baseline and of the order of the healing."""


@dataclass(frozen=True)
class Plan:
    """What is to be kept.

    Attributes:
        ids: the tokens that stay.
        keep: the neurons that stay (L, N).
        tried: what was measured to choose: tokens, neurons, and bits a character of the re-fitted model on fitted text.
    """

    ids: Ids
    keep: Keep
    tried: list[dict[str, float]]


@dataclass(frozen=True)
class Shrunk:
    """What was written, and what it cost.

    Attributes:
        parameters: intact, and after.
        vocabulary: tokens, intact and after.
        neurons: the share of FFN neurons kept.
        bits: bits a held-out character: `intact`, `vocabulary` (trimmed alone), where neurons went as many of each
            layer at `random` and the kept ones (`magnitude`), both without a re-fit, and `refit`; where it was healed
            `healed`. The last one is what was written.
        by_language: language → bits a character intact and after, for every language of the held-out text.
        tokenised: how differently held-out documents are cut into tokens.
        costs: of the `intact` and the `shrunk` model.
        seconds: of each step.
    """

    parameters: tuple[int, int]
    vocabulary: tuple[int, int]
    neurons: float
    bits: dict[str, float]
    by_language: dict[str, tuple[float, float]]
    tokenised: Changed
    costs: dict[str, Cost]
    seconds: dict[str, float]


def shrink(
    model: Model,
    text: Corpus,
    language: str,
    settings: ShrinkSettings,
    path: str | Path,
    *,
    held_out: Corpus,
    gguf: Path | None = None,
    progress: bool = True,
) -> Shrunk:
    """Write the model at a share of its parameters, for one language.

    The vocabulary loses what the text does not use. If that is not enough, it and the neurons are cut further, as does
    least harm, and what is left is re-fitted. Then it may be healed. Stopped in the healing and begun again, it goes on
    where it was.

    Args:
        model: intact; left as it was.
        text: decides which tokens and neurons stay, fits and heals what is left.
        language: of the text.
        settings: how.
        path: a new directory; `neuroglot_shrink.json` in it says what was done.
        held_out: text to measure on, in this language and others.
        gguf: a new .gguf file to write, too; of a model that was opened from one.
        progress: show bars.

    Raises:
        NeuroglotError: the share is below what must stay, or see `prune`, `tune` and `write_gguf`.
    """
    path = Path(path)
    check_shrink(model, text, language, settings, gguf)
    source = gguf_file(model.name)
    recipe: dict[str, Any] = {"model": model.name, "fingerprint": model.fingerprint, "language": language}
    recipe |= {"text": text.name, **settings.model_dump(mode="json")}
    if (done := _finished(path, recipe)) is not None and (gguf is None or gguf.exists()):
        return done
    for new in (path, gguf):
        if new is not None and new.exists():
            raise NeuroglotError(f"{new} exists; choose a new place for the pruned model.")
    draft = path.with_name(f".{path.name}.shrunk")  # until all of it is there
    shutil.rmtree(draft, ignore_errors=True)
    model.check_dense("its experts share one width and cannot be narrowed by neuron", "deactivate the neurons instead")
    documents, measured = text[language], held_out[language]
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def bits_of(some: Model) -> float:
        return _bits(some, held_out, language, settings)

    def lap(step: str) -> None:
        nonlocal started
        seconds[step], started = time.perf_counter() - started, time.perf_counter()

    before = size(model.network)
    with status("measuring the intact model", progress):
        whole = {tag: _bits(model, held_out, tag, settings) for tag in held_out.languages}
        bits = {"intact": whole[language]}
        costs = {"intact": cost(model, measured, source if gguf is not None else None)}
    lap("intact")
    plan = plan_cut(model, text, language, settings, progress=progress)
    lap("plan")
    all_neurons = bool(plan.keep[model.exists].all())
    masks = {"vocabulary": model.exists}
    if not all_neurons:
        masks |= {"random": random_like(plan.keep, model.exists, settings.seed), "magnitude": plan.keep}
    with trimmed(model, plan.ids):
        smaller = model.tokenizer
        for name, mask in masks.items():
            with status(f"measuring: {name}", progress), cut(model, mask):
                bits[name] = bits_of(model)
    tokenised = changed(model.tokenizer, smaller, plan.ids, measured)
    lap("baselines")
    changes = None if all_neurons else _refit(model, plan.keep, text, language, settings.tokens, RIDGES, progress)
    work = path.with_name(f".{path.name}.cut")
    with cut(model, plan.keep, changes, plan.ids):
        if not all_neurons:
            bits["refit"] = bits_of(model)
        parameters = size(model.network).parameters
        model.save(work if settings.heal else draft)
    lap("refit")
    if settings.heal:
        heal(model, work, plan.ids, documents, language, settings, draft, progress=progress)
        shutil.rmtree(work, ignore_errors=True)
        lap("healing")
    written = load_model(draft, device=str(model.device))
    if settings.heal:
        bits["healed"] = bits_of(written)
    with status("measuring what was written", progress):
        after = {tag: _bits(written, held_out, tag, settings) for tag in held_out.languages}
        if gguf is not None:
            assert source is not None
            write_gguf(written, source, gguf)
        costs["shrunk"] = cost(written, measured, gguf)
    lap("report")
    done = Shrunk(
        (before.parameters, parameters),
        (model.vocabulary, len(plan.ids)),
        float(plan.keep.sum() / model.exists.sum()),
        bits,
        {tag: (whole[tag], after[tag]) for tag in whole},
        tokenised,
        costs,
        seconds,
    )
    save_text(draft / REPORT, json.dumps({"recipe": recipe, "tried": plan.tried, **asdict(done)}, indent=1) + "\n")
    draft.rename(path)
    return done


def check_shrink(
    reader: Model | TextReader, text: Corpus, language: str, settings: ShrinkSettings, gguf: Path | None = None
) -> None:
    """Refuse what `shrink` would refuse by its tokenizer and name alone, before weights are opened; see there.

    Raises:
        NeuroglotError: the text is too short, or a .gguf file is wanted of a model that is none.
    """
    if gguf is not None and gguf_file(reader.name) is None:
        raise NeuroglotError(
            f"{reader.name} is not a GGUF file: write the checkpoint, and convert it with llama.cpp's "
            "convert_hf_to_gguf.py."
        )
    check_moments(reader, text[language], language, settings.tokens)
    if settings.heal:  # with a smaller vocabulary a text has as many tokens or more
        check_fills(reader, text.select([language]), _block(reader, settings), settings.heal)


def _finished(path: Path, recipe: dict[str, Any]) -> Shrunk | None:
    """What the same command left, where it had come to its end."""
    kept = read_json(path / REPORT)
    if kept is None or kept.get("recipe") != recipe:
        return None
    kept = {name: kept[name] for name in Shrunk.__annotations__}
    kept |= {name: tuple(kept[name]) for name in ("parameters", "vocabulary")}
    kept["by_language"] = {tag: tuple(both) for tag, both in kept["by_language"].items()}
    kept["tokenised"] = Changed(**kept["tokenised"])
    kept["costs"] = {
        name: Cost(**{**of, "examples": list(map(tuple, of["examples"]))}) for name, of in kept["costs"].items()
    }
    return Shrunk(**kept)


def plan_cut(model: Model, text: Corpus, language: str, settings: ShrinkSettings, *, progress: bool = True) -> Plan:
    """What to keep: of the ways to share the budget between tokens and neurons the one whose re-fit is the best.

    Arguments and errors are those of `shrink`.
    """
    documents = text[language]
    with status("counting tokens", progress):
        ranking = TokenRanking(model, language_counts(model, documents, language))
    ways = splits(model, settings.share, ranking.used, ranking.least, language)
    if ways[0].tokens > ranking.used:
        with status("ranking tokens that did not occur", progress):
            blocks = blocks_for_moments(model, documents, language, tokens=min(settings.tokens, EXPECTED))
            ranking.extend(expected_counts(model, blocks))
    total = int(model.exists.sum())
    scores = None
    if any(way.neurons < total for way in ways):
        read = hidden_moments(model, documents, language, tokens=settings.tokens, progress=progress)
        scores = magnitudes(model, read)
    plans: list[tuple[float, Ids, Keep]] = []
    tried: list[dict[str, float]] = []
    for way in ways:  # measured on the text's end, as a re-fit is fitted on its beginning
        ids = ranking.within(way.tokens)
        keep = model.exists
        if scores is not None and way.neurons < total:
            keep = neurons_within(scores, model.widths, way.neurons, even=settings.even)
        if len(ways) == 1:
            return Plan(ids, keep, tried)
        few = settings.tokens // 4
        pruned = not bool(keep[model.exists].all())
        changes = _refit(model, keep, text, language, few, FEW_RIDGES, progress) if pruned else None
        some = settings.characters // 2
        doing = f"measuring {len(ids):,} tokens and {int(keep.sum()):,} neurons"
        with status(doing, progress), cut(model, keep, changes, ids):
            bits = bits_per_character(model, _end(documents, some), language, characters=some)
        plans.append((bits, ids, keep))
        tried.append({"tokens": len(ids), "neurons": int(keep.sum()), "bits": bits})
    _, ids, keep = min(plans, key=lambda one: one[0])
    return Plan(ids, keep, tried)


def heal(
    model: Model,
    pruned: Path,
    ids: Ids | None,
    documents: Any,
    language: str,
    settings: ShrinkSettings,
    path: Path,
    *,
    progress: bool = True,
) -> Model:
    """Train all that is left of a pruned model, with the intact one as teacher, and write it to `path`.

    The weights are trained in float32 and written in the intact model's type.

    Args:
        model: the intact one.
        pruned: the directory of the pruned one.
        ids: the tokens that it has; None for all.
        documents: text to learn from.
        language: of the text.
        settings: how.
        path: a new directory.
        progress: show a bar.

    Returns:
        The healed model.
    """
    student = load_model(pruned, dtype="float32", device=str(model.device))
    block = _block(student, settings)
    blocks = pack(student, documents, language, block=block, tokens=settings.heal)
    batch = min(settings.batch, len(blocks))
    at_once = min(settings.at_once, batch)
    how = TuneSettings(
        batch=batch,
        at_once=at_once,
        steps=max(1, settings.heal // (at_once * (batch // at_once) * block)),
        learning_rate=settings.learning_rate,
        schedule="cosine",
        warm_up=0.05,
        distil=settings.distil,
        save_every=settings.save_every,
        seed=settings.seed,
    )
    draft = path.with_name(f".{path.name}.healed")
    shutil.rmtree(draft, ignore_errors=True)
    with trimmed(model, ids) if ids is not None else nullcontext():
        tune(student, blocks, draft, how, language=language, teacher=model, progress=progress)
    student.network.to(model.network.dtype)
    student.weights_changed()
    student.save(path)
    shutil.rmtree(draft, ignore_errors=True)
    kind: Any = str(model.network.dtype).removeprefix("torch.")
    return load_model(path, dtype=kind, device=str(model.device))


def _block(model: Model | TextReader, settings: ShrinkSettings) -> int:
    return min(settings.block, model.context or settings.block)


def _bits(model: Model, text: Corpus, language: str, settings: ShrinkSettings) -> float:
    return bits_per_character(model, text[language], language, characters=settings.characters)


def _refit(
    model: Model, keep: Keep, text: Corpus, language: str, tokens: int, ridges: Any, progress: bool
) -> list[Change | None]:
    return compensated(
        model, keep, "refit", language, text=text, tokens=tokens, intercept=may_gain_biases(model, keep), ridges=ridges,
        progress=progress,
    )  # fmt: skip


def _end(documents: Any, characters: int) -> list[str]:
    """The last documents of a text, so many characters at least."""
    found: list[str] = []
    for document in reversed(list(documents)):
        found.append(document)
        characters -= len(document) + 1
        if characters <= 0:
            break
    return found[::-1]
