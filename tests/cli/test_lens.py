"""`neuroglot lens`, of a run and of a model."""

import shutil

from commands import neuroglot, refused


def test_a_run_and_a_model(recorded, checkpoint, corpus, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(recorded, tmp_path / "run")
    printed = neuroglot("lens", run, "--tokens", 400, "--top", 2)
    assert "layer" in printed and "middle third" in printed
    neuroglot("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Latent language" in page and (run / "tables" / "lens.csv").is_file()
    neuroglot("lens", checkpoint, "--corpus", corpus, "--out", tmp_path / "alone", "--tokens", 400, "--top", 2)
    names = [tmp_path / "alone" / "tables" / "lens.csv", run / "tables" / "lens.csv"]
    assert names[0].read_bytes() == names[1].read_bytes()  # the same model on the same text
    assert "has its own text" in refused(monkeypatch, capsys, "lens", run, "--corpus", corpus)
    assert "needs text and a folder" in refused(monkeypatch, capsys, "lens", checkpoint)
