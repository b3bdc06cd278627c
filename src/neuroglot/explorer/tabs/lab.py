"""The tab of the lab."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from html import escape
from typing import Any

from neuroglot.artifacts.recording import RESIDUAL
from neuroglot.corpus.prompts import PROMPTINGS
from neuroglot.edit.interventions import described
from neuroglot.edit.steering import layer_numbers
from neuroglot.edit.steering_methods import DIRECTIONS, METHODS, SAMPLED, Direction
from neuroglot.errors import NeuroglotError
from neuroglot.explorer.lab import PROMPT, Answer, answer_panel, answers, blank_answers, lab_recipe
from neuroglot.explorer.run_view import WAITING, RunView, note
from neuroglot.explorer.widgets import _languages, _methods, _quiet, _text

PANELS = ("intact", "edited", "intact-asked", "edited-asked")
"""Their ids; the second pair is there where the language is asked for, too."""


def _lab(gr: Any, run_view: RunView) -> None:
    if run_view.recording is None or not run_view.neurons:
        _text(gr, note("The Lab needs neurons of a finished recording:", run_view.command("identify {run}")))
        return
    recording = run_view.recording
    methods = _methods(run_view.neurons)
    ways = [*METHODS, *_directions(run_view)]
    tags = _languages(recording.languages)
    hint = "To be continued, or answered"
    prompt = gr.Textbox(label="Prompt", lines=3, elem_id="prompt", placeholder=hint, max_length=PROMPT)
    with gr.Row():
        silence = gr.CheckboxGroup(tags, label="Silence", elem_id="silence")
        higher = gr.CheckboxGroup(tags, label="Raise", elem_id="raise")
        asking = gr.Radio(list(PROMPTINGS), value="none", label="Prompting beside it", elem_id="asking")
    with gr.Row():
        found = gr.Dropdown(methods, value=methods[0][1], label="Neurons of")
        method = gr.Dropdown(ways, value="replace", label="Raised by")
        strength = gr.Slider(0.0, 10.0, value=1.0, step=0.1, label="Strength")
        layers = gr.Textbox(label="Layers", placeholder="all, or 1-3,16")
        middle = max(1, recording.layers // 2)
        after = gr.Slider(1, recording.layers, value=middle, step=1, label="After layer", visible=False)
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
    panels = []
    empty = dict(zip(PANELS, _panels(blank_answers("", "none", None, (), chat=False)), strict=True))
    for pair in (PANELS[:2], PANELS[2:]):
        with gr.Row():
            panels += [_text(gr, empty[name], elem_id=name) for name in pair]

    def write(
        prompt: str, silence: list[str], higher: list[str], found: str, method: Any, strength: float, layers: str,
        after: float, asking: Any, site: Any, tokens: float, temperature: float, penalty: float, chat: bool,
    ) -> Iterator[tuple[str, ...]]:  # fmt: skip
        blank = _panels(blank_answers(prompt, "none", None, (), chat=chat))
        try:
            recipe = lab_recipe(
                recording, run_view.neurons[found], silence, higher, method=method, strength=strength,
                layers=layer_numbers(layers.strip() or None, recording.layers), site=site,
                after=int(after) - 1 if method in DIRECTIONS else None,
                samples=run_view.samples if method in SAMPLED else None,
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
                    "prompting": asking,
                    "tokens": int(tokens),
                    "temperature": temperature,
                    "repetition_penalty": penalty,
                    "chat": chat,
                }
                written = answers(run_view.model, recipe, prompt, languages=recording.languages, **how)
                with closing(written):
                    for group in written:
                        yield said, *_panels(group)
        except NeuroglotError as error:
            yield note(str(error)), *blank

    inputs = [
        prompt, silence, higher, found, method, strength, layers, after, asking, site, tokens, temperature, penalty,
        chat,
    ]  # fmt: skip
    method.change(lambda chosen: gr.update(visible=chosen in DIRECTIONS), method, after, **_quiet())
    how = _quiet(concurrency_limit=WAITING + 2)  # they wait in the run's own line, which says how long it is
    running = gr.on([go.click, prompt.submit], write, inputs, [state, *panels], **how)
    stop.click(None, cancels=[running])


def _directions(run_view: RunView) -> list[Direction]:
    """Those that can be found in the run: a probe and LDA need the states of samples."""
    recording, samples = run_view.recording, run_view.samples
    if recording is None or RESIDUAL not in recording.sums:
        return []
    states = samples is not None and samples.states is not None
    return [name for name in DIRECTIONS if name not in SAMPLED or states]


def _panels(group: Sequence[Answer]) -> tuple[str, ...]:
    """Answers as HTML, one for each place; the empty ones are not to be seen."""
    shown = [answer_panel(answer) for answer in group]
    return *shown, *[""] * (len(PANELS) - len(shown))
