"""`neuroglot fix`: a recipe that keeps answers in their language, at a bounded cost of perplexity."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroglot.cli.app import app, checked, out, print_table, share, split
from neuroglot.cli.options import (
    DeviceOption,
    DtypeOption,
    LanguageColumnOption,
    ModelArgument,
    TextColumnOption,
    TrustOption,
    writable,
    writable_folder,
)
from neuroglot.errors import NeuroglotError
from neuroglot.storage.made import check_place

if TYPE_CHECKING:
    import pandas as pd

    from neuroglot.evaluate.fixing.fixing import Fixed

METHODS = ("ablation", "direction", "drift", "head rows")


@app.command()
def fix(
    model: ModelArgument,
    languages: Annotated[
        str | None,
        typer.Option("--languages", "-l", help="Stop slipping into these, such as zh,en.", show_default=False),
    ] = None,
    to: Annotated[str | None, typer.Option(help="Stay in this language.", show_default=False)] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="With --languages: what answers should be in. [default: every other recorded language with prompts]",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="questions, openings, or a file or folder of prompts by the language that the answer should be in; "
            "may be repeated. [default: questions with --chat, else openings]",
            show_default=False,
        ),
    ] = None,
    text_column: TextColumnOption = "text",
    language_column: LanguageColumnOption = None,
    crosslingual: Annotated[
        bool, typer.Option(help="Ask the built-in questions in English, too, with «Answer in X».")
    ] = True,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The run that recorded this model with --residual. [default: runs/MODEL-steer, which is made]",
            show_default=False,
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=writable_folder,
            help="Where the recipe and the tables go. [default: runs/MODEL-fix-TO]",
        ),
    ] = None,
    bake: Annotated[
        Path | None,
        typer.Option(
            callback=writable,
            help="Write a plain checkpoint too, where weights can say what was chosen.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="What to try: ablation, direction, drift (a direction, only on drift), head rows.")
    ] = ",".join(METHODS),
    max_cost: Annotated[
        float, typer.Option(help="Perplexity may rise by this share in each language that answers should be in.")
    ] = 0.02,
    limit: Annotated[
        int, typer.Option(min=2, help="At most so many prompts a language and source, half to choose.")
    ] = 24,
    tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens an answer.")] = 100,
    held_out: Annotated[
        int, typer.Option(min=1, help="Measure perplexity on at most so many held-out tokens of each language.")
    ] = 4_000,
    repetition_penalty: Annotated[float, typer.Option(help="Of answers; 1 is none.")] = 1.0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Prompts a forward pass. [default: as the device likes]")
    ] = None,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = False,
    dtype: DtypeOption = "auto",
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Keep answers in their language: find what a model slips by, and write a recipe that prevents it.

    Ablation, a direction, and a direction only on drift are tried beside a scaling of the head's rows, at a bounded
    cost of perplexity. The best on one half of the prompts is measured on the other half.
    Can be stopped and started again: finished answers are kept.
    """
    from neuroglot.generation.settings import Generation
    from neuroglot.languages.tags import language_tag
    from neuroglot.run.directory import Run
    from neuroglot.run.fixing import FixSettings, fix_folder, fix_run
    from neuroglot.run.settings import ModelSettings

    if keep is not None and languages is None:
        raise NeuroglotError("--keep goes with --languages; with --to answers should be in that language.")
    if (to is None) == (languages is None):
        raise NeuroglotError("Say --to fr (stay in it) or --languages zh (stop slipping into it), one of the two.")
    tried = split(methods) or []
    if unknown := [name for name in tried if name not in METHODS]:
        raise NeuroglotError(f"--methods takes {', '.join(METHODS)}, not {unknown[0]!r}.")
    tags = {name: tuple(map(language_tag, split(text) or ())) for name, text in (("off", languages), ("keep", keep))}
    settings = checked(
        FixSettings, to=to and language_tag(to), avoided=tags["off"], keep=tags["keep"], prompts=tuple(prompts or ()),
        text_column=text_column, language_column=language_column, crosslingual=crosslingual, limit=limit,
        methods=tuple(tried), max_cost=max_cost, tokens=held_out,
        generation=checked(Generation, tokens=tokens, repetition_penalty=repetition_penalty, batch=batch, chat=chat),
    )  # fmt: skip
    from neuroglot.corpus.load import check_corpus

    for spec in settings.prompts:
        check_corpus(spec)
    source = checked(ModelSettings, source=model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    source.check_source()
    if bake is not None:
        check_place(bake, "baked model (--bake)")
    from neuroglot.languages.fasttext import FastTextIdentifier

    FastTextIdentifier()  # that it is not installed is said before anything is recorded
    place = run
    loaded: Any = None
    if place is None:
        from neuroglot.cli.built_in import built_in_run

        place, loaded = built_in_run(source, [tag for tag in (settings.to, *settings.avoided, *settings.keep) if tag])
    current = Run.open(place, trust_remote_code=trust_remote_code)
    current.check_recorded()
    from neuroglot.generation.prompts import check_prompts
    from neuroglot.run.fixing import fix_prompts, languages_to_fix

    asked = fix_prompts(settings, languages_to_fix(settings, current.recording.languages))
    source = source.reading_as(current.manifest.model)
    texts = [text for of in asked.values() for some in of.values() for text in some]
    check_prompts(source.reader(trust_remote_code=trust_remote_code), texts, tokens, chat)
    loaded = loaded or source.load(trust_remote_code=trust_remote_code)
    where = folder or fix_folder(model, settings)
    found, written = fix_run(current, loaded, settings, where)
    _show(found, max_cost)
    out.print(f"wrote {', '.join(map(str, written))}")
    if found.recipe is None:
        return
    if bake is not None:
        try:
            out.print(f"wrote {found.recipe.bake(loaded, bake)}")
        except NeuroglotError as error:
            raise NeuroglotError(
                f"{error} What was chosen is in {written[-1]}; with --methods ablation weights can say it."
            ) from error
    out.print(f"next: neuroglot steer {model} PROMPT --recipe {written[-1]}{' --chat' if chat else ''}")


def _show(found: "Fixed", max_cost: float) -> None:
    """Print the reported half, a row a method, and what was chosen."""
    before = found.reported("intact")
    assert before is not None
    slips = ", ".join(f"{tag} {share:.1%}" for tag, share in list(found.slips.items())[:5])
    out.print(f"answers should be in {', '.join(found.wanted)}; wrong lines are in: {slips or 'no other language'}")
    rows = [row for name in ("intact", *found.best) if (row := found.reported(name)) is not None]
    cells = [_cells(row) for row in rows]
    print_table(
        {name: [row[name] for row in cells] for name in cells[0]}, "method", [str(row["method"]) for row in rows]
    )
    rate = before["line_pass_rate"]
    if not before["judged"]:
        out.print(
            "No answer of the reported half has a line of five words, so nothing can be said of it; ask for more "
            "--tokens, or give other prompts."
        )
    if found.chosen is None:
        if (found.table["method"] != "intact").any():
            said = f"Nothing that was tried helps at under {max_cost:.0%} of perplexity; no recipe is written."
        elif rate == 1:
            said = "Nothing to fix: every answer passes."
        else:
            said = "Nothing was tried: every answer of the half that chooses passes. More prompts may show more."
        out.print(said, highlight=False)
        return
    if not before["judged"]:
        out.print(f"chosen: {found.chosen.method} {found.chosen.words}, by the half that chooses", highlight=False)
        return
    after = found.reported(found.chosen.method)
    assert after is not None
    missing = 1 - before["line_pass_rate"]
    gained = (after["line_pass_rate"] - before["line_pass_rate"]) / missing if missing else 0.0
    out.print(
        f"chosen: {found.chosen.method} {found.chosen.words}: line pass rate {before['line_pass_rate']:.1%} to "
        f"{after['line_pass_rate']:.1%}, {gained:.0%} of what was missing, at {after['perplexity_change']:+.2%} of "
        "perplexity",
        highlight=False,
    )


def _cells(row: "pd.Series[Any]") -> dict[str, str]:
    intact, word = row["method"] == "intact", row["word_pass_rate"]
    return {
        "setting": str(row["setting"]),
        "line pass rate": (share(row["line_pass_rate"], row["line_low"], row["line_high"]) if row["judged"] else "–"),
        "word pass rate": "n/a" if word != word else f"{word:.1%}",
        "judged": f"{row['judged']} of {row['answers']}",
        "perplexity": "" if intact else f"{row['perplexity_change']:+.2%}",
        "within": "" if intact else "yes" if row["within"] else "no",
    }
