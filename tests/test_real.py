"""The whole path on a real model: from text to language neurons to proof, in a few minutes."""

import re
from pathlib import Path

import pytest

import neuroglot as ng
from neuroglot.models.architecture.families import declared
from neuroglot.models.architecture.find import discovered
from neuroglot.models.architecture.proof import prove

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.real
@pytest.mark.parametrize("whole", [pytest.param(True, marks=pytest.mark.long), False])
def test_the_readme_as_written(gemma, monkeypatch, capsys, whole):
    """The README's program runs as it stands there, or on a third of the text, and shows what the README says."""
    program = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL).group(1)
    if not whole:
        program, sizes = re.subn(r"tokens=([\d_]+)", lambda found: f"tokens={int(found[1]) // 3}", program)
        assert sizes == 3
    monkeypatch.setattr(ng, "load_model", lambda name: gemma if name == "gemma3-270m" else None)  # opened already
    scope: dict = {}
    exec(compile(program, "README.md", "exec"), scope)

    neurons, matrix = scope["neurons"], scope["matrix"]
    assert int(neurons.union().sum()) == round(0.01 * 18 * 2048)
    others = [tag for tag in neurons.languages if tag != "en"]
    assert all(matrix.diagonal_dominant[tag] for tag in others)
    for tag in others:
        on_target, random = matrix.change.loc[tag, tag], matrix.random_change.loc["mean", tag]
        assert on_target > 0.3 and on_target > 10 * random  # each own cell rises by far more than with random neurons
        assert random < 0.2 or not whole
        assert matrix.change.loc[tag, "en"] < 0.1  # and English does not care
    printed = capsys.readouterr().out
    assert "layer" in printed and "fr" in printed


@pytest.mark.real
@pytest.mark.parametrize("name", ["gemma3-270m", "smollm2-135m"])
def test_a_recording_through_discovery_has_the_bytes_of_the_declared_one(name, request, tmp_path):
    """Its family is declared; with that left aside, what is discovered gives the same file."""
    model = request.getfixturevalue("gemma") if name == "gemma3-270m" else ng.load_model(name)
    texts = ng.load_corpus("starter", languages=["en", "zh"])
    found = ng.Model(model.network, model.tokenizer, name=model.name)
    found.ffns = discovered(model.network)
    prove(model.network, found.ffns)
    assert declared(model.text_config.model_type) is not None
    for each, file in ((model, "declared"), (found, "discovered")):
        recording = ng.record(each, texts, tokens=130, block=64, examples=2, progress=False)
        recording.save(tmp_path / f"{file}.safetensors")
    assert (tmp_path / "declared.safetensors").read_bytes() == (tmp_path / "discovered.safetensors").read_bytes()
