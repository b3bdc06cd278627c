"""The run that steering takes if it is told of none: a little of the built-in corpus, in the languages it needs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from neuroglot.errors import NeuroglotError
from neuroglot.languages.tags import closest
from neuroglot.run.directory import Run, default_folder
from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings

__all__ = ["finished_run", "prepare_built_in"]

CONTRAST = ("en", "zh", "fr", "es", "vi", "id")
"""Languages that are always read: methods compare languages, and one or two are compared with nothing."""

TOKENS = 2_000
"""Of each language: LAPE's neurons in so many are nearly those in five times as many (docs/results.md)."""


def finished_run(source: str, languages: Sequence[str], available: Sequence[str]) -> Path | None:
    """A finished run of a model on the built-in corpus that has these languages, if there is one at its usual place."""
    for folder in (default_folder(source, "starter"), *_folders(source, languages)):
        try:
            run = Run.open(folder)
            run.check_recorded()
        except NeuroglotError:
            continue
        recorded = run.manifest.text.languages or available
        if run.manifest.text.source == "starter" and all(closest(tag, recorded) for tag in languages):
            return folder
    return None


def prepare_built_in(settings: ModelSettings, languages: Sequence[str], available: Sequence[str]) -> Run:
    """The run to be made for these languages, beside those that they are compared with; nothing is written.

    Args:
        settings: of the model.
        languages: of question and answer.
        available: those of the built-in corpus.

    Raises:
        NeuroglotError: the built-in corpus lacks one of them, or something else is at the run's place.
    """
    if missing := [tag for tag in languages if closest(tag, available) is None]:
        raise NeuroglotError(
            f"There is no run of {settings.source} in {default_folder(settings.source, 'starter')}, and the built-in "
            f"corpus has no {missing[0]}; record text that has it (neuroglot record {settings.source} CORPUS --out "
            "RUN) and give --run RUN."
        )
    wanted = {closest(tag, available) for tag in languages} | {*CONTRAST}
    text = TextSettings(source="starter", languages=[tag for tag in available if tag in wanted])
    *_, folder = _folders(settings.source, [tag for tag in available if tag in wanted])
    return Run.prepare(folder, settings, text, RunRecordSettings(block=128, tokens=TOKENS, residual=True))


def _folders(source: str, languages: Sequence[str]) -> Iterator[Path]:
    """Where such runs are: runs/MODEL-steer, and with languages beyond those always read, runs/MODEL-steer-ar."""
    plain = default_folder(source, "steer")
    yield plain
    more = [tag for tag in languages if closest(tag, CONTRAST) is None]
    if more:
        yield plain.with_name("-".join([plain.name, *more]))
