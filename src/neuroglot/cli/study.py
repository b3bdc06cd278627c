"""`neuroglot study …`: a paper's experiments, start to finish."""

from pathlib import Path
from typing import Annotated, Any

import typer

from neuroglot.cli.app import app, err, out, print_table, split
from neuroglot.cli.options import DeviceOption, DtypeOption, LanguageColumnOption, OutOption
from neuroglot.errors import NeuroglotError

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
    str, typer.Option(help="quick: minutes on two cores; paper: the paper's model, data and sizes, from the hub.")
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


def _add(name: str, about: str) -> None:
    """The command of one paper; all have the same options."""

    @study.command(name=name, help=about)
    def command(
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
    ) -> None:
        columns = {"text_column": text_column, "language_column": language_column}
        study_run(name, model, corpus, folder, preset, settings, only, languages, columns, dtype, device)


_add("lape", "Language-Specific Neurons (Tang et al., ACL 2024): LAPE, what breaks, where, and steering.")
_add("babel", "Unraveling Babel (Liu et al., EMNLP 2024): experts, activation patterns, pruning.")
_add(
    "lingua-franca",
    "Converging to a Lingua Franca (Zeng et al., COLING 2025): alignment, key regions, training and scale.",
)


@study.command(name="settings")
def settings_of(
    name: Annotated[str, typer.Argument(help="lape, babel or lingua-franca.")],
    preset: Annotated[str, typer.Argument(help="quick or paper.")] = "quick",
) -> None:
    """Print a settings file to copy and edit: `neuroglot study settings lape quick > mine.toml`."""
    from neuroglot.studies.settings import preset as text

    typer.echo(text(name, preset), nl=False)


def study_run(
    name: str,
    model: str | None,
    corpus: str | None,
    folder: Path | None,
    preset: str,
    settings: Path | None,
    only: str | None,
    languages: str | None,
    columns: dict[str, str | None],
    dtype: str,
    device: str | None,
) -> None:
    """Measure what is missing, and write the page."""
    from neuroglot.corpus.load import check_corpus
    from neuroglot.models.sources import check_source
    from neuroglot.run.directory import default_folder
    from neuroglot.studies.paper import choose, paper
    from neuroglot.studies.settings import preset as preset_text
    from neuroglot.studies.settings import read_settings

    if settings is None:
        text, source = preset_text(name, preset), f"{name}-{preset}.toml"
    elif settings.is_file():
        try:
            text, source = settings.read_text(encoding="utf-8"), str(settings)
        except (OSError, UnicodeDecodeError) as error:
            raise NeuroglotError(f"{settings} cannot be read as a settings file in UTF-8 ({error}).") from error
    else:
        raise NeuroglotError(f"There is no settings file {settings}; make one with `neuroglot study settings {name}`.")
    chosen = choose(paper(name), split(only))
    if model is not None:
        check_source(model)
    if corpus is not None:
        check_corpus(corpus, split(languages))
    instead: dict[str, dict[str, Any]] = {
        "model": {},
        "text": {option: column for option, column in columns.items() if column is not None},
    }
    if model is not None:
        instead["model"]["source"] = model
    if dtype != "auto":
        instead["model"]["dtype"] = dtype
    if device is not None:
        instead["model"]["device"] = device
    if corpus is not None:
        instead["text"]["source"] = corpus
    if languages is not None:
        instead["text"]["languages"] = split(languages)
    from neuroglot.studies.page import agreement, study_page
    from neuroglot.studies.registry import STUDIES

    kind = STUDIES[name]
    said = read_settings(kind.Settings, text, source, instead)
    where = folder or default_folder(said.model.source, said.text.source)
    if folder is None:
        where = where.with_name(f"{name}-{where.name}")
    the_study = kind(where, said)
    found = the_study.measure(
        [item.key for item in chosen], say=lambda words: err.print(words, highlight=False, soft_wrap=True, markup=False)
    )
    page = study_page(the_study)
    items = [item for item in the_study.paper["items"] if item.key in found]
    print_table({"": [agreement(found[item.key]) for item in items]}, the_study.paper["venue"], [
        f"{item.name}, {item.title}" for item in items])  # fmt: skip
    out.print(f"wrote {where / 'study'}, {page}")
