"""Two processes that change one run at the same time, in every pairing: what each of them adds is there afterwards."""

import itertools
import subprocess
import sys

import pytest

from breaking.attempts import attempts
from neuroglot.run.directory import Run
from neuroglot.run.settings import ModelSettings, RunRecordSettings, TextSettings
from neuroglot.storage.atomic import DRAFT
from neuroglot.storage.tables import load_table

CHANGE = """
import sys
from pathlib import Path
import pandas as pd
from neuroglot.run.directory import Run
from neuroglot.storage.locks import locked
from neuroglot.storage.tables import load_table, save_table

path, who, kind, times = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
run, table = Run.open(path), path / "tables" / "shared.csv"
print("ready", flush=True)
sys.stdin.readline()
for number in range(times):
    if kind == "entries":
        with run.changing() as manifest:
            manifest.perturb[f"{who}-{number}"] = {"tokens": number}
    elif kind == "rows":
        with locked(table.parent):
            old = [load_table(table)] if table.is_file() else []
            save_table(table, pd.concat([*old, pd.DataFrame({"who": [who], "number": [number]})]))
    else:
        save_table(path / "tables" / "whole.csv", pd.DataFrame({"who": [who] * 50, "number": [number] * 50}))
        load_table(path / "tables" / "whole.csv")
"""
KINDS = ["entries", "rows", "whole tables"]


@pytest.mark.parametrize("kinds", list(itertools.combinations_with_replacement(KINDS, 2)), ids="+".join)
def test_two_processes_in_one_run(tmp_path, tried, kinds):
    times = attempts(20, 500)
    tried("changes by two processes", 2 * times)
    run = Run.create(
        tmp_path / "run", ModelSettings(source="gemma3-270m"), TextSettings(source="starter"), RunRecordSettings()
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGE, run.path, who, kind, str(times)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for who, kind in zip("ab", kinds, strict=True)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]
    numbers = {
        kind: {(who, n) for who, k in zip("ab", kinds, strict=True) if k == kind for n in range(times)}
        for kind in KINDS
    }
    kept = Run.open(run.path).manifest.perturb
    assert set(kept) == {f"{who}-{number}" for who, number in numbers["entries"]}
    if "rows" in kinds:
        rows = load_table(run.path / "tables" / "shared.csv")
        assert len(rows) == len(numbers["rows"]) and set(zip(rows.who, rows.number, strict=True)) == numbers["rows"]
    if "whole tables" in kinds:
        assert len(load_table(run.path / "tables" / "whole.csv").drop_duplicates()) == 1
    drafts = [path for path in run.path.rglob("*") if DRAFT in path.name]
    assert not drafts
