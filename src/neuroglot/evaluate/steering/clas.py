"""Answers in the shape of CLaS-Bench (2026): a file for each pair of languages, or one JSON line an answer."""

import json
from collections.abc import Iterator, Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from neuroglot.corpus.files import text_lines
from neuroglot.corpus.formats import json_rows, name_and_format
from neuroglot.corpus.texts import refuse_halves
from neuroglot.errors import NeuroglotError
from neuroglot.languages.identifiers import Identification, identifier
from neuroglot.languages.tags import closest, language_tag
from neuroglot.storage.atomic import save_text
from neuroglot.storage.names import check_name

if TYPE_CHECKING:
    from neuroglot.evaluate.steering.forcing import Steering

__all__ = ["identified", "read_clas", "write_clas"]

LANGUAGES = (("source_language", "deactivate_language"), ("target_language", "activate_language"))
"""What a file calls the language asked in and the one wanted; its scripts on neurons have names of their own."""


def write_clas(
    answers: pd.DataFrame,
    folder: str | Path,
    about: Mapping[str, Any] | None = None,
    steering: "Steering | None" = None,
) -> list[Path]:
    """Write answers as the benchmark's scripts do, so that its own evaluation reads them.

    A folder a condition, in it `SOURCE_to_TARGET.json`, and beside them all `answers.jsonl`, one line an answer.

    Args:
        answers: with condition, source, target, prompt and answer, as `force` gives; and relevance, if there is any.
        folder: where.
        about: what is said of all files, such as the model.
        steering: what was done; a file says what of it its condition has, and null where the model is intact.

    Returns:
        The files.
    """
    folder = Path(folder)
    written: list[Path] = []
    lines: list[str] = []
    for (condition, source, target), table in answers.groupby(["condition", "source", "target"], sort=False):
        results = [_result(number, row) for number, row in enumerate(table.to_dict("records"))]
        said = {"source_language": source, "target_language": target, "method": condition, **(about or {})}
        if steering is not None:
            said["steering"] = steering.in_condition(str(condition))
        place = check_name(str(condition).replace(" + ", "-").replace(" ", "-").replace(",", ""))
        text = json.dumps({**said, "results": results}, ensure_ascii=False, indent=1)
        written.append(save_text(folder / place / f"{source}_to_{target}.json", text + "\n"))
        lines += [json.dumps({**said, **result}, ensure_ascii=False) for result in results]
    written.append(save_text(folder / "answers.jsonl", "".join(line + "\n" for line in lines)))
    return written


def _result(number: int, row: Mapping[Any, Any]) -> dict[str, Any]:
    said = {"question_idx": number, "input": row["prompt"], "output": row["answer"]}
    if row.get("relevance") is not None and not isnan(float(row["relevance"])):
        said["judge_evaluation"] = {"judge_score": float(row["relevance"])}
    return said


def read_clas(path: str | Path) -> pd.DataFrame:
    """Read answers in the benchmark's shape: a file, a folder of files (all below it), or JSON lines.

    Returns:
        A row an answer: condition, source, target, prompt and answer; and relevance, where every answer has a score.

    Raises:
        NeuroglotError: nothing is there, or a file is not of that shape.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("*_to_*.json"))
    if not files:
        raise NeuroglotError(
            f"There are no answers at {path}; give SOURCE_to_TARGET.json, a folder of them, or .jsonl."
        )
    rows = [row for file in files for row in _rows(file, path)]
    table = pd.DataFrame(rows)
    if table.empty:
        raise NeuroglotError(f"{path} has no answers.")
    return table.drop(columns="relevance") if table["relevance"].isna().any() else table


def _rows(file: Path, top: Path) -> Iterator[dict[str, Any]]:
    lines = name_and_format(file)[1] == "json" and ".json" not in map(str.casefold, file.suffixes)
    try:
        for said in _objects(file, lines):
            source, target = (next((said[name] for name in names if said.get(name)), None) for names in LANGUAGES)
            if source is None or target is None:
                raise NeuroglotError(f"{file} does not say its languages (source_language and target_language).")
            place = "answers" if file == top or file.parent == top else "/".join(file.relative_to(top).parts[:-1])
            about = {"condition": str(said.get("method", place))}
            about |= {"source": language_tag(source), "target": language_tag(target)}
            for row in [said] if lines else said["results"]:
                prompt, answer = row.get("original_prompt", row["input"]), row["output"]
                if not isinstance(prompt, str) or not isinstance(answer, str | None):
                    raise TypeError
                refuse_halves(f"{prompt} {answer}", f"{file}: an answer or its question")
                yield {**about, "prompt": prompt, "answer": answer or "", "relevance": _score(row, file)}
    except NeuroglotError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        lack = f"it lacks {error}" if isinstance(error, KeyError) else "something else is where an answer should be"
        raise NeuroglotError(f"{file} is not a file of answers as CLaS-Bench has them ({lack}).") from error


def _score(row: Mapping[str, Any], file: Path) -> float | None:
    """What a judge left in the file, if it left anything.

    Raises:
        NeuroglotError: it is no number from 0 to 2.
    """
    score = (row.get("judge_evaluation") or {}).get("judge_score")
    if score is None:
        return None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 2:
        raise NeuroglotError(f"{file} has the judge_score {score!r:.40}; give a number from 0 to 2, or leave it out.")
    return float(score)


def _objects(file: Path, lines: bool) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, or the one of a JSON file."""
    if lines:
        yield from (row for _, row in json_rows(file))
        return
    said = json.loads("".join(line for _, line in text_lines(file)))
    if not isinstance(said, dict):
        raise NeuroglotError(
            f"{file} is not a file of answers as CLaS-Bench has them: an object with source_language, target_language "
            "and results."
        )
    yield said


def identified(answers: pd.DataFrame, identification: Identification = "fasttext") -> pd.DataFrame:
    """Answers with the columns language and on_target more.

    Args:
        answers: with answer and target.
        identification: who tells the language; the benchmark uses a fastText model of another 218 languages.

    Raises:
        NeuroglotError: a language cannot be told.
    """
    tell = identifier(identification, list(dict.fromkeys(answers["target"])))
    languages = [tell(text) if text.strip() else None for text in answers["answer"]]
    hits = [
        language is not None and closest(language, [target]) is not None
        for language, target in zip(languages, answers["target"], strict=True)
    ]
    return answers.assign(language=[language or "" for language in languages], on_target=hits)
