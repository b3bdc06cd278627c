"""Text on the command line: its columns, what is said of what was read, and tags that meet."""

import click
import pandas as pd
import pytest
import tiny
import typer
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.cli import app as registered


def commands():
    """Every command by its words, with the names of its parameters."""

    def walk(command, words):
        if isinstance(command, click.Group) or hasattr(command, "commands"):
            for name, each in command.commands.items():
                yield from walk(each, [*words, name])
        else:
            names = {each.name for each in command.get_params(click.Context(click.Command("x")))}
            yield " ".join(words), names

    return dict(walk(typer.main.get_command(registered.app), []))


def test_every_command_that_opens_text_names_its_columns():
    opening = {words for words, names in commands().items() if {"corpus", "prompts", "completions"} & names}
    assert opening >= {
        "record", "perturb", "align", "compare", "evolve", "study lape", "evaluate perplexity", "evaluate generation",
        "evaluate confusion",
    }  # fmt: skip
    for words in opening:
        assert {"text_column", "language_column"} <= commands()[words], words


def test_columns_are_found_by_their_names(tmp_path, checkpoint, capsys):
    path = tmp_path / "web.csv"
    words = {"fr": "le chat dort ", "de": "die katze ", "FRA_latn": "et le chien "}
    rows = [{"Locale": tag, "Body": word * 30, "url": "x"} for tag, word in words.items() for _ in range(30)]
    pd.DataFrame(rows).to_csv(path, index=False)
    columns = ("--text-column", "body", "--language-column", "LOCALE")
    said = neuroglot("evaluate", "perplexity", checkpoint, path, *columns, "--tokens", 500, "--block", 32)
    assert "fr" in said and "de" in said and "FRA" not in said
    assert "'fr' and 'FRA_latn' are fr" in capsys.readouterr().err
    folder = tmp_path / "run"
    neuroglot("record", checkpoint, path, *columns, "--out", folder, "--block", 32, "--tokens", 800)
    assert ng.Recording.load(folder / "recording" / "recording.safetensors").languages == ("fr", "de")
    neuroglot("identify", folder, "--top-fraction", 0.4, "--activity-quantile", 0.5)
    neuroglot("perturb", folder, "--corpus", path, *columns, "--tokens", 400, "--seeds", 1)


def test_a_table_without_languages_is_refused(tmp_path, checkpoint, monkeypatch, capsys):
    path = tmp_path / "wiki.parquet"
    pd.DataFrame({"id": ["1"], "url": ["u"], "title": ["t"], "text": ["x y"]}).to_parquet(path)
    for command in (["record", checkpoint, path], ["evaluate", "perplexity", checkpoint, path]):
        assert "--language-column" in refused(monkeypatch, capsys, *command)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory, checkpoint):
    """A run whose languages are tagged with regions."""
    pytest.importorskip("lingua")
    folder = tmp_path_factory.mktemp("tags")
    text = {"zh-CN": "今天天气很好我们去公园玩", "pt-BR": "o menino comeu um bolo na casa ", "fr": "le chat dort "}
    (folder / "text").mkdir()
    for tag, words in text.items():
        (folder / "text" / f"{tag}.txt").write_text("\n".join([words * 9] * 30), encoding="utf-8")
    neuroglot("record", checkpoint, folder / "text", "--out", folder / "run", "--block", 32, "--tokens", 800)
    neuroglot("identify", folder / "run", "--top-fraction", 0.4, "--activity-quantile", 0.5)
    return folder / "run"


@pytest.mark.parametrize(
    ("prompt", "tag"), [("今天天气很好，我们去", "zh-CN"), ("O menino comeu um bolo na casa", "pt-BR")]
)
def test_neurons_of_a_region_are_those_of_a_prompt(chinese, checkpoint, prompt, tag, tmp_path):
    file = tmp_path / "x.safetensors"
    said = neuroglot("steer", checkpoint, prompt, "--to", "fr", "--run", chinese, "--tokens", 2, "--save", file)
    assert f"{tag} off" in said or f"{tag.split('-')[0]} off" in said
    recipe = ng.Recipe.load(file)
    assert len(recipe.steps) == 2  # one language off, another raised


def test_text_of_a_language_is_measured_for_the_tag_that_the_run_has(chinese, tmp_path):
    text = tmp_path / "t.csv"
    text.write_text(
        "zh,pt,ru\n" + "今天天气很好我们去公园玩,o menino comeu um bolo,кошка спит на диване\n" * 40, "utf-8"
    )
    how = ("perturb", chinese, "--corpus", text, "--block", 16, "--tokens", 100, "--seeds", 1)
    said = neuroglot(*how)
    assert said.splitlines()[0].split()[-3:] == ["zh-CN", "pt-BR", "ru"]
    assert "Chinese (China)" in said and "Portuguese (Brazil)" in said  # on target


def test_steering_to_a_language_finds_its_region(chinese, checkpoint, capsys):
    how = ("--to", "zh", "--run", chinese, "--tokens", 2)
    assert "steered to zh" in neuroglot("steer", checkpoint, "le chat dort sur la table de la cuisine", *how)
    assert "note:" not in capsys.readouterr().err
    neuroglot("steer", checkpoint, "Кошка спит на диване, а собака лежит на полу", *how)
    assert "The prompt is in Russian (ru), and there are neurons of fr, pt-BR, zh-CN" in capsys.readouterr().err


def test_a_run_says_what_begins_a_prompt(tmp_path, corpus):
    """A tokenizer that only names a BOS: recorded with it, steered with it, unless something else is asked for."""
    tokenizer = tiny.tokenizer(bos=False)
    tokenizer.bos_token = "<s>"
    model = ng.Model(tiny.network(), tokenizer).save(tmp_path / "m")
    neuroglot("record", model, corpus, "--out", tmp_path / "run", "--block", 32, "--tokens", 400, "--bos", "always")
    steer = ("steer", model, "the cats sat", "--to", "fr", "--from", "none", "--method", "random", "--tokens", 8)
    default, always, never = (
        neuroglot(*steer, "--run", tmp_path / "run", *how) for how in ((), ("--bos", "always"), ("--bos", "never"))
    )
    shown = [said[said.index("as it is") :] for said in (default, always, never)]
    assert shown[0] == shown[1] != shown[2]


def test_brackets_in_a_name_are_no_style(tmp_path, checkpoint, monkeypatch, capsys):
    folder = tmp_path / "[final]"
    folder.mkdir()
    for tag in ("en", "fr"):
        (folder / f"{tag}.txt").write_text("the cats sat on the mat\n" * 20)
    (folder / "log.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    said = neuroglot("record", checkpoint, "[final]", "--out", "[bold]", "--block", 16, "--tokens", 100)
    assert "[bold]/recording" in said and "next: neuroglot identify [bold]" in said
    assert "note: [final]: read en.txt, fr.txt" in capsys.readouterr().err
    assert refused(monkeypatch, capsys, "perturb", "[red]").startswith("[red] is not a run")
