"""Pages of the documentation read as tables and numbers, and the result files beside them."""

import csv
import itertools
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"
MODELS = ("gemma3-270m", "smollm2-135m", "qwen2.5-coder-0.5b")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#]*)(#[^)]*)?\)")


def read(name):
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbers(text):
    """All of a text, in order: commas group thousands, and a link counts by its words."""
    found = re.findall(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e\d+)?", LINK.sub(r"\1", text))
    return [float(each.replace(",", "").replace("−", "-")) for each in found]


def tables(page, heading):
    """The tables under a heading, each a list of rows of cells; the first row is the head."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\r", "")
    section = re.split(r"^#+ ", text, flags=re.MULTILINE)
    (body,) = [part for part in section if part.startswith(heading + "\n")]
    blocks = itertools.groupby(body.splitlines(), key=lambda line: line.startswith("|"))
    rows = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        for is_table, lines in blocks
        if is_table
    ]
    return [[table[0], *table[2:]] for table in rows]


def in_order(few, many):
    """Whether the few are among the many, in the same order."""
    left = iter(many)
    return all(each in left for each in few)


def rounded(shown, value):
    """Whether a number as it is shown is the value, rounded to as many decimals."""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown.replace(",", "").replace("−", "-")) - float(value)) <= 0.5 * 10**-decimals + 1e-9


def interval(row, decimals):
    times, low, high = (f"{float(row[name]):.{decimals}f}" for name in ("times", "low", "high"))
    return f"{times} ({low} to {high})"
