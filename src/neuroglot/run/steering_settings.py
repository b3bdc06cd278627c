"""What is asked of steering in a run: every setting, typed, each with its sentence."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from neuroglot.corpus.load import BUILT_IN
from neuroglot.corpus.prompts import Prompting
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.forcing import CONDITIONS, Forced, Steering
from neuroglot.evaluate.steering.judge import JudgeSettings
from neuroglot.generation.settings import Generation
from neuroglot.languages.identifiers import Identification
from neuroglot.storage.names import check_name
from neuroglot.storage.results import digest_of_settings

__all__ = ["SteeringSettings"]

LATER = (
    ("", "budget"), ("", "prompting"), ("", "identification"), ("", "relevance"), ("", "reader"),
    ("how", "raised"), ("judge", "rubric"), ("judge", "reading"),
)  # fmt: skip
"""Settings, by their section, that came after the first tables were named."""
PATIENCE = ("per_minute", "retries", "timeout")
"""Of a judge: how it is asked, which changes no score."""


class SteeringSettings(BaseModel):
    """What is asked, in which conditions, and how answers are written and scored."""

    prompts: str = "openings"
    """questions, openings, or a file or folder of prompts as a corpus is."""
    text_column: str = "text"
    """The column of it that holds the text."""
    language_column: str | None = None
    """The column of it that says the language; by default `language` or `lang`, if there is one."""
    sources: list[str] | None = None
    """Languages to ask in; by default the neurons' that have prompts."""
    targets: list[str] | None = None
    """Languages to answer in; by default the neurons'."""
    method: str = "lape"
    """Whose neurons."""
    how: Steering = Steering()
    """What is done to the target's neurons."""
    search: bool = False
    """Find the best of many settings in place of `how`, on half of the prompts."""
    budget: int | None = Field(None, ge=1)
    """Of a search: answers on that half at most, by successive halving over neurons, directions and prompting."""
    max_loss: float = Field(1.0, ge=0)
    """Of a search: perplexity may exceed native answers' by this share."""
    ask: bool = False
    """End each prompt with «answer in …» of the target, in its language."""
    prompting: tuple[Prompting, ...] = ("none",)
    """Each condition is measured with each of these: none, «answer in …» in English (I), or in the target (II)."""
    conditions: tuple[Forced, ...] = CONDITIONS
    """What is measured; see `evaluate.force`."""
    identification: Identification = "lingua"
    """Who tells the language of an answer: lingua or fasttext."""
    relevance: Literal["rule", "judge"] | None = None
    """Who says, from 0 to 2, whether an answer is about its question: the likelihood rule, or the judge."""
    off: bool = False
    """Also each language's prompts with each language's neurons off; see `evaluate.deactivated`."""
    limit: int = Field(12, ge=1)
    """At most so many prompts a language."""
    seeds: int = Field(1, ge=1)
    """How many random draws of neurons."""
    generation: Generation = Generation()
    """How answers are written."""
    reader: str | None = None
    """Whose likelihoods the rule reads: another model, by default the run's own, intact."""
    judge: JudgeSettings | None = None
    """Who scores them from 1 to 10, if anyone does; or their relevance, where that is left to the judge."""

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            NeuroglotError: as said.
        """
        if self.ask and self.prompting != ("none",):
            raise NeuroglotError("The prompts ask for their language already (ask); leave prompting out, or ask.")
        if self.relevance == "judge" and self.judge is None:
            raise NeuroglotError("A judge that says what is relevant needs a name: judge.")
        if self.relevance == "rule" and self.ask:
            raise NeuroglotError("The likelihood rule reads questions as they are; use prompting I or II, not ask.")
        if self.budget is not None and not self.search:
            raise NeuroglotError("A budget is of a search; ask for one.")
        if self.reader is not None and self.relevance != "rule":
            raise NeuroglotError("A reader is of the likelihood rule; ask for relevance by the rule, or leave it out.")

    @property
    def words(self) -> str:
        """What the answers are called in names of files, as long as no others of the run are called so.

        Raises:
            NeuroglotError: the file of prompts has a name that cannot be part of others.
        """
        method = [] if self.method == "lape" else [self.method]
        return "-".join([check_name(Path(self.prompts).stem), *method, *(["asked"] if self.ask else [])])

    @property
    def digest(self) -> str:
        """Of all that decides the tables: not of how many prompts a forward pass has, or how fast a judge is asked."""
        said = self.model_dump(mode="json")
        del said["generation"]["batch"]
        if self.judge is not None:
            usual = JudgeSettings(model=self.judge.model).model_dump(mode="json")
            said["judge"] |= {name: usual[name] for name in PATIENCE}
        for part, name in LATER:  # unless they are used, tables keep the names that earlier versions gave them
            kept = said[part] if part else said
            if kept and kept[name] in (None, ["none"], "lingua", "quality", "reply"):
                del kept[name]
        if self.prompts not in BUILT_IN and Path(self.prompts).exists():
            said["prompts"] = str(Path(self.prompts).resolve())
        return digest_of_settings(said)
