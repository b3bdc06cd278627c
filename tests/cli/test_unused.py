"""An option that would change nothing beside the others is refused, before anything is opened."""

import re

import pytest
import typer
from commands import refused

from neuroglot.cli.app import app


def commands(group, path=()):
    for name, command in group.commands.items():
        yield from commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]


def conditional():
    """Every option whose help begins «With --OTHER:», and the least line that says it without the other."""
    for path, command in commands(typer.main.get_command(app)):
        for option in command.params:
            if found := re.match(r"With --([a-z -]+):", getattr(option, "help", None) or ""):
                yield pytest.param(path, command, option, id=f"{' '.join(path)} {option.name} with {found[1]}")


@pytest.mark.parametrize(("path", "command", "option"), [*conditional()])
def test_what_goes_with_another_option_is_refused_without_it(path, command, option, tmp_path, monkeypatch, capsys):
    file = tmp_path / "answers.csv"
    file.write_text("completion,language\nle chat dort,fr\n", encoding="utf-8")
    needed = [each for each in command.params if each.required]
    places = [file for each in needed if each.param_type_name == "argument"]
    others = [part for each in needed if each.param_type_name == "option" for part in (max(each.opts), "fr")]
    flag = max(option.opts, key=len)
    sentence = refused(
        monkeypatch,
        capsys,
        *path,
        *places,
        *others,
        flag,
        *([] if option.is_flag else [1 if option.name == "distil" else 9]),
    )
    assert flag in sentence


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("steer M PROMPT --recipe R --strength 2", "--strength changes nothing with --recipe"),
        ("steer M PROMPT --recipe R -m lave", "--method changes nothing with --recipe"),
        ("steer M PROMPT --vector V --layers 2 --steer add", "--steer changes nothing with --vector"),
        ("steer M PROMPT --experts-off 1:0 --when prompt", "--when changes nothing without --to"),
        ("evaluate generation R --search --steer diffmean", "--steer changes nothing with --search"),
        ("evaluate generation R --relevance judge", "needs a judge; name a model with --judge"),
        ("identify R --import F --top-fraction 0.2", "--top-fraction changes nothing with --import"),
        ("identify R --import F --method lave", "--method changes nothing with --import"),
        ("compare R S --workers 2", "--workers changes nothing where two runs"),
        ("tune M starter --text T", "leave out 'starter', or --text"),
        ("tune M --text T --max-tokens 9", "--max-tokens changes nothing with --text"),
        ("align R --no-measure --tokens 5", "--tokens changes nothing with --no-measure"),
    ],
)
def test_what_another_option_makes_idle_is_refused(line, words, monkeypatch, capsys):
    assert words in refused(monkeypatch, capsys, *line.split())


def test_a_run_brings_its_own_model(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    sentence = refused(monkeypatch, capsys, "lens", tmp_path, "--dtype", "bfloat16")
    assert "--dtype changes nothing with" in sentence
