"""A run as the explorer holds it: opened once, each part read when it is first looked at."""

import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.recording import Recording
from neuroglot.artifacts.samples import Samples
from neuroglot.errors import NeuroglotError
from neuroglot.explorer.turns import Turns
from neuroglot.languages.tags import direction, language_name
from neuroglot.models.loading import load_tokenizer
from neuroglot.models.model import Model
from neuroglot.run.directory import Run
from neuroglot.run.experts import RunExperts, experts_of

__all__ = ["RunView", "drawn", "note"]

WAITING = 8
"""How many may wait for the model, beside the one it writes for."""
TEMPLATES = Environment(
    loader=PackageLoader("neuroglot.explorer"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.globals |= {"name": language_name, "direction": direction}


class RunView:
    """A run, and what of it was read so far.

    Attributes:
        run: the run.
        turns: of those who make the model write, since it can do one thing at a time.
    """

    def __init__(self, run: Run, model: Model | None = None):
        self.run = run
        self.turns = Turns(WAITING)
        self._model = model

    @cached_property
    def recording(self) -> Recording | None:
        """The recording; None while it is not finished."""
        try:
            return self.run.recording
        except NeuroglotError:
            return None

    @cached_property
    def neurons(self) -> dict[str, NeuronSet]:
        """Method → the neurons it found."""
        return {name: self.run.neurons(name) for name in self.run.methods if self.run.neurons_path(name).is_file()}

    @property
    def has_model(self) -> bool:
        """Whether the model is open."""
        return self._model is not None

    @property
    def model(self) -> "Model":
        """The run's model, which the Lab needs; opening takes from seconds to minutes.

        Raises:
            NeuroglotError: it cannot be opened, or has other weights than those recorded.
        """
        if self._model is None:
            model = self.run.load_model()
            if self.recording is not None:
                self.run.check(model, self.recording)
            self._model = model
        return self._model

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, which words of examples need; None if it cannot be opened."""
        if self._model is not None:
            return self._model.tokenizer
        how = self.run.manifest.model
        trusted = how.trust_remote_code and self.run.trust_remote_code
        try:
            return load_tokenizer(how.source, revision=how.revision, trust_remote_code=trusted)
        except NeuroglotError:
            return None

    @cached_property
    def experts(self) -> RunExperts | None:
        """The experts that were counted, made or the model's own; None if none were."""
        return experts_of(self.run)

    @cached_property
    def samples(self) -> Samples | None:
        """The samples of a parallel corpus; None if there are none."""
        try:
            return Samples.load(self.run.samples_path)
        except NeuroglotError:
            return None

    @cached_property
    def sentences(self) -> dict[str, dict[str, str]]:
        """Key of a sample → language → text; empty if the corpus is not there any more."""
        settings = self.run.manifest.align
        samples = self.samples
        if settings is None or samples is None:
            return {}
        try:
            corpus = settings.load(self.run.manifest.text)
            wanted = set(samples.keys)
            found = {}
            for key, texts in corpus.samples():
                if str(key) in wanted:
                    found[str(key)] = {tag: text for tag, text in texts.items() if text is not None}
                    if len(found) == len(wanted):
                        break
            return found
        except NeuroglotError:
            return {}

    def command(self, what: str) -> str:
        """A command on this run, to be copied."""
        return f"neuroglot {what.format(run=_quoted(self.run.path))}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def note(sentence: str, command: str = "") -> str:
    """A sentence for the place of what is not there yet, and the command that makes it."""
    return drawn("note.html", sentence=sentence, command=command)


def drawn(template: str, **values: Any) -> str:
    """A template filled in: whatever is not mark-up of ours is escaped."""
    return str(Markup(TEMPLATES.get_template(template).render(**values)))
