"""The tab of alignment."""

import json
from typing import Any

from neuroglot.explorer.alignment import Alignment
from neuroglot.explorer.run_view import RunView, note
from neuroglot.explorer.widgets import _languages, _panel, _quiet, _text
from neuroglot.languages.tags import named


def _alignment(gr: Any, run_view: RunView) -> None:
    if run_view.samples is None:
        _text(gr, note("No parallel samples were recorded yet:", run_view.command("align {run}")))
        return
    shown = Alignment(run_view)
    tags = shown.samples.languages
    scores, ses = shown.scores()
    with gr.Row():
        with gr.Column(min_width=480):
            _text(gr, "<p class='small'>LRDS: how much more alike one language is. SADS: one meaning. Bands: 95 %.</p>")
            _panel(gr, "scores", scores)
        if ses is not None:
            with gr.Column(min_width=480):
                _text(gr, "<p class='small'>SES: similarity of one meaning’s residual stream in two languages.</p>")
                _panel(gr, "ses", ses)
    layer = gr.Dropdown(shown.layers, value=shown.layers[shown.best], label="Similarity of", elem_id="alignment-layer")
    with gr.Row():
        with gr.Column(min_width=420):
            _text(gr, "<p class='small'>Every pair of languages; choose one to see its samples.</p>")
            overview = _panel(gr, "overview")
        with gr.Column(min_width=420):
            with gr.Row():
                first = gr.Dropdown(_languages(tags), value=tags[0], label="Rows")
                second = gr.Dropdown(_languages(tags), value=tags[1 % len(tags)], label="Columns")
            pair = _panel(gr, "pair")
    with gr.Row():
        i = gr.Number(1, label="Row sample, from 1", minimum=1, maximum=len(shown.samples), precision=0)
        j = gr.Number(1, label="Column sample, from 1", minimum=1, maximum=len(shown.samples), precision=0)
        read = gr.Button("Read them")
    words = _text(gr, elem_id="sentences")

    def draw(layer: str, first: str, second: str) -> tuple[str, str]:
        return json.dumps(shown.overview(layer)), json.dumps(shown.pair(layer, first, second))

    def of_pair(event: gr.EventData) -> tuple[str, str]:
        return next(tag for tag in tags if named(tag) == event.y), event.x

    def of_cell(first: str, second: str, event: gr.EventData) -> tuple[Any, ...]:
        row, column = int(event.y), int(event.x)
        return shown.sentences(first, second, row, column), row, column

    def of_numbers(first: str, second: str, i: float, j: float) -> str:
        if not (1 <= int(i or 0) <= len(shown.samples) and 1 <= int(j or 0) <= len(shown.samples)):
            return note(f"Samples are 1 to {len(shown.samples)}.")
        return shown.sentences(first, second, int(i), int(j))

    of_pair.__annotations__["event"] = of_cell.__annotations__["event"] = gr.EventData
    inputs, outputs = [layer, first, second], [overview, pair]
    gr.on([layer.change, first.change, second.change], draw, inputs, outputs, **_quiet(trigger_mode="always_last"))
    overview.click(of_pair, None, [first, second], **_quiet())
    pair.click(of_cell, [first, second], [words, i, j], **_quiet())
    gr.on([read.click, i.submit, j.submit], of_numbers, [first, second, i, j], words, **_quiet())
    app = gr.context.Context.root_block
    app.load(draw, inputs, outputs, **_quiet())  # after the first paint, since it reads every vector
