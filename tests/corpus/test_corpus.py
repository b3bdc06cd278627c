"""Every layout of text by language, and every way in which one can be wrong."""

import json
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng

TEXT = {"en": ["one", "two", "three"], "fr": ["un", "deux", "trois"], "ur": ["ایک", "دو", "تین"]}


def texts(corpus: ng.Corpus) -> dict[str, list[str]]:
    return {tag: list(corpus[tag]) for tag in corpus.languages}


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def directory(path, suffix, write):
    path.mkdir(exist_ok=True)
    for tag, documents in TEXT.items():
        write(path / f"{tag}{suffix}", documents)
    return path


def wide():
    return pd.DataFrame({"key": ["a", "b", "c"], **TEXT})


def long():
    return pd.DataFrame(
        [
            {"key": key, "language": tag, "text": text}
            for tag in TEXT
            for key, text in zip("abc", TEXT[tag], strict=True)
        ]
    )


LAYOUTS = {
    "txt": lambda p: directory(p, ".txt", lambda f, d: f.write_text("\n".join(d) + "\n\n", encoding="utf-8")),
    "jsonl a language": lambda p: directory(p, ".jsonl", lambda f, d: lines(f, [{"text": t} for t in d])),
    "parquet a language": lambda p: directory(p, ".parquet", lambda f, d: pd.DataFrame({"text": d}).to_parquet(f)),
    "wide csv": lambda p: wide().to_csv(p / "t.csv", index=False) or p / "t.csv",
    "wide tsv": lambda p: wide().to_csv(p / "t.tsv", index=False, sep="\t") or p / "t.tsv",
    "wide parquet": lambda p: wide().to_parquet(p / "t.parquet") or p / "t.parquet",
    "long csv": lambda p: long().to_csv(p / "t.csv", index=False) or p / "t.csv",
    "long jsonl": lambda p: lines(p / "t.jsonl", long().to_dict("records")),
    "long parquet": lambda p: long().to_parquet(p / "t.parquet") or p / "t.parquet",
    "nested jsonl": lambda p: lines(
        p / "t.jsonl",
        [{"key": k, "text": {tag: TEXT[tag][i] for tag in TEXT}} for i, k in enumerate("abc")],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    path = LAYOUTS[layout](tmp_path)
    corpus = ng.load_corpus(path)
    assert texts(corpus) == TEXT
    assert texts(corpus) == TEXT  # a second time too
    parallel = ng.load_corpus(path, parallel=True)
    samples = list(parallel.samples())
    assert [text for _, text in samples][1:2] == [{tag: TEXT[tag][1] for tag in TEXT}]
    if "a language" not in layout and layout != "txt":
        assert [key for key, _ in samples][:3] == ["a", "b", "c"]
    picked = ng.load_corpus(path, languages=["ur", "en"])
    assert picked.languages == ("ur", "en")


def test_text_that_looks_like_a_missing_value_is_text(tmp_path):
    (tmp_path / "t.csv").write_text("en,fr\nnull,NA\nnone,nul\n", encoding="utf-8")
    assert texts(ng.load_corpus(tmp_path / "t.csv")) == {"en": ["null", "none"], "fr": ["NA", "nul"]}


def test_a_column_id_is_indonesian_only_if_it_is_text(tmp_path):
    pd.DataFrame({"id": ["satu", "dua"], "en": ["one", "two"]}).to_csv(tmp_path / "a.csv", index=False)
    assert ng.load_corpus(tmp_path / "a.csv").languages == ("id", "en")
    pd.DataFrame({"id": [7, 8], "en": ["one", "two"], "fr": ["un", "deux"]}).to_csv(tmp_path / "b.csv", index=False)
    corpus = ng.load_corpus(tmp_path / "b.csv")
    assert corpus.languages == ("en", "fr")
    assert corpus.keys == ["7", "8"]


def test_samples_missing_in_a_language(tmp_path):
    rows = [{"key": "a", "text": {"en": "one", "fr": "un"}}, {"key": "b", "text": {"en": "two"}}]
    corpus = ng.load_corpus(lines(tmp_path / "t.jsonl", rows))
    assert texts(corpus) == {"en": ["one", "two"], "fr": ["un"]}
    assert list(corpus.samples()) == [("a", {"en": "one", "fr": "un"}), ("b", {"en": "two", "fr": None})]


@given(st.integers(2, 7), st.integers(1, 40))
def test_split_is_a_partition(every, count):
    corpus = ng.Corpus({"en": [f"d{i}" for i in range(count)]})
    recorded, held_out = corpus.split(every)
    assert sorted([*recorded["en"], *held_out["en"]]) == sorted(corpus["en"])
    assert list(held_out["en"]) == [f"d{i}" for i in range(every - 1, count, every)]


def test_languages_take_the_tags_of_a_run():
    texts = ng.Corpus({"zh": ["a"], "pt-PT": ["b"], "fr": ["c"]})
    assert texts.tagged_as(["pt-BR", "zh-TW", "zh-CN"]).languages == ("zh-CN", "pt-BR", "fr")
    assert list(texts.tagged_as(["zh-CN"])["zh-CN"]) == ["a"]
    both = ng.Corpus({"zh-TW": ["a"], "zh-CN": ["b"], "pt-PT": ["c"], "pt-AO": ["d"]})  # of two that fit, neither
    assert both.tagged_as(["zh-CN", "pt-BR"]).languages == both.languages


def test_several_languages_take_turns():
    corpus = ng.Corpus({"fr": ["a", "b", "c"], "de": ["x"], "en": ["e"]})
    both = corpus.together(["de", "fr"])
    assert list(both["mul"]) == list(both["mul"]) == ["x", "a", "b", "c"]
    assert both.languages == ("fr", "de", "en", "mul")
    assert corpus.languages == ("fr", "de", "en")
    for languages, match in ((["fr"], "two at least"), (["fr", "fr"], "two at least"), (["fr", "es"], "no es")):
        with pytest.raises(ng.NeuroglotError, match=match):
            corpus.together(languages)


def test_split_of_a_parallel_corpus_holds_out_the_same_samples(tmp_path):
    rows = [{"key": str(i), "text": {"en": f"e{i}", **({"fr": f"f{i}"} if i != 2 else {})}} for i in range(10)]
    _, held_out = ng.load_corpus(lines(tmp_path / "t.jsonl", rows)).split()
    assert list(held_out.samples()) == [("4", {"en": "e4", "fr": "f4"}), ("9", {"en": "e9", "fr": "f9"})]


WRONG = {
    "nothing there": (lambda p: p / "none", "There is no corpus at"),
    "empty file": (lambda p: (p / "fr.txt").write_text("") or (p / "en.txt").write_text("x") and p, r"fr.txt is empty"),
    "blank file": (
        lambda p: (p / "fr.txt").write_text("\n \n") and (p / "en.txt").write_text("x") and p,
        "no text in fr",
    ),
    "no language file": (lambda p: (p / "klingonish.txt").write_text("x") and p, "no file named by a language"),
    "encoding in txt": (
        lambda p: (p / "fr.txt").write_bytes("ça\n".encode() + b"\xe7a\n") and p,
        r"fr.txt, line 2: byte 1 is not UTF-8",
    ),
    "encoding in jsonl": (
        lambda p: (
            (p / "t.jsonl").write_bytes(b'{"language":"fr","text":"a"}\n{"language":"fr","text":"\xff"}\n')
            and p / "t.jsonl"
        ),
        r"t.jsonl, line 2: byte 26 is not UTF-8",
    ),
    "malformed jsonl": (
        lambda p: (p / "t.jsonl").write_text('{"language":"fr","text":"a"}\n{"language":\n') and p / "t.jsonl",
        r"t.jsonl, line 2: not valid JSON",
    ),
    "malformed csv": (
        lambda p: (p / "t.csv").write_text("en,fr\na,b\nc,d,e\n") and p / "t.csv",
        r"t.csv, line 3: 3 cells",
    ),
    "duplicate key": (
        lambda p: lines(p / "t.jsonl", [{"key": "a", "text": {"en": "x"}}] * 2),
        r"t.jsonl, line 2: the key 'a' was used before, on line 1",
    ),
    "bad tag in a column": (
        lambda p: lines(p / "t.jsonl", [{"language": "en", "text": "x"}, {"language": "elvish!", "text": "y"}]),
        r"t.jsonl, line 2: 'elvish!' is not a language tag",
    ),
    "bad tag inside": (
        lambda p: lines(p / "t.jsonl", [{"key": "a", "text": {"english": "x"}}]),
        r"t.jsonl, line 1: 'english' is not a language tag",
    ),
    "no such columns": (lambda p: (p / "t.csv").write_text("title,body\na,b\n") and p / "t.csv", "columns title, body"),
    "one txt file": (lambda p: (p / "all.txt").write_text("x") and p / "all.txt", "does not say which language"),
    "broken parquet": (lambda p: (p / "t.parquet").write_bytes(b"PAR1") and p / "t.parquet", "not a readable parquet"),
    "hub unreachable": (lambda p: "hf:nobody/nothing", "hf:nobody/nothing cannot be opened"),
    "hub option": (lambda p: "hf:nobody/nothing?colum=x", "colum is not an option"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named(tmp_path, case):
    make, sentence = WRONG[case]
    with pytest.raises(ng.NeuroglotError, match=sentence):
        ng.load_corpus(make(tmp_path))


def test_unaligned_files_are_named(tmp_path):
    (tmp_path / "en.txt").write_text("a\nb\nc\n")
    (tmp_path / "fr.txt").write_text("a\nb\n")
    with pytest.raises(ng.NeuroglotError, match=r"fr.txt, line 3: the file ends here while .*en.txt has 3 lines"):
        ng.load_corpus(tmp_path, parallel=True)
    with pytest.raises(ng.NeuroglotError, match="not a parallel corpus"):
        list(ng.load_corpus(tmp_path).samples())


def test_duplicate_key_in_a_language_column(tmp_path):
    rows = [{"key": "a", "language": tag, "text": "x"} for tag in ("en", "fr", "en")]
    with pytest.raises(ng.NeuroglotError, match="line 3: the key 'a' was used before in en, on line 1"):
        ng.load_corpus(lines(tmp_path / "t.jsonl", rows), parallel=True)


def test_unknown_languages_are_named(tmp_path):
    path = LAYOUTS["wide csv"](tmp_path)
    with pytest.raises(ng.NeuroglotError, match="has no de; it has en, fr, ur"):
        ng.load_corpus(path, languages=["de"])


# --- datasets as the hub lays them out, in a local directory ---------------------------------------------------------


def dataset(path, configs):
    path.mkdir()
    cards = []
    for config, rows in configs.items():
        lines(path / f"{config}.jsonl", rows)
        cards.append(f"- config_name: '{config}'\n  data_files: {config}.jsonl\n")
    (path / "README.md").write_text("---\nconfigs:\n" + "".join(cards) + "---\n")
    return path


def test_one_config_a_language(tmp_path):
    path = dataset(
        tmp_path / "wiki", {f"20231101.{tag}": [{"title": "t", "text": text} for text in TEXT[tag]] for tag in TEXT}
    )
    assert texts(ng.load_corpus(f"hf:{path}")) == TEXT
    templated = ng.load_corpus(f"hf:{path}?config=20231101.{{language}}", languages=["fr", "en"])
    assert texts(templated) == {"fr": TEXT["fr"], "en": TEXT["en"]}


def test_configs_named_in_words(tmp_path):
    path = dataset(tmp_path / "news", {"french": [{"text": "un"}], "chinese_simplified": [{"text": "一"}]})
    assert texts(ng.load_corpus(f"hf:{path}", languages=["fr"])) == {"fr": ["un"]}


def test_one_column_a_language_is_parallel(tmp_path):
    path = dataset(tmp_path / "flores", {"all": [{"sentence_eng_Latn": "one", "sentence_fra_Latn": "un"}]})
    corpus = ng.load_corpus(f"hf:{path}?config=all&column=sentence_{{language}}", languages=["eng_Latn", "fra_Latn"])
    assert corpus.parallel
    assert texts(corpus) == {"en": ["one"], "fr": ["un"]}


def test_one_dataset_a_language(tmp_path):
    for tag in ("en", "fr"):
        dataset(tmp_path / f"roots_{tag}", {"default": [{"text": TEXT[tag][0]}]})
    corpus = ng.load_corpus(f"hf:{tmp_path}/roots_{{language}}", languages=["en", "fr"])
    assert texts(corpus) == {"en": ["one"], "fr": ["un"]}


def test_a_language_column_of_a_dataset(tmp_path):
    rows = [{"lang": tag, "text": text} for tag, text in (("fra", "un"), ("en", "one"), ("FR", "deux"), ("und", "?"))]
    path = dataset(tmp_path / "web", {"default": rows})
    corpus = ng.load_corpus(f"hf:{path}", languages=["fr", "en"], language_column="lang")
    assert texts(corpus) == {"fr": ["un", "deux"], "en": ["one"]}
    with pytest.raises(ng.NeuroglotError, match="column 'lang': say which languages to read"):
        ng.load_corpus(f"hf:{path}", language_column="lang")
    with pytest.raises(ng.NeuroglotError, match="no column 'locale'; it has lang, text"):
        ng.load_corpus(f"hf:{path}", languages=["fr"], language_column="locale")


def test_numbers_in_a_dataset_are_refused(tmp_path):
    path = dataset(tmp_path / "wiki", {"fr": [{"text": 12}]})
    with pytest.raises(ng.NeuroglotError, match="text is a number"):
        ng.load_corpus(f"hf:{path}")


def test_hub_refusals(tmp_path):
    path = dataset(tmp_path / "wiki", {"fr": [{"body": "un"}]})
    with pytest.raises(ng.NeuroglotError, match="no column 'text'; it has body"):
        ng.load_corpus(f"hf:{path}")
    with pytest.raises(ng.NeuroglotError, match="no config for de"):
        ng.load_corpus(f"hf:{path}?column=body", languages=["de"])
    with pytest.raises(ng.NeuroglotError, match="say which languages"):
        ng.load_corpus(f"hf:{path}?config={{language}}")


# --- the starter corpus ----------------------------------------------------------------------------------------------

SCRIPTS = {
    "zh": "CJK", "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ar": "ARABIC", "ur": "ARABIC", "hi": "DEVANAGARI", "bn": "BENGALI",
}  # fmt: skip


def test_starter_corpus():
    corpus = ng.load_corpus("starter")
    assert corpus.languages == ("en", "zh", "fr", "es", "vi", "id", "ja", "pt", "ar", "hi", "bn", "ur")
    samples = list(corpus.samples())
    assert len(samples) >= 200
    assert len({key for key, _ in samples}) == len(samples)
    assert {key.split("-")[0] for key, _ in samples} >= {"daily", "science", "law", "stories", "instructions", "news"}
    for tag in corpus.languages:
        documents = list(corpus[tag])
        assert len(set(documents)) == len(samples)  # every sample in every language, none twice
        letters = [c for text in documents for c in text if c.isalpha()]
        script = SCRIPTS.get(tag, "LATIN")
        assert all(unicodedata.name(c).startswith(script) or unicodedata.category(c) == "Lm" for c in letters), tag
    recorded, held_out = corpus.split()
    assert not set(recorded["en"]) & set(held_out["en"])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(2, 6))
def test_a_copy_goes_where_its_first_went(numbers, every):
    texts = [f"text {number}" for number in numbers]
    written = [
        text.replace(" ", "  " if place % 2 else "\t") for place, text in enumerate(texts)
    ]  # blanks do not count
    corpus = ng.Corpus({"en": written})
    for one, two in (corpus.split(every), (corpus.half(0), corpus.half(1))):
        some, others = ([" ".join(text.split()) for text in part["en"]] for part in (one, two))
        assert not set(some) & set(others)
        assert sorted(some + others) == sorted(texts)
    first = [place for place, text in enumerate(texts) if text not in texts[:place]]
    if len(first) == len(texts):  # without copies the cut is by position alone
        assert list(corpus.split(every)[1]["en"]) == written[every - 1 :: every]


def test_copies_in_a_parallel_corpus_are_counted_and_stay():
    texts = {"en": [f"one {i}" for i in range(20)], "fr": [f"un {i}" for i in range(20)]}
    texts["fr"][9] = texts["fr"][2]
    texts["en"][14] = texts["en"][19]  # both held out
    read, held_out = ng.Corpus(texts, parallel=True, name="mine").split(5)
    assert len(list(read["fr"])) == 16
    with pytest.warns(ng.NeuroglotWarning, match=r"4 samples of mine that are held out 1 are recorded, .* in fr;"):
        assert list(held_out["en"]) == texts["en"][4::5]
    assert list(held_out["fr"]) == texts["fr"][4::5]  # said once
    with pytest.raises(ng.NeuroglotError, match="every must be a whole number of at least 2, not 1"):
        ng.Corpus(texts).split(1)
