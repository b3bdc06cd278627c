"""What the tabs of the explorer show, without a browser."""

import html
import json
import math
import re
import shlex
import sys
import threading
import time
from contextlib import nullcontext
from itertools import pairwise

import exhibit
import numpy as np
import pandas as pd
import pytest
import shapes
import tiny
import torch
from commands import neuroglot, refused
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.artifacts.widths import exists
from neuroglot.edit.interventions import Deactivate, Replace
from neuroglot.explorer import lab
from neuroglot.explorer.alignment import Alignment
from neuroglot.explorer.app import build, explore
from neuroglot.explorer.lab import Answer, answer_panel, answers, lab_recipe
from neuroglot.explorer.matrix import matrices, measured, sentences
from neuroglot.explorer.neuron import CUT, describe_neuron, neuron_page
from neuroglot.explorer.neuron_map import APART, CHOSEN, EXPERTS, SHARED, Atlas
from neuroglot.explorer.pruning import choices, command, pruning_plot, table
from neuroglot.explorer.run_view import RunView, note
from neuroglot.figures.neuron_map import bin_edges, binned, counted
from neuroglot.figures.screen import perturbation_plot
from neuroglot.report.page import report
from neuroglot.run.directory import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return exhibit.make(tmp_path_factory.mktemp("exhibit"))


@pytest.fixture(scope="module")
def opened(run):
    return RunView(Run.open(run.path))


@pytest.fixture(scope="module")
def atlas(opened):
    return Atlas(opened)


def z_of(plot):
    return exhibit.unpacked(plot["data"][0]["z"])


# --- atlas -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 70))
def test_bins_are_means_of_neighbours(neurons, bins):
    values = torch.arange(2 * neurons, dtype=torch.float64).view(2, neurons) ** 2
    edges = bin_edges(neurons, bins)
    sizes = np.diff(edges)
    assert edges[0] == 0 and edges[-1] == neurons and sizes.max() - sizes.min() <= 1
    widths = (neurons, 1 + neurons // 3)  # the second layer ends before the first
    values *= exists(widths)
    means = binned(values, exists(widths), bins)
    many = counted(values > neurons, exists(widths), bins)
    for b, (first, end) in enumerate(pairwise(edges)):
        for layer, width in enumerate(widths):
            inside = values[layer, first : min(end, width)]
            np.testing.assert_allclose(means[layer, b], inside.mean() if len(inside) else np.nan, rtol=1e-6)
            assert np.isnan(many[layer, b]) if not len(inside) else many[layer, b] == (inside > neurons).sum()


def test_each_view_shows_what_it_says(atlas, opened):
    p = atlas.probabilities
    np.testing.assert_allclose(z_of(atlas.plot("active share", "zh", "en")), p[..., 1], rtol=1e-6)
    np.testing.assert_allclose(z_of(atlas.plot(APART, "zh", "en")), p[..., 1] - p[..., 0], rtol=1e-4, atol=1e-6)
    mask = opened.neurons["lape"].mask
    np.testing.assert_array_equal(z_of(atlas.plot(CHOSEN, "ur", "en", "lape")), mask[2])
    np.testing.assert_array_equal(z_of(atlas.plot(SHARED, "en", "en", "lap")), opened.neurons["lap"].mask.sum(0) >= 2)
    frequency = ng.experts.frequencies(opened.recording)
    np.testing.assert_allclose(z_of(atlas.plot(EXPERTS, "en", "zh")), frequency[0], rtol=1e-6)
    for view in atlas.views:
        plot = atlas.plot(view, "en", "zh", "lape")
        json.dumps(plot)
        layers, columns = z_of(plot).shape
        assert plot["data"][0]["y"] == list(range(1, layers + 1)) and len(plot["data"][0]["x"]) == columns


def test_a_cell_gives_its_neurons_chosen_ones_first(atlas, opened):
    wide = 32
    assert atlas.of_cell("active share", 0, 5, "en", "zh", None) == [5]  # one neuron a bin
    inside = atlas.of_cell(EXPERTS, 1, 2, "en", "zh", "lape")
    assert sorted(inside) == list(range(wide // 2, 3 * wide // 4))  # contiguous experts
    own = opened.neurons["lape"]["en"][1]
    flags = [bool(own[neuron]) for neuron in inside]
    assert flags == sorted(flags, reverse=True)


# --- a neuron's page -------------------------------------------------------------------------------------------------


def test_a_neuron_by_brute_force(atlas, opened):
    neuron = describe_neuron(atlas, 1, 7)
    p = opened.recording.probabilities
    own = p[1, 7]
    assert [row[2] for row in neuron.rows] == pytest.approx(own.tolist())
    assert all(row[3] <= row[2] <= row[4] for row in neuron.rows)
    q = own / own.sum()
    assert neuron.entropy == pytest.approx(-(q * q.log()).sum().item()) and neuron.highest == math.log(3)
    distances = {
        (layer + 1, n): (p[layer, n] - own).norm().item()
        for layer in range(3)
        for n in range(32)
        if (layer, n) != (1, 7)
    }
    assert [place[2] for place in neuron.nearest] == pytest.approx(sorted(distances.values())[:8], abs=1e-9)
    assert all(distances[place[:2]] == pytest.approx(place[2], abs=1e-9) for place in neuron.nearest)
    for method, found in opened.neurons.items():
        assert neuron.sets[method] == [tag for tag in found.languages if found[tag][1, 7]]
    assert neuron.expert == 0


def test_examples_are_words_of_the_corpus(atlas, run):
    recorded, _ = run.manifest.text.load()
    documents = {tag: "\n".join(recorded[tag]) for tag in recorded.languages}
    shown = 0
    for number in range(12):
        neuron = describe_neuron(atlas, 2, number)
        for tag, words in neuron.examples.items():
            for example in words:
                text = example.before + example.token + example.after
                assert text.strip(CUT) in documents[tag] + "\n" and example.token
                shown += 1
    assert shown > 50


def test_text_is_text_on_the_page(atlas):
    pages = [neuron_page(describe_neuron(atlas, layer, number)) for layer in range(3) for number in range(32)]
    together = "".join(pages)
    assert not re.search(r"<(script|img)", together)
    assert "&lt;" in together and 'dir="rtl" lang="ur"' in together
    assert "<mark>" in together


@shapes.unchecked()  # a stand-in for a run
def test_a_neuron_active_nowhere_has_no_entropy(tmp_path):
    recording = ng.Recording.from_counts(torch.zeros(1, 2, 2), [10, 10], ["en", "fr"])

    class Stub:
        run = type("R", (), {"manifest": type("M", (), {"experts": None})()})()
        tokenizer = experts = None

    Stub.recording, Stub.neurons = recording, {}
    neuron = describe_neuron(Atlas(Stub()), 0, 0)
    assert math.isnan(neuron.entropy) and "Active in no language" in neuron_page(neuron)
    assert "record with --examples" in neuron_page(neuron)


# --- lab -------------------------------------------------------------------------------------------------------------


def test_the_recipe_of_the_ticks(opened):
    neurons, recording = opened.neurons["lape"], opened.recording
    recipe = lab_recipe(recording, neurons, ["zh", "en"], ["ur"], layers=[0, 2], strength=2.0)
    off, up = recipe.steps
    within = torch.zeros(3, 32, dtype=torch.bool)
    within[[0, 2]] = True
    assert isinstance(off, Deactivate) and isinstance(up, Replace) and up.strength == 2.0
    assert torch.equal(off.neurons, (neurons["zh"] | neurons["en"]) & ~neurons["ur"] & within)
    assert torch.equal(up.neurons, neurons["ur"] & within)
    for silence, higher, words in (([], [], "Tick"), (["zh"], ["zh"], "at once")):
        with pytest.raises(ng.NeuroglotError, match=words):
            lab_recipe(recording, neurons, silence, higher)


def test_a_direction_moves_the_stream_to_each_language_raised(opened):
    recording, neurons = opened.recording, opened.neurons["lape"]
    if "residual" not in recording.sums:
        with pytest.raises(ng.NeuroglotError, match="residual"):
            lab_recipe(recording, neurons, [], ["ur"], method="diffmean", layers=[1])
        return
    off, step = lab_recipe(recording, neurons, ["zh"], ["ur"], method="diffmean", layers=[1], strength=3.0).steps
    assert isinstance(off, Deactivate) and step.site == "residual" and step.strength == 3.0
    torch.testing.assert_close(step.values, recording.language_difference("ur", "residual"))
    assert step.neurons[1].all() and not step.neurons[[0, 2]].any()
    assert lab_recipe(recording, neurons, [], ["ur"], method="diffmean", after=2).steps[0].neurons[:, 0].tolist() == [
        False,
        False,
        True,
    ]


def test_answers_are_those_of_generate_and_stream(opened):
    neurons = opened.neurons["lape"]
    recipe = lab_recipe(opened.recording, neurons, ["zh"], [])
    seen = list(answers(opened.model, recipe, "the cats", tokens=12, languages=exhibit.LANGUAGES))
    one, two = seen[-1]
    how = {"tokens": 12, "repetition_penalty": 1.1}
    assert one.text == ng.evaluate.generate(opened.model, ["the cats"], **how)[0]
    with recipe.applied(opened.model):
        assert two.text == ng.evaluate.generate(opened.model, ["the cats"], **how)[0]
    assert one.text != two.text and one.done and two.done and len(seen) > 4
    assert one.perplexity > 1 and one.seconds > 0 and one.tokens <= 12
    assert ng.evaluate.generate(opened.model, ["the cats"], **how)[0] == one.text  # nothing stays in force


def test_prompting_stands_beside_steering(opened):
    """The question as it is, steered, with «answer in X», and both."""
    recipe = lab_recipe(opened.recording, opened.neurons["lape"], [], ["zh"])
    *_, found = answers(opened.model, recipe, "the cats.", prompting="II", tokens=6, languages=exhibit.LANGUAGES)
    assert [answer.prompt for answer in found] == ["the cats."] * 2 + ["the cats. 请用中文回答。"] * 2
    assert [answer.title for answer in found[2:]] == ["as it is, prompting II", "edited, prompting II"]
    for place, answer in enumerate(found):
        with recipe.applied(opened.model) if place % 2 else nullcontext():
            assert [answer.text] == ng.evaluate.generate(
                opened.model, [answer.prompt], tokens=6, repetition_penalty=1.1
            )
    several = lab_recipe(opened.recording, opened.neurons["lape"], ["zh"], [])
    with pytest.raises(ng.NeuroglotError, match="Raise one language"):
        next(answers(opened.model, several, "the cats.", prompting="I"))


def test_an_answer_nobody_waits_for_stops(opened):
    recipe = lab_recipe(opened.recording, opened.neurons["lape"], ["zh"], [])
    before = threading.active_count()
    running = answers(opened.model, recipe, "the cats", tokens=100)
    next(running)
    next(running)
    running.close()
    assert threading.active_count() == before
    assert not opened.model.ffns[0]._edits["activation"]


@pytest.mark.parametrize("limit", [0.05, 60.0])
def test_an_answer_has_a_time_limit(opened, monkeypatch, limit):
    """A generator that never ends writes as long as it may, and both answers say that they were cut."""
    asked = []

    def slow(model, prompts, *, written, **how):
        asked.append(how)
        for count in range(1, 1_000 if limit < 1 else 6):
            written("so " * count)
            time.sleep(0.01)
        return ["so " * count]

    monkeypatch.setattr(lab, "generate", slow)
    recipe = lab_recipe(opened.recording, opened.neurons["lape"], ["zh"], [])
    *_, (one, two) = answers(opened.model, recipe, "the cats", seconds=limit)
    for answer in (one, two):
        assert answer.done and answer.cut == (limit < 1) and answer.text == "so " * answer.tokens
        assert answer.tokens < 999 and ("took too long" in answer_panel(answer)) == answer.cut
    assert len(asked) == 2
    assert not opened.model.ffns[0]._edits["activation"]


def test_whoever_waits_is_served_when_the_one_before_leaves(opened, monkeypatch):
    """The Lab of two visitors: the second one's answer begins when the first closes the page."""

    def endless(model, prompts, *, written, **how):
        while True:
            written("so")
            time.sleep(0.005)

    monkeypatch.setattr(lab, "generate", endless)
    (write,) = {block.fn for block in build(opened).fns.values() if getattr(block.fn, "__name__", "") == "write"}
    ask = ("the cats", ["zh"], [], "lape", "replace", 1.0, "", 1, "none", "activation", 4, 0.0, 1.1, False)
    first, second = write(*ask), write(*ask)
    while "so" not in next(first)[1]:
        pass
    assert "1 before you" in next(second)[0]
    assert len(opened.turns) == 2
    first.close()
    while "so" not in next(second)[1]:
        pass
    second.close()
    assert len(opened.turns) == 0
    ((sentence, *_),) = list(write("x" * 9000, *ask[1:]))
    assert "at most" in sentence and len(opened.turns) == 0


def test_names_and_a_path_of_a_proxy_are_passed_on_and_checked(run, monkeypatch, capsys):
    import gradio as gr

    given = []
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **how: given.append(how) or (None, "address", None))
    arguments = ("explore", run.path, "--allowed-hosts", "lab.example.org,*.hf.space", "--root-path", "/lab/one")
    neuroglot(*arguments)
    ((_, _, who),) = given[0]["app_kwargs"]["middleware"]
    assert who["allowed"] == ["lab.example.org", "*.hf.space"] and given[0]["root_path"] == "/lab/one"
    for wrong in ("lab", "/", "//evil.example", "/a b", "/a?b", "https://x/lab", "/a/../b\n"):
        assert "is not a path" in refused(monkeypatch, capsys, "explore", run.path, "--root-path", wrong)
    assert "not the name of a host" in refused(monkeypatch, capsys, "explore", run.path, "--allowed-hosts", "http://x")
    assert len(given) == 1


def test_an_error_while_writing_is_told(opened):
    recipe = lab_recipe(opened.recording, opened.neurons["lape"], ["zh"], [])
    with pytest.raises(ng.NeuroglotError, match="empty"):
        list(answers(opened.model, recipe, "  "))


def test_a_recipe_of_another_model_is_refused(opened):
    recipe = lab_recipe(opened.recording, opened.neurons["lape"], ["zh"], [])
    with pytest.raises(ng.NeuroglotError, match="other weights"):
        next(answers(tiny.model(seed=1, intermediate_size=32), recipe, "the cats"))


def test_prompts_and_answers_are_text():
    panel = answer_panel(Answer("edited", exhibit.EVIL, exhibit.EVIL, done=True, language="ur"))
    assert "<script" not in panel and "<img" not in panel
    assert panel.count(html.escape(exhibit.EVIL, quote=False)) >= 2 and 'dir="auto" lang="ur"' in panel


# --- matrix, alignment, pruning --------------------------------------------------------------------------------------


def test_matrices_share_their_scale(opened):
    results = measured(opened)
    assert list(results) == ["lap", "lape"]
    plots = matrices(results, ["lape", "lap"])
    assert plots[0]["data"][0]["zmax"] == plots[1]["data"][0]["zmax"]
    ratios = results["lape"].change.to_numpy() + 1
    np.testing.assert_allclose(z_of(plots[0])[:3], np.log10(ratios), rtol=1e-4, atol=1e-5)
    assert sentences(results["lape"], finished=False)[0].startswith("Not finished: 3 rows")
    assert len(sentences(results["lape"], finished=True)) > 1


def test_a_matrix_half_measured_is_shown(opened):
    result = measured(opened)["lape"]
    half = type(result)(**{**vars(result), "off": {"en": result.off["en"]}, "random": {}})
    plot = perturbation_plot(half)
    assert z_of(plot).shape == (1, 3)


def test_the_alignment_tab_against_the_library(opened):
    shown = Alignment(opened)
    whole = ng.alignment.similarity_map(opened.samples, layer=1).view(3, 6, 3, 6)
    np.testing.assert_allclose(z_of(shown.pair("layer 2", "en", "ur")), whole[0, :, 2], rtol=1e-5)
    overview = z_of(shown.overview("layer 2"))
    same = whole[0, :, 1].diagonal().mean()
    apart = (whole[0, :, 1].sum() - whole[0, :, 1].diagonal().sum()) / 30
    assert overview[0, 1] == pytest.approx(float(same - apart), rel=1e-4)
    assert np.isnan(overview[0, 0])
    assert 1 <= shown.best <= 3
    text = shown.sentences("en", "ur", 1, 2)
    assert "&lt;script&gt;" in text and "<script" not in text and "<b>" not in text
    first, second = shown.scores()
    assert [trace["name"] for trace in first["data"] if "name" in trace] == ["LRDS", "SADS"] and second is not None


def test_pruning_points_give_commands_that_are_commands(opened, capsys, monkeypatch):
    found = table(opened)
    assert choices(found)[0] == "threshold 0.05 · en"
    assert len(pruning_plot(found)["data"]) == 8
    said = command(opened, "budget 0.1 by magnitude · zh")
    words = shlex.split(said)
    assert words[:2] == ["neuroglot", "prune"] and words[words.index("--salience") + 1] == "magnitude"
    assert command(opened, "within 5 % · zh").startswith("within 5 % · zh was found by a search")
    from neuroglot import cli

    monkeypatch.setattr(sys, "argv", [*words, "--help"])  # every option is one of the command's
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0


# --- the app ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_empty_run_says_what_comes_next(tmp_path):
    run = Run.create(tmp_path / "run", *exhibit.settings(tmp_path))
    config = json.dumps(build(RunView(run)).get_config_file())
    for words in (
        "not finished yet",
        "The Lab needs",
        "No perplexity-change",
        "No parallel samples",
        "neuroglot experts",
    ):
        assert words in config
    assert str(run.path) in config


def test_the_command_refuses_in_one_sentence(tmp_path, monkeypatch, capsys):
    from neuroglot import cli

    monkeypatch.setattr(sys, "argv", ["neuroglot", "explore", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "is not a run" in capsys.readouterr().err


def test_notes_escape():
    assert "<b>" not in note("<b>x</b>", "<b>")


def test_without_gradio_one_sentence(monkeypatch, opened):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ng.NeuroglotError, match=r'pip install "neuroglot\[explore\]"'):
        build(opened)
    with pytest.raises(ng.NeuroglotError, match="not a run"):
        explore("/nowhere")


# --- figures and the report ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_holds_every_figure_twice_and_no_markup_of_the_text(run):
    page = report(run).read_text(encoding="utf-8")
    assert page.count('class="interactive"') == 1 + 2 * 3 + 3
    assert "<script>window" not in page and "default-src 'none'" in page
    assert not re.search(r'(src|href)="(https?:)?//', page)
    plots = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)]
    atlas = plots[0]
    assert len(atlas["names"]) == len(atlas["plots"]) == 6
    share = run.recording.probabilities[..., 1]
    np.testing.assert_allclose(exhibit.unpacked(atlas["plots"][1]["data"][0]["z"]), share, rtol=1e-5)
    assert pd.read_csv(run.path / "tables" / "recording.csv").tag.tolist() == list(exhibit.LANGUAGES)


@pytest.mark.slow
def test_a_half_finished_run_is_shown_as_such(tmp_path):
    whole = exhibit.make(tmp_path)
    (whole.path / "recording" / "recording.safetensors").rename(tmp_path / "kept")
    opened = RunView(Run.open(whole.path))
    assert opened.recording is None
    assert "not finished yet" in json.dumps(build(opened).get_config_file())
    (tmp_path / "kept").rename(whole.path / "recording" / "recording.safetensors")
    half = Run.open(whole.path)
    half.manifest.perturb.pop("lap")
    half.manifest.record.experts = None  # as if they were counted in a pass of their own, that was stopped
    half.save()
    page = report(Run.open(whole.path)).read_text(encoding="utf-8")
    assert "Measured in part, 3 of 3 languages" in page
    assert "The pass that counts experts is not finished" in page
