"""The three studies on a tiny model: every item of every paper is measured, kept, and laid beside the paper's words."""

import json
import re
import tomllib
from pathlib import Path

import every_type
import pandas as pd
import pytest
import tiny

import neuroglot as ng
from neuroglot.errors import NeuroglotError
from neuroglot.studies.page import study_page
from neuroglot.studies.paper import paper
from neuroglot.studies.registry import STUDIES
from neuroglot.studies.settings import preset, read_settings
from neuroglot.studies.study import Finding

pytestmark = pytest.mark.slow

LANGUAGES = ["en", "zh", "fr", "es", "vi", "ar", "hi"]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """As the first, trained on a little: another set of weights."""
    path = tmp_path_factory.mktemp("model") / "other-2"
    tiny.model(seed=1).save(path)
    return path


@pytest.fixture(scope="module")
def tuned(checkpoint, tmp_path_factory):
    """As `neuroglot tune` leaves it, a folder a language, in a folder named as the model."""
    folder = tmp_path_factory.mktemp("tuned") / checkpoint.name
    for seed, tag in enumerate(LANGUAGES[:4], 2):
        tiny.model(seed=seed).save(folder / tag)
    return folder


def small(name, checkpoint, other, **more):
    """The quick preset, made as small as the tiny model."""
    said = tomllib.loads(preset(name, "quick"))
    said["model"]["source"] = str(checkpoint)
    said["text"]["languages"] = LANGUAGES if name == "lingua-franca" else LANGUAGES[:4]
    said["record"] |= {"tokens": 600, "block": 64}
    said |= {"lape": {"models": [str(other)]}, "babel": {"tuned": str(other)}}.get(name, {})
    if name == "lape":
        said["identify"] |= {"top_fraction": 0.2, "activity_quantile": 0.5}
        said["growth"]["fractions"] = [0.2, 0.5]
        said["generation"]["limit"] = 1
        said["generation"]["how"]["tokens"] = 4
        said["perturb"] |= {"tokens": 62, "block": 32}
        said["parallel"] |= {"samples": 4, "max_tokens": 40}
        said.setdefault("steer", {})["prompting"] = ["I", "II"]
    if name == "babel":
        said["experts"]["experts"] = 6
        said["prune"] |= {"languages": ["en", "fr"], "samples": 2, "thresholds": [0.01], "shares": [0.5, 0.8],
                          "budgets": [0.2]}  # fmt: skip
        del said["xcsqa"]
    if name == "lingua-franca":
        said["checkpoints"] = said["sizes"] = [str(checkpoint), str(other)]
        said["parallel"] |= {"samples": 4, "max_tokens": 40}
        said["perturb"] |= {"tokens": 62, "block": 32}
        said["writing"]["tokens"] = 4
        said["evolve"] |= {"samples": 4, "max_tokens": 40, "tokens": 62, "block": 32, "draws": 10}
        del said["xstorycloze"]
    return STUDIES[name].Settings(**{**said, **more})


@pytest.mark.parametrize("name", STUDIES)
def test_presets_are_read_and_every_item_of_the_paper_has_its_method(name):
    for which in ("quick", "evidence", "paper"):
        settings = read_settings(STUDIES[name].Settings, preset(name, which), which)
        assert settings.text.languages and settings.model.source
    keys = [item.key for item in paper(name)["items"]]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert callable(getattr(STUDIES[name], key.replace("-", "_"))), key
    numbers = [item.table for item in paper(name)["items"] if item.numbers]
    assert all(not table.isna().any(axis=None) and len(table) for table in numbers)


def test_every_default_of_a_preset_says_where_it_is_from():
    for name in STUDIES:
        for which in ("quick", "evidence", "paper"):
            for line in preset(name, which).splitlines():
                if "=" in line.split("#")[0] and "= [" not in line and not line.startswith((" ", '"')):
                    assert "#" in line or line.strip().startswith("limit"), line


def test_a_settings_file_that_is_wrong_is_refused_by_its_name():
    text = preset("lape", "quick")
    with pytest.raises(NeuroglotError, match=r"mine.toml, perturb.tokens: .*integer"):
        read_settings(STUDIES["lape"].Settings, text.replace("tokens = 250", 'tokens = "many"'), "mine.toml")
    with pytest.raises(NeuroglotError, match=r"mine.toml, perturb.tokns"):
        read_settings(STUDIES["lape"].Settings, text.replace("tokens = 250", "tokns = 250"), "mine.toml")
    with pytest.raises(NeuroglotError, match="not TOML"):
        read_settings(STUDIES["lape"].Settings, "[model", "mine.toml")


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")  # a random model: few neurons stand out
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_measures_every_item_and_is_read_when_asked_again(
    name, checkpoint, other, tuned, tmp_path, monkeypatch
):
    settings = small(name, checkpoint, other)
    if name == "lape":
        settings.identify.tuned = str(tuned.parent / "{model}")
    study = STUDIES[name](tmp_path / "study", settings)
    found = study.measure()
    items = paper(name)["items"]
    assert list(found) == [item.key for item in items]
    left_out = {"lape": set(), "babel": {"table-3", "table-4"}, "lingua-franca": {"xstorycloze"}}[name]
    for item in items:
        kept = found[item.key]
        if item.key in left_out:
            assert "the settings leave it out" in kept["failed"]
            continue
        assert kept["failed"] is None, (item.key, kept["failed"])
        assert kept["said"] and kept["tables"]
        for file in kept["tables"].values():
            assert len(pd.read_csv(study.path / "study" / file))
        for file in kept["figures"].values():
            assert (study.path / "study" / file).read_bytes()[:4] == b"\x89PNG"
            assert (study.path / "study" / file).with_suffix(".pdf").is_file()
    if name == "lape":
        assert "pv" in found["figure-2"]["tables"]
        assert any(words.startswith("PV: ") for words in found["figure-2"]["said"])
        assert "prompting I " in found["table-5"]["said"][1] and "both + prompting II " in found["table-5"]["said"][1]
    if name == "babel":
        changes = pd.read_csv(study.path / "study" / "figure-4.csv").drop(columns="layer")
        last = int((changes.idxmax() == len(changes) - 1).sum())
        assert f"alone, {last} of 4 languages change most in the last layer" in found["figure-4"]["said"][1]
    page = study_page(study).read_text(encoding="utf-8")
    for item in items:
        assert f'id="{item.key}"' in page and item.name in page
    assert "https://" not in page.replace(study.paper["url"], "") and "<script" not in page
    assert not list(study.path.rglob("*.partial"))

    again = STUDIES[name](tmp_path / "study", settings)
    monkeypatch.setattr(type(settings.model), "load", lambda self: pytest.fail("the model was opened again"))
    assert again.measure() == found
    said = json.loads((study.path / "study.json").read_text(encoding="utf-8"))
    assert said["model"].pop("revision") is None  # as a version wrote it that did not know revisions
    (study.path / "study.json").write_text(json.dumps(said), encoding="utf-8")
    assert STUDIES[name](tmp_path / "study", settings).measure() == found
    with pytest.raises(NeuroglotError, match=r"other settings: record.tokens \(was 600, now 700\)"):
        changed = settings.model_copy(update={"record": settings.record.model_copy(update={"tokens": 700})})
        STUDIES[name](tmp_path / "study", changed)


def test_only_what_is_asked_for_is_measured(checkpoint, other, tmp_path):
    study = STUDIES["lape"](tmp_path / "study", small("lape", checkpoint, other))
    assert list(study.measure(["Table 6"])) == ["table-8"]  # one item, of several models in the paper
    assert not (study.path / "perturbation").exists()
    with pytest.raises(NeuroglotError, match="has no table-99; it has figure-2"):
        study.measure(["table-99"])
    assert "Not asked for yet" in study_page(study).read_text(encoding="utf-8")


def test_what_needs_one_residual_stream_alone_is_left_out(tmp_path):
    """Gemma 3n has four side by side, and layers of different widths."""
    source = tmp_path / "model"
    ng.Model(every_type.network("gemma3n_text"), tiny.tokenizer()).save(source)
    aligned = STUDIES["lingua-franca"](tmp_path / "a", small("lingua-franca", source, source, checkpoints=[], sizes=[]))
    (found,) = aligned.measure(["figure-2"]).values()
    assert "said" in found and (aligned.path / "samples").is_dir()


def test_parameter_variation_needs_a_model_of_each_language(checkpoint, other, tmp_path):
    settings = small("lape", checkpoint, other)
    settings.identify.tuned = str(tmp_path / "tuned")
    (tmp_path / "tuned" / "zh").mkdir(parents=True)
    (found,) = STUDIES["lape"](tmp_path / "study", settings).measure(["figure-2"]).values()
    assert "no model tuned on en, fr, es; make them with `neuroglot tune`" in found["failed"]


def test_the_pages_name_items_that_there_are(tmp_path):
    """Every `neuroglot study … --only …` of the README and the documentation."""
    root = Path(__file__).parents[2]

    def commands(page):
        return set(re.findall(r"neuroglot study (\S+)(?: [^`\n]*)? --only ([\w,-]+)", page.read_text(encoding="utf-8")))

    named = set().union(*map(commands, (root / "README.md", *(root / "docs").rglob("*.md"))))
    assert {name for name, _ in named} == set(STUDIES)
    for name, only in named:
        study = STUDIES[name](tmp_path / name, read_settings(STUDIES[name].Settings, preset(name, "quick"), "quick"))
        assert study.chosen(only.split(","))
    tabled = commands(root / "docs" / "studies.md")
    for name in STUDIES:  # and the page of studies has a command for all of them
        told = {key for of, only in tabled if of == name for key in only.split(",")}
        assert {item.key for item in paper(name)["items"] if not told & {item.key, *item.also}} == set()


@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")  # a random model: few neurons stand out
def test_a_study_is_a_run_whose_numbers_are_the_library_s(checkpoint, other, tmp_path):
    from neuroglot.run.directory import Run

    settings = small("lape", checkpoint, other, models=[str(checkpoint)])
    study = STUDIES["lape"](tmp_path / "study", settings)
    study.measure(["table-3", "figure-2", "figure-3"])
    run = Run.open(study.path)
    neurons = ng.identify.lape(run.recording, top_fraction=0.2, activity_quantile=0.5)
    assert neurons == run.neurons("lape")
    table = pd.read_csv(study.path / "study" / "table-3.csv")
    assert table.iloc[0].to_dict() == neurons.sizes()
    held_out = settings.text.load()[1]
    measured = ng.evaluate.perturb(ng.load_model(str(checkpoint)), held_out, neurons, tokens=62, block=32, seeds=1)
    kept = pd.read_csv(study.path / "study" / "figure-2-lape.csv", keep_default_na=False)
    pd.testing.assert_series_equal(kept.perplexity, measured.table().perplexity.reset_index(drop=True))
    said = json.loads((study.path / "study" / "figure-2.json").read_text())
    third = pd.read_csv(study.path / "study" / f"figure-3-{checkpoint.name}.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(third, kept)  # its own model is not measured again
    assert not (study.path / "models").exists()
    diagonal_dominant = measured.diagonal_dominant.drop("en")
    assert f"for {int(diagonal_dominant.sum())} of {len(diagonal_dominant)} languages" in said["said"][0]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::neuroglot.NeuroglotWarning")  # a random model: few neurons stand out
def test_a_study_never_shows_what_was_measured_with_other_neurons(checkpoint, other, tmp_path):
    """Neurons that change under a study take with them what they were measured for; equal ones keep it."""
    from neuroglot.report.page import report
    from neuroglot.run.directory import Run
    from neuroglot.run.identification import identify_run

    settings = small("lape", checkpoint, other)
    study = STUDIES["lape"](tmp_path / "study", settings)
    study.measure(["figure-2"])
    file = study.run.perturbation_path("lape")
    before, written = file.read_bytes(), file.stat().st_mtime_ns

    again = STUDIES["lape"](tmp_path / "study", settings)  # the same neurons: what measured them stays
    assert again.of("lape") == study.of("lape")
    assert file.stat().st_mtime_ns == written and "lape" in again.run.manifest.perturb

    identify_run(Run.open(study.path), "lape", {"top_fraction": 0.4, "activity_quantile": 0.3})
    assert not file.exists() and "lape" not in Run.open(study.path).manifest.perturb
    assert "What these neurons do was not measured yet" in report(Run.open(study.path)).read_text(encoding="utf-8")

    third = STUDIES["lape"](tmp_path / "study", settings)  # measures its own neurons, not those that lie there
    result = third.change("lape")
    assert file.read_bytes() == before and result.sizes["en"] == third.of("lape").sizes()["en"]
    wider = third.neurons("lape", top_fraction=0.4, activity_quantile=0.3)
    assert wider != study.of("lape") and third.run.neurons("lape") == wider
    assert not file.exists() and "lape" not in third.run.manifest.perturb
    assert third.perturb("lape", settings.perturb).sizes["en"] == wider.sizes()["en"]


def test_tasks_of_real_items_have_a_verdict(checkpoint, other, tmp_path, monkeypatch):
    settings = small("babel", checkpoint, other)
    settings.xcsqa.names = ["xcsqa_cloze_en", "xcsqa_cloze_fr"]
    study = STUDIES["babel"](tmp_path / "study", settings)
    rows = [("intact", "en", 0.5), ("intact", "fr", 0.5), ("en kept", "en", 0.4), ("random for en kept", "en", 0.3),
            ("fr kept", "fr", 0.2), ("random for fr kept", "fr", 0.3)]  # fmt: skip
    table = pd.DataFrame(
        [{"condition": condition, "task": f"xcsqa_cloze_{tag}", "value": value} for condition, tag, value in rows]
    )
    monkeypatch.setattr(type(study), "count", lambda self: None)
    monkeypatch.setattr("neuroglot.studies.babel.pruned_conditions", lambda *given, **how: [])
    monkeypatch.setattr(type(study), "tasks", lambda self, *given: table)
    monkeypatch.setattr(type(study), "model", None)
    found = study.measure(["table-3"])["table-3"]
    assert found["failed"] is None and found["agrees"] is False  # one of two is not most
    assert "in 1 of 2 rows; mean 30.0 % against 30.0 %, the whole model 50.0 %" in found["said"][0]


def test_a_verdict_of_a_table_is_kept_as_one(checkpoint, other, tmp_path):
    """With one language beside English a share is pandas' own number, and its comparison no JSON."""
    study = STUDIES["lape"](tmp_path / "study", small("lape", checkpoint, other))
    item, finding = study.paper["items"][0], Finding(["said"])
    for agrees in (pd.Series([1.0]).mean() > 0.5, pd.Series([True]).iloc[0], None):
        finding.agrees = agrees
        study._keep(item, finding)
        assert study.found(item)["agrees"] is (None if agrees is None else True)
