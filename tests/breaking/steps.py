"""The commands that write, each as a step of a run, in a form small enough to be run hundreds of times."""

import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.instructions import Pair
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.evaluate.steering.forcing import Generation
from neuroglot.report.page import report
from neuroglot.run.alignment import align_run
from neuroglot.run.comparison import CompareSettings, compare_run
from neuroglot.run.directory import Run
from neuroglot.run.evolution import EvolveSettings, evolve
from neuroglot.run.experts import record_experts
from neuroglot.run.identification import identify_run
from neuroglot.run.lens import lens_run
from neuroglot.run.perturbation import perturb_run
from neuroglot.run.pruning import prune_run
from neuroglot.run.recording import record_run
from neuroglot.run.settings import (
    AlignSettings,
    ExpertSettings,
    LensSettings,
    ModelSettings,
    RunRecordSettings,
    TextSettings,
)
from neuroglot.run.steering import SteeringSettings, steer_run

LAPE = {"top_fraction": 0.3, "activity_quantile": 0.5}
MEASURED = {"tokens": 60, "block": 16, "seeds": 1}
model = tiny.model()


def begin(root):
    """A recorded run, its model and its text."""
    model.save(root / "model")
    columns = tiny.corpus(30)
    lines = [",".join(columns.languages)]
    lines += [",".join(f'"{text}"' for text in row) for row in zip(*(columns[tag] for tag in columns.languages))]  # noqa: B905
    (root / "corpus.csv").write_text("\n".join(lines), encoding="utf-8")
    text = TextSettings(source=str(root / "corpus.csv"))
    settings = RunRecordSettings(block=16, tokens=600, residual=True)
    run = Run.create(root / "before" / "run", ModelSettings(source=str(root / "model")), text, settings)
    record_run(run, model, text.load()[0], progress=False)
    return run


def identify(folder):
    identify_run(Run.open(folder / "run"), "lape", LAPE)


def perturb(folder):
    perturb_run(Run.open(folder / "run"), model, "lape", corpus=None, **MEASURED)


def perturb_random(folder):
    identify_run(Run.open(folder / "run"), "random", {"top_fraction": 0.3})
    perturb_run(Run.open(folder / "run"), model, "random", corpus=None, **MEASURED)


def align(folder):
    align_run(Run.open(folder / "run"), AlignSettings(samples=4, max_tokens=20, threshold=0.5))


def compare(folder):
    settings = CompareSettings(methods=["lape", "random"], budget=0.1, seeds=1, tokens=60, block=16)
    compare_run(Run.open(folder / "run"), model, settings, progress=False)


def experts(folder):
    run = Run.open(folder / "run")
    settings = ExpertSettings(experts=4, kind="contiguous", top=[0.3])
    record_experts(run, model, run.manifest.text.load()[0], settings, progress=False)


def prune(folder):
    run = Run.open(folder / "run")
    prune_run(run, model, ["fr"], [("share", 0.5)], samples=2, seeds=1, path=folder / "pruned")


def steer(folder):
    run = Run.open(folder / "run")
    recipe = ng.steer(run.recording, run.neurons("lape"), "fr", site="hidden", method="scale", strength=2.0)
    recipe.save(folder / "recipe.safetensors")
    recipe.bake(model, folder / "baked")


def answer(folder):
    run = Run.open(folder / "run")
    (folder / "asked").mkdir(exist_ok=True)
    for tag in ("en", "fr"):
        (folder / "asked" / f"{tag}.txt").write_text("le chat\n", encoding="utf-8")
    how = SteeringSettings(
        prompts=str(folder / "asked"), sources=["en"], targets=["fr"], limit=1, conditions=("intact", "both"),
        generation=Generation(tokens=2),
    )  # fmt: skip
    steer_run(run, run.recording, how)


def lens(folder):
    run = Run.open(folder / "run")
    lens_run(run, model, LensSettings(tokens=60, block=16, share=0.6, least=1), progress=False)


def export(folder):
    recipe = ng.steer(Run.open(folder / "run").recording, to="fr", method="diffmean", layers=[1])
    recipe.save(folder / "direction.safetensors")
    recipe.export(folder / "direction.gguf")


def prune_compensated(folder):
    run = Run.open(folder / "run")
    text = run.manifest.text.load()[0]
    keep = torch.arange(24).expand(3, 24) < 12
    ng.prune(
        model, keep, folder / "refitted", text=text, language="fr", compensate="refit", vocabulary=True, tokens=200,
        progress=False,
    )  # fmt: skip


def write_report(folder):
    report(Run.open(folder / "run"))


def measure_evolution(folder):
    settings = EvolveSettings(samples=4, max_tokens=20, threshold=0.5, draws=2)
    sources = [str(folder.parent / "model")]
    evolve(sources, Run.open(folder / "run").manifest.text.load()[0], folder / "evolution", settings=settings)


def tune_on(folder):
    pairs = [Pair(f"say {i}", f"le {i}") for i in range(4)]
    tune(tiny.model(), pairs, folder / "tuned", TuneSettings(epochs=1, batch=2), language="fr", progress=False)


COMMANDS = {
    "identify": identify, "perturb": perturb, "perturb random": perturb_random, "experts": experts, "prune": prune,
    "align": align, "compare": compare, "steer": steer, "answer": answer, "lens": lens, "export": export,
    "prune compensated": prune_compensated, "report": write_report, "evolve": measure_evolution,
    "tune": tune_on,
}  # fmt: skip
"""In an order in which each finds what it needs."""

NEEDS = {
    "perturb": ["identify"], "prune": ["experts"], "steer": ["identify"], "answer": ["identify"],
    "report": ["identify", "perturb", "experts"],
}  # fmt: skip
