"""The parts that several tabs of the explorer are made of."""

import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from neuroglot.errors import require
from neuroglot.figures.plotly import preview, script_of
from neuroglot.figures.screen import Plot
from neuroglot.identify.registry import title as method_title
from neuroglot.languages.tags import named

GO = """
element.addEventListener("click", (event) => {
  const button = event.target.closest(".go");
  if (button) trigger("click", { layer: button.dataset.layer, neuron: button.dataset.neuron });
});
"""


def _gradio() -> Any:
    return require("gradio", "explore", needed_by="The explorer")


def _script() -> str:
    return f"gradio_api/file={script_of()}"


def _panel(gr: Any, name: str, value: Plot | None = None, **more: Any) -> Any:
    """A figure; of a heatmap its cells at once, before plotly.js has come."""
    first = ""  # the template is a language of its own: nothing from outside goes into it, the panel's name neither
    if value is not None and value["data"][0]["type"] == "heatmap":
        first = f'<img class="first" alt="" elementtiming="figure" src="data:image/png;base64,{preview(value)}">'
    return gr.HTML(
        None if value is None else json.dumps(value),
        html_template=f'<div class="plot" tabindex="0" role="application">{first}</div>',
        caption=name,
        js_on_load=files("neuroglot.explorer").joinpath("plot_panel.js").read_text(encoding="utf-8"),
        script=_script(),
        apply_default_css=False,
        elem_id=name,
        **more,
    )


def _text(gr: Any, value: str = "", **more: Any) -> Any:
    """Mark-up of ours, in which everything from outside is escaped."""
    return gr.HTML(value, **{"js_on_load": None, **more})


def _languages(tags: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(named(tag), tag) for tag in tags]


def _methods(names: Iterable[str]) -> list[tuple[str, str]]:
    """Choices of a dropdown: how a method is written, and its name."""
    return [(method_title(name), name) for name in names]


def _quiet(**more: Any) -> dict[str, Any]:
    """Events that answer at once and are not offered as an API."""
    return {"api_visibility": "private", "show_progress": "hidden", **more}
