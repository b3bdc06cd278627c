"""`neuroglot steer` and `neuroglot evaluate generation` as a person meets them."""

import re
import shutil

import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.figures.steering import forcing_figure
from neuroglot.languages.tags import direction
from neuroglot.report.steering import steering_findings


@pytest.fixture(scope="module")
def run(tmp_path_factory, recorded):
    folder = shutil.copytree(recorded, tmp_path_factory.mktemp("runs") / "run")
    neuroglot("identify", folder, "--top-fraction", 0.4, "--activity-quantile", 0.5)
    return folder


PROMPT = "the cats sat on the mat and slept there"


def test_steer_shows_both_answers(run, checkpoint, tmp_path):
    file, baked = tmp_path / "fr.safetensors", tmp_path / "baked"
    said = neuroglot(
        "steer", checkpoint, PROMPT, "--to", "fr", "--run", run, "--tokens", 6, "--site", "hidden", "--save", file,
        "--bake", baked,
    )  # fmt: skip
    assert "as it is" in said and "steered to fr" in said and "en off" in said  # the prompt's language was told
    model, recipe = ng.load_model(checkpoint), ng.Recipe.load(file)
    assert recipe.about["source"] == "en" and recipe.about["to"] == "fr"
    with recipe.applied(model):
        (steered,) = ng.evaluate.generate(model, [PROMPT], tokens=6, repetition_penalty=1.1)
    letters = [letter for letter in steered if letter.isascii() and letter.isalnum()]
    assert all(letter in said for letter in letters)
    again = neuroglot("steer", checkpoint, PROMPT, "--recipe", file, "--tokens", 6)
    assert again.split("wrote")[0].split() == said.split("wrote")[0].split()
    assert ng.load_model(baked).fingerprint != model.fingerprint


def test_steer_by_published_directions(checkpoint, tmp_path, monkeypatch, capsys):
    model = ng.load_model(checkpoint)
    both = torch.randn(2, model.layers, model.stream_width, generator=torch.Generator().manual_seed(0))
    for name, values in zip(("to.pt", "from.pt"), both, strict=True):
        torch.save({"steering_vectors": values}, tmp_path / name)
    files = ("--vector", tmp_path / "to.pt", "--less", tmp_path / "from.pt")
    out = tmp_path / "out.safetensors"
    said = neuroglot(
        "steer", checkpoint, PROMPT, *files, "--layers", 2, "--strength", 3, "--tokens", 4, "--export", out
    )
    assert "residual dimensions" in said
    way = (both[0] - both[1])[1].double()
    torch.testing.assert_close(ng.load_directions(out)[1].float(), (3 * way / way.norm()).float())
    torch.save(both[0, :-1], tmp_path / "from.pt")
    sentence = refused(monkeypatch, capsys, "steer", checkpoint, PROMPT, *files, "--layers", 2)
    assert "different shapes" in sentence


def test_steer_without_a_run_records_the_languages_that_it_needs_and_says_how_many(
    checkpoint, tmp_path, monkeypatch, capsys
):
    """The built-in corpus in six languages, and in that of the answer if it is no other of them; each once."""
    monkeypatch.chdir(tmp_path)
    say = lambda *more: neuroglot("steer", checkpoint, PROMPT, "--method", "random", "--tokens", 3, *more)  # noqa: E731
    assert "steered to vi" in say("--to", "vi")
    said = capsys.readouterr().err
    assert "recording up to 12,000 tokens of the built-in corpus" in said and "(en, zh, fr, es, vi, id)" in said
    assert re.search(r"tokens, about \d+ s", said)
    say("--to", "zh-CN", "--from", "es")  # it has both
    assert "recording" not in capsys.readouterr().err
    say("--to", "ar")
    assert "up to 14,000 tokens" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"tiny-steer", "tiny-steer-ar"}


def test_steer_takes_the_run_of_the_starter_corpus_that_is_there(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    neuroglot("record", checkpoint, "starter", "--languages", "en,vi", "--block", 32, "--tokens", 300)
    capsys.readouterr()
    neuroglot("steer", checkpoint, PROMPT, "--to", "vi", "--method", "random", "--tokens", 3)  # nor was identify called
    assert "recording" not in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"tiny-starter"}


def test_steer_refuses(run, checkpoint, tmp_path, monkeypatch, capsys):
    say = lambda *arguments: refused(monkeypatch, capsys, "steer", checkpoint, *arguments)  # noqa: E731
    monkeypatch.chdir(tmp_path)
    assert "Say the language" in say(PROMPT)
    assert "prompt is empty" in say(" ", "--to", "fr")
    assert "has not recorded zh" in say(PROMPT, "--to", "zh", "--run", run)
    assert "built-in corpus has no de" in say(PROMPT, "--to", "de")
    assert "built-in corpus has no de" in say(PROMPT, "--to", "fr", "--from", "de")
    assert "is not a run" in say(PROMPT, "--to", "fr", "--run", tmp_path)
    assert "not a recipe file" in say(PROMPT, "--recipe", run / "neurons" / "lape.safetensors")
    assert "leave out --run" in say(PROMPT, "--recipe", run / "neurons" / "lape.safetensors", "--run", run)
    assert "layers takes numbers from 1 to 3" in say(PROMPT, "--to", "fr", "--run", run, "--layers", "2-9")
    assert "needs --layers" in say(PROMPT, "--vector", "fr.pt") and "give both" in say(PROMPT, "--less", "fr.pt")
    assert "fr.pt does not exist; give a file of directions" in say(PROMPT, "--vector", "fr.pt", "--layers", 2)
    assert "should end in .gguf or .safetensors" in say(PROMPT, "--to", "fr", "--export", "fr.bin")
    assert "align it" in say(PROMPT, "--to", "fr", "--method", "probe")
    assert "has no samples" in say(PROMPT, "--to", "fr", "--run", run, "--method", "lda")
    assert "--steer takes raise, replace" in say(PROMPT, "--to", "fr", "--run", run, "--steer", "push")
    other = tmp_path / "other"
    tiny.model(seed=1).save(other)
    sentence = refused(monkeypatch, capsys, "steer", other, PROMPT, "--to", "fr", "--run", run)
    assert "other weights" in sentence
    assert not (tmp_path / "runs").exists()


def test_generation_measures_and_reports(run, tmp_path):
    prompts = tmp_path / "mine"
    prompts.mkdir()
    for tag, texts in {"en": ["the cats", "the mat"], "fr": ["çà et là", "un été"], "ru": ["всё", "раз"]}.items():
        (prompts / f"{tag}.txt").write_text("\n".join(texts), encoding="utf-8")
    arguments = ("evaluate", "generation", run, "--prompts", prompts, "--tokens", 5, "--seeds", 2, "--off")
    said = neuroglot(*arguments)
    answers = pd.read_csv(run / "tables" / "answers-mine.csv", keep_default_na=False)
    assert len(answers) == 6 * 9 * 2 and "both: asked in" in said
    rates = pd.read_csv(run / "tables" / "steering-mine.csv")
    assert set(rates["condition"]) == {"intact", "source off", "raised", "both", "random"} and len(rates) == 5 * 9
    assert list(pd.read_csv(run / "tables" / "steering-repair-mine.csv")["language"]) == ["en", "fr", "ru"]
    assert len(pd.read_csv(run / "tables" / "answers-off-mine.csv")) == 5 * 3 * 2
    cells = set((run / "steering" / "cells").iterdir())
    assert neuroglot(*arguments) == said and set((run / "steering" / "cells").iterdir()) == cells
    before = (run / "tables" / "answers-mine.csv").read_bytes()
    less = (*arguments[:-1], "--conditions", "intact", "--sources", "en,fr", "--targets", "en,fr", "--limit", 1)
    asked = neuroglot(*less, "--ask")  # another question has tables of its own
    assert "answers-mine-asked.csv" in asked and (run / "tables" / "answers-mine-asked.csv").is_file()
    other = neuroglot(*less)
    (name,) = {file.name for file in (run / "tables").glob("answers-mine-*.csv")} - {"answers-mine-asked.csv"}
    assert name in other and neuroglot(*less) == other
    assert (run / "tables" / "answers-mine.csv").read_bytes() == before
    neuroglot("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Steering: mine" in page and "Steering: mine-asked" in page and 'dir="auto"' in page and 'lang="ru"' in page
    assert (run / "figures" / "steering-mine.png").is_file()
    earlier = shutil.copytree(run, tmp_path / "earlier")  # whose tables have the column `arm`
    answers.rename(columns={"condition": "arm"}).to_csv(earlier / "tables" / "answers-mine.csv", index=False)
    (earlier / "tables" / ".answers-mine.csv.sha256").unlink()  # which they had not
    neuroglot("report", earlier)
    assert "Steering: mine" in (earlier / "report.html").read_text(encoding="utf-8")
    other = shutil.copytree(run, tmp_path / "other")  # found anew, the answers of other neurons are not shown
    neuroglot("identify", other, "--top-fraction", 0.3, "--activity-quantile", 0.5)
    neuroglot("report", other)
    assert "Steering: mine" not in (other / "report.html").read_text(encoding="utf-8")
    assert not list((other / "tables").glob("answers*")) and (run / "tables" / "answers-mine.csv").is_file()


def test_prompting_relevance_and_a_budget(run, tmp_path):
    """Prompts ask for the language, answers are rated without a judge, and a search has a budget."""
    prompts = tmp_path / "some"
    prompts.mkdir()
    for tag, texts in {
        "en": ["the cats?", "the mat?", "a dog?", "why?"],
        "fr": ["ça va ?", "un été ?", "où ?", "si ?"],
    }.items():
        (prompts / f"{tag}.txt").write_text("\n".join(texts), encoding="utf-8")
    arguments = (
        "evaluate", "generation", run, "--prompts", prompts, "--tokens", 4, "--prompting", "none,II", "--relevance",
        "rule", "--sources", "en", "--targets", "fr", "--conditions", "intact,raised", "--identifier", "fasttext",
        "--search", "--budget", 60, "--save", tmp_path / "recipes",
    )  # fmt: skip
    said = neuroglot(*arguments)
    assert "steering score" in said and "chosen:" in said and "raised + prompting II" in said
    recipe = ng.Recipe.load(tmp_path / "recipes" / "fr.safetensors")
    assert recipe.about["to"] == "fr" and recipe.steps
    scores = pd.read_csv(run / "tables" / "steering-scores-some.csv", index_col="condition")
    assert list(scores.index) == ["intact", "prompting II", "raised", "raised + prompting II"]
    answers = pd.read_csv(run / "tables" / "answers-some.csv", keep_default_na=False)
    row = scores.loc["raised"]
    raised = answers[answers["condition"] == "raised"]
    assert row["lfs"] == raised["on_target"].mean() and row["relevance"] == raised["relevance"].mean() / 2
    tried = pd.read_csv(run / "tables" / "steering-search-some.csv")
    assert tried.query("half == 'development'")["answers"].sum() > 0 and "prompting II" in set(tried["family"])
    neuroglot("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert (
        "by\nfasttext" in page
        and "the likelihood rule" in page
        and (run / "figures" / "steering-scores-some.png").is_file()
    )


def test_generation_refuses(run, monkeypatch, capsys):
    say = lambda *arguments: refused(monkeypatch, capsys, "evaluate", "generation", run, *arguments)  # noqa: E731
    assert "have no zh" in say("--targets", "zh")
    assert "--conditions takes" in say("--conditions", "intact,none")
    assert "--prompting takes none, I, II, not 'III'" in say("--prompting", "I,III")
    assert "--relevance takes rule, judge" in say("--relevance", "me")
    assert "--identifier takes lingua, fasttext" in say("--identifier", "me")
    assert "leave prompting out" in say("--prompting", "I", "--ask")
    assert "--budget changes nothing without --search" in say("--budget", 10)
    assert "name a model with --judge" in say("--relevance", "judge")
    assert "--reader changes nothing without --relevance rule" in say("--reader", "m")
    assert "There is no corpus" in say("--prompts", "nowhere.txt")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert "set OPENAI_API_KEY" in say("--judge", "some-model")
    assert "--judge-reading takes reply or expected, not 'mean'" in say("--judge", "m", "--judge-reading", "mean")
    assert "does not say how likely" in say(
        "--judge", "m", "--judge-url", "http://127.0.0.1:9/v1", "--judge-reading", "expected"
    )


@pytest.mark.slow
def test_a_judge_that_is_gone_leaves_the_answers(run, tmp_path, monkeypatch, capsys):
    sentence = refused(
        monkeypatch, capsys, "evaluate", "generation", run, "--targets", "fr", "--sources", "en", "--tokens", 4,
        "--limit", 2, "--judge", "m", "--judge-url", "http://127.0.0.1:9/v1",
    )  # fmt: skip
    assert "cannot be reached" in sentence
    assert len(pd.read_csv(run / "tables" / "answers-openings.csv")) == 5 * 2


def answers(accuracy):
    """Ten answers es → each target, of which so many are on target."""
    flags = {
        "mixed_script": False,
        "mixed_words": False,
        "refusal": False,
        "nll": 1.0,
        "tokens": 1,
        "answer": "x",
        "seed": 0,
        "source": "es",
    }
    rows = [
        {"condition": condition, "target": target, "prompt": str(i), "language": target if i < hits else "es",
         "on_target": i < hits, "degenerate": i == 9, **flags}
        for (condition, target), hits in accuracy.items() for i in range(10)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_findings_name_what_fails():
    table = answers({("intact", "zh"): 0, ("intact", "id"): 0, ("both", "zh"): 9, ("both", "id"): 3,
                     ("random", "zh"): 0, ("random", "id"): 1})  # fmt: skip
    said = " ".join(steering_findings(table))
    assert "Indonesian fails or hardly gains: 30% against 10%" in said and "in es 7" in said
    assert "Chinese" not in said and "both 60%" in said
    fine = " ".join(steering_findings(answers({("intact", "zh"): 1, ("both", "zh"): 9})))
    assert "Every target is well above intact" in fine
    figure = forcing_figure(table)
    drawn = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"90", "30", "10", "0"} <= drawn


def test_direction():
    assert [direction(tag) for tag in ("ar", "ur", "he", "fa", "zh", "es", "hi")] == ["rtl"] * 4 + ["ltr"] * 3
