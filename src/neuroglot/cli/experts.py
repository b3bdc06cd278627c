"""`neuroglot experts`: how often each language activates each group of neurons."""

from typing import Annotated

import typer

from neuroglot.cli.app import app, checked, numbers, out
from neuroglot.cli.options import RunArgument, TrustOption


@app.command()
def experts(
    run: RunArgument,
    number: Annotated[int, typer.Option("--experts", min=1, help="How many a layer.")] = 256,
    kind: Annotated[str, typer.Option(help="parameter (balanced k-means), random or contiguous.")] = "parameter",
    seed: Annotated[int, typer.Option(help="Of the clustering or the shuffle.")] = 0,
    top: Annotated[str, typer.Option(help="Shares of all experts activated on a token, such as 0.05,0.1.")] = "0.1",
    tuned: Annotated[
        str | None,
        typer.Option(help="Count the same experts in this tuned variant of the model, too.", show_default=False),
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Group neurons into experts, count how often each language activates them, and compare the languages.

    Can be stopped and started again with the same command: finished shards are kept.
    """
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import ExpertSettings

    current = Run.open(run, trust_remote_code=trust_remote_code)
    current.check_recorded()
    current.check_model()
    settings = checked(ExpertSettings, experts=number, kind=kind, seed=seed, top=numbers(top, "--top"))
    variant = current.manifest.model.model_copy(update={"source": tuned, "revision": None})
    if tuned is not None:
        variant.check_source()
    from neuroglot.run.experts import record_experts, record_tuned

    model = current.load_model()
    made = record_experts(current, model, current.manifest.text.load()[0], settings)
    out.print(f"counted {number} experts a layer in {len(made.languages)} languages: {run / 'experts'}")
    if tuned is not None:
        del model  # two models at once may not fit
        changed = record_tuned(
            current, variant, variant.load(trust_remote_code=trust_remote_code), current.manifest.text.load()[0]
        )
        out.print(f"counted them in {tuned}, {len(changed.languages)} languages: {run / 'experts' / 'tuned'}")
    out.print(f"next: neuroglot report {run}, or neuroglot prune {run}")
