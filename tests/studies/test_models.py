"""A paper's study on several models, side by side."""

from pathlib import Path

import pandas as pd
import pytest
import tiny
from commands import neuroglot, refused

from neuroglot.studies.models import model_folders
from neuroglot.studies.settings import preset

pytestmark = pytest.mark.slow


@pytest.fixture
def two(checkpoint, tmp_path):
    """Two checkpoints with different weights, and a settings file small enough for them."""
    tiny.model(seed=1).save(tmp_path / "other")
    text = preset("lape", "quick").replace("tokens = 2000", "tokens = 600").replace("block = 128", "block = 64")
    text = text.replace("top_fraction = 0.01", "top_fraction = 0.2").replace("quantile = 0.95", "quantile = 0.5")
    (tmp_path / "small.toml").write_text(text, encoding="utf-8")
    return str(checkpoint), str(tmp_path / "other"), str(tmp_path / "small.toml")


def test_models_stand_side_by_side_item_by_item(two, tmp_path):
    first, second, settings = two
    folder = tmp_path / "out"
    asked = ["study", "lape", "--settings", settings, "--only", "table-8", "-l", "en,fr,es", "--out", folder]
    printed = neuroglot(*asked, "--models", first, second)
    assert first in printed.replace("\n", "") or "models.html" in printed
    table = pd.read_csv(folder / "models.csv")
    assert list(table)[:3] == ["item", "about", "test"] and list(table)[3:] == [first, second]
    row = table.set_index("item").filter(like="Table", axis=0)
    assert set(row[first]) | set(row[second]) <= {"agrees", "does not agree", "no verdict", "not measured"}
    items = pd.read_csv(folder / "items.csv")
    assert list(items.model) == [first, second] and not items.measured.str.strip().eq("").any()
    assert list(items.verdict) == [row.loc[items.item[0], model] for model in (first, second)]
    page = (folder / "models.html").read_text(encoding="utf-8")
    for model, path in model_folders(folder, [first, second]).items():
        assert f">{Path(model).name}</a>" in page and model not in page and f'{path.name}/study.html#table-8"' in page
        assert (path / "study.html").is_file() and (path / "study" / "table-8.csv").is_file()
    assert "is there" not in printed
    again = neuroglot(*asked, "--models", f"{first},{second}")  # the other way to say it; everything is read
    assert again == printed


def test_what_cannot_be_laid_side_by_side_is_said(two, tmp_path, monkeypatch, capsys):
    first, second, _ = two
    assert "two or more" in refused(monkeypatch, capsys, "study", "lape", "--models", first, "--out", tmp_path / "out")
    assert "one name" in refused(
        monkeypatch, capsys, "study", "lape", "--models", f"{first},{first}", "--out", tmp_path / "out"
    )
    assert "follow --models" in refused(
        monkeypatch, capsys, "study", "lape", first, "starter", second, "--out", tmp_path / "out"
    )
    assert "goes with --models" in refused(
        monkeypatch, capsys, "study", "lape", first, "--corpus", "starter", "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_opened_is_said_once_and_nothing_is_written(two, tmp_path, monkeypatch, capsys):
    """Of every model, before the first is measured."""
    first, _, settings = two
    asked = ["study", "lape", "--settings", settings, "--out", tmp_path / "out"]
    gone = tmp_path / "gone.gguf"
    assert "gone.gguf" in refused(monkeypatch, capsys, *asked, "--models", first, gone)
    assert "'xx'" in refused(monkeypatch, capsys, *asked, "-l", "en,xx", first)
    assert "no study foo" in refused(monkeypatch, capsys, "study", "settings", "foo")
    assert not (tmp_path / "out").exists()


def test_nothing_measured_is_a_refusal(two, tmp_path, monkeypatch, capsys):
    first, _, _ = two
    said = refused(monkeypatch, capsys, "study", "babel", first, "--only", "table-4", "--out", tmp_path / "out")
    assert "Nothing was measured" in said and "mgsm.names" in said
