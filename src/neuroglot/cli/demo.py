"""`neuroglot demo`: the main job on the built-in defaults."""

from pathlib import Path

from neuroglot.cli.app import app, out, split
from neuroglot.cli.identify import print_neurons
from neuroglot.cli.options import LanguagesOption, OutOption
from neuroglot.cli.perturb import print_change
from neuroglot.cli.record import print_recorded
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
    from neuroglot.run.identification import identify_run
    from neuroglot.run.perturbation import perturb_run
    from neuroglot.run.recording import begin_run
    from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings

    run, model, made = begin_run(
        folder or Path("runs/demo"),
        ModelSettings(source="gemma3-270m"),
        TextSettings(source="starter", languages=split(languages)),
        RunRecordSettings(block=256, tokens=6_000, examples=4),
    )
    print_recorded(run, made)
    print_neurons(run, "lape", identify_run(run, "lape", {}))
    result = perturb_run(run, model, "lape", tokens=520, block=128, seeds=3, corpus=None)
    print_change(run, "lape", result)
    report_run(run)
    out.print(f"look at it: neuroglot explore {run.path}  (pip install 'neuroglot[explore]')")
