"""A paper's study on several models, side by side: what the paper says of each item, and what each model shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neuroglot.errors import NeuroglotError
from neuroglot.storage.atomic import save_text
from neuroglot.storage.tables import save_table
from neuroglot.studies.page import TEMPLATES, agreement
from neuroglot.studies.study import Study, folder_name

__all__ = ["model_folders", "models_items", "models_page", "models_table"]


def model_folders(folder: Path, models: list[str]) -> dict[str, Path]:
    """Where each model's own study stands in `folder`: model → directory, named by the end of its name.

    Raises:
        NeuroglotError: one is given twice, or the names of two end alike.
    """
    named = {model: folder_name(model) for model in models}
    if len(set(named.values())) < len(models):
        raise NeuroglotError(
            f"Two of the models have one name ({', '.join(named.values())}): each is kept under the end of its name."
        )
    return {model: folder / name for model, name in named.items()}


def models_table(studies: Mapping[str, Study]) -> pd.DataFrame:
    """One row an item of the paper: `item`, `about`, `test`, and a column a model: agrees, does not agree, or why not.

    Args:
        studies: model → its study, all of one paper.
    """
    items = next(iter(studies.values())).paper["items"]
    columns: dict[str, list[str]] = {
        "item": [item.name for item in items],
        "about": [item.title for item in items],
        "test": [item.test for item in items],
    }
    for model, study in studies.items():
        columns[model] = [agreement(study.found(item, failed=True)) for item in items]
    return pd.DataFrame(columns)


def models_items(studies: Mapping[str, Study]) -> pd.DataFrame:
    """One row an item and a model: `item`, `model`, `verdict`, and `measured`, the sentences of the model's own page.

    Args:
        studies: model → its study, all of one paper.
    """
    rows = [
        {"item": item.name, "model": model, "verdict": agreement(kept), "measured": " ".join(kept["said"])}
        for item in next(iter(studies.values())).paper["items"]
        for model, study in studies.items()
        if (kept := study.found(item)) is not None
    ]
    return pd.DataFrame(rows, columns=["item", "model", "verdict", "measured"])


def models_page(folder: Path, studies: Mapping[str, Study]) -> Path:
    """Write `models.csv`, `items.csv` and `models.html` in `folder`, and give the page's path.

    The page is one section an item: the paper's words and test, then each model's verdict, sentences and first figure,
    which links to the model's own page.

    Args:
        folder: that holds the models' studies.
        studies: model → its study, all of one paper.
    """
    table = models_table(studies)
    save_table(folder / "models.csv", table)
    save_table(folder / "items.csv", models_items(studies))
    first = next(iter(studies.values()))
    items = [
        {"item": item, "models": {model: _shown(folder, study, item) for model, study in studies.items()}}
        for item in first.paper["items"]
    ]
    page = TEMPLATES.get_template("models.html").render(paper=first.paper, study=first, studies=studies, items=items)
    return save_text(folder / "models.html", page)


def _shown(folder: Path, study: Study, item: Any) -> dict[str, Any]:
    """A model's side of an item; paths are relative to the page."""
    kept = study.found(item, failed=True)
    where = study.path.relative_to(folder)
    figures = list(kept["figures"].values()) if kept else []
    return {
        "verdict": agreement(kept),
        "said": kept["said"] if kept else [],
        "failed": kept["failed"] if kept else "not asked for yet",
        "figure": str(where / "study" / figures[0]) if figures else None,
        "page": f"{where}/study.html#{item.key}",
    }
