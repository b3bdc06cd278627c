"""A run with something in every tab of the explorer: a tiny random model, on text that would like to be markup."""

import base64
import csv
from pathlib import Path

import numpy as np
import pandas as pd
import tiny

import neuroglot as ng
from neuroglot.recording.record_samples import record_samples
from neuroglot.run.directory import Run
from neuroglot.run.recording import record_run
from neuroglot.run.settings import AlignSettings, ExpertSettings, ModelSettings, RunRecordSettings, TextSettings
from neuroglot.storage.tables import save_table

EVIL = "<script>window.hacked=1</script><img src=x onerror=window.hacked=2> {{value}} ${window.hacked=3}"
LANGUAGES = ("en", "zh", "ur")


def texts(documents: int = 60) -> dict[str, list[str]]:
    return {
        "en": [f"the {i} cats {EVIL if i % 3 == 0 else 'sat on the mat'}" for i in range(documents)],
        "zh": [f"第{i}只猫坐在垫子上{EVIL if i % 3 == 0 else '睡着了'}" for i in range(documents)],
        "ur": [f"{i} بلیاں چٹائی پر بیٹھی تھیں {EVIL if i % 3 == 0 else 'اور سو گئیں'}" for i in range(documents)],
    }


def checkpoint(folder: Path) -> Path:
    tiny.model(intermediate_size=32, max_position_embeddings=256).save(folder)
    return folder


def settings(folder: Path) -> tuple[ModelSettings, TextSettings, RunRecordSettings]:
    corpus = folder / "corpus.csv"
    columns = texts()
    with corpus.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", *LANGUAGES])
        writer.writerows([f"<b>{i}</b>", *row] for i, row in enumerate(zip(*columns.values(), strict=True)))
    recording = RunRecordSettings(block=32, examples=3, experts=ExpertSettings(experts=4, kind="contiguous"))
    return ModelSettings(source=str(checkpoint(folder / "model"))), TextSettings(source=str(corpus)), recording


def make(folder: Path) -> Run:
    """Record, identify twice, perturb, align, and what pruning would have measured."""
    model_settings, text, recording = settings(folder)
    run = Run.create(folder / "run", model_settings, text, recording)
    model = model_settings.load()
    to_record, held_out = text.load()
    made = record_run(run, model, to_record, progress=False)
    for method, found in {
        "lape": ng.identify.lape(made, top_fraction=0.3, activity_quantile=0.5),
        "lap": ng.identify.lap(made, threshold=0.6),
    }.items():
        found.save(run.neurons_path(method))
        run.manifest.identify[method] = {}
        ng.evaluate.perturb(
            model, held_out, found, tokens=200, block=32, seeds=2, resume=run.perturbation_path(method), progress=False
        )
        run.manifest.perturb[method] = {"tokens": 200}
    record_samples(model, to_record, samples=6, max_tokens=100, directory=run.samples_path, progress=False)
    run.manifest.align = AlignSettings(samples=6, max_tokens=100)
    run.manifest.prune = {"samples": 4, "seeds": 2}
    rows = [
        {"choice": choice, "language": tag, "proportion": share, "random": 90.0, "random_std": 5.0, "experts": value,
         "original": 20.0}
        for tag in ("en", "zh")
        for choice, share, value in (("threshold 0.05", 0.5, 40.0), ("budget 0.1 by magnitude", 0.9, 22.0))
    ]  # fmt: skip
    save_table(run.path / "experts" / "pruning.csv", pd.DataFrame(rows))
    run.save()
    return run


def unpacked(values):
    """The numbers of a plot, as the page holds them."""
    flat = np.frombuffer(base64.b64decode(values["bdata"]), dtype="<f4")
    return flat.reshape([int(size) for size in values["shape"].split(", ")])
