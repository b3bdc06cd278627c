"""Items for the papers' benchmarks, and instructions, out of any parallel corpus: no data set of the hub is needed.

    python benchmarks/items.py PARALLEL.jsonl OUT [--limit 200]

PARALLEL has a line a paragraph: {"key": …, "text": {language: paragraph}}. What is written:

OUT/xcsqa/LANGUAGE/validation.jsonl    the beginning of a paragraph and five ends, one its own, by X-CSQA's schema
OUT/xstorycloze/LANGUAGE/eval.jsonl    the same of four parts and two ends, by XStoryCloze's schema
OUT/instructions/en.jsonl              translations to and from every language, each an instruction and its answer

Item i is the same paragraph in every language, so accuracies can be compared. They are no X-CSQA and no XStoryCloze:
they ask for no knowledge of the world, only for the text that goes on.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

from neuroglot.languages.tags import language_name

SHORTEST = {"zh": 24, "ja": 24, "ko": 32}
"""Characters that a paragraph needs, of other languages 80."""


def parts(text: str, count: int) -> list[str]:
    """A text in so many parts of about one length, cut between words where there are any."""
    text, cuts = " ".join(text.split()), []
    for number in range(1, count):
        at = round(len(text) * number / count)
        space = text.find(" ", at)
        cuts.append(space if 0 <= space - at < 15 else at)
    ends = [0, *cuts, len(text)]
    return [text[a:b].strip() for a, b in itertools.pairwise(ends)]


def write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def long_enough(row: dict[str, str]) -> bool:
    return all(
        len(text) >= SHORTEST.get(tag, 80) and all(len(part) >= 3 for part in parts(text, 5))
        for tag, text in row.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parallel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=200, help="items a language")
    asked = parser.parse_args()
    lines = [json.loads(line)["text"] for line in asked.parallel.read_text(encoding="utf-8").splitlines()]
    draw = random.Random(0)
    rows = [row for row in lines if long_enough(row)]
    draw.shuffle(rows)
    rows = rows[: asked.limit]
    others = [[(i + step) % len(rows) for step in range(1, 5)] for i in range(len(rows))]
    right = [draw.randrange(5) for _ in rows]
    for tag in lines[0]:
        space = "" if tag in ("zh", "ja") else " "
        cut = [parts(row[tag], 5) for row in rows]
        choice, story = [], []
        for i, said in enumerate(cut):
            ends = [space.join(cut[j][3:]) for j in others[i]]
            ends.insert(right[i], space.join(said[3:]))
            options = [{"label": label, "text": end} for label, end in zip("ABCDE", ends, strict=True)]
            question = {"stem": space.join(said[:3]), "choices": options}
            choice.append({"id": str(i), "question": question, "answerKey": "ABCDE"[right[i]]})
            two = [said[4], cut[others[i][0]][4]]
            first = right[i] % 2
            story.append({
                "story_id": str(i), **{f"input_sentence_{n + 1}": said[n] for n in range(4)},
                "sentence_quiz1": two[first], "sentence_quiz2": two[1 - first], "answer_right_ending": 1 + first,
            })  # fmt: skip
        write(asked.out / "xcsqa" / tag / "validation.jsonl", choice)
        write(asked.out / "xstorycloze" / tag / "eval.jsonl", story)
    pairs = []
    for row in lines:
        for tag in row:
            if tag != "en":
                pairs += [
                    {"instruction": f"Translate into {language_name(tag)}: {row['en']}", "output": row[tag]},
                    {"instruction": f"Translate into English: {row[tag]}", "output": row["en"]},
                ]
    draw.shuffle(pairs)
    write(asked.out / "instructions" / "en.jsonl", pairs)
    print(f"{len(rows)} items in {len(lines[0])} languages, {len(pairs):,} instructions: {asked.out}")


if __name__ == "__main__":
    main()
