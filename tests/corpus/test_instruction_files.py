"""Instruction data is read by the same rules as tables and directories."""

import gzip
import json

import pytest

import neuroglot as ng
from neuroglot.corpus.instructions import Pair, load_instructions

ROW = {"instruction": "Salut \u2028?", "output": 'Bonjour \0 "'}
PAIR = Pair(ROW["instruction"], ROW["output"])


def test_packed_marked_and_separated_lines(tmp_path):
    line = json.dumps(ROW, ensure_ascii=False)
    (tmp_path / "fr.jsonl.gz").write_bytes(gzip.compress(f"\ufeff{line}\r\n{line}\r\n".encode()))
    (tmp_path / "arb_Arab.JSONL").write_bytes(line.encode("utf-16"))
    (tmp_path / "log.jsonl").write_text(line, encoding="utf-8")
    with pytest.warns(ng.NeuroglotWarning, match="left out log.jsonl"):
        assert load_instructions(tmp_path) == {"ar": [PAIR], "fr": [PAIR, PAIR]}


def test_columns_in_capitals_and_spellings_of_a_language(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join(json.dumps({"Lang": tag, **ROW}) for tag in ("fr", " FRA_Latn")), encoding="utf-8")
    assert load_instructions(path) == {"fr": [PAIR, PAIR]}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"instruction": {"fr": "a"}, "output": "b"}, "output must be one, too"),
        ({"language": "fr", "messages": ["a", "b"]}, "a list of objects of role and content"),
        ({"language": "fr", "messages": "a"}, "a list of objects of role and content"),
        ({"language": "fr", "instruction": "a", "input": ["x"], "output": "b"}, "neither instruction and output"),
        ({"language": 5, "instruction": "a", "output": "b"}, "5 is not a language tag"),
    ],
)
def test_other_types_are_refused_by_line(tmp_path, row, sentence):
    path = tmp_path / "all.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ng.NeuroglotError, match=f"all.jsonl, line 1: .*{sentence}"):
        load_instructions(path)
