"""Alignment in a run: samples, scores, regions."""

import warnings
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from neuroglot.errors import NeuroglotError, NeuroglotWarning
from neuroglot.progress import status
from neuroglot.run.identification import keep_neurons

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from neuroglot.artifacts.neurons import NeuronSet
    from neuroglot.corpus.corpus import Corpus
    from neuroglot.models.model import Model
    from neuroglot.models.tokenization import TextReader
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import AlignSettings


@dataclass(frozen=True)
class Aligned:
    """What `align_run` made.

    Attributes:
        model: the run's, open.
        scores: LRDS and SADS; see `alignment.summary`.
        regions: the key regions; None where no z-score can exceed the threshold.
    """

    model: "Model"
    scores: "pd.DataFrame"
    regions: "NeuronSet | None"


def check_align(run: "Run", settings: "AlignSettings") -> "Corpus":
    """The parallel corpus that is to be read, as far as it can be refused before the model is opened.

    Raises:
        NeuroglotError: there is none, it is not parallel, or it has one language or one sample only.
    """
    corpus = settings.load(run.manifest.text)
    if settings.corpus is not None:
        corpus = corpus.tagged_as(run.recording.languages)
    corpus.check_parallel()
    if len(corpus.languages) < 2:
        raise NeuroglotError(f"Alignment compares languages, and {corpus.name} is in {corpus.languages[0]} only.")
    shared = (key for key, text in corpus.samples() if None not in text.values())
    if len(list(islice(shared, settings.samples or 2))) == 1:  # of none it is said why
        raise NeuroglotError(
            f"Alignment compares meanings, and {corpus.name} has, or is asked for, one sample only; give at least two."
        )
    return corpus


def align_run(run: "Run", settings: "AlignSettings") -> "Aligned":
    """Record the samples and find the regions, if the threshold can be reached."""
    corpus = check_align(run, settings)
    from neuroglot.alignment.scores import summary
    from neuroglot.identify.key_regions import key_regions
    from neuroglot.recording.record_samples import record_samples

    model = run.load_model()
    run.check(model)
    if not model.one_stream:
        warnings.warn(
            f"{model.name} has several residual streams side by side, so SES and dominance are left out.",
            NeuroglotWarning,
            stacklevel=2,
        )
    samples = record_samples(
        model,
        corpus,
        samples=settings.samples,
        max_tokens=settings.max_tokens,
        missing="drop",
        states=model.one_stream,
        directory=run.samples_path,
    )
    regions = None
    try:
        regions = key_regions(samples, threshold=settings.threshold)
    except NeuroglotError as error:
        warnings.warn(f"No regions. {error}", NeuroglotWarning, stacklevel=2)
    else:
        keep_neurons(run, "regions", regions, {"threshold": settings.threshold, "samples": len(samples)})
    with run.changing() as manifest:
        manifest.align = settings
    return Aligned(model, summary(samples), regions)


def check_continued(run: "Run", reader: "TextReader", languages: "Sequence[str]", prompts: int, tokens: int) -> None:
    """Refuse what `continue_run` would, before anything is measured.

    Args:
        run: whose held-out text begins the prompts.
        reader: of its model.
        languages: that may have regions.
        prompts: how many of each language.
        tokens: to be written after each.

    Raises:
        NeuroglotError: a beginning and what is written after it are longer than what the model reads.
    """
    from neuroglot.evaluate.steering.continuations import beginnings
    from neuroglot.generation.prompts import check_prompts

    held_out = run.manifest.text.load()[1]
    common = held_out.select([tag for tag in held_out.languages if tag in languages])
    check_prompts(reader, chain.from_iterable(beginnings(reader, common, prompts=prompts).values()), tokens)


def continue_run(run: "Run", model: "Model", prompts: int, tokens: int) -> None:
    """Write beginnings on with each region off, and keep the table."""
    from neuroglot.evaluate.steering.continuations import beginnings, continuations
    from neuroglot.storage.tables import save_table

    regions = run.neurons("regions")
    held_out = run.manifest.text.load()[1]
    common = held_out.select([tag for tag in held_out.languages if tag in regions.languages])
    with status("writing with each region off"):
        table = continuations(model, beginnings(model, common, prompts=prompts), regions, tokens=tokens)
    save_table(run.continuations_path, table)
