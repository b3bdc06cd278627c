"""`neuroglot evaluate tasks`: benchmarks through the lm-evaluation-harness, intact and changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import checked, numbers, out, print_table, split
from neuroglot.cli.evaluate import evaluate
from neuroglot.cli.options import (
    BosOption,
    DeviceOption,
    DtypeOption,
    MethodOption,
    Seeds,
    TrustOption,
    writable_folder,
)
from neuroglot.errors import NeuroglotError

if TYPE_CHECKING:
    from neuroglot.evaluate.benchmarks.table import TaskTable
    from neuroglot.run.directory import Run


@evaluate.command()
def tasks(
    run_or_model: Annotated[
        str,
        typer.Argument(
            help="A run: intact, each language's neurons ablated, random ones ablated, pruned. Or a model, also one "
            "that `prune` wrote: as it is."
        ),
    ],
    names: Annotated[
        str,
        typer.Option("--tasks", "-t", help="Tasks, groups or patterns of the harness, such as smoke_xcsqa_fr,xnli_*."),
    ],
    method: MethodOption = "lape",
    off: Annotated[
        str | None,
        typer.Option(help="Whose neurons to ablate: fr,es; none for no such rows. [default: all]", show_default=False),
    ] = None,
    prune: Annotated[
        str | None, typer.Option(help="Whose experts alone to keep, such as fr; needs `neuroglot experts`.")
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(help="Keep experts of at least these frequencies, such as 0.05,0.01.")
    ] = None,
    share: Annotated[str | None, typer.Option(help="Keep these shares of each layer's experts.")] = None,
    budget: Annotated[str | None, typer.Option(help="Remove these shares of all experts.")] = None,
    own: Annotated[
        bool, typer.Option("--own", help="Measure a pruned row only on tasks of its language, as the paper does.")
    ] = False,
    seeds: Seeds = 3,
    fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples before each question. [default: the task's]", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests a forward pass.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the choice of few-shot examples.")] = 1234,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Local DATASET/LANGUAGE/SPLIT.jsonl for X-CSQA, XStoryCloze and MGSM instead of the hub."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=writable_folder,
            help="Where a model's results go. [default: runs/MODEL-tasks]",
            show_default=False,
        ),
    ] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    bos: BosOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Score a model on tasks of EleutherAI's lm-evaluation-harness: intact, ablated, pruned, each beside random.

    Can be stopped and started again with the same command: finished tasks and rows are kept.
    """
    from neuroglot.progress import status
    from neuroglot.run.settings import ModelSettings

    rules = [
        (name, value)
        for name, text in (("threshold", threshold), ("share", share), ("budget", budget))
        if text
        for value in numbers(text, f"--{name}")
    ]
    if bool(rules) != bool(prune):
        raise NeuroglotError("--prune and --threshold, --share or --budget go together: whose experts, and which.")
    chosen = split(names) or []
    current = _run(run_or_model, trust_remote_code)
    settings = checked(
        ModelSettings, source=run_or_model, dtype=dtype, device=device, bos=bos,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    if current is None:
        settings.check_source()
        if prune or off not in (None, "none"):
            raise NeuroglotError(
                f"{run_or_model} is no run, so it has no neurons or experts; leave --off and --prune out."
            )
    elif folder is not None or device is not None or dtype != "auto" or bos is not None:
        raise NeuroglotError(f"{run_or_model} is a run, which has its own model and place; leave --out, --dtype, --bos "
                             "and --device out.")  # fmt: skip
    if current is not None:
        current.check_model()
        _check_languages(current, method, off, split(prune))
    from neuroglot.evaluate.benchmarks.harness import load_tasks
    from neuroglot.run.tasks import measure_and_keep, tasks_of_run

    with status("opening the tasks"):
        load_tasks(chosen, data_dir=data_dir)  # say now what is wrong with them, before a model is loaded
    how: dict[str, Any] = {
        "fewshot": fewshot, "limit": limit, "batch_size": batch_size, "seed": seed,
        "data_dir": None if data_dir is None else str(data_dir),
    }  # fmt: skip
    if current is not None:
        off_languages = [] if off == "none" else split(off)
        table = tasks_of_run(
            current,
            chosen,
            how,
            method=method,
            off=off_languages,
            prune=split(prune) or [],
            rules=rules,
            own=own,
            seeds=seeds,
        )
        print_scores(table, current.path)
        out.print(f"next: neuroglot report {run_or_model}")
        return
    model = settings.load(trust_remote_code=trust_remote_code)
    place = folder or Path("runs") / f"{Path(run_or_model).stem}-tasks"
    print_scores(measure_and_keep(model, chosen, [], how, place), place)


def print_scores(table: "TaskTable", folder: Path) -> None:
    """Print every row's scores, and where the tables are."""
    from neuroglot.run.tasks import table_paths

    summary = table.summary()
    rows = list(dict.fromkeys(summary.condition))
    cells: dict[str, list[str]] = {}
    for task in table.tasks:
        by_row = summary[summary.task == task].set_index("condition")
        cells[task] = [_cell(by_row.loc[row]) if row in by_row.index else "" for row in rows]
    print_table(cells, "score (shares in %)", rows)
    said = ["* differs from intact on the same items (McNemar, p < 0.05, each cell by itself); ± is over seeds"]
    if any(task.startswith("smoke_") for task in table.tasks):
        said.append("smoke_… are small built-in sets that only show that the path works; they are no benchmark")
    said.append(f"wrote {', '.join(map(str, table_paths(folder)))}")
    for line in said:
        out.print(line, soft_wrap=True)


def _run(path: str, trust_remote_code: bool) -> "Run | None":
    from neuroglot.run.directory import Run

    return Run.open(path, trust_remote_code=trust_remote_code) if (Path(path) / "run.json").is_file() else None


def _check_languages(run: "Run", method: str, off: str | None, prune: list[str] | None) -> None:
    """Refuse languages that the run has no neurons or no experts of, before tasks are read and a model is opened."""
    from neuroglot.languages.tags import language_tag

    switched = [] if off == "none" else [language_tag(tag) for tag in split(off) or ()]
    kept = [language_tag(tag) for tag in prune or ()]
    if off != "none":
        run.check_neurons(method)
    if kept:
        run.check_experts()
    if switched:
        run.neurons(method).check_languages(switched)
    if kept and (unknown := [tag for tag in kept if tag not in run.expert_recording.languages]):
        have = ", ".join(run.expert_recording.languages)
        raise NeuroglotError(f"{run.path} has not counted experts in {unknown[0]}; it has {have}.")


def _cell(row: Any) -> str:
    def shown(value: float) -> str:
        return f"{100 * value:.1f}" if row["unit"] == "share" else f"{value:.4g}"

    value = shown(row["value"])
    if row["std"] == row["std"] and row["std"] is not None:
        return f"{value} ± {shown(row['std'])}"
    return value + ("*" if row["p"] is not None and row["p"] == row["p"] and row["p"] < 0.05 else "")
