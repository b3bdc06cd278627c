"""What the tasks read: the hub's dataset by default; with `data_dir`, local JSON lines in the dataset's own schema.

Local files are `DIR/DATASET/LANGUAGE/SPLIT.jsonl`, such as `DIR/mgsm/fr/test.jsonl`, with the hub's names of splits.
The harness calls these functions, since the YAML files name them as `custom_dataset`.
"""

from pathlib import Path
from typing import Any, Literal

import datasets
from pydantic import BaseModel, Field, ValidationError, field_validator

from neuroglot.corpus.files import text_lines
from neuroglot.corpus.quiet import quiet
from neuroglot.errors import NeuroglotError

__all__ = [
    "SMOKE",
    "mgsm",
    "read_local",
    "smoke_mgsm",
    "smoke_xcsqa",
    "smoke_xstorycloze_english",
    "xcsqa",
    "xstorycloze",
    "xstorycloze_english",
]

SMOKE = Path(__file__).parent / "tasks" / "smoke"
"""The built-in smoke sets."""


class Choice(BaseModel):
    """An option of a question."""

    label: Literal["A", "B", "C", "D", "E"]
    text: str = Field(min_length=1)


class Question(BaseModel):
    """A question with five options."""

    stem: str = Field(min_length=1)
    choices: list[Choice] = Field(min_length=5, max_length=5)

    @field_validator("choices", mode="before")
    @classmethod
    def _paired(cls, value: Any) -> Any:
        """The authors' files list pairs of label and text, the hub has two lists."""
        if isinstance(value, dict) and all(isinstance(value.get(name), list) for name in ("label", "text")):
            return [{"label": label, "text": text} for label, text in zip(value["label"], value["text"], strict=False)]
        return value


class XCSQA(BaseModel):
    """An item of X-CSQA (Lin et al. 2021)."""

    id: str
    question: Question
    answerKey: Literal["A", "B", "C", "D", "E"]

    def row(self) -> dict[str, Any]:
        """As on the hub, where the options are two lists."""
        labels = [choice.label for choice in self.question.choices]
        if labels != list("ABCDE"):
            raise ValueError("the options are not labelled A to E in this order")
        texts = [choice.text for choice in self.question.choices]
        question = {"stem": self.question.stem, "choices": {"label": labels, "text": texts}}
        return {"id": self.id, "question": question, "answerKey": self.answerKey}


class XStoryCloze(BaseModel):
    """An item of XStoryCloze (Lin et al. 2022): four sentences, and two endings of which one is right."""

    story_id: str
    input_sentence_1: str = Field(min_length=1)
    input_sentence_2: str = Field(min_length=1)
    input_sentence_3: str = Field(min_length=1)
    input_sentence_4: str = Field(min_length=1)
    sentence_quiz1: str = Field(min_length=1)
    sentence_quiz2: str = Field(min_length=1)
    answer_right_ending: Literal[1, 2]

    def row(self) -> dict[str, Any]:
        """As on the hub."""
        return self.model_dump()


class MGSM(BaseModel):
    """An item of MGSM (Shi et al. 2022): a problem and its number; an example for few-shot also has its solution."""

    question: str = Field(min_length=1)
    answer: str | None = None
    answer_number: int
    equation_solution: str | None = None

    def row(self) -> dict[str, Any]:
        """As on the hub."""
        return self.model_dump()


SPLITS = {"xcsqa": ("validation",), "xstorycloze": ("eval", "train"), "mgsm": ("test", "train")}
"""Local dataset → its splits: what is scored, then where few-shot examples come from."""
SCHEMAS: dict[str, type[XCSQA] | type[XStoryCloze] | type[MGSM]] = {
    "xcsqa": XCSQA,
    "xstorycloze": XStoryCloze,
    "mgsm": MGSM,
}


def read_local(data_dir: str | Path, dataset: str, language: str) -> datasets.DatasetDict:
    """Read the JSON lines of one language.

    Raises:
        NeuroglotError: the split to score is not there, or a line is not an item of the dataset's schema.
    """
    folder = Path(data_dir) / dataset / language
    scored, *others = SPLITS[dataset]
    if not (folder / f"{scored}.jsonl").is_file():
        raise NeuroglotError(
            f"There is no {folder / f'{scored}.jsonl'}; put the items there, one JSON object a line, or leave "
            "--data-dir out to read the hub."
        )
    files = {split: folder / f"{split}.jsonl" for split in (scored, *others)}
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(_items(file, dataset)) for split, file in files.items() if file.is_file()}
    )


def _items(file: Path, dataset: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in text_lines(file):
        if not line.strip():
            continue
        try:
            rows.append(SCHEMAS[dataset].model_validate_json(line).row())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            reason = f"{where}: {first['msg']}" if where else first["msg"]
            raise NeuroglotError(f"{file}, line {number} is no item of {dataset} ({reason}); correct it.") from error
        except ValueError as error:
            raise NeuroglotError(f"{file}, line {number} is no item of {dataset} ({error}); correct it.") from error
    if not rows:
        raise NeuroglotError(f"{file} has no items; put one JSON object a line there.")
    return rows


def _open(dataset: str, language: str, data_dir: str | Path | None, hub: str, config: str) -> datasets.DatasetDict:
    if data_dir is not None:
        return read_local(data_dir, dataset, language)
    with quiet():
        return datasets.load_dataset(hub, config)


def xcsqa(language: str, data_dir: str | Path | None = None, **_: Any) -> datasets.DatasetDict:
    """X-CSQA in one language, `INK-USC/xcsr` on the hub; its test set has no answers, so the dev set is scored."""
    code = {"ja": "jap"}.get(language, language)  # the hub's name
    return _open("xcsqa", language, data_dir, "INK-USC/xcsr", f"X-CSQA-{code}")


def xstorycloze(language: str, data_dir: str | Path | None = None, **_: Any) -> datasets.DatasetDict:
    """XStoryCloze in one language, `juletxara/xstory_cloze` on the hub, as the harness has it."""
    return _open("xstorycloze", language, data_dir, "juletxara/xstory_cloze", language)


def xstorycloze_english(language: str, data_dir: str | Path | None = None, **_: Any) -> datasets.DatasetDict:
    """The stories of one language with the English endings of the same stories (Zeng et al. 2025, appendix B).

    Raises:
        NeuroglotError: a story has no English counterpart.
    """
    told, english = (xstorycloze(tag, data_dir) for tag in (language, "en"))
    result = {}
    for split, stories in told.items():
        if split not in english:
            continue
        endings = {row["story_id"]: row for row in english[split]}
        missing = [row["story_id"] for row in stories if row["story_id"] not in endings]
        if missing:
            raise NeuroglotError(
                f"Story {missing[0]} in {language} has no English story of the same story_id; endings are taken from "
                "it, so give both."
            )
        kept = ("sentence_quiz1", "sentence_quiz2", "answer_right_ending")
        rows = [{**row, **{name: endings[row["story_id"]][name] for name in kept}} for row in stories]
        result[split] = datasets.Dataset.from_list(rows)
    return datasets.DatasetDict(result)


def mgsm(language: str, data_dir: str | Path | None = None, **_: Any) -> datasets.DatasetDict:
    """MGSM in one language, `juletxara/mgsm` on the hub, as the harness has it."""
    return _open("mgsm", language, data_dir, "juletxara/mgsm", language)


def smoke_xcsqa(language: str, **_: Any) -> datasets.DatasetDict:
    """The built-in smoke set in X-CSQA's schema."""
    return read_local(SMOKE, "xcsqa", language)


def smoke_xstorycloze_english(language: str, **_: Any) -> datasets.DatasetDict:
    """The built-in smoke set in XStoryCloze's schema, endings in English."""
    return xstorycloze_english(language, SMOKE)


def smoke_mgsm(language: str, **_: Any) -> datasets.DatasetDict:
    """The built-in smoke set in MGSM's schema."""
    return read_local(SMOKE, "mgsm", language)
