"""The perplexity-change matrix of a run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuroglot.evaluate.ablation.perturbation import Perturbation
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
) -> "Perturbation":
    """Measure the perplexity-change matrix of a method's neurons and keep it in the run.

    Args:
        run: has the method's neurons.
        model: the run's.
        method: whose neurons.
        tokens: see `evaluate.perturb`.
        block: see `evaluate.perturb`.
        seeds: see `evaluate.perturb`.
        corpus: measure on this text; by default what the run held out.
        languages: only these of it.
        text_column: of it; see `load_corpus`.
        language_column: of it; see `load_corpus`.

    Raises:
        NeuroglotError: the model is not the run's, it has no neurons of the method, or what `evaluate.perturb` raises.
    """
    from neuroglot.corpus.load import load_corpus
    from neuroglot.evaluate.ablation.perturbation import perturb as measure

    run.check(model)
    held_out = (
        load_corpus(corpus, languages=languages, text_column=text_column, language_column=language_column)
        if corpus
        else run.manifest.text.load()[1]
    )
    result = measure(
        model,
        held_out,
        run.neurons(method),
        tokens=tokens,
        block=block,
        seeds=seeds,
        random_row="next percent" if method == "regions" else "largest",  # each as its paper has it
        matched=method == "regions",  # regions differ several times in size
        resume=run.perturbation_path(method),
    )
    run.manifest.perturb[method] = {
        "corpus": corpus or "held out",
        "tokens": tokens,
        "block": result.block,
        "seeds": seeds,
    }
    run.save()
    return result
