"""`neuroglot demo`: the main job on the built-in defaults."""

from pathlib import Path

from neuroglot.cli.app import app, out, split
from neuroglot.cli.identify import identify_run
from neuroglot.cli.options import LanguagesOption, OutOption
from neuroglot.cli.perturb import perturb_run
from neuroglot.cli.record import record_run
from neuroglot.cli.report import report_run

DEMO_LANGUAGES = "en,zh,fr,es,vi,id"


@app.command()
def demo(
    folder: OutOption = None,
    languages: LanguagesOption = DEMO_LANGUAGES,
) -> None:
    """The main job on the built-in defaults: Gemma 3 270M, six languages of the starter corpus, in a few minutes.

    Reads the corpus, finds each language's neurons (LAPE), switches them off, measures what breaks, writes a report.
    """
    from neuroglot.run import ModelSettings, RecordSettings, TextSettings

    run, model = record_run(
        folder or Path("runs/demo"),
        ModelSettings(source="gemma3-270m"),
        TextSettings(source="starter", languages=split(languages)),
        RecordSettings(block=256, tokens=6_000, examples=4),
    )
    identify_run(run, "lape", {})
    perturb_run(run, model, "lape", tokens=520, block=128, seeds=3, corpus=None)
    report_run(run)
    out.print(f"look at it: neuroglot explore {run.path}  (pip install 'neuroglot\\[explore]')")
