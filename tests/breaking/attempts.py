"""How often each thing is tried: few times in `make test`, as often as it takes in `make break`; and how often it was.

A test says by `tried` what it tried and how often. With `BREAK=FILE.jsonl` a line is added to the file for every test
that ends, from which `tools/promises.py` makes a table of `docs/promises.md`. A run that is cut off keeps what it had.
"""

import json
import os

WHOLE = "BREAK" in os.environ


def attempts(few, many):
    return many if WHOLE else few


def keep_attempts(report):
    """Keep what a test that ended tried, where that was asked for."""
    place = os.environ.get("BREAK", "")
    tried = {kind: number for kind, number in report.user_properties if isinstance(number, int)}
    ended = report.when == "call" or report.outcome != "passed"
    if not place.endswith(".jsonl") or not ended or report.skipped:
        return
    line = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 1), "tried": tried}
    with open(place, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
