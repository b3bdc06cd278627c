"""The tab of pruning."""

from typing import Any

from neuroglot.explorer.pruning import choices, command, pruning_plot
from neuroglot.explorer.pruning import table as pruning_measured
from neuroglot.explorer.run_view import RunView, drawn, note
from neuroglot.explorer.widgets import _panel, _quiet, _text
from neuroglot.languages.tags import language_name


def _pruning(gr: Any, run_view: RunView) -> None:
    table = pruning_measured(run_view)
    if table is None or table.empty:
        first = "experts {run}" if run_view.run.manifest.experts is None else "prune {run}"
        _text(gr, note("No pruning was measured yet:", run_view.command(first)))
        return
    options = choices(table)
    _text(gr, "<p>How large the model stays against how well it reads. Dotted: random experts, as many.</p>")
    panel = _panel(gr, "pruning-plot", pruning_plot(table))
    picked = gr.Dropdown(options, value=options[0], label="Point", elem_id="picked")
    words = _text(gr, _command(run_view, options[0]), elem_classes="command", elem_id="pruning-command")

    def of_point(event: gr.EventData) -> Any:
        return event.text if event.text in options else gr.skip()

    of_point.__annotations__["event"] = gr.EventData
    panel.click(of_point, None, picked, **_quiet())
    picked.change(lambda choice: _command(run_view, choice), picked, words, **_quiet())


def _command(run_view: RunView, picked: str) -> str:
    return drawn("command.html", command=command(run_view, picked), language=language_name(picked.rpartition(" · ")[2]))
