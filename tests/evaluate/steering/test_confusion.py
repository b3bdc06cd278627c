"""Language confusion: the benchmark's rule, on texts written for these tests."""

import gzip

import commands
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.beginning import beginning
from neuroglot.evaluate.steering.confusion import confusion_table, english_words, language_confusion, read_completions
from neuroglot.languages.fasttext import FastTextIdentifier

FRENCH = "Le chat dort près de la fenêtre pendant que la pluie tombe sur le jardin."
ENGLISH = "The cat sleeps near the window while the rain falls on the garden."
RUSSIAN = "Кошка спит у окна, а дождь идёт над старым садом весь вечер."
CHINESE = "猫在窗边睡觉，外面的雨一直下到晚上，花园里很安静。"
JAPANESE = "猫は窓のそばで眠っていて、庭には一晩中雨が降っている。"


def one(text, language, **more):
    return language_confusion([text], language, **more).checks[0]


@pytest.mark.parametrize(
    ("text", "language"), [(FRENCH, "fr"), (ENGLISH, "en"), (RUSSIAN, "ru"), (CHINESE, "zh"), (JAPANESE, "ja")]
)
def test_an_answer_in_its_language_passes(text, language):
    check = one(text, language)
    assert check.judged and check.passes and check.line_accuracy == 1
    assert not one(text, "fr" if language == "es" else "es").passes


def test_the_first_wrong_line_is_named_by_its_place_in_the_text():
    check = one(f"\n\n{FRENCH}\n\nOui.\n{ENGLISH}\n{FRENCH}", "fr")
    assert (check.lines, check.wrong_lines, check.detected) == (3, (5,), ("en",))
    assert check.line_accuracy == pytest.approx(2 / 3)


def test_an_english_word_fails_only_where_the_script_shows_it_and_only_by_word():
    mixed = RUSSIAN.replace("старым", "garden")
    result = language_confusion([mixed, RUSSIAN, ENGLISH], "ru")
    assert (result.line_passes, result.word_passes, result.judged) == (2, 1, 3)
    assert result.checks[0].first_wrong_word == (0, 8, "garden")
    assert result.word_pass_rate == 0.5  # of those that pass by line
    for word in ("Garden", "the", "gardn"):  # a name, a short word, no word
        assert one(RUSSIAN.replace("старым", word), "ru").passes
    french = FRENCH.replace("jardin", "garden")
    assert one(french, "fr").passes
    assert language_confusion([french], "fr").word_pass_rate is None


def beginning_of(text, language, **more):
    begins = one(text, language, **more).begins
    return None if begins is None else (begins.line, begins.word, text[begins.character :].split()[0])


def test_where_confusion_begins_is_a_place_in_the_text_as_it_was_written():
    assert beginning_of(FRENCH, "fr") is None and beginning_of("Oui.", "en") is None
    assert beginning_of(f"  \n«{FRENCH}», dit-il.\n\n({ENGLISH})", "fr") == (3, 0, "The")
    assert beginning_of(RUSSIAN.replace("старым", "(garden)"), "ru") == (0, 8, "garden)")
    assert beginning_of(CHINESE.replace("花园", " garden "), "zh")[2].startswith("garden")
    result = language_confusion([FRENCH, ENGLISH], "fr").frame()
    assert result["line"].tolist()[1] == 0 and result["text"].tolist()[1] == "The"


@given(st.integers(1, 12), st.integers(1, 12))
def test_a_line_leaves_its_language_where_its_words_do(before, after):
    words = [f"a{i}" for i in range(before)] + [f"b{i}" for i in range(after)]

    def identify(text):  # a word of two words is of the first's language: as sure as can be, with neighbours
        kinds = [word[0] for word in text.split()]
        return "fr" if kinds.count("a") > kinds.count("b") else "en"

    begins = beginning(" ".join(words), words, "fr", identify)
    assert abs(begins.word - before) <= 1 or len(words) < 5
    assert begins.text == words[begins.word]


def test_lines_of_fewer_than_five_words_and_new_questions_are_not_judged():
    assert not one("Oui, bien sûr.", "en").judged
    assert one(f"{FRENCH}\nQ: {ENGLISH}", "fr").passes
    nothing = language_confusion(["", "Oui."], "ru")
    assert (nothing.judged, nothing.line_pass_rate, nothing.word_pass_rate) == (0, 1.0, 1.0)
    assert nothing.interval() == (0.0, 1.0)


def test_a_line_that_the_identifier_is_unsure_of_is_wrong():
    assert one(FRENCH, "fr", identify=FastTextIdentifier(confidence=1.0)).wrong_lines == (0,)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=6))
def test_rates_are_shares_of_what_the_checks_say(texts):
    result = language_confusion(texts, "ru", words={"garden"}, identify=lambda line: "ru" if "а" in line else "en")
    frame = result.frame()
    assert len(frame) == len(texts)
    if len(texts):
        assert result.judged == frame["judged"].sum() and result.line_passes == frame["line_pass"].sum()
    assert 0 <= result.word_passes <= result.line_passes <= result.judged <= len(texts)
    assert result.line_pass_rate <= result.line_accuracy or result.judged == 0


def test_means_are_over_languages_of_means_over_sources():
    rows = [("a", "fr", FRENCH), ("a", "fr", ENGLISH), ("b", "fr", FRENCH), ("a", "ru", RUSSIAN)]
    table = confusion_table(pd.DataFrame(rows, columns=["source", "language", "completion"]))
    rate = table.set_index(["source", "language"])["line_pass_rate"]
    assert rate["a", "fr"] == 0.5 and rate["b", "fr"] == 1
    assert rate["all", "fr"] == 0.75 and rate["a", "all"] == 0.75 and rate["all", "all"] == 0.875


def test_the_command_reads_tables_and_writes_rates(tmp_path, monkeypatch, capsys):
    path = tmp_path / "answers.jsonl.gz"
    table = pd.DataFrame({"answer": [FRENCH, ENGLISH, "123"], "target": ["fr", "fr", "fr"]})
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(table.to_json(orient="records", lines=True))
    printed = commands.neuroglot("evaluate", "confusion", path, "--out", tmp_path / "rates.csv")
    assert "50.00% (9% to 91%)" in printed and "n/a" in printed
    assert pd.read_csv(tmp_path / "rates.csv")["judged"][0] == 2
    assert read_completions(path)["completion"][2] == "123"
    (tmp_path / "bare.csv").write_text("completion\nNon\n")
    sentence = commands.refused(monkeypatch, capsys, "evaluate", "confusion", tmp_path / "bare.csv")
    assert "--language" in sentence
    for name, text, said in [
        ("a.jsonl", '{"answer": 12, "target": "fr"}\n', "line 1: answer is a number (12), where text should be"),
        ("b.jsonl", '{"answer": "x", "target": "fr"}\n{"answer": "x", \n', "line 2: not valid JSON"),
        ("c.csv", 'answer,target\n"Oui,fr\n', "the row that begins here is not CSV"),
        ("d.txt", "Oui\n", "is no table of completions"),
    ]:
        (tmp_path / name).write_text(text)
        assert said in commands.refused(monkeypatch, capsys, "evaluate", "confusion", tmp_path / name)
    (tmp_path / "e.TSV").write_text(' Answer\tLang\n"Oui, dit-il.\tfr\nNon\tfr\n')  # which has no quoting
    assert list(read_completions(tmp_path / "e.TSV")["completion"]) == ['"Oui, dit-il.', "Non"]
    table = read_completions(tmp_path / "e.TSV", text_column="lang", language_column="ANSWER")
    assert list(table["completion"]) == ["fr", "fr"] and table["language"][1] == "Non"
    with pytest.raises(NeuroglotError, match="has no column 'Body'; it has  Answer, Lang"):
        read_completions(tmp_path / "e.TSV", text_column="Body")
    (tmp_path / "none.csv").write_text("")
    commands.refused(monkeypatch, capsys, "evaluate", "confusion", tmp_path / "none.csv")
    with pytest.raises(NeuroglotError, match="cannot be read"):
        english_words(tmp_path / "nowhere")
