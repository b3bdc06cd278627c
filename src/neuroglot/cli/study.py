"""`neuroglot study …`: a paper's experiments, start to finish."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import app, err, out, print_table, split
from neuroglot.cli.options import DeviceOption, DtypeOption, LanguageColumnOption, OutOption, TrustOption, WorkersOption
from neuroglot.errors import NeuroglotError
from neuroglot.storage.given import check_file

if TYPE_CHECKING:
    from neuroglot.studies.settings import StudySettings

study = typer.Typer(
    no_args_is_help=True,
    help="A paper's experiments in its order, beside what the paper says. Each is resumable.",
)
app.add_typer(study, name="study")

ModelOfStudy = Annotated[
    str | None,
    typer.Argument(help="As `neuroglot record` takes it. [default: the settings']", show_default=False),
]
CorpusOfStudy = Annotated[
    str | None, typer.Argument(help="As `neuroglot record` takes it. [default: the settings']", show_default=False)
]
PresetOption = Annotated[
    str,
    typer.Option(
        help="quick: minutes on two cores; evidence: real text, on a GPU; paper: the paper's model, data and sizes."
    ),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option(help="Your own settings file; see `neuroglot study settings`.", show_default=False),
]
OnlyOption = Annotated[
    str | None,
    typer.Option(help="Only these tables and figures: figure-2,table-3. [default: all]", show_default=False),
]
StudyLanguages = Annotated[
    str | None,
    typer.Option("--languages", "-l", help="Only these: en,fr,zh. [default: the settings']", show_default=False),
]

StudyTextColumn = Annotated[
    str | None, typer.Option(help="The column that holds the text. [default: the settings']", show_default=False)
]

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--models", metavar="MODEL MODEL …",
        help="Several models, side by side on one page: --models A B C. Each has its own study below --out.",
        show_default=False,
    ),
]  # fmt: skip
CorpusOption = Annotated[
    str | None,
    typer.Option("--corpus", help="With --models: the corpus. [default: the settings']", show_default=False),
]


def _add(name: str, about: str) -> None:
    """The command of one paper; all have the same options."""

    @study.command(name=name, help=about, context_settings={"allow_extra_args": True})
    def command(
        context: typer.Context,
        model: ModelOfStudy = None,
        corpus: CorpusOfStudy = None,
        folder: OutOption = None,
        preset: PresetOption = "quick",
        settings: SettingsOption = None,
        only: OnlyOption = None,
        languages: StudyLanguages = None,
        text_column: StudyTextColumn = None,
        language_column: LanguageColumnOption = None,
        dtype: DtypeOption = "auto",
        device: DeviceOption = None,
        workers: WorkersOption = 1,
        trust_remote_code: TrustOption = False,
        models: ModelsOption = None,
        corpus_of_models: CorpusOption = None,
    ) -> None:
        columns = {"text_column": text_column, "language_column": language_column}
        rest = [part for part in (model, corpus, *context.args) if part is not None]
        if models is None:
            if context.args:
                raise NeuroglotError(f"{context.args[0]!r} is one argument too many; several models follow --models.")
            if corpus_of_models is not None:
                raise NeuroglotError("--corpus goes with --models; for one model, name the corpus after it.")
            asked: Sequence[str | None] = [model]
        else:
            asked, corpus = [*(part for said in models for part in split(said) or ()), *rest], corpus_of_models
            if len(asked) < 2:
                raise NeuroglotError("--models lays models side by side: give two or more, or one as MODEL.")
        study_run(
            name,
            asked,
            corpus,
            folder,
            preset,
            settings,
            only,
            languages,
            columns,
            dtype,
            device,
            workers,
            trust_remote_code,
        )


_add("lape", "Language-Specific Neurons (Tang et al., ACL 2024): LAPE, what breaks, where, and steering.")
_add("babel", "Unraveling Babel (Liu et al., EMNLP 2024): experts, activation patterns, pruning.")
_add(
    "lingua-franca",
    "Converging to a Lingua Franca (Zeng et al., COLING 2025): alignment, key regions, training and scale.",
)


@study.command(name="settings")
def settings_of(
    name: Annotated[str, typer.Argument(help="lape, babel or lingua-franca.")],
    preset: Annotated[str, typer.Argument(help="quick, evidence or paper.")] = "quick",
) -> None:
    """Print a settings file to copy and edit: `neuroglot study settings lape quick > mine.toml`."""
    from neuroglot.studies.settings import preset as text

    typer.echo(text(name, preset), nl=False)


def study_run(
    name: str,
    models: Sequence[str | None],
    corpus: str | None,
    folder: Path | None,
    preset: str,
    settings: Path | None,
    only: str | None,
    languages: str | None,
    columns: dict[str, str | None],
    dtype: str,
    device: str | None,
    workers: int = 1,
    trust_remote_code: bool = False,
) -> None:
    """Measure what is missing, and write the page of each model, and of all where there are several."""
    from neuroglot.corpus.load import check_corpus
    from neuroglot.models.sources import check_source
    from neuroglot.run.directory import default_folder
    from neuroglot.studies.paper import choose, paper
    from neuroglot.studies.settings import read_settings

    text, source = _settings_text(name, preset, settings)
    chosen = choose(paper(name), split(only))
    several = len(models) > 1
    for model in models:
        if model is not None:
            check_source(model)
    if corpus is not None:
        check_corpus(corpus, split(languages))
    instead: dict[str, dict[str, Any]] = {
        "model": {},
        "text": {option: column for option, column in columns.items() if column is not None},
    }
    if dtype != "auto":
        instead["model"]["dtype"] = dtype
    if device is not None:
        instead["model"]["device"] = device
    if corpus is not None:
        instead["text"]["source"] = corpus
    if languages is not None:
        instead["text"]["languages"] = split(languages)
    from neuroglot.studies.models import model_folders, models_page, models_table
    from neuroglot.studies.page import agreement, study_page
    from neuroglot.studies.registry import STUDIES
    from neuroglot.studies.study import Study, check_begun

    def settings_of_model(model: str | None) -> "StudySettings":
        of_model = {**instead["model"], **({} if model is None else {"source": model})}
        return read_settings(
            STUDIES[name].Settings, text, source, {**instead, "model": of_model}, trust_remote_code=trust_remote_code
        )

    said = {model: settings_of_model(model) for model in models}
    first = said[models[0]]
    where = folder or default_folder("models" if several else first.model.source, first.text.source)
    if folder is None:
        where = where.with_name(f"{name}-{where.name}")
    folders: dict[Any, Path] = model_folders(where, list(map(str, models))) if several else {models[0]: where}
    for model, its in said.items():  # of all, before the first is measured
        if not (folders[model] / "run.json").is_file():
            check_begun(its)
    studies: dict[str, Study] = {}
    for model, its in said.items():
        if several:
            err.print(f"{model}:", highlight=False, soft_wrap=True, markup=False)
        one = STUDIES[name](folders[model], its, workers=workers)
        found = one.measure(
            [item.key for item in chosen],
            say=lambda words: err.print(words, highlight=False, soft_wrap=True, markup=False),
        )
        page = study_page(one)
        studies[one.settings.model.source] = one
        vars(one).pop("model", None)  # its memory is the next one's
    items = [item for item in one.paper["items"] if item.key in found]
    if several:
        page = models_page(where, studies)
        table = models_table(studies).set_index("item").loc[[item.name for item in items]]
        columns_shown = {model: list(table[model]) for model in studies}
    else:
        columns_shown = {"": [agreement(found[item.key]) for item in items]}
    print_table(columns_shown, one.paper["venue"], [f"{item.name}, {item.title}" for item in items])
    out.print(f"wrote {where if several else where / 'study'}, {page}")
    failures = [kept["failed"] for one in studies.values() for item in items if (kept := one.found(item, failed=True))]
    if failures and all(failures):
        raise NeuroglotError(f"Nothing was measured: {failures[0]}")


def _settings_text(name: str, preset: str, settings: Path | None) -> tuple[str, str]:
    """The text of the settings file, and what it is called in an error."""
    from neuroglot.studies.settings import preset as preset_text

    if settings is None:
        return preset_text(name, preset), f"{name}-{preset}.toml"
    check_file(settings, f"make a settings file with `neuroglot study settings {name}`")
    try:
        return settings.read_text(encoding="utf-8-sig"), str(settings)
    except (OSError, UnicodeDecodeError) as error:
        raise NeuroglotError(f"{settings} cannot be read as a settings file in UTF-8 ({error}).") from error
