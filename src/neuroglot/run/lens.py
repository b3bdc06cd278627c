"""Latent language: of a run, from the text it recorded to the text it held out, or of any model."""

from typing import TYPE_CHECKING

from neuroglot.run.settings import LensSettings

if TYPE_CHECKING:
    from neuroglot.corpus.corpus import Corpus
    from neuroglot.evaluate.likelihood.lens import Lens
    from neuroglot.models.model import Model
    from neuroglot.run.directory import Run

__all__ = ["lens_run", "measure_lens"]


def measure_lens(
    model: "Model", counted: "Corpus", held_out: "Corpus", settings: LensSettings, *, progress: bool = True
) -> "Lens":
    """Say whose each token is from one text, and read the layers on another.

    Args:
        model: intact.
        counted: text whose tokens are counted; its languages are the owners of tokens.
        held_out: text that is read.
        settings: of both.
        progress: show a bar.
    """
    from neuroglot.evaluate.likelihood.lens import lens
    from neuroglot.tokens.counts import TokenLanguages, token_counts

    counts = token_counts(model, counted, settings.counted)
    owners = TokenLanguages.of(counts, counted.languages, share=settings.share, least=settings.least)
    return lens(
        model, held_out, owners, tokens=settings.tokens, block=settings.block, top=settings.top, progress=progress
    )


def lens_run(run: "Run", model: "Model", settings: LensSettings, *, progress: bool = True) -> "Lens":
    """Measure the run's model on the text that it held out, and keep the result in the run.

    Raises:
        NeuroglotError: the model is not the run's, or what `evaluate.lens` raises.
    """
    run.check(model)
    found = measure_lens(model, *run.manifest.text.load(), settings, progress=progress)
    found.save(run.lens_path)
    with run.changing() as manifest:
        manifest.lens = settings
    return found
