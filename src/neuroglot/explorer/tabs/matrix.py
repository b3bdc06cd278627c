"""The tab of the perplexity-change matrix."""

import json
from html import escape
from typing import Any

from neuroglot.explorer.matrix import matrices, measured, sentences
from neuroglot.explorer.run_view import RunView, drawn, note
from neuroglot.explorer.widgets import _methods, _panel, _quiet, _text
from neuroglot.identify.registry import title as method_title


def _matrix(gr: Any, run_view: RunView) -> None:
    results = measured(run_view)
    if not results:
        _text(gr, note("No perplexity-change matrix was measured yet:", run_view.command("perturb {run}")))
        return
    names = list(results)
    _text(
        gr,
        "<p>Row: the language whose neurons, or heads, are set to zero. Column: the language whose held-out perplexity "
        "is measured. Framed: a language’s own. Colours mean the same in all matrices.</p>",
    )
    chosen = gr.CheckboxGroup(_methods(names), value=names, label="Methods", visible=len(names) > 1)
    panels, texts, columns = [], [], []
    plots = matrices(results, names)
    with gr.Row():
        for name, plot in zip(names, plots, strict=True):
            with gr.Column(min_width=520) as column:
                _text(gr, f"<h3>{escape(method_title(name))}</h3>")
                panels.append(_panel(gr, f"matrix-{escape(name.replace(' ', '-'))}", plot))
                finished = name in run_view.run.manifest.perturb
                texts.append(_text(gr, drawn("findings.html", sentences=sentences(results[name], finished))))
            columns.append(column)

    def choose(methods: list[str]) -> list[Any]:
        kept = [name for name in names if name in methods]
        shown = dict(zip(kept, matrices(results, kept), strict=True))
        return [gr.update(visible=name in kept) for name in names] + [
            json.dumps(shown.get(name, plot)) for name, plot in zip(names, plots, strict=True)
        ]

    chosen.change(choose, chosen, [*columns, *panels], **_quiet())
