"""The perplexity-change matrix of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuroglot.corpus.corpus import Corpus
    from neuroglot.evaluate.ablation.matrix import Perturbation
    from neuroglot.models.model import Model
    from neuroglot.run.directory import Run


def perturb_run(
    run: "Run",
    model: "Model",
    method: str,
    *,
    tokens: int,
    block: int | None,
    seeds: int,
    corpus: str | None,
    languages: Sequence[str] | None = None,
    text_column: str = "text",
    language_column: str | None = None,
    matched: bool | None = None,
) -> "Perturbation":
    """Measure the perplexity-change matrix of a method's neurons and keep it in the run.

    Args:
        run: has the method's neurons.
        model: the run's.
        method: whose neurons; `METHOD heads` for heads.
        tokens: see `evaluate.perturb`.
        block: see `evaluate.perturb`.
        seeds: see `evaluate.perturb`.
        corpus: measure on this text; by default what the run held out.
        languages: only these of it.
        text_column: of it; see `load_corpus`.
        language_column: of it; see `load_corpus`.
        matched: size-matched random sets too; by default for regions only, which differ several times in size.

    Raises:
        NeuroglotError: the model is not the run's, it has no neurons of the method, or what `evaluate.perturb` raises.
    """
    from neuroglot.evaluate.ablation.perturbation import perturb as measure
    from neuroglot.identify.units import units_of

    units = units_of(method)
    neurons = run.neurons(method, units)
    if matched is None:
        matched = method == "regions"
    run.check(model)
    result = measure(
        model,
        measured_text(run, corpus, languages, text_column, language_column).tagged_as(neurons.languages),
        neurons,
        tokens=tokens,
        block=block,
        seeds=seeds,
        random_row="next percent" if method == "regions" else "largest",  # each as its paper has it
        matched=matched,
        units=units,
        resume=run.perturbation_path(method),
        beside=[run.perturbation_path(other) for other in run.manifest.perturb],
    )
    with run.measured_with(neurons, method, [run.perturbation_path(method)]) as manifest:
        manifest.perturb[method] = {
            "corpus": corpus or "held out",
            "tokens": tokens,
            "block": result.block,
            "seeds": len(result.random),  # with those of earlier calls
            "matched": bool(result.matched),
        }
    return result


def measured_text(
    run: "Run",
    corpus: str | None = None,
    languages: Sequence[str] | None = None,
    text_column: str = "text",
    language_column: str | None = None,
) -> "Corpus":
    """The text to measure on: what the run held out, or another corpus; see `perturb_run`."""
    from neuroglot.corpus.load import load_corpus

    if corpus is None:
        return run.manifest.text.load()[1]
    return load_corpus(corpus, languages=languages, text_column=text_column, language_column=language_column)
