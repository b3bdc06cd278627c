"""Bring the results of the papers' studies together: the pages of the models side by side, and the files behind them.

    python benchmarks/collect.py RUNS OUT

RUNS is where the commands of docs/claims.md wrote: `lape`, `lingua` and `babel` with a study a model, `variation` with
Figure 2 once more, and `training` with one study over checkpoints. What is missing is left out. OUT gets a directory a
paper: `models.csv` and `items.csv`, as `study --models` writes them, and each model's tables, answers not.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from neuroglot.studies.models import models_page
from neuroglot.studies.page import agreement
from neuroglot.studies.registry import STUDIES
from neuroglot.studies.study import Study

PAPERS = {"lape": "lape", "lingua": "lingua-franca", "babel": "babel"}
MODELS = ["gemma3-270m", "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"]
OVER_SIZES = "figure-7"  # of the models that the settings name, whichever model's study it stands in
EXAMPLES = {"lape": ["table-2.csv", "figure-3-*.csv"], "lingua-franca": ["table-2.csv", "figure-7.csv"], "babel": []}
"""What is not copied beside answers: texts to read, and what stands in another file too."""


def opened(folder: Path, paper: str) -> Study:
    """The study that was kept in a folder."""
    settings = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    del settings["study"]
    return STUDIES[paper](folder, STUDIES[paper].Settings.model_validate(settings))


def copy_tables(study: Path, out: Path, without: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for table in sorted((study / "study").glob("*.csv")):
        if not any(table.match(pattern) for pattern in ["*-answers.csv", *without]):
            shutil.copyfile(table, out / table.name)


def said(folder: Path, paper: str, key: str) -> tuple[str, str, str]:
    """An item's name, verdict and sentences."""
    study = opened(folder, paper)
    item = next(item for item in study.paper["items"] if item.key == key)
    kept = study.found(item)
    return item.name, agreement(kept), " ".join(kept["said"] if kept else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    over_models = []
    for name, paper in PAPERS.items():
        studies = {model: asked.runs / name / model for model in MODELS if (asked.runs / name / model).is_dir()}
        if not studies:
            continue
        models_page(asked.runs / name, {model: opened(folder, paper) for model, folder in studies.items()})
        for model, folder in studies.items():
            copy_tables(folder, asked.out / paper / model, EXAMPLES[paper])
            if name == "lingua" and (folder / "study" / f"{OVER_SIZES}.json").is_file():
                over_models.append(("sizes", folder, OVER_SIZES))
        for table in ("models.csv", "items.csv"):
            shutil.copyfile(asked.runs / name / table, asked.out / paper / table)
    rows = []
    for folder in (asked.runs / "variation" / model for model in MODELS):
        if folder.is_dir():
            shutil.copyfile(folder / "study" / "figure-2-pv.csv", asked.out / "lape" / folder.name / "figure-2-pv.csv")
            item, _, sentences = said(folder, "lape", "figure-2")
            rows.append({"item": item, "model": folder.name, "measured": sentences[sentences.index("PV:") :]})
    pd.DataFrame(rows, columns=["item", "model", "measured"]).to_csv(asked.out / "lape" / "pv.csv", index=False)
    over_models += [("training", asked.runs / "training", key) for key in ("figure-4", "figure-5")]
    rows = []
    for where, folder, key in over_models:
        if folder.is_dir():
            (asked.out / "lingua-franca" / where).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / "study" / f"{key}.csv", asked.out / "lingua-franca" / where / f"{key}.csv")
            item, verdict, sentences = said(folder, "lingua-franca", key)
            rows.append({"item": item, "over": where, "verdict": verdict, "measured": sentences})
    rows.sort(key=lambda row: row["item"])
    pd.DataFrame(rows, columns=["item", "over", "verdict", "measured"]).to_csv(
        asked.out / "lingua-franca" / "over-models.csv", index=False
    )


if __name__ == "__main__":
    main()
