"""What the likelihood rule, or a judge in this process, says of written answers, beside what a person says of them.

    python benchmarks/relevance.py [--model gemma3-270m] [--chat] [--others 7]
    python benchmarks/relevance.py --model qwen2.5-coder-1.5b.gguf --judge [--expected]

The answers of `relevance.jsonl` were written for this project to the built-in questions: about the question (2), about
its subject only (1), or echoes, loops and gibberish (0). Each of the first is read once more as the answer to a
question half the set away, where it is a 0.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

import neuroglot as ng
from neuroglot.evaluate.steering.judge import Judge, JudgeSettings
from neuroglot.evaluate.steering.relevance import LikelihoodRule


def written(questions: ng.Corpus) -> pd.DataFrame:
    """A row an answer: kind, gold, and the columns that a rule reads."""
    keys = list(questions.keys)
    texts = {tag: list(questions[tag]) for tag in questions.languages}
    rows = []
    for line in (Path(__file__).parent / "relevance.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        place = keys.index(row["key"])
        language = "same language" if row["source"] == row["target"] else "other language"
        kind = {2: f"about the question, {language}", 1: "about its subject only", 0: "echo, loop or gibberish"}
        asked = [(place, row["gold"], kind[row["gold"]])]
        if row["gold"] == 2:
            asked.append(((place + len(keys) // 2) % len(keys), 0, f"to another question, {language}"))
        rows += [{**row, "prompt": texts[row["source"]][at], "gold": gold, "kind": name} for at, gold, name in asked]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--others", type=int, default=7)
    parser.add_argument("--judge", action="store_true", help="the model is asked, as a judge is")
    parser.add_argument("--expected", action="store_true", help="and its score is the mean of all ratings")
    asked = parser.parse_args()
    questions = ng.load_corpus("questions")
    rule: Judge | LikelihoodRule
    if asked.judge:
        rule = Judge(
            JudgeSettings(
                model=asked.model,
                base_url="local",
                rubric="relevance",
                reading="expected" if asked.expected else "reply",
            )
        )
    else:
        rule = LikelihoodRule(
            ng.load_model(asked.model), {tag: list(questions[tag]) for tag in questions.languages},
            others=asked.others, chat=asked.chat,
        )  # fmt: skip
    rated = rule.rate(written(questions), progress=False)
    table = pd.crosstab(rated["kind"], rated["relevance"].round()).reindex(columns=[0, 1, 2], fill_value=0)
    table["mean"] = rated.groupby("kind")["relevance"].mean().round(2)
    print(table.to_markdown() if hasattr(table, "to_markdown") else table)
    gap = [rated.loc[rated["gold"] == gold, "relevance"].mean() / 2 for gold in (0, 1, 2)]
    print(f"mean relevance of what a person gives 0, 1, 2: {gap[0]:.2f}, {gap[1]:.2f}, {gap[2]:.2f}")
    print(f"rank correlation with the person: {rated['gold'].corr(rated['relevance'], method='spearman'):.2f}")


if __name__ == "__main__":
    main()
