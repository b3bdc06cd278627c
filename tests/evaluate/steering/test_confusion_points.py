"""How likely the language was where an answer left it: by hand, one token and one layer at a time."""

import commands
import pandas as pd
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.errors import NeuroglotError
from neuroglot.evaluate.steering.confusion import language_confusion
from neuroglot.evaluate.steering.confusion_points import confusion_points, points_by_layer
from neuroglot.models.architecture.hooks import observe_residual
from neuroglot.tokens.counts import TokenLanguages, token_counts

FRENCH = "Le chat dort près de la fenêtre pendant que la pluie tombe."
ENGLISH = "The cat sleeps near the window while the rain falls."
ANSWERS = [f"{FRENCH}\n{ENGLISH}", FRENCH, ENGLISH]
PROMPTS = ["Où dort le chat ?", "Et toi ?", "Pourquoi ?"]


@pytest.fixture(scope="module")
def found():
    model, text = tiny.model(), tiny.corpus()
    owners = TokenLanguages.of(token_counts(model, text, 500), text.languages)
    result = language_confusion(ANSWERS, "fr")
    return model, owners, result, confusion_points(model, result, PROMPTS, owners, progress=False)


def test_the_last_layer_is_what_the_model_says_and_the_others_go_through_norm_and_head(found):
    model, owners, _, points = found
    assert points["completion"].unique().tolist() == [0, 2]
    own = owners.owner == owners.languages.index("fr")
    for place, text in ((0, f"{FRENCH}\n"), (2, "")):
        some = points[points["completion"] == place].reset_index(drop=True)
        ids = [*model.begin, *model.encode([PROMPTS[place]])[0], *model.encode([text])[0]]
        streams = []
        with torch.no_grad(), observe_residual(model.ffns, lambda _, x, streams=streams: streams.append(x.clone())):
            model.hidden_states(torch.tensor([ids]))
            for layer, states in enumerate(streams):
                logits = model.network.lm_head(model.network.model.norm(states))[0, -1]
                row = some.loc[layer]
                assert row["probability"] == pytest.approx(float(logits.softmax(-1)[own].sum()), rel=1e-4)
                assert row["rank"] == 1 + int((logits > logits[own].max()).sum())
                assert row["layer"] == layer + 1
        assert some["token"].iloc[0] == len(model.encode([text])[0])
        assert some["written"].iloc[0] == "T"
        assert (some["line"].iloc[0], some["word"].iloc[0], some["text"].iloc[0]) == (place == 0, 0, "The")


def test_means_are_over_points(found):
    *_, points = found
    table = points_by_layer(points)
    assert table["points"].tolist() == [2] * found[0].layers
    assert table["probability"].tolist() == pytest.approx(points.groupby("layer")["probability"].mean().tolist())


def test_what_does_not_fit_is_refused(found):
    model, owners, result, _ = found
    with pytest.raises(NeuroglotError, match="2 prompts for 3 answers"):
        confusion_points(model, result, PROMPTS[:2], owners)
    with pytest.raises(NeuroglotError, match="not for es"):
        confusion_points(model, language_confusion(ANSWERS, "es"), PROMPTS, owners)


def test_the_command_prints_and_writes_where_confusion_begins(checkpoint, corpus, tmp_path, monkeypatch, capsys):
    table = tmp_path / "answers.csv"
    pd.DataFrame({"completion": ANSWERS, "language": "fr", "prompt": PROMPTS}).to_csv(table, index=False)
    starts = tmp_path / "starts.csv"
    said = commands.neuroglot("evaluate", "confusion", table, "--starts", starts)
    assert "confusion begins in 2 of 3 answers" in said
    assert pd.read_csv(starts)[["completion", "line", "word", "text"]].to_numpy().tolist() == [
        [0, 1, 0, "The"], [2, 0, 0, "The"]
    ]  # fmt: skip
    model = ("--model", checkpoint, "--counted", corpus, "--starts", starts)
    said = commands.neuroglot("evaluate", "confusion", table, *model)
    assert "rank (median)" in said
    assert len(pd.read_csv(starts)) == 2 * ng.load_model(checkpoint).layers
    pd.DataFrame({"completion": ANSWERS, "language": "fr"}).to_csv(table, index=False)
    assert "no column 'prompt'" in commands.refused(monkeypatch, capsys, "evaluate", "confusion", table, *model)
