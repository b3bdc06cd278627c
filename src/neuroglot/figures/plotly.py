"""The one copy of Plotly that a page or the explorer needs."""

import base64
import gzip
import io
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image, ImageColor

from neuroglot.figures.screen import Plot

__all__ = ["embedded", "plotly_script", "preview", "script_of"]


def preview(plot: Plot) -> str:
    """A heatmap's cells as a PNG, a pixel each (base64): what can be shown before plotly.js has come."""
    trace = plot["data"][0]
    rows, columns = map(int, trace["z"]["shape"].split(","))
    values = np.frombuffer(base64.b64decode(trace["z"]["bdata"]), dtype="<f4").reshape(rows, columns)
    low, high = trace.get("zmin", np.nanmin(values)), trace.get("zmax", np.nanmax(values))
    places, colours = zip(*trace["colorscale"], strict=True)
    shade = np.clip((np.nan_to_num(values, nan=low) - low) / ((high - low) or 1.0), 0, 1)
    channels = np.array([ImageColor.getrgb(colour) for colour in colours], dtype=float)
    pixels = np.stack([np.interp(shade, places, channel) for channel in channels.T], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def script_of() -> Path:
    """Where plotly.js is; plotly itself, which brings it, is not imported."""
    found = find_spec("plotly")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "package_data" / "plotly.min.js"


@lru_cache(maxsize=1)
def plotly_script() -> str:
    """plotly.js, packed to a third of its size: gzip, base64."""
    return base64.b64encode(gzip.compress(script_of().read_bytes(), 9, mtime=0)).decode()


def embedded(choices: Mapping[str, Plot]) -> Markup:
    """Plots as JSON that can stand in a page: nothing in it ends the element it is in."""
    return Markup(
        json.dumps({"names": list(choices), "plots": list(choices.values())}, ensure_ascii=False, separators=(",", ":"))
        .replace("&", "\\u0026")
        .replace("<", "\\u003c")
    )
