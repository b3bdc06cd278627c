"""The tab of the neuron map."""

import json
from typing import Any

from neuroglot.explorer.neuron import describe_neuron, neuron_page
from neuroglot.explorer.neuron_map import Atlas
from neuroglot.explorer.run_view import RunView, note
from neuroglot.explorer.widgets import GO, _languages, _methods, _panel, _quiet, _text


def _atlas(gr: Any, run_view: RunView) -> None:
    if run_view.recording is None:
        how = run_view.run.manifest
        again = f"neuroglot record {how.model.source} {how.text.source} --out {run_view.run.path}"
        _text(gr, note("The recording is not finished yet. The command that began it goes on with it:", again))
        return
    atlas = Atlas(run_view)
    tags = _languages(atlas.languages)
    first, second = atlas.languages[0], atlas.languages[min(1, len(atlas.languages) - 1)]
    methods = _methods(run_view.neurons)
    chosen = methods[0][1] if methods else None
    with gr.Row():
        view = gr.Dropdown(atlas.views, value=atlas.views[0], label="Show", elem_id="atlas-view")
        language = gr.Dropdown(tags, value=first, label="Language", elem_id="atlas-language")
        other = gr.Dropdown(tags, value=second, label="Less, in differences", elem_id="atlas-other")
        method = gr.Dropdown(methods, value=chosen, label="Neurons of", visible=bool(methods))
    if not methods:
        _text(gr, note("No neurons were identified yet:", run_view.command("identify {run}")))
    panel = _panel(gr, "atlas-plot", atlas.plot(atlas.views[0], first, second))
    with gr.Row():
        layer = gr.Number(1, label="Layer, from 1", minimum=1, maximum=atlas.recording.layers, precision=0)
        number = gr.Number(0, label="Neuron, from 0", minimum=0, maximum=atlas.recording.neurons - 1, precision=0)
        show = gr.Button("Open neuron", elem_id="open-neuron")
    page = _text(
        gr,
        "<p class='small'>Choose a cell with a click, or with the arrow keys and Enter, or type its numbers.</p>",
        elem_id="neuron-page",
        js_on_load=GO,
    )

    def draw(view: str, language: str, other: str, method: str | None) -> str:
        return json.dumps(atlas.plot(view, language, other, method))

    def of_cell(view: str, language: str, other: str, method: str | None, event: gr.EventData) -> tuple[Any, ...]:
        at = int(event.y) - 1
        inside = atlas.of_cell(view, at, int(str(event.x).split("–")[0]), language, other, method)
        if not inside:
            return note("This layer has no neurons there."), at + 1, 0
        return neuron_page(describe_neuron(atlas, at, inside[0]), inside), at + 1, inside[0]

    def of_number(layer: float, number: float) -> str:
        at, which = int(layer or 0) - 1, int(number or 0)
        widths = atlas.recording.widths
        if not 0 <= at < len(widths):
            return note(f"Layers are 1 to {len(widths)}.")
        if not 0 <= which < widths[at]:
            return note(f"Layer {at + 1} has the neurons 0 to {widths[at] - 1}.")
        return neuron_page(describe_neuron(atlas, at, which))

    def of_button(event: gr.EventData) -> tuple[Any, ...]:
        return of_number(float(event.layer), float(event.neuron)), int(event.layer), int(event.neuron)

    for control in (view, language, other, method):
        control.change(draw, [view, language, other, method], panel, **_quiet(trigger_mode="always_last"))
    of_cell.__annotations__["event"] = of_button.__annotations__["event"] = gr.EventData
    panel.click(of_cell, [view, language, other, method], [page, layer, number], **_quiet())
    page.click(of_button, None, [page, layer, number], **_quiet())
    gr.on([show.click, layer.submit, number.submit], of_number, [layer, number], page, **_quiet())
