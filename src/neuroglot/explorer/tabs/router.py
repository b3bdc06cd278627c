"""The tab of the routers of a native mixture of experts."""

import json
from typing import Any

from neuroglot.errors import NeuroglotError
from neuroglot.explorer.expert import Router, expert_page
from neuroglot.explorer.run_view import RunView, note
from neuroglot.explorer.widgets import _languages, _panel, _quiet, _text

NONE = ("nothing", "")


def _router(gr: Any, run_view: RunView) -> None:
    counted = run_view.experts
    assert counted is not None
    router = Router(run_view, counted)
    _text(gr, f"<p>The router chooses {counted.chosen} experts a token. How often each is chosen, by layer:</p>")
    tags = _languages(router.languages)
    with gr.Row():
        language = gr.Dropdown(tags, value=router.languages[0], label="Language", elem_id="router-language")
        other = gr.Dropdown([NONE, *tags], value="", label="Less", elem_id="router-other")
    panel = _panel(gr, "router-plot", router.plot(router.languages[0]))
    with gr.Row():
        layer = gr.Number(router.numbers[0], label="Layer, from 1", minimum=1, precision=0)
        number = gr.Number(0, label="Expert, from 0", minimum=0, precision=0)
        show = gr.Button("Open expert", elem_id="open-expert")
    page = _text(gr, "<p class='small'>Choose a cell, or type its numbers.</p>", elem_id="expert-page")

    def draw(language: str, other: str) -> str:
        return json.dumps(router.plot(language, other or None))

    def of_number(layer: float, number: float) -> str:
        try:
            return expert_page(router.expert(int(layer or 0) - 1, int(number or 0)))
        except NeuroglotError as error:
            return note(str(error))

    def of_cell(event: gr.EventData) -> tuple[Any, ...]:
        at, which = int(event.y), int(str(event.x).split("–")[0])
        return of_number(at, which), at, which

    of_cell.__annotations__["event"] = gr.EventData
    for control in (language, other):
        control.change(draw, [language, other], panel, **_quiet(trigger_mode="always_last"))
    panel.click(of_cell, None, [page, layer, number], **_quiet())
    gr.on([show.click, layer.submit, number.submit], of_number, [layer, number], page, **_quiet())
