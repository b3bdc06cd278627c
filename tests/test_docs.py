"""The documentation: it builds strictly, its Python runs, and its command lines exist."""

import functools
import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import typer

import neuroglot as ng
from neuroglot.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
SPOKEN = ["en", "fr", "es", "zh", "vi", "id"]  # six, since fewer reach no z-score of 2
UsageError = typer.BadParameter.__mro__[1]  # typer brings its own click
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks(page, *languages):
    """The text of a page's blocks, each after as many empty lines as come before it, so that errors name the line."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: found.start(3)].count("\n"), found[3]) for found in BLOCK.finditer(text) if found[2] in languages
    ]  # fmt: skip


def page_id(page):
    return str(page.relative_to(ROOT))


# --- a stand-in: a tiny model, a few lines of text --------------------------------------------------------------------


def tiny_model(name="tiny"):
    """Wide enough for what pages ask of it: experts, 1 % of the neurons, blocks of 256."""
    network = tiny.network(intermediate_size=512, max_position_embeddings=1024, num_hidden_layers=2)
    return ng.Model(network, tiny.tokenizer(), name=name)


@pytest.fixture(scope="module")
def stand_in():
    """What pages may take for granted: see docs/contributing.md."""
    full = ng.load_corpus("starter", languages=SPOKEN)
    texts = {tag: [text[:60] for text, _ in zip(full[tag], range(40), strict=False)] for tag in full.languages}
    corpus = ng.Corpus(texts, parallel=True, keys=[str(i) for i in range(40)], name="stand-in")
    read, held_out = corpus.split()
    model = tiny_model()
    recording = ng.record(model, read, tokens=600, block=64, progress=False)
    return {
        "corpus": corpus,
        "held_out": held_out,
        "model": model,
        "recording": recording,
        "neurons": ng.identify.lape(recording, top_fraction=0.05, activity_quantile=0.6),
        "samples": ng.record_samples(model, read, samples=4, max_tokens=40, progress=False),
    }


@pytest.fixture
def world(stand_in, tmp_path, monkeypatch):
    """A namespace in an empty directory, where opening a model that is not there gives the stand-in."""
    monkeypatch.chdir(tmp_path)
    real, whole = ng.load_model, ng.load_corpus

    def load_model(source, **settings):
        return real(source, **settings) if Path(source).exists() else stand_in["model"]

    def load_corpus(source, languages=None, **settings):
        if Path(source).exists():
            return whole(source, languages=languages, **settings)
        return stand_in["corpus"].select([tag for tag in languages or SPOKEN if tag in SPOKEN])

    monkeypatch.setattr("neuroglot.models.architecture.families._own", [])  # what a page declares is its own
    monkeypatch.setattr(ng, "load_model", load_model, raising=False)
    monkeypatch.setattr(ng, "load_corpus", load_corpus, raising=False)
    monkeypatch.setattr("neuroglot.models.loading.load_model", load_model)
    return {"ng": ng, "__name__": "page", **stand_in}


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")  # a random model: few neurons stand out
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_id)
def test_python_in_the_pages_runs(page, world):
    for line, code in blocks(page, "python"):
        first = code.lstrip().splitlines()[0]
        compiled = compile("\n" * line + code, str(page), "exec")
        if first.startswith("# not run: "):
            continue
        if first.startswith("# needs: ") and importlib.util.find_spec(first.removeprefix("# needs: ").strip()) is None:
            continue
        exec(compiled, world)


def test_a_page_whose_code_is_wrong_would_fail(tmp_path, world):
    page = tmp_path / "wrong.md"
    page.write_text("text\n\n```python\nng.identify.lapse(recording)\n```\n")
    ((line, code),) = blocks(page, "python")
    assert line == 3
    with pytest.raises(AttributeError, match="lapse"):
        exec(compile(code, "wrong.md", "exec"), world)


# --- command lines ----------------------------------------------------------------------------------------------------


def command_lines():
    """Every line of a shell block, or of an indented one, and all `code`, that begins with neuroglot."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line.strip() for _, block in blocks(page, "sh") for line in block.splitlines()]
        lines += [line.strip() for line in text.splitlines() if line.startswith("    neuroglot ")]
        lines += re.findall(r"`(neuroglot [a-z]+ [^`\n]+)`", text)
        found += [
            (page.name, line) for line in dict.fromkeys(lines) if line.startswith("neuroglot ") and "…" not in line
        ]
    return found


@functools.cache
def whole_command():
    """The terminal's command, which takes a while to build."""
    return typer.main.get_command(app)


def parse(line):
    """Have the command line read it, and stop before anything is done."""
    line = re.sub(r"\s{2,}[a-z].*$", "", line) if '"' not in line else line  # words beside an indented command
    words = shlex.split(re.split(r"[;>|]", line)[0], comments=True)[1:]
    command = whole_command()
    context = command.context_class(command, info_name="neuroglot")
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, command, words = command.resolve_command(context, words)
        context = command.context_class(command, info_name=name, parent=context)
    if "--install-completion" not in words:  # which is done as soon as it is read
        command.parse_args(context, words)


@pytest.mark.parametrize(("page", "line"), command_lines(), ids=lambda value: value[:60])
def test_command_lines_in_the_pages_exist(page, line):
    if "[" in line or line in ("neuroglot study",):
        pytest.skip("a synopsis")
    try:
        parse(line)
    except typer.Exit:
        pass  # --version, --help
    except UsageError as error:
        pytest.fail(f"{page}: {line}: {error.format_message()}")


def test_a_command_line_that_does_not_exist_would_fail():
    for line in ("neuroglot recrod a b", "neuroglot record a b --tokenz 3", "neuroglot record a"):
        with pytest.raises(UsageError):
            parse(line)


def scripts():
    """Every command of a shell block, or in code, that runs a script of this repository."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = [line.strip() for _, block in blocks(page, "sh") for line in block.splitlines()]
        lines += re.findall(r"`(python (?:benchmarks|examples)/[^`]+)`", text)
        found += [(page.name, line) for line in lines if re.match(r"python (benchmarks|examples)/", line)]
    return sorted(set(found))


def unknown_options(line):
    """What a script's own source, and that of the scripts beside it that it imports, does not name."""
    words = shlex.split(" ".join(line.split()), comments=True)[1:]
    path = ROOT / words[0]
    source = path.read_text(encoding="utf-8")
    beside = re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
    source += "".join(
        each.read_text(encoding="utf-8") for name in beside if (each := path.with_name(f"{name}.py")).is_file()
    )
    return [word for word in words[1:] if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source]


def test_scripts_that_pages_run_exist_and_have_these_options():
    found = scripts()
    assert len(found) > 20
    for page, line in found:
        assert not unknown_options(line), (page, line)
    assert unknown_options("python benchmarks/rates.py out.csv --shapez llama-2-7b") == ["--shapez"]


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip('the documentation is not built here: pip install "neuroglot[docs]"')
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index", "tutorial/index", "reference/index", "claims/index", "method/lape/index"):
        assert (tmp_path / "site" / f"{page}.html").is_file()
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    documented = set(re.findall(r'id="(neuroglot[\w.]*)"', reference))
    assert {"neuroglot.identify.lape", "neuroglot.recording.Recording", "neuroglot.evaluate.perturb"} <= documented
    assert public_names() - documented == set()


def public_names():
    """Where scripts find every function and class that the packages hand on, each under one path."""
    found = {}
    for stub in [*(ROOT / "src/neuroglot").glob("*/__init__.pyi"), ROOT / "src/neuroglot/__init__.pyi"]:
        path = ".".join(stub.parent.relative_to(ROOT / "src").parts)
        package = importlib.import_module(path)
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, type) or inspect.isfunction(value):
                found.setdefault(value, f"{path}.{name}")
    return set(found.values())


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert f" {page.relative_to(ROOT / 'docs')}\n" in nav, page


def test_the_table_of_methods_has_a_row_for_each_that_is_registered():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    first, second = (re.findall(r"^\| \[?`(\w+)`", part, re.MULTILINE) for part in text.split("## Choice and budget"))
    assert sorted(first) == sorted(second) == sorted(ng.identify.RANKINGS)


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "src").rglob("*.html"))], ids=page_id)
def test_pages_use_the_field_s_words(page):
    """Words that the glossary maps to others; an ordinary verb may stay."""
    if page.name == "glossary.md":
        return
    text = re.sub(r"```.*?```|\{.*?\}|<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    old = r"\b(sound|untold|arms?|told to be|own effect|own cells?|leads? (its|their) row|halves alike)\b"
    assert [found[0] for found in re.finditer(f".*{old}.*", text, re.IGNORECASE)] == []


def test_what_pages_take_for_granted_is_not_a_trap(stand_in):
    assert all(stand_in["neurons"].sizes().values())
    assert torch.isfinite(stand_in["samples"].vectors).all()
