"""The tab of the lab."""

from collections.abc import Iterator
from contextlib import closing
from html import escape
from typing import Any

from neuroglot.artifacts.recording import RESIDUAL
from neuroglot.edit.interventions import described
from neuroglot.edit.steering import METHODS, layer_numbers
from neuroglot.errors import NeuroglotError
from neuroglot.explorer.lab import PROMPT, Answer, answer_panel, answers, lab_recipe
from neuroglot.explorer.run_view import WAITING, RunView, note
from neuroglot.explorer.widgets import _languages, _methods, _quiet, _text


def _lab(gr: Any, run_view: RunView) -> None:
    if run_view.recording is None or not run_view.neurons:
        _text(gr, note("The Lab needs neurons of a finished recording:", run_view.command("identify {run}")))
        return
    recording = run_view.recording
    methods = _methods(run_view.neurons)
    ways = [*METHODS, *(("diffmean", "sparse") if RESIDUAL in recording.sums else ())]
    tags = _languages(recording.languages)
    hint = "To be continued, or answered"
    prompt = gr.Textbox(label="Prompt", lines=3, elem_id="prompt", placeholder=hint, max_length=PROMPT)
    with gr.Row():
        silence = gr.CheckboxGroup(tags, label="Silence", elem_id="silence")
        higher = gr.CheckboxGroup(tags, label="Raise", elem_id="raise")
    with gr.Row():
        found = gr.Dropdown(methods, value=methods[0][1], label="Neurons of")
        method = gr.Dropdown(ways, value="replace", label="Raised by")
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
                recording, run_view.neurons[found], silence, higher, method=method, strength=strength,
                layers=layer_numbers(layers.strip() or None, recording.layers), site=site,
            )  # fmt: skip
            steps = ", ".join(described(step) for step in recipe.steps)
            said = f"<p class='small'>{escape(steps)}</p>"
            if len(prompt) > PROMPT:
                raise NeuroglotError(f"The prompt has {len(prompt):,} characters; the Lab takes at most {PROMPT:,}.")
            with closing(run_view.turns.wait()) as turn:
                while before := next(turn):  # left by closing: when the page is, too
                    yield f"<p>Waiting for the model: {before} before you</p>", *blank
                if not run_view.has_model:
                    yield "<p>Opening the model …</p>", *blank
                how: dict[str, Any] = {
                    "tokens": int(tokens),
                    "temperature": temperature,
                    "repetition_penalty": penalty,
                    "chat": chat,
                }
                written = answers(run_view.model, recipe, prompt, languages=recording.languages, **how)
                with closing(written):
                    for one, two in written:
                        yield said, answer_panel(one), answer_panel(two)
        except NeuroglotError as error:
            yield note(str(error)), *blank

    inputs = [
        prompt, silence, higher, found, method, strength, layers, site, tokens, temperature, penalty, chat
    ]  # fmt: skip
    how = _quiet(concurrency_limit=WAITING + 2)  # they wait in the run's own line, which says how long it is
    running = gr.on([go.click, prompt.submit], write, inputs, [state, before, after], **how)
    stop.click(None, cancels=[running])
