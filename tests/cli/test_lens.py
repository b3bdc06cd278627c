"""`neuroglot lens`, of a run and of a model."""

import shutil

from commands import neuroglot, refused

from neuroglot.evaluate.likelihood.lens import Lens


def test_a_run_and_a_model(recorded, checkpoint, corpus, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(recorded, tmp_path / "run")
    printed = neuroglot("lens", run, "--tokens", 400, "--top", 2)
    assert "layer" in printed and "Left out, for some or all texts" in printed
    neuroglot("lens", checkpoint, "--corpus", corpus, "--out", tmp_path / "alone", "--tokens", 400, "--top", 2)
    assert (tmp_path / "alone" / "tables" / "lens.csv").is_file()
    alone, of_run = (
        Lens.load(path) for path in (tmp_path / "alone" / "lens.safetensors", run / "lens/lens.safetensors")
    )
    assert alone.frame().equals(of_run.frame())  # the same model on the same text
    assert "has its own model, text and folder" in refused(monkeypatch, capsys, "lens", run, "--corpus", corpus)
    assert "needs text and a folder" in refused(monkeypatch, capsys, "lens", checkpoint)
