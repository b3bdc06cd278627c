"""A model for one language: vocabulary and neurons cut to a size, the rest re-fitted and healed, and what that cost."""

import math
import os
import shutil
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from neuroglot.corpus.corpus import Corpus, Documents
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.evaluate.likelihood.bits import Bits, bits_by_piece
from neuroglot.models.gguf import gguf_file
from neuroglot.models.loading import load_model
from neuroglot.models.model import Model
from neuroglot.models.tokenization import TextReader
from neuroglot.models.vocabulary import Changed, changed
from neuroglot.progress import status
from neuroglot.pruning.budget import check_share
from neuroglot.pruning.gguf_export import takes_fewer_heads, write_gguf
from neuroglot.pruning.moments import check_moments
from neuroglot.pruning.size import size
from neuroglot.pruning.vocabulary import tokens_of_any_text, trimmed
from neuroglot.run.shrink_cost import Cost, cost
from neuroglot.run.shrink_plan import Ids, ShrinkSettings, plan_cut
from neuroglot.run.shrink_tasks import TaskPair, compared, opened_tasks, scored
from neuroglot.stats import ratio_interval
from neuroglot.storage.atomic import atomic_path, read_json
from neuroglot.storage.locks import drop_workplace, workplace
from neuroglot.storage.results import load_json, save_json
from neuroglot.tokens.packing import check_fills, pack

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Shrunk", "check_shrink", "heal", "shrink"]

REPORT = "neuroglot_shrink.json"


Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Shrunk:
    """What was written, and what it cost.

    Attributes:
        parameters: intact, and after.
        vocabulary: tokens, intact and after.
        neurons: the share of FFN neurons kept.
        heads: query heads and key-value heads of a layer, intact and after; None where all stay.
        bits: bits a held-out character: `intact`, `vocabulary` (trimmed alone), where neurons or heads went as many of
            each layer at `random` and the kept ones (`magnitude` or `loss`), both without a re-fit, and `refit`; where
            it was healed `healed`. The last one is what was written.
        intervals: of each over the intact model's: a 95 % interval of the quotient, from a bootstrap over pieces of
            2,000 characters; None for less text.
        characters: held-out ones that were read.
        by_language: language → bits a character intact and after, for every language of the held-out text.
        perplexity: language → perplexity of a token, intact and after; the vocabularies differ.
        tokenised: how differently held-out documents are cut into tokens.
        costs: of the `intact` and the `shrunk` model.
        tasks: scores before and after.
        seconds: of each step.
    """

    parameters: tuple[int, int]
    vocabulary: tuple[int, int]
    neurons: float
    heads: tuple[tuple[int, int], tuple[int, int]] | None
    bits: dict[str, float]
    intervals: dict[str, Interval]
    characters: int
    by_language: dict[str, tuple[float, float]]
    perplexity: dict[str, tuple[float, float]]
    tokenised: Changed
    costs: dict[str, Cost]
    tasks: dict[str, TaskPair]
    seconds: dict[str, float]

    def frame(self) -> "pd.DataFrame":
        """A row for each of `bits`: what, bits a character, times the intact model's, low and high of its interval."""
        import pandas as pd

        rows = [
            (name, bits, bits / self.bits["intact"], *(self.intervals.get(name) or (None, None)))
            for name, bits in self.bits.items()
        ]
        return pd.DataFrame(rows, columns=["what", "bits", "times", "low", "high"])


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

    The vocabulary loses what the text does not use. If that is not enough, it, the neurons and the attention heads are
    cut further, as does least harm, and what is left is re-fitted. Then it may be healed. Stopped in the healing and
    begun again, it goes on where it was.

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
        NeuroglotError: the share is below what must stay, or see `prune`, `tune`, `evaluate.tasks` and `write_gguf`.
    """
    path = Path(path)
    check_shrink(model, text, language, settings, gguf)
    source = gguf_file(model.name)
    recipe: dict[str, Any] = {"model": model.name, "fingerprint": model.fingerprint, "language": language}
    recipe |= {"text": text.name, **settings.model_dump(mode="json")}
    recipe["digests"] = [text.digest(language), *(held_out.digest(tag) for tag in held_out.languages)]
    if (done := _finished(path, recipe)) is None:
        for new in (path, gguf):
            if new is not None and os.path.lexists(new):
                raise NeuroglotError(f"{new} exists; choose a new place for the pruned model.")
        model.check_dense(
            "what can go is whole experts",
            "use `neuroglot prune RUN`, or ng.prune, which leaves out experts, their neurons and tokens",
        )
        with workplace(path, "shrinking") as work:
            done = _finished(path, recipe)  # by another process, while this one waited
            if done is None:
                if path.exists():
                    raise NeuroglotError(f"{path} exists; choose a new place for the pruned model.")
                heads = settings.heads and (gguf is None or source is None or takes_fewer_heads(source))
                how = settings.model_copy(update={"heads": heads})
                done = _made(model, text, language, how, path, work, recipe, held_out, progress)
    drop_workplace(path, "shrinking")
    if done.bits.get("refit", 0.0) > done.bits.get(settings.salience, math.inf):
        warnings.warn(
            f"The re-fitted model reads worse than {settings.salience} alone, as it does where too few tokens are "
            f"fitted (here at most {settings.tokens:,}); give more text and --tokens.",
            NeuroglotWarning,
            stacklevel=2,
        )
    return done if gguf is None else _with_gguf(done, model, path, source, gguf, held_out[language], progress)


def _made(
    model: Model,
    text: Corpus,
    language: str,
    settings: ShrinkSettings,
    path: Path,
    work: Path,
    recipe: dict[str, Any],
    held_out: Corpus,
    progress: bool,
) -> Shrunk:
    """Shrink, heal and measure in the workplace, and put the finished directory in its place."""
    draft = work / "model"
    shutil.rmtree(draft, ignore_errors=True)
    documents, measured = text[language], held_out[language]
    tasks = opened_tasks(settings.tasks)
    laps = _Laps()

    def read(some: Model, tag: str = language) -> Bits:
        return bits_by_piece(some, held_out[tag], tag, characters=settings.characters)

    before = size(model.network)
    check_share(model, settings.share, tokens_of_any_text(model), language)
    with status("measuring the intact model", progress):
        whole = {tag: read(model, tag) for tag in held_out.languages}
        rows = {"intact": whole[language]}
        costs = {"intact": cost(model, measured, None)}
        scores = scored(model, tasks)
    laps.end("intact")
    plan = plan_cut(model, text, language, settings, progress=progress)
    laps.end("plan")
    pruned = plan.prunes(model)
    cuts = {"vocabulary": replace(plan, keep=model.exists, heads=None)}
    if pruned:
        cuts |= {"random": plan.random(model, settings.seed), settings.salience: plan}
    for name, each in cuts.items():
        with status(f"measuring: {name}", progress), each.cut(model):
            rows[name] = read(model)
            smaller = model.tokenizer
    tokenised = changed(model.tokenizer, smaller, plan.ids, measured)
    laps.end("baselines")
    fit = plan.fit(model, text, language, settings.tokens, progress=progress)
    intact_heads = None if plan.heads is None else _heads(model)
    cut = work / "cut"
    with plan.cut(model, fit):
        if pruned:
            rows["refit"] = read(model)
        parameters = size(model.network).parameters
        counts = None if intact_heads is None else (intact_heads, _heads(model))
        model.save(cut if settings.heal else draft)
    laps.end("refit")
    if settings.heal:
        heal(model, cut, plan.ids, documents, language, settings, draft, progress=progress)
        laps.end("healing")
    written = _reopened(draft, model)
    with status("measuring what was written", progress):
        after = {tag: read(written, tag) for tag in held_out.languages}
        if settings.heal:
            rows["healed"] = after[language]
        costs["shrunk"] = cost(written, measured, None)
        pairs = compared(scores, scored(written, tasks))
    laps.end("report")
    done = Shrunk(
        parameters=(before.parameters, parameters),
        vocabulary=(model.vocabulary, len(plan.ids)),
        neurons=float(plan.keep.sum() / model.exists.sum()),
        heads=counts,
        bits={name: each.per_character for name, each in rows.items()},
        intervals={name: _quotient(each, rows["intact"]) for name, each in rows.items() if name != "intact"},
        characters=rows["intact"].characters,
        by_language={tag: (whole[tag].per_character, after[tag].per_character) for tag in whole},
        perplexity={tag: (whole[tag].perplexity, after[tag].perplexity) for tag in whole},
        tokenised=tokenised,
        costs=costs,
        tasks=pairs,
        seconds=laps.seconds,
    )
    save_json(draft / REPORT, {"recipe": recipe, "tried": plan.tried, **asdict(done)})
    draft.rename(path)
    return done


def _with_gguf(
    done: Shrunk, model: Model, path: Path, source: Path | None, gguf: Path, measured: Documents, progress: bool
) -> Shrunk:
    """Write what was made as a .gguf file, too, with the costs of both files in the report; done, it is taken as it is.

    The report is changed before the file is there, so that a file of whose costs nothing is said is another's.
    """
    if gguf.is_file() and gguf.stat().st_size == done.costs["shrunk"].gguf:
        return done
    if os.path.lexists(gguf):
        raise NeuroglotError(f"{gguf} exists; choose a new place for the pruned model.")
    assert source is not None
    with status("writing the GGUF file", progress), atomic_path(gguf) as draft:
        written = _reopened(path, model)
        write_gguf(written, source, draft)
        costs = {"intact": cost(model, measured, source), "shrunk": cost(written, measured, draft)}
        done = replace(done, costs=costs)
        said = load_json(path / REPORT)
        save_json(path / REPORT, {**said, **asdict(done)})
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


class _Laps:
    """How long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    def end(self, step: str) -> None:
        """Of a step."""
        now = time.perf_counter()
        self.seconds[step], self._started = now - self._started, now


def _heads(model: Model) -> tuple[int, int]:
    """Query heads and key-value heads of a layer."""
    config = model.text_config
    heads = int(config.num_attention_heads)
    return heads, int(getattr(config, "num_key_value_heads", None) or heads)


def _quotient(after: Bits, before: Bits) -> Interval:
    low, high = ratio_interval(after.pieces, before.pieces)
    return None if low != low else (low, high)


def _finished(path: Path, recipe: dict[str, Any]) -> Shrunk | None:
    """What the same command left, where it had come to its end."""
    kept = read_json(path / REPORT)
    if kept is None or kept.get("recipe") != recipe:
        return None
    return TypeAdapter(Shrunk).validate_python({name: kept[name] for name in Shrunk.__annotations__})


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
    shutil.rmtree(draft, ignore_errors=True)  # made already, and not saved in the type wanted
    with trimmed(model, ids) if ids is not None else nullcontext():
        tune(student, blocks, draft, how, language=language, teacher=model, progress=progress)
    student.network.to(model.network.dtype)
    student.weights_changed()
    student.save(path)
    shutil.rmtree(draft, ignore_errors=True)
    return _reopened(path, model)


def _reopened(path: Path, model: Model) -> Model:
    """What was written, on the device and in the precision of the model that it is compared with."""
    kind: Any = model.dtype
    return load_model(path, dtype=kind, device=str(model.device))


def _block(model: Model | TextReader, settings: ShrinkSettings) -> int:
    return min(settings.block, model.context or settings.block)
