"""The registry of methods: declared once, by a file of the package, a script or another package."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from commands import neuroglot, refused

import neuroglot as ng
from neuroglot.artifacts.recording import Recording
from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.identify import registry
from neuroglot.plugins import plugins
from neuroglot.run.directory import Run

L, N = 2, 30
TAGS = ["en", "fr", "vi"]
OF_ANOTHER = '''
import neuroglot as ng

@ng.identify.method("busiest", needs=("active",), title="Busiest")
def scores(recording):
    """The neurons that are active most often."""
    return recording.mean("active").movedim(-1, 0)

@ng.identify.default_choice("busiest")
def choice(recording, *, least: float = 0.5):
    """Those active often enough.

    Args:
        recording: needs active.
        least: the share of tokens on which a neuron must be active.
    """
    return ng.NeuronSet(scores(recording) > least, recording.languages)
'''


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What a test declares is forgotten after it."""
    for name in registry._declared():
        registry.find(name)  # a module declares its methods once, when it is imported
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield
    monkeypatch.undo()
    look_again()


def look_again():
    """Forget which packages are installed."""
    plugins.cache_clear()
    registry._offered.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that offers methods: its name, its text, its entry points."""

    def installed(package, text, **methods):
        site = tmp_path / package
        site.mkdir()
        (site / f"{package}.py").write_text(text, encoding="utf-8")
        about = site / f"{package}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {package}{where}" for name, where in methods.items()]
        (about / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines, ""]))
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, package, raising=False)
        look_again()

    return installed


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("runs") / "run"
    languages = ",".join(TAGS)
    neuroglot("record", checkpoint, "starter", "--out", folder, "--languages", languages, "--block", 32,
              "--tokens", 1500, "--experts", 6)  # fmt: skip
    return folder


def a_recording(seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.tensor([300, 400, 500])
    active = (torch.rand(L, N, 3, generator=generator) * tokens).long()
    return Recording.from_counts(active, tokens, TAGS)


def declare(name="mine", result=None, needs=("active",), **more):
    @ng.identify.method(name, needs=needs, **more)
    def mine(recording):
        """The least active first."""
        return -recording.mean("active").movedim(-1, 0) if result is None else result(recording)

    return mine


# --- declared by the package's own files ------------------------------------------------------------------------------


def test_what_the_text_declares_is_what_the_module_declares():
    for name in registry._declared():
        plain = replace(registry.find(name), scores=None, choice=None)
        assert plain == registry._declared()[name]
        assert plain.about.endswith(".") and all(setting.about for setting in plain.settings.values())


def test_methods_are_told_without_importing_torch():
    program = (
        "import sys; from neuroglot.identify.registry import listed, title; "
        "assert len(listed()) > 7 and title('lape') == 'LAPE'; "
        "assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_titles():
    said = [registry.title(name) for name in ("lape", "regions", "pv parameters", "imported", "of an old plug-in")]
    assert said == ["LAPE", "key-region", "PV parameters", "imported", "of an old plug-in"]


def test_every_method_is_in_the_page_of_methods():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in registry._declared():
        assert re.search(rf"^\| `{name}` \|", page, re.MULTILINE), f"docs/methods.md has no row of {name}"


def test_a_random_choice_is_the_draw():
    recording = a_recording()
    drawn = ng.identify.random(recording, top_fraction=0.1, seed=3)
    assert ng.identify.METHODS["random"](recording, top_fraction=0.1, seed=3) == drawn


# --- declared by a script ---------------------------------------------------------------------------------------------


def test_a_declared_method_is_one_among_all():
    mine = declare()
    recording = a_recording()
    assert "mine" in ng.identify.METHODS and "mine" in [*ng.identify.RANKINGS]
    assert torch.equal(ng.identify.rank("mine", ng.identify.Evidence(recording)), mine(recording))
    chosen = ng.identify.choose("mine", ng.identify.Evidence(recording), top_fraction=0.1)
    assert chosen == ng.identify.select_top(mine(recording), recording.languages, 0.1)
    assert set(ng.identify.METHODS["mine"](recording).sizes().values()) == {round(0.01 * L * N)}
    assert "mine" in neuroglot("identify", "--help") and "The least active first." in neuroglot("compare", "--help")


def test_a_method_of_more_than_the_recording_is_given_the_evidence():
    seen = []
    declare("drawn", lambda evidence: seen.append(evidence.seed) or torch.rand(3, L, N), needs=("active", "seed"))
    ng.identify.choose("drawn", ng.identify.Evidence(a_recording()), seed=5)
    assert seen == [5]


def test_names_are_unique():
    declare()
    declare()  # a cell of a notebook, run again
    for name in ("lape", "mine"):
        with pytest.raises(ng.NeuroglotError, match=f"a method {name} already"):

            @ng.identify.method(name, needs=())
            def another(recording): ...

    with pytest.raises(ng.NeuroglotError, match="declares no method lape"):
        ng.identify.default_choice("lape")(declare("other"))
    with pytest.raises(ng.NeuroglotError, match="seed has no default"):

        @ng.identify.default_choice("other")
        def choice(recording, *, seed): ...


@pytest.mark.parametrize("name", ["", "Mine", "my method", "../mine", "imported", "all"])
def test_names_that_are_none(name):
    with pytest.raises(ng.NeuroglotError, match="cannot be called"):
        declare(name)


def test_needs_are_words():
    with pytest.raises(ng.NeuroglotError, match="list of words"):
        declare(needs="active")
    declare("needy", needs=("hidden",))
    with pytest.raises(ng.NeuroglotError, match="no 'hidden'"):
        ng.identify.rank("needy", ng.identify.Evidence(a_recording()))


SCORES = {
    "not a list": lambda recording: [0.5],
    "not a tensor of torch.int64": lambda recording: recording.active.movedim(-1, 0),
    "(languages, layers, neurons) = (3, ": lambda recording: recording.mean("active"),
    "NaN": lambda recording: torch.full((3, recording.layers, recording.neurons), torch.nan),
}


@pytest.mark.parametrize("words", SCORES)
def test_what_are_no_scores_is_refused_before_anything_is_written(words, run, monkeypatch, capsys):
    declare("wrong", SCORES[words])
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    sentence = refused(monkeypatch, capsys, "identify", run, "--method", "wrong")
    assert "The scores of wrong" in sentence and words in sentence
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_fewer_than_asked_for_is_said():
    declare("few", lambda recording: torch.full((3, L, N), -torch.inf, dtype=torch.float64))
    with pytest.warns(ng.NeuroglotWarning, match="fewer than the 6 neurons"):
        assert not ng.identify.METHODS["few"](a_recording(), top_fraction=0.1).union().any()


# --- declared by another package, and the whole way through -----------------------------------------------------------


@pytest.mark.slow
def test_a_package_adds_a_method_everywhere(run, install):
    install("another", OF_ANOTHER, busiest=":scores")
    assert "busiest: Of the package another." in neuroglot("identify", "--help") and "another" not in sys.modules
    declare("mine", title="Idlest")
    for spelling in (["--method=busiest"], ["-m", "busiest"], ["-mbusiest"], ["--method", "busiest"]):
        neuroglot("identify", run, *spelling, "--least", 0.6)
    neuroglot("identify", run, "--method", "mine", "--top-fraction", 0.1)
    opened = Run.open(run)
    assert opened.manifest.identify["busiest"] == {"least": 0.6}
    assert opened.neurons("busiest") == ng.NeuronSet(opened.recording.probabilities.movedim(-1, 0) > 0.6, TAGS)
    assert "--least (busiest; default 0.5): the share of tokens" in " ".join(neuroglot("identify", "--help").split())
    neuroglot("perturb", run, "--method", "mine", "--tokens", 64, "--block", 32, "--seeds", 1)
    four = ("--methods", "busiest,mine,lape,random", "--budget", 0.1)
    said = neuroglot("compare", run, *four, "--tokens", 64, "--block", 32, "--seeds", 1)
    assert "busiest, default" in said and "mine" in said
    result = Comparison.load(run / "comparison" / "comparison.json")
    assert {"mine 0.1 half 1", "busiest default all", "busiest 0.1 all"} <= set(result.conditions)
    assert "mine default all" not in result.conditions  # it only ranks
    assert set(result.seconds["mine"]) == {"recording", "choosing"}
    neuroglot("report", run)
    assert {"mine", "busiest"} <= set(pd.read_csv(run / "tables" / "compare.csv").method)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h2>Idlest</h2>" in page and "<td>Busiest, default</td>" in page


def test_a_broken_package_breaks_nothing_else(run, install, monkeypatch, capsys):
    install("broken", "import a_module_that_is_not_there", shaky="", **{"lape": ":scores"})
    with pytest.warns(ng.NeuroglotWarning, match="broken offers a method lape, a name that is taken"):
        assert "shaky" in registry.names() and registry.find("lape").origin == "neuroglot.identify.lape"
    assert "shaky: Of the package broken." in neuroglot("identify", "--help")
    neuroglot("identify", run, "--method", "lape")
    sentence = refused(monkeypatch, capsys, "identify", run, "--method", "shaky")
    assert "The package broken offers shaky and cannot be loaded (ModuleNotFoundError" in sentence
    with pytest.warns(ng.NeuroglotWarning, match="The package broken"):
        assert "shaky" not in [found.name for found in registry.known()]


def test_a_package_that_declares_nothing(install):
    install("silent", "def scores(recording): ...", quiet=":scores")
    with pytest.raises(ng.NeuroglotError, match="package silent offers a method quiet and does not declare it"):
        registry.find("quiet")
    with pytest.raises(ng.NeuroglotError, match="a method quiet already, of silent"):
        declare("quiet")


# --- what the run has decides -----------------------------------------------------------------------------------------


def test_a_run_gives_what_it_has(run, monkeypatch, capsys):
    assert "needs samples of a parallel corpus" in refused(monkeypatch, capsys, "identify", run, "--method", "regions")
    assert "needs a model tuned on each" in refused(monkeypatch, capsys, "identify", run, "--method", "pv")
    neuroglot("identify", run, "--method", "experts", "--top-fraction", 0.25)
    opened = Run.open(run)
    wanted = round(0.25 * opened.recording.layers * opened.recording.neurons)
    assert set(opened.neurons("experts").sizes().values()) == {wanted}
    neuroglot("align", run, "--samples", 6, "--max-tokens", 60, "--threshold", 1.0, "--no-measure")
    found = Run.open(run).neurons("regions")
    neuroglot("identify", run, "--method", "regions", "--threshold", 1.0)
    assert Run.open(run).neurons("regions") == found
    assert "selects nothing" in refused(monkeypatch, capsys, "identify", run, "--method", "regions")
    assert "takes a value such as" in refused(monkeypatch, capsys, "identify", "--top-fraction", "much", run)


def test_steering_without_a_run_takes_any_method_of_a_recording(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prompt = ("steer", checkpoint, "the cats", "--to", "zh", "--tokens", 2)
    sentence = refused(monkeypatch, capsys, *prompt, "--method", "regions")
    assert "regions needs samples of a parallel corpus" in sentence and "--run" in sentence
    assert "is not a method" in refused(monkeypatch, capsys, *prompt, "--method", "nothing")
    assert not any(tmp_path.iterdir())
    declare()
    for method in ("margin", "mine"):
        assert f"{method}.safetensors" in neuroglot(*prompt, "--method", method)
