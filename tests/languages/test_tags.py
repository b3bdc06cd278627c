"""Tags of languages: one for each language, however it is spelled."""

import langcodes
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.languages.genealogy import genealogy
from neuroglot.languages.tags import closest, is_language, is_plain_language, language_tag

FLORES = {
    "arb_Arab": "ar", "zsm_Latn": "ms", "swh_Latn": "sw", "npi_Deva": "ne", "pes_Arab": "fa", "lvs_Latn": "lv",
    "zho_Hans": "zh", "zho_Hant": "zh-Hant", "eng_Latn": "en", "kor_Hang": "ko", "jpn_Jpan": "ja", "ekk_Latn": "et",
    "azj_Latn": "az", "uzn_Latn": "uz", "khk_Cyrl": "mn", "als_Latn": "sq", "plt_Latn": "mg", "ydd_Hebr": "yi",
    "gaz_Latn": "om", "ory_Orya": "or", "pbt_Arab": "ps", "srp_Cyrl": "sr", "srp_Latn": "sr-Latn",
    "arb_Latn": "ar-Latn", "kas_Deva": "ks-Deva", "nob_Latn": "nb", "cmn_Hans": "zh", "cmn_Hant": "zh-Hant",
}  # fmt: skip


@pytest.mark.parametrize("tag", FLORES)
def test_tags_of_flores(tag):
    assert language_tag(tag) == language_tag(tag.replace("_", "-").upper()) == FLORES[tag]


def test_what_is_kept_apart():
    """Regions say something, and these stand beside their macrolanguage in corpora that people have."""
    regions = {"zh_cn": "zh-CN", "pt-BR": "pt-BR", "zh-Hant-TW": "zh-TW", "en-GB": "en-GB"}
    assert {tag: language_tag(tag) for tag in regions} == regions
    assert language_tag("twi_Latn") != language_tag("aka_Latn")
    assert len({language_tag(tag) for tag in ("pnb", "pa", "skr", "yue", "zh", "arz", "ar", "ckb", "kmr")}) == 9


@given(st.sampled_from(sorted(FLORES)), st.sampled_from(["", " "]), st.sampled_from([str, str.upper, str.lower]))
def test_a_tag_is_what_its_spelling_is(tag, blank, case):
    standard = language_tag(blank + case(tag) + blank)
    assert standard == language_tag(standard) == FLORES[tag]  # and its own standard form
    assert langcodes.tag_is_valid(standard)


@pytest.mark.parametrize("word", ["UND", "Mul", "english", "", " ", "é", "x" * 40, "xx9", "fr-"])
def test_what_is_no_language(word):
    assert not is_language(word) and not is_plain_language(word)
    with pytest.raises(ng.NeuroglotError, match="is not a language tag"):
        language_tag(word)


@pytest.mark.parametrize("tag", ["und", "zxx", "mul", "mis"])
def test_no_text_is_in_no_language(tag):
    """A set of neurons may be of several languages, but no file, column or row is."""
    assert language_tag(tag) == tag and not is_language(tag) and not is_plain_language(tag)
    with pytest.raises(ng.NeuroglotError, match="is not a language tag"):
        ng.Corpus({tag: ["x"]})


def test_plain_names():
    assert all(map(is_plain_language, "fr fra FRA ceb yue awa zh-Hant pt_BR new_Deva log_Latn war".split()))
    assert not any(map(is_plain_language, "log raw new src tgt url ner pos key txt tmp csv bin man text".split()))


def test_the_closest_tag():
    assert closest("zh", ["zh-TW", "zh-CN", "en"]) == "zh-CN"
    assert closest("pt", ["es", "pt-PT"]) == "pt-PT" and closest("pt", ["pt-PT", "pt-BR"]) == "pt-BR"
    assert closest("zh", ["zh-Hant"]) == "zh-Hant" and closest("zh-CN", ["zh"]) == "zh"
    assert closest("ar", ["arb_Arab"]) == "arb_Arab" and closest("no", ["nb"]) == "nb"
    assert closest("hr", ["sr", "bs"]) is None and closest("zh", ["yue"]) is None and closest("en", []) is None


def test_a_family_has_its_language_however_it_is_tagged():
    assert genealogy("arb_Arab") == genealogy("ar") and genealogy("tgl") == genealogy("fil") != None  # noqa: E711
    assert genealogy("zsm-Latn") == genealogy("ms")


def test_detection_gives_a_language_that_finds_its_tag():
    pytest.importorskip("lingua")
    from neuroglot.languages.detection import LanguageIdentifier

    tags = ["zh-CN", "pt-BR", "arb_Arab", "zsm_Latn"]
    identify = LanguageIdentifier(tags)
    assert closest(identify("今天天气很好，我们去公园吧。"), tags) == "zh-CN"
    assert closest(identify("O menino comeu um bolo de chocolate na casa da avó."), tags) == "pt-BR"
    assert closest(identify("ذهب الولد إلى المدرسة في الصباح الباكر"), tags) == "arb_Arab"
    with pytest.raises(ng.NeuroglotError, match="No library here tells sr from"):
        LanguageIdentifier(["sr-Latn", "hr"])
