"""`neuroglot experts`: how often each language activates each group of neurons."""

from typing import TYPE_CHECKING, Annotated

import typer

from neuroglot.cli.app import app, checked, numbers, out, print_table
from neuroglot.cli.options import RunArgument, TrustOption
from neuroglot.cli.unused import refuse_unused

if TYPE_CHECKING:
    from neuroglot.run.directory import Run


@app.command()
def experts(
    context: typer.Context,
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

    A native mixture of experts has its own, and the recording has counted them: nothing is grouped or read again.
    Can be stopped and started again with the same command: finished shards are kept.
    """
    from neuroglot.models.sources import check_source
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import ExpertSettings

    current = Run.open(run, trust_remote_code=trust_remote_code)
    current.check_recorded()
    current.check_model()
    settings = checked(ExpertSettings, experts=number, kind=kind, seed=seed, top=numbers(top, "--top"))
    if tuned is not None:
        check_source(tuned)
    if current.is_mixture():
        _native(context, current, tuned, trust_remote_code)
        return
    from neuroglot.run.experts import check_experts, record_experts

    check_experts(current, settings)
    model = current.load_model()
    made = record_experts(current, model, current.manifest.text.load()[0], settings)
    out.print(f"counted {number} experts a layer in {len(made.languages)} languages: {run / 'experts'}")
    if tuned is not None:
        del model  # two models at once may not fit
        _count_tuned(current, tuned, trust_remote_code)
    out.print(f"next: neuroglot report {run}, or neuroglot prune {run}")


def _count_tuned(run: "Run", tuned: str, trust_remote_code: bool) -> None:
    from neuroglot.run.experts import record_tuned

    variant = run.as_recorded(run.manifest.model).of_variant(tuned, trust_remote_code=trust_remote_code)
    changed = record_tuned(run, variant, variant.load(trust_remote_code=trust_remote_code), run.manifest.text.load()[0])
    where = run.path / "experts" / "tuned"
    out.print(f"counted them in {tuned}, {len(changed.languages)} languages: {where}")


def _native(context: typer.Context, run: "Run", tuned: str | None, trust_remote_code: bool) -> None:
    """What the router of a native mixture of experts chose, from the recording."""
    refuse_unused(
        context, f"with {run.manifest.model.source}, a native mixture of experts, whose router has chosen them",
        "number", "kind", "seed", "top",
    )  # fmt: skip
    if tuned is not None:
        _count_tuned(run, tuned, trust_remote_code)
    from neuroglot.experts.frequency import high_frequency, shared
    from neuroglot.experts.routing import routing_divergence
    from neuroglot.report.experts import expert_part
    from neuroglot.run.experts import experts_of

    counted = experts_of(run)
    assert counted is not None
    frequency, tags = counted.frequency, counted.recording.languages
    pairs = max(1, len(tags) * (len(tags) - 1))
    columns = {tag: [str(int(row.sum())) for row in rows]
               for tag, rows in zip(tags, high_frequency(frequency, counted.high), strict=True)}  # fmt: skip
    columns["in all"] = [str(int(row.sum())) for row in shared(frequency, counted.high)]
    apart = routing_divergence(counted.recording).sum((1, 2)) / pairs
    columns["divergence (bits)"] = [f"{float(each):.4f}" for each in apart]
    out.print(
        f"the router chooses {counted.chosen} experts a token; high-frequency from {counted.high:.1%} of tokens on:",
        highlight=False,
    )
    print_table(columns, "layer", [str(layer + 1) for layer in counted.layers])
    expert_part(run)
    out.print(f"wrote {run.path / 'tables' / 'expert-frequency.csv'}, and others; figures: {run.path / 'figures'}")
    out.print(f"next: neuroglot report {run.path}")
