"""Language confusion fixed: from a run's recording to a recipe, with the tables that say what it brings and costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from neuroglot.corpus.load import load_corpus
from neuroglot.corpus.prompts import prompted
from neuroglot.errors import NeuroglotError
from neuroglot.generation.settings import Generation
from neuroglot.languages.tags import closest
from neuroglot.run.directory import Run, default_folder

if TYPE_CHECKING:  # they need torch, and what is wrong with the prompts should be said before
    from neuroglot.evaluate.fixing.fixing import Fixed
    from neuroglot.models.model import Model

__all__ = ["FixSettings", "fix_folder", "fix_prompts", "fix_run", "languages_to_fix"]

CROSSLINGUAL = "asked in English"
"""The source of English questions that end with «Answer in X.»."""


class FixSettings(BaseModel, frozen=True):
    """What is to be fixed and how it is tried."""

    to: str | None = None
    """The language to stay in."""
    avoided: tuple[str, ...] = ()
    """Languages not to slip into; with `to` those that its answers slip into, unless they are named."""
    keep: tuple[str, ...] = ()
    """With `avoided` alone: the languages that answers should be in; by default all that have text and prompts."""
    prompts: tuple[str, ...] = ()
    """Prompts by the language that the answer should be in; by default the built-in ones."""
    text_column: str = "text"
    """The column of the prompts."""
    language_column: str | None = None
    """The column of their language."""
    crosslingual: bool = True
    """Ask the built-in questions in English, too, for an answer in the language wanted."""
    limit: int = Field(24, ge=2)
    """At most so many prompts of each language and source."""
    methods: tuple[Literal["ablation", "direction", "drift", "head rows"], ...] = (
        "ablation",
        "direction",
        "drift",
        "head rows",
    )
    """What is tried."""
    max_cost: float = Field(0.02, gt=0)
    """Perplexity may rise by this share in each language wanted."""
    tokens: int = Field(4_000, ge=1)
    """Held-out tokens of each language that the cost is measured on, at most."""
    counted: int = Field(50_000, ge=1)
    """Tokens of each language that are counted to say whose each is, at most."""
    generation: Generation = Generation(tokens=100, repetition_penalty=1.0)
    """How prompts are answered."""


def fix_folder(model: str, settings: FixSettings) -> Path:
    """Where results go that are not told where: runs/MODEL-fix-fr, runs/MODEL-fix-not-zh."""
    return default_folder(model, f"fix-{settings.to}" if settings.to else f"fix-not-{'-'.join(settings.avoided)}")


def languages_to_fix(settings: FixSettings, recorded: Sequence[str]) -> tuple[str, ...]:
    """The languages that answers should be in, of those recorded.

    Raises:
        NeuroglotError: one is not recorded, or none is left.
    """
    wanted = (settings.to,) if settings.to else settings.keep
    for tag in (*wanted, *settings.avoided):
        if closest(tag, recorded) is None:
            raise NeuroglotError(f"{tag} was not recorded; there are {', '.join(recorded)}. Give a --run that has it.")
    off = {closest(tag, recorded) for tag in settings.avoided}
    chosen = [closest(tag, recorded) or tag for tag in wanted] or [tag for tag in recorded if tag not in off]
    if both := off & {*chosen}:
        raise NeuroglotError(f"{min(map(str, both))} cannot be kept and prevented at once.")
    if not chosen:
        raise NeuroglotError("No language is left to answer in; name one with --keep.")
    return tuple(chosen)


def fix_prompts(settings: FixSettings, wanted: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Source → language that the answer should be in → prompts.

    Raises:
        NeuroglotError: a file cannot be read, or a language that is named has no prompt.
    """
    chat = settings.generation.chat
    named = {spec: spec for spec in settings.prompts} or (
        {"questions": "questions"} if chat else {"openings": "openings"}
    )
    found: dict[str, dict[str, list[str]]] = {}
    for spec in named:
        corpus = load_corpus(spec, text_column=settings.text_column, language_column=settings.language_column)
        tags = {tag: tag_there for tag in wanted if (tag_there := closest(tag, corpus.languages))}
        texts = {tag: list(corpus[there])[: settings.limit] for tag, there in tags.items()}
        found[spec] = {tag: some for tag, some in texts.items() if some}
        if spec == "questions" and settings.crosslingual:
            english = list(corpus["en"])[: settings.limit]
            found[CROSSLINGUAL] = {
                tag: prompted(english, "en", tag, "I", chat=chat) for tag in wanted if closest(tag, ["en"]) is None
            }
    found = {source: languages for source, languages in found.items() if languages}
    having = {tag for languages in found.values() for tag in languages}
    if missing := [tag for tag in (wanted if settings.to or settings.keep else ()) if tag not in having]:
        raise NeuroglotError(f"There is no prompt for answers in {missing[0]} in {', '.join(named)}; give --prompts.")
    if not having:
        raise NeuroglotError(f"There is no prompt in {', '.join(wanted)} in {', '.join(named)}; give --prompts.")
    return found


def fix_run(
    run: Run, model: "Model", settings: FixSettings, folder: str | Path, *, progress: bool = True
) -> "tuple[Fixed, list[Path]]":
    """Try what keeps the run's model in a language, and write what was found.

    Args:
        run: recorded with `active` and `residual`.
        model: the run's.
        settings: what is to be fixed.
        folder: gets `remedies.csv`, `by-language.csv`, `answers.csv` and, if something helps, `recipe.safetensors`;
            answers are kept in `cells/`.
        progress: show bars.

    Returns:
        What was found, and the files.

    Raises:
        NeuroglotError: the model is not the run's, the run lacks a statistic or a language, or what `evaluate.fix`
            raises.
    """
    from neuroglot.artifacts.recording import RESIDUAL
    from neuroglot.evaluate.fixing.fixing import fix
    from neuroglot.storage.tables import save_table
    from neuroglot.tokens.counts import TokenLanguages, token_counts

    run.check(model)
    recording, folder = run.recording, Path(folder)
    if RESIDUAL not in recording.sums:
        raise NeuroglotError(f"{run.path} has no means of the residual stream; record with --residual.")
    wanted = languages_to_fix(settings, recording.languages)
    prompts = fix_prompts(settings, wanted)
    recorded, held_out = run.manifest.text.load()
    recorded = recorded.select(recording.languages)
    owners = TokenLanguages.of(token_counts(model, recorded, settings.counted), recording.languages)
    found = fix(
        model, recording, prompts, held_out.select(recording.languages), owners,
        avoided=[closest(tag, recording.languages) or tag for tag in settings.avoided] or None,
        methods=settings.methods, max_cost=settings.max_cost, tokens=settings.tokens, generation=settings.generation,
        directory=folder / "cells", progress=progress,
    )  # fmt: skip
    tables: Mapping[str, object] = {
        "remedies.csv": found.table, "by-language.csv": found.by_language, "answers.csv": found.answers,
    }  # fmt: skip
    written = [save_table(folder / name, table) for name, table in tables.items()]  # type: ignore[arg-type]
    recipe = folder / "recipe.safetensors"
    if found.recipe is None:
        recipe.unlink(missing_ok=True)  # that of an earlier call, of which these tables say nothing
    else:
        written.append(found.recipe.save(recipe))
    return found, written
