"""The commands that write, each as a step of a run, in a form small enough to be run hundreds of times."""

import os
from contextlib import contextmanager

import gguf_files
import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.instructions import Pair
from neuroglot.edit.training import TuneSettings
from neuroglot.edit.tuning import tune
from neuroglot.evaluate.benchmarks.harness import load_tasks
from neuroglot.evaluate.fixing import trials
from neuroglot.evaluate.steering.clas import write_clas
from neuroglot.evaluate.steering.forcing import Generation
from neuroglot.pruning.gguf import prune_gguf
from neuroglot.report.page import report
from neuroglot.run.alignment import align_run
from neuroglot.run.comparison import CompareSettings, compare_run
from neuroglot.run.directory import Run
from neuroglot.run.evolution import EvolveSettings, evolve
from neuroglot.run.experts import record_experts
from neuroglot.run.fixing import FixSettings, fix_run
from neuroglot.run.identification import identify_run
from neuroglot.run.lens import lens_run
from neuroglot.run.pair import PairSettings, pair_runs
from neuroglot.run.perturbation import perturb_run
from neuroglot.run.pruning import prune_run, rank_experts
from neuroglot.run.recording import record_run
from neuroglot.run.settings import (
    AlignSettings,
    ExpertSettings,
    LensSettings,
    ModelSettings,
    RunRecordSettings,
    TextSettings,
)
from neuroglot.run.shrinking import ShrinkSettings, shrink
from neuroglot.run.steering import SteeringSettings, save_recipes, steer_run
from neuroglot.run.tasks import tasks_of_run

LAPE = {"top_fraction": 0.3, "activity_quantile": 0.5}
MEASURED = {"tokens": 60, "block": 16, "seeds": 1}
SHRUNK = {"share": 0.9, "tokens": 300, "characters": 300}
model = tiny.model(max_position_embeddings=1024)  # which tasks' questions need


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
    tuned = tiny.model(seed=1)
    tuned.save(root / "tuned model")
    other = Run.create(root / "before" / "other", ModelSettings(source=str(root / "tuned model")), text, settings)
    record_run(other, tuned, text.load()[0], progress=False)
    gguf_files.write(root / "tiny.gguf", "llama", gguf_files.network("llama"))
    return run


@contextmanager
def cache(path):
    """Conversions are kept there."""
    before = os.environ.get("NEUROGLOT_CACHE")
    os.environ["NEUROGLOT_CACHE"] = str(path)
    try:
        yield
    finally:
        del os.environ["NEUROGLOT_CACHE"]
        if before is not None:
            os.environ["NEUROGLOT_CACHE"] = before


def imports(names):
    """Import here what takes a command seconds, so that the processes which are forked need not."""
    if "report" in names:
        import plotly  # noqa: F401
    if {"tune", "tune adapter", "heal"} & set(names):
        from transformers import Trainer  # noqa: F401
    if "tasks" in names:
        load_tasks(["smoke_xcsqa_fr"], data_dir=None)


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


def prune_gguf_file(folder):
    keep = torch.arange(24).expand(3, 24) < 12
    prune_gguf(folder.parent / "tiny.gguf", keep, folder / "pruned.gguf")


def rank(folder):
    rank_experts(Run.open(folder / "run"), model, "fr", "magnitude", folder / "ranking.jsonl")


def write_mixture(folder):
    text = Run.open(folder / "run").manifest.text.load()[0]
    ng.experts.moefy(model, 3, 2, folder / "mixture", text=text, tokens=200, progress=False)


def write_shrunk(folder):
    text, held_out = Run.open(folder / "run").manifest.text.load()
    shrink(model, text, "fr", ShrinkSettings(**SHRUNK), folder / "shrunk", held_out=held_out, progress=False)


def heal(folder):
    """Of a GGUF file, healed, and written as one."""
    text, held_out = Run.open(folder / "run").manifest.text.load()
    how = ShrinkSettings(**SHRUNK, heal=300, batch=2, block=32, save_every=2)
    with cache(folder.parent / "cache"):
        opened = ng.load_model(folder.parent / "tiny.gguf")
        shrink(
            opened, text, "fr", how, folder / "healed", held_out=held_out, gguf=folder / "healed.gguf", progress=False
        )


def convert(folder):
    with cache(folder / "cache"):
        ng.load_model(folder.parent / "tiny.gguf")


def tune_adapter(folder):
    pairs = [Pair(f"say {i}", f"le {i}") for i in range(4)]
    how = TuneSettings(epochs=1, batch=2, adapter=2)
    tune(tiny.model(), pairs, folder / "adapter", how, language="fr", progress=False)


def pair(folder):
    runs = Run.open(folder / "run"), Run.open(folder / "other")
    how = PairSettings(budget=0.1, tokens=60, block=16, seeds=1, steer=60)
    pair_runs(*runs, runs[1].load_model(), how, progress=False)


def tasks(folder):
    how = {"limit": 2, "fewshot": None, "batch_size": 8, "seed": 1234, "data_dir": None}
    tasks_of_run(Run.open(folder / "run"), ["smoke_xcsqa_fr"], how, method="lape", off=["fr"], prune=[], rules=[],
                 seeds=1)  # fmt: skip


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
    done = steer_run(run, run.recording, how)
    save_recipes(done, run, run.recording, "lape", folder / "recipes")
    write_clas(done.answers, folder / "clas")


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


def fix(folder):
    """Of a tiny model that writes what can be judged: French where neurons are off, and elsewhere English, often."""

    def write(model, prompts, recipes=None, **settings):
        sentences = "The cat sleeps near the window.", "Le chat dort près de la fenêtre."
        return [sentences[place % 3 == 0 or recipe is not None] for place, recipe in enumerate(recipes)]

    trials.generate = write  # the process ends with this step
    (folder / "asked to fix").mkdir(exist_ok=True)
    (folder / "asked to fix" / "fr.txt").write_text("\n".join(f"le chat {i}" for i in range(6)), encoding="utf-8")
    run = Run.open(folder / "run")
    how = FixSettings(
        to="fr", avoided=("en",), prompts=(str(folder / "asked to fix"),), methods=("ablation", "head rows"),
        max_cost=1, tokens=60, counted=200,
    )  # fmt: skip
    fix_run(run, model, how, folder / "fixed", progress=False)[0].recipe.bake(model, folder / "remedied")


COMMANDS = {
    "identify": identify, "perturb": perturb, "perturb random": perturb_random, "experts": experts, "prune": prune,
    "rank": rank, "align": align, "compare": compare, "pair": pair, "steer": steer, "answer": answer, "lens": lens,
    "tasks": tasks, "export": export, "prune compensated": prune_compensated, "prune gguf": prune_gguf_file,
    "moefy": write_mixture, "shrink": write_shrunk, "heal": heal, "convert": convert, "report": write_report,
    "evolve": measure_evolution, "tune": tune_on, "tune adapter": tune_adapter, "fix": fix,
}  # fmt: skip
"""In an order in which each finds what it needs."""

NEEDS = {
    "perturb": ["identify"], "prune": ["experts"], "rank": ["experts"], "steer": ["identify"], "answer": ["identify"],
    "tasks": ["identify"], "report": ["identify", "perturb", "experts"],
}  # fmt: skip
