"""The wheel: all that belongs in it, installed into an environment of its own with only the core dependencies."""

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import tiny

import neuroglot as ng

ROOT = Path(__file__).parents[1]
OPTIONAL = ("bitsandbytes", "lingua", "lm_eval", "openai", "ray", "py3langid", "mkdocs", "pytest", "nbclient")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    """The command of an environment that has the wheel and its dependencies, and where nothing optional is there."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-deps",
         "--no-index", str(wheel)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    # The dependencies are those of this environment, less what is optional.
    (packages / "dependencies.pth").write_text(str(Path(pytest.__file__).parents[1]))
    (packages / "sitecustomize.py").write_text(
        f"import sys\nfor name in {OPTIONAL!r}:\n    sys.modules[name] = None  # importing it is an ImportError\n"
    )

    def run(*arguments):
        done = subprocess.run(
            [folder / "bin" / "neuroglot", *map(str, arguments)], capture_output=True, text=True, cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_wheel_holds_every_file_of_the_package(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("neuroglot/")}
    source = ROOT / "src"
    wanted = {
        str(path.relative_to(source))
        for path in (source / "neuroglot").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert inside == wanted
    assert "neuroglot/py.typed" in inside  # its annotations are for its users too
    assert any(name.endswith("studies/presets/lape-quick.toml") for name in inside)


def test_the_wheel_runs_with_the_core_dependencies_alone(command, tmp_path):
    assert command("--version").strip() == ng.__version__
    said = command("doctor")
    assert re.search(rf"neuroglot +{re.escape(ng.__version__)}", said)
    for extra in ("tasks", "generation", "judge", "cluster"):
        assert re.search(rf"{extra} +(installed|missing)", said)
    assert command("study", "settings", "babel", "quick").startswith("# Unraveling Babel")
    tiny.model().save(tmp_path / "tiny")
    (tmp_path / "text").mkdir()
    texts = tiny.corpus(30)
    for tag in texts.languages:
        (tmp_path / "text" / f"{tag}.txt").write_text("\n".join(texts[tag]), encoding="utf-8")
    run = tmp_path / "run"
    command("record", tmp_path / "tiny", tmp_path / "text", "--out", run, "--block", 32, "--tokens", 500)
    command("identify", run, "--top-fraction", 0.2, "--activity-quantile", 0.5)
    assert ng.NeuronSet.load(run / "neurons" / "lape.safetensors").languages == ("en", "fr", "ru")
    assert int(ng.Recording.load(run / "recording" / "recording.safetensors").tokens.min()) > 400
