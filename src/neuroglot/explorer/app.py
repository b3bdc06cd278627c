"""The explorer: five tabs over a run, in the browser. Thin: what is shown is made in the file of each tab."""

import json
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.errors import NeuroglotError
from neuroglot.explorer.alignment import Alignment
from neuroglot.explorer.atlas import Atlas
from neuroglot.explorer.lab import Answer, answer_panel, answers, lab_recipe
from neuroglot.explorer.matrix import matrices, measured, sentences
from neuroglot.explorer.neuron import describe_neuron, neuron_page
from neuroglot.explorer.opened import Opened, drawn, note
from neuroglot.explorer.pruning import choices, command, pruning_plot
from neuroglot.explorer.pruning import table as pruning_measured
from neuroglot.languages import language_name
from neuroglot.model import Model
from neuroglot.report.screen import FONTS, Plot, named, preview, script_of
from neuroglot.run import Run
from neuroglot.steering import METHODS, layer_numbers

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["build", "explore"]

PORT = 7860
GO = """
element.addEventListener("click", (event) => {
  const button = event.target.closest(".go");
  if (button) trigger("click", { layer: button.dataset.layer, neuron: button.dataset.neuron });
});
"""


def explore(
    run: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = PORT,
    browser: bool = False,
    model: Model | None = None,
    block: bool = True,
) -> str:
    """Show a run in the browser.

    Args:
        run: its directory.
        host: where to listen; by default only this machine can connect.
        port: by default 7860; None takes any free one.
        browser: open a browser window.
        model: the run's, if it is open already; by default the Lab opens it when it is first asked.
        block: stay until interrupted.

    Returns:
        The address.

    Raises:
        NeuroglotError: there is no run, Gradio is not installed, or the port is taken.
    """
    app = build(Opened(Run.open(run), model))
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            prevent_thread_lock=not block,
            quiet=not block,
            share=False,
            ssr_mode=False,
            footer_links=[],
            enable_monitoring=False,
            allowed_paths=[],
            max_file_size=1,  # byte: nothing is to be uploaded
            show_error=True,
            theme=_theme(),
            head=f'<link rel="preload" as="script" href="{_script()}">',  # so that it comes with the app's own scripts
            css=files("neuroglot.explorer").joinpath("style.css").read_text(encoding="utf-8"),
        )
    except OSError as error:
        raise NeuroglotError(f"Nothing can listen at {host}:{port} ({error}); choose another --port.") from error
    return str(address)


def _gradio() -> Any:
    if find_spec("gradio") is None:
        raise NeuroglotError('The explorer needs Gradio: pip install "neuroglot[explore]".')
    import gradio

    return gradio


def _script() -> str:
    return f"gradio_api/file={script_of()}"


def _theme() -> Any:
    gr = _gradio()
    families = [name.strip().strip('"') for name in FONTS.split(",")]
    return gr.themes.Base(primary_hue="blue", font=families, font_mono=["ui-monospace", "Consolas", "monospace"])


def build(opened: Opened) -> "gr.Blocks":
    """The app of a run, not yet started.

    Raises:
        NeuroglotError: Gradio is not installed.
    """
    gr = _gradio()
    gr.set_static_paths([script_of()])  # the only file that is served beside the app's own
    manifest = opened.run.manifest
    with gr.Blocks(analytics_enabled=False, title=f"Neuroglot: {manifest.model.source}", fill_width=False) as app:
        about = f"{manifest.model.source} on {manifest.text.source}"
        gr.HTML(f"<h1>{escape(about)}</h1>", js_on_load=None)
        with gr.Tabs():
            for title, tab in (
                ("Atlas", _atlas),
                ("Lab", _lab),
                ("Matrix", _matrix),
                ("Alignment", _alignment),
                ("Pruning", _pruning),
            ):
                with gr.Tab(title, id=title.lower()):
                    tab(gr, opened)
    return app


def _panel(gr: Any, name: str, value: Plot | None = None, **more: Any) -> Any:
    """A figure; of a heatmap its cells at once, before plotly.js has come."""
    first = ""
    if value is not None and value["data"][0]["type"] == "heatmap":
        first = f'<img class="first" alt="" elementtiming="{name}" src="data:image/png;base64,{preview(value)}">'
    return gr.HTML(
        None if value is None else json.dumps(value),
        html_template=f'<div class="plot" tabindex="0" role="application" aria-label="{name}">{first}</div>',
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


def _quiet(**more: Any) -> dict[str, Any]:
    """Events that answer at once and are not offered as an API."""
    return {"api_visibility": "private", "show_progress": "hidden", **more}


# --- Atlas -----------------------------------------------------------------------------------------------------------


def _atlas(gr: Any, opened: Opened) -> None:
    if opened.recording is None:
        how = opened.run.manifest
        again = f"neuroglot record {how.model.source} {how.text.source} --out {opened.run.path}"
        _text(gr, note("The recording is not finished yet. The command that began it goes on with it:", again))
        return
    atlas = Atlas(opened)
    tags = _languages(atlas.languages)
    first, second = atlas.languages[0], atlas.languages[min(1, len(atlas.languages) - 1)]
    methods = list(opened.neurons)
    with gr.Row():
        view = gr.Dropdown(atlas.views, value=atlas.views[0], label="Show", elem_id="atlas-view")
        language = gr.Dropdown(tags, value=first, label="Language", elem_id="atlas-language")
        other = gr.Dropdown(tags, value=second, label="Less, in differences", elem_id="atlas-other")
        method = gr.Dropdown(methods, value=methods[0] if methods else None, label="Neurons of", visible=bool(methods))
    if not methods:
        _text(gr, note("No neurons were identified yet:", opened.command("identify {run}")))
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
        return neuron_page(describe_neuron(atlas, at, inside[0]), inside), at + 1, inside[0]

    def of_number(layer: float, number: float) -> str:
        at, which = int(layer or 0) - 1, int(number or 0)
        if not (0 <= at < atlas.recording.layers and 0 <= which < atlas.recording.neurons):
            return note(f"Layers are 1 to {atlas.recording.layers}, neurons 0 to {atlas.recording.neurons - 1}.")
        return neuron_page(describe_neuron(atlas, at, which))

    def of_button(event: gr.EventData) -> tuple[Any, ...]:
        return of_number(float(event.layer), float(event.neuron)), int(event.layer), int(event.neuron)

    for control in (view, language, other, method):
        control.change(draw, [view, language, other, method], panel, **_quiet(trigger_mode="always_last"))
    of_cell.__annotations__["event"] = of_button.__annotations__["event"] = gr.EventData
    panel.click(of_cell, [view, language, other, method], [page, layer, number], **_quiet())
    page.click(of_button, None, [page, layer, number], **_quiet())
    gr.on([show.click, layer.submit, number.submit], of_number, [layer, number], page, **_quiet())


# --- Lab -------------------------------------------------------------------------------------------------------------


def _lab(gr: Any, opened: Opened) -> None:
    if opened.recording is None or not opened.neurons:
        _text(gr, note("The Lab needs neurons of a finished recording:", opened.command("identify {run}")))
        return
    recording = opened.recording
    methods = list(opened.neurons)
    tags = _languages(recording.languages)
    prompt = gr.Textbox(label="Prompt", lines=3, elem_id="prompt", placeholder="To be continued, or answered")
    with gr.Row():
        silence = gr.CheckboxGroup(tags, label="Silence", elem_id="silence")
        higher = gr.CheckboxGroup(tags, label="Raise", elem_id="raise")
    with gr.Row():
        found = gr.Dropdown(methods, value=methods[0], label="Neurons of")
        method = gr.Dropdown(list(METHODS), value="replace", label="Raised by")
        strength = gr.Slider(0.0, 10.0, value=1.0, step=0.1, label="Strength")
        layers = gr.Textbox(label="Layers", placeholder="all, or such as 1-3,16")
    with gr.Accordion("How it writes", open=False), gr.Row():
        site = gr.Dropdown(["activation", "hidden"], value="activation", label="Site")
        tokens = gr.Slider(1, 256, value=48, step=1, label="Tokens at most")
        temperature = gr.Slider(0.0, 2.0, value=0.0, step=0.1, label="Temperature, 0 is greedy")
        penalty = gr.Slider(1.0, 2.0, value=1.1, step=0.05, label="Repetition penalty")
        chat = gr.Checkbox(False, label="Chat template")
    with gr.Row():
        go = gr.Button("Answer", variant="primary", elem_id="answer")
        stop = gr.Button("Stop")
    state = _text(gr, elem_id="lab-state")
    with gr.Row():
        before = _text(gr, answer_panel(Answer("as it is", "", done=False)), elem_id="intact")
        after = _text(gr, answer_panel(Answer("edited", "", done=False)), elem_id="edited")

    def write(
        prompt: str, silence: list[str], higher: list[str], found: str, method: Any, strength: float, layers: str,
        site: Any, tokens: float, temperature: float, penalty: float, chat: bool,
    ) -> Iterator[tuple[str, str, str]]:  # fmt: skip
        blank = answer_panel(Answer("as it is", prompt)), answer_panel(Answer("edited", prompt))
        try:
            recipe = lab_recipe(
                recording, opened.neurons[found], silence, higher, method=method, strength=strength,
                layers=layer_numbers(layers.strip() or None, recording.layers), site=site,
            )  # fmt: skip
            steps = ", ".join(f"{type(step).__name__.lower()} {int(step.neurons.sum()):,}" for step in recipe.steps)
            said = f"<p class='small'>{escape(steps)} neurons</p>"
            if "model" not in opened.__dict__:
                yield "<p>Opening the model …</p>", *blank
            with opened.busy:
                how: dict[str, Any] = {
                    "tokens": int(tokens),
                    "temperature": temperature,
                    "repetition_penalty": penalty,
                    "chat": chat,
                }
                for one, two in answers(opened.model, recipe, prompt, languages=recording.languages, **how):
                    yield said, answer_panel(one), answer_panel(two)
        except NeuroglotError as error:
            yield note(str(error)), *blank

    inputs = [
        prompt, silence, higher, found, method, strength, layers, site, tokens, temperature, penalty, chat
    ]  # fmt: skip
    running = gr.on([go.click, prompt.submit], write, inputs, [state, before, after], **_quiet(concurrency_limit=1))
    stop.click(None, cancels=[running])


# --- Matrix ----------------------------------------------------------------------------------------------------------


def _matrix(gr: Any, opened: Opened) -> None:
    results = measured(opened)
    if not results:
        _text(gr, note("No perplexity-change matrix was measured yet:", opened.command("perturb {run}")))
        return
    names = list(results)
    _text(
        gr,
        "<p>Row: the language whose neurons are set to zero. Column: the language whose held-out perplexity is "
        "measured. Framed: a language’s own. Colours mean the same in all matrices.</p>",
    )
    chosen = gr.CheckboxGroup(names, value=names, label="Methods", visible=len(names) > 1)
    panels, texts, columns = [], [], []
    plots = matrices(results, names)
    with gr.Row():
        for name, plot in zip(names, plots, strict=True):
            with gr.Column(min_width=520) as column:
                _text(gr, f"<h3>{escape(name)}</h3>")
                panels.append(_panel(gr, f"matrix-{escape(name)}", plot))
                finished = name in opened.run.manifest.perturb
                texts.append(_text(gr, drawn("findings.html", sentences=sentences(results[name], finished))))
            columns.append(column)

    def choose(methods: list[str]) -> list[Any]:
        kept = [name for name in names if name in methods]
        shown = dict(zip(kept, matrices(results, kept), strict=True))
        return [gr.update(visible=name in kept) for name in names] + [
            json.dumps(shown.get(name, plot)) for name, plot in zip(names, plots, strict=True)
        ]

    chosen.change(choose, chosen, [*columns, *panels], **_quiet())


# --- Alignment -------------------------------------------------------------------------------------------------------


def _alignment(gr: Any, opened: Opened) -> None:
    if opened.samples is None:
        _text(gr, note("No parallel samples were recorded yet:", opened.command("align {run}")))
        return
    shown = Alignment(opened)
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


# --- Pruning ---------------------------------------------------------------------------------------------------------


def _pruning(gr: Any, opened: Opened) -> None:
    table = pruning_measured(opened)
    if table is None or table.empty:
        first = "experts {run}" if opened.run.manifest.experts is None else "prune {run}"
        _text(gr, note("No pruning was measured yet:", opened.command(first)))
        return
    options = choices(table)
    _text(gr, "<p>How large the model stays against how well it reads. Dotted: random experts, as many.</p>")
    panel = _panel(gr, "pruning-plot", pruning_plot(table))
    picked = gr.Dropdown(options, value=options[0], label="Point", elem_id="picked")
    words = _text(gr, _command(opened, options[0]), elem_classes="command", elem_id="pruning-command")

    def of_point(event: gr.EventData) -> Any:
        return event.text if event.text in options else gr.skip()

    of_point.__annotations__["event"] = gr.EventData
    panel.click(of_point, None, picked, **_quiet())
    picked.change(lambda choice: _command(opened, choice), picked, words, **_quiet())


def _command(opened: Opened, picked: str) -> str:
    return drawn("command.html", command=command(opened, picked), language=language_name(picked.rpartition(" · ")[2]))
