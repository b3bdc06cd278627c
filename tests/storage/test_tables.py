"""Tables read back as they were written, whatever the texts in them are."""

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from neuroglot.storage.tables import load_table, save_table

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@given(st.lists(st.tuples(TEXT, st.booleans(), st.integers(0, 99)), min_size=1, max_size=4))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, rows):
    table = pd.DataFrame(rows, columns=["answer", "on_target", "tokens"])
    read = load_table(
        save_table(tmp_path_factory.mktemp("tables") / "t.csv", table), keep_default_na=False, dtype={"answer": str}
    )
    assert read.to_dict("list") == table.to_dict("list")


def test_a_carriage_return_ends_no_row(tmp_path):
    """As models write them: without quotes the rest of the answer would be a row of its own."""
    table = pd.DataFrame({"answer": ["one\rtwo", "three"], "on_target": [True, False], "nll": [1.5, None]})
    read = load_table(save_table(tmp_path / "t.csv", table))
    pd.testing.assert_frame_equal(read, table)
    plain = save_table(tmp_path / "plain.csv", table[1:]).read_text()
    assert plain == "answer,on_target,nll\nthree,False,\n"


def test_the_same_table_again_writes_nothing(tmp_path):
    """Not even the digest beside it, which holds that of the table before it as well."""
    first, second = pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})
    for table in (first, second):
        path = save_table(tmp_path / "t.csv", table)
    held = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    save_table(path, second)
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in held} == held
    (tmp_path / ".t.csv.sha256").unlink()  # of an earlier version
    save_table(path, second)
    assert len((tmp_path / ".t.csv.sha256").read_text().split()) == 1
