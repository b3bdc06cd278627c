"""The numbers of attempts on docs/promises.md, from what `make break` kept of each test.

    python tools/promises.py attempts.jsonl …    adds the files up in docs/results/breaking.csv and in the page's table

Without a file the table is made of docs/results/breaking.csv; with --check it is only compared.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE, RESULTS = DOCS / "promises.md", DOCS / "results" / "breaking.csv"
BEGIN, END = "<!-- attempts: written by tools/promises.py -->\n", "<!-- end of attempts -->\n"
COLUMNS = ("kind", "attempts", "tests", "failed")
OTHER = "other tests, an attempt or more each"


def gathered(files: list[Path]) -> list[dict[str, str]]:
    """A row a kind: how often it was tried, in how many tests, and how many of these failed.

    Of a test that was run twice the last time counts.
    """
    last = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            last[json.loads(line)["test"]] = json.loads(line)
    rows: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for test in last.values():
        for kind, number in (test["tried"] or {OTHER: 1}).items():
            for place, more in enumerate((number, 1, test["outcome"] != "passed")):
                rows[kind][place] += more
    names = sorted(rows, key=lambda kind: (kind == OTHER, kind))
    return [
        dict(zip(("kind", "attempts", "tests", "failed"), [kind, *map(str, rows[kind])], strict=True)) for kind in names
    ]


def table(rows: list[dict[str, str]]) -> str:
    """The page's table: kinds whose names begin alike up to a colon are one row, with what follows it listed."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["kind"].partition(":")[0]].append(row)
    lines = ["| what was tried | attempts | tests | failed | of which |", "|---|---:|---:|---:|---|"]
    for name, some in groups.items():
        attempts, tests, failed = (sum(int(row[column]) for row in some) for column in ("attempts", "tests", "failed"))
        parts = [f"{row['kind'].partition(': ')[2]} {int(row['attempts']):,}" for row in some if ": " in row["kind"]]
        lines.append(f"| {name} | {attempts:,} | {tests:,} | {failed:,} | {', '.join(parts)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write, or compare."""
    files = [Path(each) for each in arguments if not each.startswith("--")]
    if files:
        with RESULTS.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(gathered(files))
    with RESULTS.open(encoding="utf-8", newline="") as file:
        made = table(list(csv.DictReader(file)))
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    new = head + BEGIN + "\n" + made + "\n" + END + rest.partition(END)[2]
    if "--check" in arguments:
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
