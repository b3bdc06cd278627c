"""Results that are found again, and settings that differ."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.storage.results import JsonResult, ResultCache, digest_of_settings, refuse_differing
from neuroglot.storage.sealed import sealed_json

PLAIN = st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.lists(st.integers()), max_size=4)


def holds(found):
    return "value" in found


def test_a_result_is_found_by_its_digest_in_memory_and_on_disk(tmp_path):
    for directory in (None, tmp_path):
        cache = ResultCache(directory)
        assert cache.find("a", holds) is None
        assert cache.keep("a", {"value": "é"}) == cache.find("a", holds) == {"value": "é"}
        assert cache.find("b", holds) is None
    assert ResultCache(tmp_path).find("a", holds) == {"value": "é"}
    assert ResultCache().find("a", holds) is None


@pytest.mark.parametrize("text", ['{"value": 1', '{"other": 1}', "[1]", ""])
def test_what_is_damaged_is_not_found(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    cache = ResultCache(tmp_path)
    assert cache.find("a", holds) is None
    cache.keep("a", {"value": 2})
    assert ResultCache(tmp_path).find("a", holds) == {"value": 2}


@given(PLAIN, PLAIN)
def test_equal_settings_have_one_digest_and_others_another(one, two):
    assert digest_of_settings(one) == digest_of_settings(dict(reversed(one.items())))
    assert (digest_of_settings(one) == digest_of_settings(two)) == (one == two)


@given(PLAIN)
def test_equal_settings_are_never_refused(settings):
    refuse_differing("x is a run", settings, dict(reversed(settings.items())), "delete it")
    refuse_differing("x is a run", {"record": settings}, {"record": settings}, "delete it")


def sentence(before, now):
    with pytest.raises(ng.NeuroglotError) as refusal:
        refuse_differing("runs/x is a run", before, now, "choose another --out, or delete it")
    said = str(refusal.value)
    assert said.startswith("runs/x is a run with other settings: ")
    assert said.endswith("; choose another --out, or delete it.")
    return said


def test_each_setting_that_differs_is_named_with_both_values():
    said = sentence({"limit": 4, "seed": 1, "only": "x"}, {"limit": 5, "seed": 1, "model": {"dtype": "auto"}})
    assert "limit (was 4, now 5), only (was x, now not set), model.dtype (was not set, now auto)" in said
    assert "seed" not in said
    assert "record.tokens (was 600, now 700)" in sentence({"record": {"tokens": 600}}, {"record": {"tokens": 700}})
    lacking = sentence({"record": {"experts": {"number": 4}}}, {"record": {"experts": None}})
    assert "settings: record.experts.number (was 4, now not set);" in lacking
    refuse_differing("x", {"layers": [1, 2]}, {"layers": (1, 2)}, "delete it")  # as JSON has it


def test_long_values_are_shortened_to_where_they_differ():
    one, two = "0123456789abcdef" * 2, "fedcba9876543210" * 2
    assert "text (was 01234567…, now fedcba98…)" in sentence({"text": one}, {"text": two})
    assert one[:-1] + "e" in sentence({"text": one}, {"text": one[:-1] + "e"})  # alike at the beginning: in full
    many = [f"language-{i}" for i in range(50)]
    said = sentence({"languages": many}, {"languages": [*many[:30], "other", *many[31:]]})
    assert "language-30" in said and "other" in said and len(said) < 250
    said = sentence({"languages": many}, {"languages": many[:30]})
    assert "language-30" in said and len(said) < 250
    assert len(sentence({"text": "x" * 500}, {"text": "x" * 499})) < 250


@dataclass
class Measured(JsonResult):
    remedy = "measure again"
    values: dict[str, float]
    name: str = ""
    settings: dict[str, str] = field(default_factory=dict)


def test_a_result_is_saved_and_loaded_or_said_to_be_damaged(tmp_path):
    path = tmp_path / "measured.json"
    result = Measured({"fr": float("inf"), "zh": 0.1}, "中文", {"text": "a"})
    assert Measured.load(result.save(path)) == result
    for text in ('{"values": {}', sealed_json({"nothing": 1}), sealed_json({"values": {"fr": "many"}}), "[1]"):
        path.write_text(text)
        with pytest.raises(ng.NeuroglotError, match=r"measured.json is missing or damaged \(.*\); measure again"):
            Measured.load(path)
    with pytest.raises(ng.NeuroglotError, match="missing or damaged"):
        Measured.load(tmp_path / "nowhere.json")
