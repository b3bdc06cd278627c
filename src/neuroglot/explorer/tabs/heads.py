"""The tab of the attention heads."""

import json
from typing import Any

from neuroglot.explorer.heads import HeadMap
from neuroglot.explorer.run_view import RunView, note
from neuroglot.explorer.widgets import _languages, _panel, _quiet, _text

NONE = ("nothing", "")


def _heads(gr: Any, run_view: RunView) -> None:
    heads = HeadMap(run_view)
    _text(
        gr,
        "<p>A head is active on a token where it adds more to the residual stream than the heads of its layer do on "
        "average. Pointing at a head says in whose sets it is.</p>",
    )
    tags = _languages(heads.languages)
    with gr.Row():
        language = gr.Dropdown(tags, value=heads.languages[0], label="Language", elem_id="heads-language")
        other = gr.Dropdown([NONE, *tags], value="", label="Less", elem_id="heads-other")
    panel = _panel(gr, "heads-plot", heads.plot(heads.languages[0]))
    if not heads.sets:
        _text(gr, note("No heads were identified yet:", run_view.command("identify {run} --units heads")))

    def draw(language: str, other: str) -> str:
        return json.dumps(heads.plot(language, other or None))

    for control in (language, other):
        control.change(draw, [language, other], panel, **_quiet(trigger_mode="always_last"))
