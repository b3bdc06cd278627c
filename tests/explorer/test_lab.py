"""The Lab on a real model."""

import pytest

import neuroglot as ng
from neuroglot.explorer.lab import answers, lab_recipe


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
