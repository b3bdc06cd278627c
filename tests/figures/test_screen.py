"""Figures for screens: values in a page, their preview, and colours that a reader can tell apart."""

import base64
import io
import json

import exhibit
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from neuroglot.figures import style
from neuroglot.figures.plotly import embedded, preview
from neuroglot.figures.screen import heatmap


def test_a_preview_has_a_pixel_a_cell():
    plot = heatmap(np.array([[0.0, 1.0, np.nan], [0.5, 0.0, 1.0]]), x=[1, 2, 3], y=[1, 2], hover="", low=0, high=1)
    with Image.open(io.BytesIO(base64.b64decode(preview(plot)))) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (2, 3, 3)
    assert pixels[0, 0].tolist() == [0xFF, 0xFF, 0xD9] and pixels[0, 1].tolist() == [0x08, 0x1D, 0x58]
    assert pixels[1, 0].sum() < pixels[0, 0].sum() and pixels[0, 2].tolist() == pixels[0, 0].tolist()


def test_figures_in_fewer_colours_keep_rare_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "DPI", 160)
    figure = Figure(figsize=(4, 3))
    values = np.random.default_rng(0).normal(0, 0.05, (40, 60))
    values[3, 5], values[9, 50] = 1, -1
    figure.subplots().imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    figure.savefig(tmp_path / "whole.png", dpi=160)
    png, _ = style.save_figure(figure, tmp_path, "reduced")
    with Image.open(tmp_path / "whole.png") as whole, Image.open(png) as reduced:
        apart = np.asarray(whole.convert("RGB")).astype(int) - np.asarray(reduced.convert("RGB"))
        assert whole.size == reduced.size and np.abs(apart).max() <= 8  # of 255
    assert png.stat().st_size < (tmp_path / "whole.png").stat().st_size


@pytest.mark.parametrize("layout", ["constrained", None])
def test_a_saved_figure_keeps_its_layout_and_another_save_gives_the_same_bytes(tmp_path, layout):
    figure = Figure(figsize=(3, 2), layout=layout)
    for axes in figure.subplots(1, 2):
        axes.set(title="a title", ylabel="a label", xlabel="another")
    engine = figure.get_layout_engine()
    one = [path.read_bytes() for path in style.save_figure(figure, tmp_path, "one")]
    assert figure.get_layout_engine() is engine
    assert [path.read_bytes() for path in style.save_figure(figure, tmp_path, "two")] == one
    figure.savefig(tmp_path / "whole.png", dpi=style.DPI, metadata={"Software": None})
    style._reduce(tmp_path / "whole.png")
    assert (tmp_path / "whole.png").read_bytes() == one[0]


def test_embedded_json_cannot_end_its_element():
    plot = heatmap(np.array([[1.0, np.nan]]), x=["</script><b>", "&lt;"], y=["é"], hover="<!--")
    page = embedded({"<!-- a": plot})
    assert "<" not in page and "&" not in page
    assert json.loads(page)["plots"][0]["data"][0]["x"][0] == "</script><b>"
    assert np.isnan(exhibit.unpacked(json.loads(page)["plots"][0]["data"][0]["z"])[0, 1])
