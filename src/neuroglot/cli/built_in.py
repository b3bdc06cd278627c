"""The run on the built-in corpus that a command takes if it is told of none: opened, or made and said so."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuroglot.cli.app import err
from neuroglot.cli.record import print_recorded

if TYPE_CHECKING:
    from neuroglot.models.model import Model
    from neuroglot.run.settings import ModelSettings


def built_in_run(
    settings: "ModelSettings", languages: Sequence[str], check: "Callable[[Model], object]" = lambda model: None
) -> "tuple[Path, Model | None]":
    """The run of a model that has these languages; the model, if it was opened.

    Args:
        settings: of the model.
        languages: that must be in it.
        check: refuses what is wrong for the model before anything is recorded.
    """
    from neuroglot.corpus.load import load_corpus
    from neuroglot.run.built_in import finished_run, prepare_built_in
    from neuroglot.run.recording import record_run

    available = load_corpus("starter").languages
    if there := finished_run(settings.source, languages, available):
        return there, None
    run = prepare_built_in(settings, languages, available)
    text = run.manifest.text.load()[0]
    most = len(text.languages) * run.manifest.record.tokens
    err.print(
        f"{run.path} is not there: recording up to {most:,} tokens of the built-in corpus with this model, once "
        f"({', '.join(text.languages)}). With --run RUN a run of your own is taken.",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    model = run.load_model()
    check(model)
    from neuroglot.recording.forecast import forecast

    said = forecast(model, text, **run.manifest.record.arguments() | {"shard_tokens": 256})
    err.print(f"{said.total:,} tokens, about {math.ceil(said.seconds())} s", highlight=False, soft_wrap=True)
    print_recorded(run, record_run(run.begin(), model, text))
    return run.path, model
