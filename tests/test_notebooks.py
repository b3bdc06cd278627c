"""The notebooks in examples/ run from top to bottom, offline, and are kept without output."""

from pathlib import Path

import pytest
import tiny

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny model in the place of Gemma."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny.model(intermediate_size=256).save(path)
    return path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, checkpoint, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("NEUROGLOT_MODEL", str(checkpoint))
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), (
        "clear the outputs before you commit"
    )
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)  # a figure is drawn, not named
    assert not [output for output in shown if output.output_type == "error"]


def test_there_are_three_small_ones():
    assert len(NOTEBOOKS) == 3
    assert all(path.stat().st_size < 10_000 for path in NOTEBOOKS)
