"""`neuroglot record`: one pass over the corpus."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import checked, out, split
from neuroglot.cli.options import (
    BosOption,
    CorpusArgument,
    DeviceOption,
    DtypeOption,
    LanguageColumnOption,
    LanguagesOption,
    ModelArgument,
    OutOption,
    TextColumnOption,
    TrustOption,
    WorkersOption,
)
from neuroglot.cli.settings_options import command_with
from neuroglot.cli.unused import refuse_unused
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.artifacts.recording import Recording
    from neuroglot.recording.engines.ray_cluster import RayEngine
    from neuroglot.recording.settings import PassSettings
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings


def _pass_settings() -> "type[PassSettings]":
    from neuroglot.recording.settings import PassSettings

    return PassSettings


@command_with(_pass_settings)
def record(
    context: typer.Context,
    model: ModelArgument,
    corpus: CorpusArgument,
    folder: OutOption = None,
    languages: LanguagesOption = None,
    hold_out: Annotated[int, typer.Option(min=2, help="Keep every n-th document for measuring.")] = 5,
    experts: Annotated[
        int | None,
        typer.Option(min=1, help="Count the activations of so many experts a layer in the same pass; see experts."),
    ] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="Sum the residual stream after each layer, too: steer --method diffmean.")
    ] = False,
    heads: Annotated[
        bool,
        typer.Option("--heads", help="Sum what each attention head gives, too."),
    ] = False,
    statistic: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep this statistic, too: magnitude, which a native mixture of experts is pruned by, or one of "
            "another package. May be given again.",
            show_default=False,
        ),
    ] = None,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    quantize: Annotated[
        str | None,
        typer.Option(help="Pack the weights to 8bit or 4bit; needs bitsandbytes.", show_default=False),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/n",
            help="Record only part i of n, as in a Slurm array; then `neuroglot merge`.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local: this machine; ray: a cluster, or this machine through Ray.")
    ] = "local",
    workers: WorkersOption = 1,
    gpus_per_worker: Annotated[
        int | None,
        typer.Option(
            min=0, help="With --engine ray: GPUs of a worker. [default: 1 if there is any]", show_default=False
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray: an existing cluster. [default: workers on this machine]", show_default=False
        ),
    ] = None,
    readers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes that read and tokenise ahead of the model. [default: 0 up to 2 million tokens, else half "
            "the cores]",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take (shards, bytes, time), and write nothing.")
    ] = False,
    device_map: Annotated[str | None, typer.Option(help="Spread a large model over devices: auto.")] = None,
    trust_remote_code: TrustOption = False,
    bos: BosOption = None,
    count_first: Annotated[
        bool, typer.Option("--count-first", help="Count the first token of a text that no BOS stands before.")
    ] = False,
    **asked: Any,
) -> None:
    """Read a corpus once and keep the statistics of every neuron, by language.

    Can be stopped and started again with the same command: finished shards are kept. A finished run can be asked for
    more --tokens: only the text after what was recorded is read by the model.
    """
    from neuroglot.run.directory import default_folder
    from neuroglot.run.recording import begin_run
    from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings

    part = part_of(shard)
    if engine == "local":
        refuse_unused(context, "without --engine ray", "gpus_per_worker", "address")
    model_settings = checked(
        ModelSettings,
        source=model,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        quantize=quantize,
        trust_remote_code=trust_remote_code,
        bos=bos,
        count_first=count_first,
    )
    text = checked(
        TextSettings,
        source=corpus,
        languages=split(languages),
        text_column=text_column,
        language_column=language_column,
        hold_out=hold_out,
    )
    counted = None if experts is None else {"experts": experts}
    more = {"residual": residual, "heads": heads, "own": statistic or []}
    recording = checked(RunRecordSettings, **asked, experts=counted, **more)
    model_settings.check_source()
    text.check_source()
    cluster = engine_of(engine, model_settings, workers=workers, gpus_per_worker=gpus_per_worker, address=address)
    where = folder or default_folder(model, corpus)
    if dry_run:
        print_forecast(where, model_settings, text, recording, part[1] * workers)
        return
    run, _, made = begin_run(
        where, model_settings, text, recording,
        part=part, engine=cluster, workers=1 if cluster else workers, readers=readers,
    )  # fmt: skip
    print_recorded(run, made)
    if part == (1, 1):
        out.print(f"next: neuroglot identify {run.path}")
    else:
        out.print(f"next, when all {part[1]} parts are there: neuroglot merge {run.path}")


def engine_of(name: str, model: "ModelSettings", **how: Any) -> "RayEngine | None":
    """The engine of a name; None for this process."""
    if name not in ("local", "ray"):
        raise NeuroglotError(f"--engine is local or ray, not {name!r}.")
    if name == "local":
        return None
    from neuroglot.recording.engines.ray_cluster import RayEngine

    return RayEngine(opening=model.model_dump(exclude={"device", "device_map"}), **how)


def print_recorded(run: "Run", made: "Recording") -> None:
    """Say what was recorded, and where it is."""
    out.print(
        f"recorded {int(made.tokens.sum()):,} tokens in {len(made.languages)} languages: {run.path / 'recording'}"
    )


def part_of(shard: str | None) -> tuple[int, int]:
    """(2, 8) from `2/8`; (1, 1), all of it, by default."""
    if shard is None:
        return 1, 1
    first, _, last = shard.partition("/")
    from neuroglot.storage.names import whole_number

    part, parts = whole_number(first), whole_number(last)
    if part is None or parts is None or not 1 <= part <= parts:
        raise NeuroglotError(f"--shard is i/n with 1 ≤ i ≤ n, such as 2/8, not {shard[:80]!r}.")
    return part, parts


def print_forecast(
    folder: Path, model_settings: "ModelSettings", text: "TextSettings", recording: "RunRecordSettings", workers: int
) -> None:
    """Say what a recording would take, or what is left of one."""
    from datetime import timedelta

    from neuroglot.experts.moefication import partition
    from neuroglot.progress import status
    from neuroglot.recording.forecast import forecast
    from neuroglot.run.recording import check_record

    run, to_record = check_record(folder, model_settings, text, recording)
    model = run.as_recorded(model_settings).load(trust_remote_code=model_settings.trust_remote_code)
    # how neurons are grouped changes neither bytes nor time
    grouped = partition(model, recording.experts.experts, kind="contiguous") if recording.experts else None
    with status("reading the corpus and timing one shard"):
        said = forecast(model, to_record, **recording.arguments(), partition=grouped, directory=run.path / "recording")
    if not said.total:
        out.print(f"{run.path} has all of it, {said.recorded:,} tokens: nothing is left to record", soft_wrap=True)
        return
    size = said.footprint
    time = timedelta(seconds=round(said.seconds(workers)))
    lines = {
        "shards": f"{size.shards} ({', '.join(f'{tag} {count}' for tag, count in said.shards.items())})",
        "recording, in memory and on disk": _bytes(size.recording),
        "shards on disk until it is finished": _bytes(size.shards_on_disk),
        "packed tokens on disk, at most": _bytes(size.tokens_on_disk),
        "memory while shards are added": _bytes(size.adding),
        "a worker, beside the model": _bytes(size.worker),
        "a sample of a parallel corpus (align)": _bytes(size.samples(1)),
        "time": f"{time} on {workers} worker{'s' if workers > 1 else ''} at {said.rate:,.0f} tokens/s each "
        f"(timed on {said.timed:,} of {said.total:,} tokens)",
    }
    if said.recorded:
        lines = {"recorded already": f"{said.recorded:,} tokens in {run.path}; what follows is the rest"} | lines
    for what, value in lines.items():
        out.print(f"{what}: {value}", highlight=False, soft_wrap=True)
    out.print("nothing was written; leave out --dry-run to record")


def _bytes(count: int) -> str:
    return f"{count:,} bytes" if count < 10**6 else f"{count:,} bytes ({count / 10**9:.2f} GB)"
