"""Models that cannot be used are refused in one sentence, from their configuration: there is no weight to read."""

import json

import every_type
import pytest
import tiny
from commands import refused

REFUSED = {
    "bert": "This bert reads a text in both directions, so it is no causal language model; set is_decoder to true",
    "xlm": "This xlm reads a text in both directions",
    "xlnet": "This xlnet reads a text in both directions",
    "gemma3_text": "This gemma3_text reads a text in both directions",
    "mamba": "No FFN was found in mamba: no layer multiplies an activation function",
    "falcon_mamba": "No FFN was found in falcon_mamba",
    "jetmoe": "jetmoe is a native mixture of experts with code of its own",
    "vit": "is of type vit, which is no causal language model; see docs/supported.md",
    "alien": "is of type alien, which transformers",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("refused")


@pytest.mark.parametrize("kind", REFUSED)
def test_one_sentence_from_the_configuration_alone(kind, folder, corpus, monkeypatch, capsys):
    path = folder / kind
    path.mkdir()
    (path / "config.json").write_text(json.dumps(every_type.refused_config(kind)))
    tiny.tokenizer().save_pretrained(path)
    for arguments in (("doctor", path), ("record", path, corpus, "--out", folder / "run")):
        assert REFUSED[kind] in refused(monkeypatch, capsys, *arguments)
    assert not (folder / "run").exists()


@pytest.mark.parametrize("text", ["[]", "{}", '{"model_type": "lla'])
def test_a_configuration_that_is_none_is_one_sentence(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(text)
    said = refused(monkeypatch, capsys, "doctor", tmp_path)
    assert "cannot be opened as a causal language model" in said
