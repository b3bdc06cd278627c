"""A JSON array read in pieces is what `json.loads` makes of the whole, wherever the pieces end."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.corpus import files, json_arrays
from neuroglot.corpus.formats import json_rows
from neuroglot.corpus.json_arrays import array_values

pytestmark = pytest.mark.usefixtures("_pieces")

LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["]", "\\u00e9"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SIGNS = st.sampled_from([*'[]{},:"\\ \n1e-truefalsnNI', "é", "\\u12"])


@pytest.fixture(scope="module")
def _pieces():
    with pytest.MonkeyPatch.context() as patch:
        for place in (files, json_arrays):
            patch.setattr(place, "PIECE", 3)
        yield


@given(
    values=st.lists(VALUES, max_size=4),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    tail=st.text("\n \t"),
)
@settings(max_examples=150)
def test_it_is_what_was_written(tmp_path_factory, values, indent, ascii_only, tail):
    path = tmp_path_factory.getbasetemp() / "a.json"
    path.write_text(tail + json.dumps(values, indent=indent, ensure_ascii=ascii_only) + tail, encoding="utf-8")
    assert repr(list(array_values(path, json.JSONDecoder()))) == repr(values)


@given(text=st.lists(SIGNS, max_size=12).map("".join))
@example(text="1 2]")
@example(text="1,]")
@example(text="]]")
@example(text="")
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_no_array_is_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "b.json"
    path.write_text("[" + text, encoding="utf-8")
    try:
        found = json.loads("[" + text)
    except json.JSONDecodeError:
        with pytest.raises(ng.NeuroglotError, match=r"b\.json"):
            list(array_values(path, json.JSONDecoder()))
    else:
        assert repr(list(array_values(path, json.JSONDecoder()))) == repr(found)


def test_rows_are_numbered_and_named(tmp_path):
    path = tmp_path / "c.json"
    for text, said in (
        ('[{"a": 1}, 2]', "object 2: not a JSON object"), ('[{"a": 1, "a": 2}]', "'a' is named twice"),
        ('[{"a": 1}, {"a" 1}]', "object 2: not valid JSON"), ("[" * 100_000, "recursion"),
    ):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ng.NeuroglotError, match=said):
            list(json_rows(path))
    path.write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(ng.NeuroglotError, match="not UTF-8"):
        list(json_rows(path))
    path.write_text('[{"a": "é"},\n{"a": "b"}]', encoding="utf-16")
    assert list(json_rows(path)) == [(1, {"a": "é"}), (2, {"a": "b"})]
