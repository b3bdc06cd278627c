"""The whole path on a real model: from text to language neurons to proof, in a few minutes."""

import re
from pathlib import Path

import pytest

import neuroglot as ng

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.real
def test_the_readme_as_written(gemma, monkeypatch, capsys):
    """The README's program runs as it stands there, and shows what the README says it shows."""
    program = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL).group(1)
    monkeypatch.setattr(ng, "load_model", lambda name: gemma if name == "gemma3-270m" else None)  # opened already
    scope: dict = {}
    exec(compile(program, "README.md", "exec"), scope)

    neurons, matrix = scope["neurons"], scope["matrix"]
    assert int(neurons.union().sum()) == round(0.01 * 18 * 2048)
    others = [tag for tag in neurons.languages if tag != "en"]
    assert all(matrix.diagonal_dominant[tag] for tag in others)
    for tag in others:
        assert matrix.change.loc[tag, tag] > 0.3  # each own cell rises by far more than
        assert matrix.random_change.loc["mean", tag] < 0.2  # with random neurons
        assert matrix.change.loc[tag, "en"] < 0.1  # and English does not care
    printed = capsys.readouterr().out
    assert "layer" in printed and "fr" in printed
