"""The Lab's marks, and the Lab on a real model."""

import pytest

import neuroglot as ng
from neuroglot.explorer.lab import Answer, _clauses, _marked, answer_panel, answers, lab_recipe


def test_words_of_another_language_are_marked_and_the_text_stays_as_it_is():
    french = "Le chat dort près de la fenêtre pendant que la pluie tombe sur le jardin"
    english = "the small cat sleeps near the window while heavy rain falls on the old garden"
    text = f"{french} <b>.\n\n{english}"
    parts = _marked(text, "fr", ["fr", "en"])
    assert "".join(piece for piece, _ in parts) == text
    other = [piece for piece, wrong in parts if wrong]
    assert {"sleeps", "window", "garden"} <= {*other} and not {"chat", "fenêtre", "pluie"} & {*other}
    panel = answer_panel(Answer("edited", "x", text, done=True, marked=parts))
    assert '<mark title="another language">window</mark>' in panel and "&lt;b&gt;" in panel


def test_words_in_brackets_are_read_by_themselves():
    text = "Nous allons à la lumière (the light) avant que la nuit ne tombe."
    assert [word for word, foreign in _marked(text, "fr", ["fr", "en"]) if foreign] == ["(the", "light)"]
    words = "il dit oui. Alors (the light)".split()  # «Alors» stands alone
    assert _clauses(words) == [(0, 3), (0, 3), (0, 3), (0, 6), (4, 6), (4, 6)]
    assert _clauses([]) == []


@pytest.mark.long
@pytest.mark.real
def test_chinese_is_silenced_in_a_real_model(gemma):
    from neuroglot.languages.detection import LanguageIdentifier

    corpus, _ = ng.load_corpus("starter", languages=["en", "zh", "fr"]).split()
    recording = ng.record(gemma, corpus, tokens=1500, block=128, progress=False)
    neurons = ng.identify.lape(recording)
    recipe = lab_recipe(recording, neurons, ["zh"], [])
    prompt = "今天天气很好，我们一家人去公园"
    *_, (intact, edited) = answers(gemma, recipe, prompt, tokens=16, languages=("en", "zh", "fr"))
    assert intact.language == LanguageIdentifier(["zh", "en"])(intact.text) == "zh"
    assert edited.text != intact.text
    assert edited.language != "zh"
