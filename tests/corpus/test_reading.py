"""Tables and directories that people have: read by a rule that docs/reading.md states, or refused in one sentence."""

import bz2
import csv
import gzip
import io
import json
import lzma
import warnings

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.corpus.directories import files_by_language
from neuroglot.languages.tags import language_tag


def texts(corpus):
    return {tag: list(corpus[tag]) for tag in corpus.languages}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table(path, suffix, columns):
    """The same columns in any format; None is an empty cell."""
    path = path / f"t{suffix}"
    frame = pd.DataFrame(columns)
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        rows = frame.to_dict("records")
        write(path, "".join(json.dumps(row, default=str) + "\n" for row in rows))
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


# --- tables ----------------------------------------------------------------------------------------------------------

WIKIPEDIA = {"id": ["12", "13"], "url": ["https://a", "https://b"], "title": ["A", "B"], "text": ["one two", "three"]}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_wikipedia_is_not_indonesian_and_urali(tmp_path, suffix):
    path = table(tmp_path, suffix, WIKIPEDIA)
    with pytest.raises(ng.NeuroglotError, match="none that says its language.*--language-column"):
        ng.load_corpus(path)
    (tmp_path / "of").mkdir()
    path.rename(tmp_path / "of" / f"en{suffix}")
    assert texts(ng.load_corpus(tmp_path / "of")) == {"en": ["one two", "three"]}


def test_a_language_column_is_not_passed_over(tmp_path):
    path = table(tmp_path, ".csv", {"language": ["fr", "de"], "sentence": ["un", "eins"], "it": ["x", "y"]})
    with pytest.raises(ng.NeuroglotError, match="language column language but no column 'text'.*--text-column"):
        ng.load_corpus(path)
    assert texts(ng.load_corpus(path, text_column="sentence")) == {"fr": ["un"], "de": ["eins"]}
    path = table(tmp_path, ".csv", {"Locale": ["fr", "de"], " Text": ["un", "eins"]})
    assert texts(ng.load_corpus(path, language_column="locale")) == {"fr": ["un"], "de": ["eins"]}
    with pytest.raises(ng.NeuroglotError, match="no column 'tag'; it has Locale"):
        ng.load_corpus(path, language_column="tag")


def test_capitals_and_blanks_in_names_and_tags(tmp_path):
    path = table(tmp_path, ".tsv", {"Lang ": ["De ", "FR"], "TEXT": ["eins", "un"]})
    assert texts(ng.load_corpus(path)) == {"de": ["eins"], "fr": ["un"]}


def test_tsv_has_no_quoting(tmp_path):
    path = write(tmp_path / "t.tsv", 'fr\ten\n"Oui, dit-il.\t"Yes," he said.\nNon.\tNo.\nSi ".\tIf ".\n')
    assert texts(ng.load_corpus(path)) == {
        "fr": ['"Oui, dit-il.', "Non.", 'Si ".'],
        "en": ['"Yes," he said.', "No.", 'If ".'],
    }


def test_a_quotation_mark_that_is_never_closed_swallows_nothing(tmp_path):
    for row in ('en,"Yes, he said.\nfr,Non\n', 'en,"Yes, he said.\nfr,"Non"\n'):
        path = write(tmp_path / "t.csv", f"language,text\nfr,Oui\n{row}")
        with pytest.raises(ng.NeuroglotError, match="t.csv, line 3: the row that begins here is not CSV"):
            ng.load_corpus(path)


@pytest.mark.parametrize("rows", ["fr,Bonjour\nen,Hello\n", "Bonjour,fr\nHello,en\n", "fr\tBonjour\nen\tHello\n"])
def test_a_table_without_a_header_is_refused(tmp_path, rows):
    path = write(tmp_path / ("t.tsv" if "\t" in rows else "t.csv"), rows)
    with pytest.raises(ng.NeuroglotError, match="seems to have no header"):
        ng.load_corpus(path)


@pytest.mark.parametrize("cell", [12, 1.5, True, {"a": 1}, ["x", ["y"]]])
def test_what_is_not_text_is_refused_by_line(tmp_path, cell):
    rows = [{"language": "fr", "text": "un"}, {"language": "fr", "text": cell}]
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ng.NeuroglotError, match="t.jsonl, line 2: text is .*where text should be"):
        ng.load_corpus(path)


def test_columns_of_other_types_are_refused_and_categories_are_text(tmp_path):
    for values in ([1, 2], pd.to_datetime(["2020-01-01", "2021-01-01"]), [[1], [2]], [True, False]):
        path = tmp_path / "t.parquet"
        pd.DataFrame({"en": ["one", "two"], "fr": values}).to_parquet(path)
        with pytest.raises(ng.NeuroglotError, match="t.parquet, row 1: fr is .*where text should be"):
            ng.load_corpus(path)
        assert texts(ng.load_corpus(path, languages=["en"])) == {"en": ["one", "two"]}
    pd.DataFrame({"language": pd.Categorical(["fr", "de"]), "text": ["un", "eins"], "when": [1, 2]}).to_parquet(path)
    assert texts(ng.load_corpus(path)) == {"fr": ["un"], "de": ["eins"]}


def test_numbers_in_csv(tmp_path):
    path = write(tmp_path / "t.csv", "language,text\nfr,12\nde,eins\n")
    assert texts(ng.load_corpus(path)) == {"fr": ["12"], "de": ["eins"]}  # all of CSV is text
    path = write(tmp_path / "n.csv", "nr,en,fr\n1,one,un\n2,two,deux\n")
    with pytest.raises(ng.NeuroglotError, match=r"column nr \(South Ndebele .*\) holds no letters"):
        ng.load_corpus(path)
    assert ng.load_corpus(path, languages=["fr", "en"]).languages == ("fr", "en")


def test_columns_left_out_are_said(tmp_path):
    path = table(
        tmp_path, ".csv", {"id": ["GEN_1", "GEN_2"], "en": ["one", "two"], "log": ["x", "y"], "fr": ["a", "b"]}
    )
    with pytest.warns(ng.NeuroglotWarning, match="read the columns en, fr, and id as keys; left out log"):
        corpus = ng.load_corpus(path)
    assert corpus.languages == ("en", "fr") and corpus.keys == ["GEN_1", "GEN_2"]
    assert ng.load_corpus(path, languages=["log", "en"]).languages == ("log", "en")


def test_two_columns_of_one_name_or_language(tmp_path):
    with pytest.raises(ng.NeuroglotError, match="two columns named 'en'"):
        ng.load_corpus(write(tmp_path / "t.csv", "en,en\na,b\n"))
    with pytest.raises(ng.NeuroglotError, match="two columns for en: en and eng_Latn"):
        ng.load_corpus(write(tmp_path / "t.csv", "en,eng_Latn\na,b\n"))
    with pytest.raises(ng.NeuroglotError, match="line 1: 'text' is named twice in one JSON object"):
        ng.load_corpus(write(tmp_path / "t.jsonl", '{"language": "fr", "text": "a", "text": "b"}\n'))


def test_other_shapes_of_the_same_table(tmp_path):
    expected = {"fr": ["un", "deux"], "de": ["eins"]}
    rows = [("fr", "un"), ("de", "eins"), ("fr", "deux")]
    objects = [json.dumps({"language": tag, "text": text}) for tag, text in rows]
    semicolons = "language;text\n" + "".join(f"{tag};{text}\n" for tag, text in rows)
    shapes = {
        "a.csv": semicolons,
        "b.csv": "\ufeff" + semicolons.replace(";", ",").replace("\n", "\r\n"),
        "c.tsv": semicolons.replace(";", "\t").encode("utf-16"),
        "d.json": "[" + ",\n".join(objects) + "]",
        "e.json": "\n".join(objects),
        "f.NDJSON": "\ufeff" + "\r\n".join(objects),
        "g.jsonl": ("\n".join(objects)).encode("utf-32"),
        "h.jsonl.gz": gzip.compress("\n".join(objects).encode()),
    }
    for name, content in shapes.items():
        assert texts(ng.load_corpus(write(tmp_path / name, content))) == expected, name


def test_utf16_without_a_mark_and_half_a_surrogate_pair(tmp_path):
    with pytest.raises(ng.NeuroglotError, match="looks like UTF-16 without a byte-order mark"):
        ng.load_corpus(write(tmp_path / "t.csv", "language,text\nfr,un\n".encode("utf-16-le")))
    with pytest.raises(ng.NeuroglotError, match="line 1: text holds half a surrogate pair"):
        ng.load_corpus(write(tmp_path / "t.jsonl", '{"language": "fr", "text": "a\\ud800"}\n'))


def test_a_text_without_a_language(tmp_path):
    path = write(tmp_path / "t.csv", "language,text\nfr,un\n,\nund,?\n")
    with pytest.warns(ng.NeuroglotWarning, match="left out the rows in und, of no one language"):
        assert texts(ng.load_corpus(path)) == {"fr": ["un"]}
    with pytest.raises(ng.NeuroglotError, match="line 3: language is empty"):
        ng.load_corpus(write(tmp_path / "t.csv", "language,text\nfr,un\n,deux\n"))


def test_spellings_of_one_language_in_a_column(tmp_path):
    path = table(tmp_path, ".csv", {"lang": ["fr", "fra_Latn", "FR", "arb_Arab", "ar"], "text": list("abcde")})
    with pytest.warns(ng.NeuroglotWarning, match="'fr' and 'fra_Latn' and 'FR' are fr; 'arb_Arab' and 'ar' are ar"):
        assert texts(ng.load_corpus(path)) == {"fr": ["a", "b", "c"], "ar": ["d", "e"]}
    path = write(tmp_path / "t.jsonl", '{"text": {"fra": "a", "en": "b"}}\n{"text": {"fr": "c", "en": "d"}}\n')
    with pytest.warns(ng.NeuroglotWarning, match="'fra' and 'fr' are fr"):
        assert texts(ng.load_corpus(path)) == {"fr": ["a", "c"], "en": ["b", "d"]}


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "t.csv"
    for word in ("un", "deux", "deux", "ein"):
        assert texts(ng.load_corpus(write(path, f"language,text\nfr,{word}\n"))) == {"fr": [word]}


# --- directories -----------------------------------------------------------------------------------------------------


def test_words_are_no_languages_and_packed_text_is_read(tmp_path):
    for name in ("log.txt", "raw.txt", "new.txt", "src.txt", "README.md", "english.txt"):
        write(tmp_path / name, "x\n")
    (tmp_path / "it").mkdir()
    write(tmp_path / "fr.TXT", "un\n")
    packed = {"de.txt.gz": gzip.compress, "es.txt.bz2": bz2.compress, "pt.txt.xz": lzma.compress}
    for name, pack in packed.items():
        write(tmp_path / name, pack(b"eins\n"))
    with pytest.warns(ng.NeuroglotWarning) as said:
        corpus = ng.load_corpus(tmp_path)
    assert texts(corpus) == {"de": ["eins"], "es": ["eins"], "fr": ["un"], "pt": ["eins"]}
    (sentence,) = (str(each.message) for each in said)
    assert "read de.txt.gz, es.txt.bz2, fr.TXT, pt.txt.xz; left out README.md (of no format that is read)" in sentence
    assert "log.txt (a word; if it is Logo, ask for --languages log)" in sentence
    assert "it (a directory)" in sentence and "english.txt (named by no language)" in sentence
    with pytest.warns(ng.NeuroglotWarning):
        assert ng.load_corpus(tmp_path, languages=["new", "fr"]).languages == ("new", "fr")


def test_zstandard(tmp_path):
    import pyarrow

    with pyarrow.output_stream(str(tmp_path / "fr.jsonl.zst"), compression="zstd") as file:
        file.write(b'{"text": "un"}\n{"text": "deux"}\n')
    assert texts(ng.load_corpus(tmp_path)) == {"fr": ["un", "deux"]}


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_what_is_not_packed_as_its_name_says(tmp_path, suffix):
    whole = gzip.compress(b"un\n" * 9999)
    for content in (b"un\n", whole[: len(whole) // 2] if suffix == ".gz" else b"\0" * 99):
        write(tmp_path / f"fr.txt{suffix}", content)
        with pytest.raises(ng.NeuroglotError, match="is damaged or not packed as"):
            ng.load_corpus(tmp_path)


@pytest.mark.parametrize("name", ["[final]", "a*b", "a?b", "{x}", "a b", "é"])
def test_names_are_no_patterns(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    write(folder / "fr.txt", "un\n")
    (tmp_path / "aXb").mkdir()
    assert texts(ng.load_corpus(folder)) == {"fr": ["un"]}
    assert texts(ng.load_corpus(write(folder / "[t].csv", "language,text\nfr,un\n"))) == {"fr": ["un"]}


def test_a_folder_named_by_a_language_holds_its_files(tmp_path):
    for name, text in {
        "fr/b.txt": "deux\ntrois\n",
        "fr/a.jsonl": '{"text": "un"}\n',
        "fr/readme.pdf": "",
        "fr/.hidden.txt": "non\n",
        "eng_Latn/one.txt.gz": gzip.compress(b"one\n"),
        "new/log.txt": "a word\n",
        "de.txt": "eins\n",
        "nl/notes.pdf": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.warns(ng.NeuroglotWarning) as said:
        corpus = ng.load_corpus(tmp_path)
    held = {tag: list(corpus[tag]) for tag in corpus.languages}
    assert held == {"de": ["eins"], "en": ["one"], "fr": ["un", "deux", "trois"]}
    assert list(corpus["fr"]) == held["fr"]  # and again
    words = " ".join(str(each.message) for each in said)
    assert "left out new (a word" in words and "nl (a directory)" in words and "fr: left out readme.pdf" in words
    (tmp_path / "fr.txt").write_text("encore\n")
    with pytest.raises(ng.NeuroglotError, match=r"two places for fr: fr and fr.txt; keep one"):
        ng.load_corpus(tmp_path)


def test_two_files_of_one_language(tmp_path):
    write(tmp_path / "fr.txt", "un\n")
    write(tmp_path / "fra_Latn.jsonl", '{"text": "un"}\n')
    with pytest.raises(ng.NeuroglotError, match="two places for fr: fr.txt and fra_Latn.jsonl; keep one"):
        ng.load_corpus(tmp_path)


# --- laws ------------------------------------------------------------------------------------------------------------

CELLS = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from("\0\"'\t\r\n\x0b\x0c\x1c\x85\u2028\u2029\ufeff,; aé中")),
    max_size=8,
)
TAGS = st.sampled_from(
    ["fr", "FR", "fra_Latn", "de", " de", "zh", "zho_Hans", "zh-Hant", "pt-BR", "arb_Arab", "xx9", ""]
)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])
PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def expected(rows):
    """Language → texts that are not blank, of rows of tag and text."""
    found = {}
    for tag, text in rows:
        if text.strip():
            found.setdefault(language_tag(tag), []).append(text)
    return found


def read(path, **how):
    """What a file holds, or the sentence that refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ng.NeuroglotWarning)
        try:
            return texts(ng.load_corpus(path, **how))
        except ng.NeuroglotError as error:
            return str(error)


def same(found, rows):
    """Exactly what was written, or one sentence where the rows give a reason for it."""
    odd = any(tag.strip() in ("xx9", "") for tag, _ in rows)
    blank = {tag for tag, text in rows} - {tag for tag, text in rows if text.strip()}
    if isinstance(found, str):
        return odd or bool(blank) or not rows or "UTF-16" in found
    return found == expected([row for row in rows if row[0].strip() != ""])


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(TAGS, CELLS), max_size=6), encoding=ENCODINGS, pack=st.sampled_from(list(PACKED)))
def test_json_lines_come_back(tmp_path_factory, rows, encoding, pack):
    path = tmp_path_factory.mktemp("t") / f"t.jsonl{pack}"
    lines = [json.dumps({"language": tag, "text": text}, ensure_ascii=False) for tag, text in rows]
    write(path, PACKED[pack]("\r\n".join(lines).encode(encoding)))
    assert same(read(path), rows)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(TAGS, CELLS), max_size=6),
    encoding=ENCODINGS,
    separator=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_csv_comes_back(tmp_path_factory, rows, encoding, separator, quoting):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, delimiter=separator, quoting=quoting)
    table.writerows([("language", "text"), *rows])
    write(path, buffer.getvalue().encode(encoding))
    assert same(read(path), rows)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(TAGS, CELLS), max_size=6), encoding=ENCODINGS)
def test_tsv_comes_back_or_is_refused(tmp_path_factory, rows, encoding):
    """A cell without tab and line end is what it is, quotes and all; a line end at its end may be half of CRLF."""
    rows = [(tag, text.replace("\t", "").replace("\n", "").rstrip("\r")) for tag, text in rows]
    path = tmp_path_factory.mktemp("t") / "t.tsv"
    write(path, "".join(f"{tag}\t{text}\n" for tag, text in [("language", "text"), *rows]).encode(encoding))
    assert same(read(path), rows)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(TAGS, CELLS), min_size=1, max_size=6))
def test_parquet_comes_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    pd.DataFrame(rows, columns=["language", "text"]).astype(str).to_parquet(path)
    assert same(read(path), rows)


NAMES = st.sampled_from("fr.txt FR.txt de.TXT log.txt new.txt zh-Hant.txt pt_BR.txt notes.md it text.txt".split())


@settings(max_examples=60)
@given(files=st.dictionaries(NAMES, st.lists(CELLS, max_size=4), max_size=5), encoding=ENCODINGS)
def test_directories_come_back(tmp_path_factory, files, encoding):
    """Every file of a language is read line by line; a file that is not taken is never one of the languages."""
    folder = tmp_path_factory.mktemp("t")
    if encoding == "utf-16":  # its mark and a NUL are the mark of UTF-32
        files = {name: [line.lstrip("\0") for line in lines] for name, lines in files.items()}
    tags = {"fr.txt": "fr", "FR.txt": "fr", "de.TXT": "de", "zh-Hant.txt": "zh-Hant", "pt_BR.txt": "pt-BR"}
    rows = {}
    for name, lines in files.items():
        lines = [line.replace("\n", "").rstrip("\r") for line in lines]
        write(folder / name, "".join(f"{line}\n" for line in lines).encode(encoding))
        if name in tags:
            rows.setdefault(tags[name], []).append([line for line in lines if line.strip()])
    found = read(folder)
    if isinstance(found, str):
        assert not rows or any(len(each) > 1 or not each[0] for each in rows.values()) or "UTF-16" in found
    else:
        assert found == {tag: lines for tag, (lines,) in rows.items()}


def test_files_are_chosen_by_format(tmp_path):
    write(tmp_path / "fr.jsonl", "{}")
    assert list(files_by_language(tmp_path, None, ["json"])) == ["fr"]


def test_objects_of_a_translation_column_and_the_separator_of_a_table(tmp_path):
    (tmp_path / "opus.jsonl").write_text(
        '{"translation": {"en": "one", "fr": "un"}}\n{"translation": {"fr": "deux"}}\n'
    )
    found = ng.load_corpus(tmp_path / "opus.jsonl")
    assert [texts for _, texts in found.samples()] == [{"en": "one", "fr": "un"}, {"en": None, "fr": "deux"}]
    (tmp_path / "table.csv").write_text("language;text\nen;one\nfr;un; deux\n")
    with pytest.raises(ng.NeuroglotError, match="line 3: 3 cells where the header has 2; quote cells that hold ';'"):
        ng.load_corpus(tmp_path / "table.csv")


COLUMNS = st.lists(
    st.sampled_from(["fr", "De ", "zh-Hant", "arb_Arab", " key", "log", "note 1"]), min_size=2, max_size=5, unique=True
)


@settings(max_examples=60)
@given(data=st.data(), names=COLUMNS, form=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_columns_of_languages_come_back_row_by_row(tmp_path_factory, data, names, form):
    """Whatever a cell holds, row i is row i in every language; what is no language is never one."""
    tags = {"fr": "fr", "De ": "de", "zh-Hant": "zh-Hant", "arb_Arab": "ar"}
    rows = data.draw(st.lists(st.tuples(*(CELLS for _ in names)), min_size=1, max_size=5))
    if form == ".tsv":
        rows = [[cell.replace("\t", "").replace("\n", "").replace("\r", "") for cell in row] for row in rows]
    path = tmp_path_factory.mktemp("t") / f"t{form}"
    if form == ".parquet":
        pd.DataFrame(rows, columns=names).astype(str).to_parquet(path)
    elif form == ".jsonl":
        write(path, "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows))
    elif form == ".tsv":
        write(path, "".join("\t".join(row) + "\n" for row in [names, *rows]))
    else:
        buffer = io.StringIO(newline="")
        csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([names, *rows])
        write(path, buffer.getvalue())
    whole = {tags[name]: [row[at] for row in rows] for at, name in enumerate(names) if name in tags}
    found = read(path)
    if isinstance(found, str):
        cells = [cell.strip() for column in whole.values() for cell in column]
        told = whole and all(" " in cell and cell[:1].isalpha() for cell in cells)  # no tag, no number, not blank
        assert "UTF-16" in found or not told or (" key" in names and "key" in found)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ng.NeuroglotWarning)
        corpus = ng.load_corpus(path)
    held = {tag: list(corpus[tag].aligned()) for tag in corpus.languages}
    assert held == {tag: [cell if cell.strip() else None for cell in cells] for tag, cells in whole.items()}
