"""The explorer: tabs over a run, in the browser. Thin: what is shown is made in the file of each tab."""

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroglot.errors import NeuroglotError
from neuroglot.explorer.access import KnownNames, check_hosts
from neuroglot.explorer.heads import HeadMap
from neuroglot.explorer.run_view import RunView
from neuroglot.explorer.tabs.alignment import _alignment
from neuroglot.explorer.tabs.heads import _heads
from neuroglot.explorer.tabs.lab import _lab
from neuroglot.explorer.tabs.matrix import _matrix
from neuroglot.explorer.tabs.neuron_map import _atlas
from neuroglot.explorer.tabs.pruning import _pruning
from neuroglot.explorer.tabs.router import _router
from neuroglot.explorer.widgets import _gradio, _script
from neuroglot.figures.plotly import script_of
from neuroglot.figures.screen import FONTS
from neuroglot.models.model import Model
from neuroglot.run.directory import Run

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["build", "explore"]

PORT = 7860
QUEUE = 64
"""Events of all visitors together that wait, at most; who comes later is told so."""


def explore(
    run: Run | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = PORT,
    browser: bool = False,
    model: Model | None = None,
    block: bool = True,
    allowed_hosts: Sequence[str] = (),
    root_path: str | None = None,
) -> str:
    """Show a run in the browser.

    Args:
        run: the run, or its directory.
        host: where to listen; by default only this machine can connect.
        port: by default 7860; None takes any free one.
        browser: open a browser window.
        model: the run's, if it is open already; by default the Lab opens it when it is first asked.
        block: stay until interrupted.
        allowed_hosts: further names it may be asked under, such as `lab.example.org` or `*.hf.space`: those of a proxy
            before it. By default only the name it listens on, this machine's own and the address connected to.
        root_path: the path that a proxy serves it under, such as `/lab`.

    Returns:
        The address.

    Raises:
        NeuroglotError: there is no run, Gradio is not installed, or the port is taken.
    """
    hosts = check_hosts(allowed_hosts)
    if root_path is not None and not re.fullmatch(r"(/[\w.~-]+)+/?", root_path):
        raise NeuroglotError(f"{root_path!r} is not a path such as /lab; give one.")
    app = build(RunView(run if isinstance(run, Run) else Run.open(run), model))
    app.queue(max_size=QUEUE)
    try:
        _, address, _ = app.launch(
            server_name=host,
            server_port=port,
            root_path=root_path,
            app_kwargs={"middleware": [(KnownNames, (), {"host": host, "allowed": hosts})]},
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


def _theme() -> Any:
    gr = _gradio()
    families = [name.strip().strip('"') for name in FONTS.split(",")]
    return gr.themes.Base(primary_hue="blue", font=families, font_mono=["ui-monospace", "Consolas", "monospace"])


def build(run_view: RunView) -> "gr.Blocks":
    """The app of a run, not yet started.

    Raises:
        NeuroglotError: Gradio is not installed.
    """
    gr = _gradio()
    gr.set_static_paths([script_of()])  # the only file that is served beside the app's own
    manifest = run_view.run.manifest
    with gr.Blocks(analytics_enabled=False, title=f"Neuroglot: {manifest.model.source}", fill_width=False) as app:
        about = f"{manifest.model.source} on {manifest.text.source}"
        gr.HTML(f"<h1>{escape(about)}</h1>", js_on_load=None)
        with gr.Tabs():
            tabs = [
                ("Atlas", _atlas),
                ("Lab", _lab),
                ("Matrix", _matrix),
                ("Alignment", _alignment),
                ("Pruning", _pruning),
            ]
            if run_view.experts is not None and run_view.experts.native:
                tabs.insert(1, ("Router", _router))
            if HeadMap.there(run_view):
                tabs.insert(1, ("Heads", _heads))
            for title, tab in tabs:
                with gr.Tab(title, id=title.lower()):
                    tab(gr, run_view)
    return app
