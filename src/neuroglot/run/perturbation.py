"""The perplexity-change matrix of a run."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuroglot.evaluate.ablation.perturbation import Perturbation
    from neuroglot.models.model import Model
    from neuroglot.run.directory import Run


def perturb_run(
    run: "Run", model: "Model", method: str, *, tokens: int, block: int | None, seeds: int, corpus: str | None
) -> "Perturbation":
    """Measure the perplexity-change matrix of a method's neurons and keep it in the run."""
    from neuroglot.corpus.load import load_corpus
    from neuroglot.evaluate.ablation.perturbation import perturb as measure

    run.check(model)
    held_out = load_corpus(corpus) if corpus else run.manifest.text.load()[1]
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
