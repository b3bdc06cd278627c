"""Names that a directory brings are data: nothing is written outside the run, and no name is code."""

import json
import shutil

import exhibit
import pytest
from commands import refused
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.explorer.app import build
from neuroglot.explorer.run_view import RunView
from neuroglot.report.page import report
from neuroglot.run.directory import Run
from neuroglot.storage.names import LONGEST, check_name, is_name

EVIL = [
    "x/../../../OUTSIDE/evil", "..", ".hidden", "a\\b", "a${window.hacked=5}b", "{{value}}", "<b>", "`x`", "a\nb", "",
    "a\0b", "x" * 300, "é" * 100, "/etc/passwd", "$(x)", "a'b", 'a"b', "a ", "C:x",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return exhibit.make(tmp_path_factory.mktemp("exhibit"))


@pytest.fixture
def copied(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "in" / "here" / "run")
    return tmp_path / "in" / "here" / "run"


def outside(run):
    return {path for path in run.parents[1].rglob("*") if run not in (path, *path.parents)}


@pytest.mark.parametrize("name", EVIL)
def test_such_a_name_is_refused(name):
    assert not is_name(name)
    with pytest.raises(ng.NeuroglotError, match="cannot be a name"):
        check_name(name)


@pytest.mark.parametrize("name", ["lape", "my prompts (1)", "вопросы", "fr off, lape", "v1.2", "a+b", "x" * LONGEST])
def test_such_a_name_is_taken(name):
    assert check_name(name) == name


@given(st.text(max_size=12))
def test_a_name_stays_in_its_directory(tmp_path_factory, name):
    if is_name(name):
        folder = tmp_path_factory.getbasetemp()
        assert (folder / f"{name}.json").parent == folder and (folder / f"{name}.json").name == f"{name}.json"
        assert not set(name) & set("${}<>`'\"\\/&\0\n")


@pytest.mark.parametrize("section", ["identify", "perturb", "steering"])
def test_a_run_that_names_other_places_is_not_opened(copied, monkeypatch, capsys, section):
    manifest = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    manifest[section]["x/../../../OUTSIDE/evil"] = {}
    (copied / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    before = outside(copied)
    for command in (["report"], ["identify"], ["perturb"], ["explore"]):
        assert "run.json is damaged" in refused(monkeypatch, capsys, *command, copied)
    assert outside(copied) == before


@pytest.mark.parametrize("folder", ["tables", "figures", "perturbation", "neurons"])
def test_a_link_out_of_the_run_is_not_followed(copied, tmp_path, monkeypatch, capsys, folder):
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(copied / folder, ignore_errors=True)
    (copied / folder).symlink_to(tmp_path / "elsewhere")
    assert "leads out of" in refused(monkeypatch, capsys, "report", copied)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_links_within_a_run_and_to_a_run_are_followed(copied, tmp_path):
    (copied / "tables").rename(copied / "csv") if (copied / "tables").exists() else (copied / "csv").mkdir()
    (copied / "tables").symlink_to(copied / "csv")
    (tmp_path / "link").symlink_to(copied)
    assert Run.open(tmp_path / "link").manifest.identify


def test_a_link_that_loops_is_one_sentence(copied, monkeypatch, capsys):
    path = copied / "neurons" / "lape.safetensors"
    path.unlink()
    path.symlink_to(path)
    assert "neurons of lape" in refused(monkeypatch, capsys, "perturb", copied)
    shutil.rmtree(copied / "neurons")
    (copied / "neurons").symlink_to(copied / "neurons")
    refused(monkeypatch, capsys, "identify", copied)


@pytest.mark.slow
def test_the_report_writes_into_its_run_only(copied):
    before = outside(copied)
    report(Run.open(copied))
    assert outside(copied) == before


def test_a_file_whose_name_is_code_is_not_shown(copied):
    source = copied / "perturbation" / "lape.json"
    shutil.copy(source, source.with_name("a${window.hacked=5}b.json"))
    page = build(RunView(Run.open(copied)))
    said = json.dumps(page.get_config_file())
    assert "window.hacked=5" not in said
    templates = {part["props"].get("html_template", "") for part in page.get_config_file()["components"]}
    assert all(template.count("${") <= 1 and "lape" not in template for template in templates)


def test_a_setting_of_the_pass_that_is_not_known_is_refused_by_its_name(copied):
    manifest = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    manifest["record"]["tokenz"] = 5
    (copied / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ng.NeuroglotError, match=r"does not know \(record\.tokenz\)"):
        Run.open(copied)
