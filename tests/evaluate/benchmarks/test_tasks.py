"""Benchmarks through the lm-evaluation-harness: the same as the harness alone, resumed, compared in pairs."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from commands import neuroglot, refused
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

import neuroglot as ng
from neuroglot.errors import NeuroglotWarning
from neuroglot.evaluate.benchmarks import data
from neuroglot.evaluate.benchmarks import table as task_table
from neuroglot.evaluate.benchmarks.harness import Item, TaskScore, load_tasks
from neuroglot.evaluate.benchmarks.harness_model import wrap
from neuroglot.evaluate.steering.answers import nll_after
from neuroglot.stats import mcnemar, paired

LANGUAGES = ("en", "fr", "es", "zh", "vi", "id")
ALL = ["smoke_xcsqa_fr", "smoke_xcsqa_cloze_zh", "smoke_xstorycloze_english_es", "smoke_mgsm_en"]


@pytest.fixture(scope="module")
def model():
    return tiny.model(max_position_embeddings=1024)


def off(model, share=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(model.layers, model.neurons, generator=generator) < share


def harness_alone(path, names, limit):
    """What a user of lm-eval gets from a checkpoint on disk, by the harness's own documented entry."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    definitions = str(Path(data.__file__).parent)
    return lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(path), "dtype": "float32"},
        tasks=names,
        task_manager=TaskManager(include_path=definitions, include_defaults=False),
        batch_size=8,
        device="cpu",
        limit=limit,
        bootstrap_iters=0,
    )


def same_items(ours, alone):
    for name, score in ours.items():
        theirs = {sample["doc_id"]: sample for sample in alone["samples"][name]}
        assert len(theirs) == len(score.items)
        for item in score.items:
            other = theirs[item.id]
            assert item.digest == other["doc_hash"]
            for mine, his in zip(item.responses, other["filtered_resps"], strict=True):
                if isinstance(mine, str):
                    assert mine == his
                else:
                    assert mine[0] == pytest.approx(his[0], rel=1e-5) and mine[1] == his[1]
            metric = score.metric.split(",")[0]
            assert item.scores[score.metric] == other[metric]
        assert score.metrics[score.metric] == pytest.approx(alone["results"][name][score.metric])


def test_hooked_equals_baked_run_by_the_harness_alone(model, tmp_path):
    mask = off(model)
    ng.bake(model, mask, tmp_path / "baked")
    with ng.intervene(model, ng.Deactivate(mask)):
        hooked = ng.evaluate.tasks(model, ALL, limit=5, progress=False)
    same_items(hooked, harness_alone(tmp_path / "baked", ALL, 5))
    intact = ng.evaluate.tasks(model, ALL[:2], limit=5, progress=False)
    for name, score in intact.items():  # and the change is no change of nothing
        assert score.items[0].responses != hooked[name].items[0].responses


@pytest.mark.long
@pytest.mark.real
def test_hooked_gemma_equals_baked_gemma_run_by_the_harness_alone(gemma, tmp_path):
    mask = off(gemma, share=0.01)
    names = ["smoke_xcsqa_cloze_fr", "smoke_xstorycloze_english_fr", "smoke_mgsm_fr"]
    ng.bake(gemma, mask, tmp_path / "baked")
    with ng.intervene(gemma, ng.Deactivate(mask)):
        hooked = ng.evaluate.tasks(gemma, names, limit=2, progress=False)
    same_items(hooked, harness_alone(tmp_path / "baked", names, 2))


def test_no_second_copy_of_the_weights_and_bos_by_the_tokenizers_rule(model):
    wrapped = wrap(model)
    assert wrapped.model is model.network
    assert wrapped.tok_encode("abc") == model.tokenizer.encode("abc")
    for text in ("<s>", "a</s>b", "<s>a"):  # is text, and BOS stands before it as before any other
        assert wrapped.tok_encode(text) == [*model.begin, *model.encode([text])[0]]
        assert wrapped.tok_encode(text, add_special_tokens=False) == model.encode([text])[0]


def test_a_request_that_spells_a_special_token_is_scored_as_text(model):
    """Left to itself the harness would read `</s>` as one token, the end, and not as the four letters that it is."""
    from lm_eval.api.instance import Instance

    pairs = [("a</s>b", "c<s>"), ("<s>", "</s>"), ("x", "</s> y")]
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    found = wrap(model).loglikelihood(asked, disable_tqdm=True)
    for (before, after), (value, _) in zip(pairs, found, strict=True):
        read, predicted = model.encode([before, after])
        assert len(predicted) == len(after)  # a token a letter
        nats, count = nll_after(model, [((*model.begin, *read), predicted)])[0]
        assert (value, count) == (pytest.approx(-nats, rel=1e-5), len(after))


def test_what_the_checkpoint_says_of_generation_and_padding_changes_no_answer(model):
    """As Qwen's repetition penalty would; and a padding token that was added by hand has no embedding."""
    noisy = tiny.model(max_position_embeddings=1024)
    noisy.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert noisy.tokenizer.pad_token_id >= noisy.vocabulary
    said = GenerationConfig(repetition_penalty=3.0, do_sample=True, temperature=5.0, suppress_tokens=[*range(100)])
    noisy.network.generation_config = said
    names = ["smoke_mgsm_en", "smoke_xcsqa_fr"]
    plain, other = (ng.evaluate.tasks(each, names, limit=3, progress=False) for each in (model, noisy))
    assert plain == other and noisy.network.generation_config is said
    assert any(response for item in plain["smoke_mgsm_en"].items for response in item.responses)


def test_requests_that_are_cut_are_counted_and_said():
    short = tiny.model(max_position_embeddings=100)
    with pytest.warns(NeuroglotWarning, match=r"requests of smoke_xcsqa_fr are longer than the 100 positions of"):
        ng.evaluate.tasks(short, ["smoke_xcsqa_fr"], limit=2, progress=False)


def test_fewshot_and_seeds(model):
    (task,) = load_tasks(["smoke_xcsqa_fr"]).values()
    plain = ng.evaluate.tasks(model, ["smoke_xcsqa_fr"], limit=2, progress=False)["smoke_xcsqa_fr"]
    shots = [
        ng.evaluate.tasks(model, ["smoke_xcsqa_fr"], limit=2, fewshot=2, seed=seed, progress=False)["smoke_xcsqa_fr"]
        for seed in (1, 1, 2)
    ]
    assert (plain.fewshot, shots[0].fewshot) == (0, 2)
    assert shots[0] == shots[1] != shots[2]
    assert shots[0].items[0].responses != plain.items[0].responses
    assert task.config.num_fewshot is None  # loaded anew for every call


# --- rows -------------------------------------------------------------------------------------------------------------


def rows(model):
    neurons = [ng.evaluate.Condition("fr off", (ng.Deactivate(off(model)),))]
    return neurons + [ng.evaluate.Condition("random off", (ng.Deactivate(off(model, seed=s)),), s) for s in (1, 2)]


def test_an_interrupted_table_goes_on_without_repeating(model, tmp_path, monkeypatch):
    names = ["smoke_xcsqa_fr", "smoke_xstorycloze_english_fr"]
    how = {"limit": 4, "directory": tmp_path, "progress": False}
    whole = ng.evaluate.measure_tasks(model, names, rows(model), limit=4, progress=False)
    measured: list[str] = []
    score = task_table.score_task

    def five_only(model, task, **settings):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(task.config.task)
        return score(model, task, **settings)

    monkeypatch.setattr(task_table, "score_task", five_only)
    with pytest.raises(KeyboardInterrupt):
        ng.evaluate.measure_tasks(model, names, rows(model), **how)
    assert len(list(tmp_path.glob("*/*.json"))) == 5
    measured.clear()
    table = ng.evaluate.measure_tasks(model, names, rows(model), **how)
    assert len(measured) == 3
    pd.testing.assert_frame_equal(table.table(), whole.table())
    measured.clear()
    assert ng.evaluate.measure_tasks(model, names, rows(model), **how).items().equals(whole.items())
    assert not measured
    with pytest.raises(
        ng.NeuroglotError,
        match=r"measured with other settings: limit \(was 4, now 5\), items \(was \w{8}…, now \w{8}…\)",
    ):
        ng.evaluate.measure_tasks(model, names, rows(model), **how | {"limit": 5})
    changed = [ng.evaluate.Condition("fr off", (ng.Deactivate(off(model, seed=9)),))]
    with pytest.raises(ng.NeuroglotError, match=r"fr-off.json .* settings: condition \(was \w{8}…, now \w{8}…\)"):
        ng.evaluate.measure_tasks(model, names, changed, **how)
    (tmp_path / names[0] / "intact.json").write_text("{", encoding="utf-8")
    with pytest.warns(NeuroglotWarning, match="missing or damaged"):
        again = ng.evaluate.measure_tasks(model, names, rows(model), **how)
    pd.testing.assert_frame_equal(again.table(), ng.evaluate.measure_tasks(model, names, rows(model), **how).table())


def test_the_table_by_hand(model):
    names = ["smoke_xcsqa_cloze_fr"]
    measured = ng.evaluate.measure_tasks(model, names, rows(model), progress=False)
    with ng.intervene(model, ng.Deactivate(off(model))):
        alone = ng.evaluate.tasks(model, names, progress=False)[names[0]]
    table = measured.table().set_index(["condition", "seed", "metric"]).sort_index()
    row = table.loc[("fr off", pd.NA, "acc,none")].squeeze()
    assert row.value == alone.metrics["acc,none"] and row["items"] == 24
    assert row.neurons == int(off(model).sum())
    intact = measured.scores["intact", None, names[0]]
    before, after = (np.array(score.scores("acc,none")) for score in (intact, alone))
    assert row.difference == pytest.approx(after.mean() - before.mean())
    assert (row.gained, row.lost) == ((after > before).sum(), (after < before).sum())
    summary = measured.summary().set_index("condition")
    two = [measured.scores["random off", seed, names[0]].metrics["acc,none"] for seed in (1, 2)]
    assert summary.loc["random off", "value"] == pytest.approx(np.mean(two))
    assert summary.loc["random off", "std"] == pytest.approx(np.std(two, ddof=1))
    assert pd.isna(summary.loc["random off", "p"]) and summary.loc["random off", "seeds"] == 2
    assert len(measured.items()) == 4 * 24 * 2  # two metrics


def scored(metric, items, value):
    """A task's score, as the harness would have given it."""
    each = [Item(i, f"{i}", "", [], {metric: score}) for i, score in enumerate(items)]
    return TaskScore("t", "1", 0, {metric: value}, {}, each)


def test_a_difference_has_the_sign_and_the_unit_of_its_metric():
    likely, less = [-1.0, -2.0, -3.0, -4.0], [-2.0, -3.0, -3.5, -6.0]
    perplexity = [float(np.exp(-np.mean(items))) for items in (likely, less)]
    metric = "perplexity,none"
    intact, off = scored(metric, likely, perplexity[0]), scored(metric, less, perplexity[1])
    found = task_table.difference(intact, off, metric)
    assert found["difference"] == pytest.approx(perplexity[1] - perplexity[0]) and found["difference"] > 0
    assert 0 < found["low"] <= found["difference"] <= found["high"] and (found["gained"], found["lost"]) == (0, 4)
    table = task_table.TaskTable({("intact", None, "t"): intact, ("off", None, "t"): off}, {"intact": 0, "off": 1})
    assert list(table.table()["unit"]) == ["", ""] and list(table.summary()["unit"]) == ["", ""]
    yes, no = scored("acc,none", [1.0, 1.0, 0.0], 2 / 3), scored("acc,none", [1.0, 0.0, 0.0], 1 / 3)
    found = task_table.difference(yes, no, "acc,none")
    assert found["difference"] == pytest.approx(-1 / 3) and (found["gained"], found["lost"]) == (0, 1)
    other = scored("f1,none", [1.0, 0.0, 1.0], 0.8), scored("f1,none", [1.0, 0.0, 0.0], 0.5)
    assert task_table.difference(*other, "f1,none") == {"difference": pytest.approx(-0.3)}  # no interval is made up


def test_rows_only_on_their_own_tasks(model):
    only = [ng.evaluate.Condition("fr pruned", (ng.Deactivate(off(model)),), only="_fr$")]
    table = ng.evaluate.measure_tasks(model, ["smoke_xcsqa_fr", "smoke_xcsqa_en"], only, limit=2, progress=False)
    assert set(table.scores) == {
        ("intact", None, "smoke_xcsqa_fr"),
        ("intact", None, "smoke_xcsqa_en"),
        ("fr pruned", None, "smoke_xcsqa_fr"),
    }


# --- pairs ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 8), st.integers(0, 8))
def test_mcnemar_is_the_share_of_coin_tosses_at_least_as_far_from_even(gained, lost):
    tosses = [abs(2 * sum(heads) - gained - lost) for heads in product((0, 1), repeat=gained + lost)]
    assert mcnemar(gained, lost) == pytest.approx(np.mean([toss >= abs(gained - lost) for toss in tosses]))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_pairs_are_antisymmetric_and_within_their_interval(pairs):
    before, after = ([float(x) for x in side] for side in zip(*pairs, strict=True))
    there, back = paired(before, after, resamples=500), paired(after, before, resamples=500)
    assert there.difference == -back.difference and there.p == back.p
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert there.low <= there.high and there.low == pytest.approx(-back.high)
    assert paired(before, before).low == paired(before, before).high == 0.0


def test_the_bootstrap_interval_covers():
    """95 % intervals of a known difference hold it about 95 times in 100."""
    draws = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        before, after = draws.random(80) < 0.5, draws.random(80) < 0.7
        found = paired(before.astype(float).tolist(), after.astype(float).tolist(), resamples=1000, seed=trial)
        held += found.low <= 0.2 <= found.high
    assert 270 <= held <= 297


def test_scores_that_are_no_yes_or_no_have_no_mcnemar():
    assert paired([0.5, 1.0], [0.25, 1.0]).p is None
    with pytest.raises(ng.NeuroglotError, match="the same items"):
        paired([1.0], [1.0, 0.0])


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_on_a_run_and_on_a_model(corpus, tmp_path, monkeypatch, capsys):
    model = tiny.model(max_position_embeddings=1024)
    model.network.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    run = tmp_path / "run"
    neuroglot("record", tmp_path / "model", corpus, "--out", run, "--block", 32, "--tokens", 1000, "--experts", 6)
    neuroglot("identify", run, "--method", "random", "--top-fraction", "0.1")
    asked = ("evaluate", "tasks", run, "--tasks", "smoke_xcsqa_fr,smoke_xstorycloze_english_fr", "--limit", 3)
    full = (*asked, "--method", "random", "--off", "fr", "--prune", "fr", "--share", "0.5,0.8", "--seeds", 2)
    printed = neuroglot(*full)
    assert "fr off, random" in printed and "random for fr pruned, share 0.5" in printed and "no benchmark" in printed
    table = pd.read_csv(run / "tables" / "tasks-all.csv")
    assert len(table) == 2 * (1 + 1 + 2 + 2 * (1 + 2))
    half = table[(table.condition == "fr pruned, share 0.5") & (table.task == "smoke_xcsqa_fr")].iloc[0]
    partition = ng.experts.Partition.load(run / "experts" / "partition.safetensors")
    recording = ng.Recording.load(run / "recording" / "recording.safetensors").select(["fr"])
    keep = partition.neurons(ng.experts.keep_share(ng.experts.frequencies(recording)[0], 0.5))
    assert half.neurons == int((~keep).sum())
    before = {file: file.stat().st_mtime_ns for file in (run / "tasks").glob("*/*.json")}
    neuroglot(*full)
    assert before == {file: file.stat().st_mtime_ns for file in (run / "tasks").glob("*/*.json")}

    ng.prune(model, keep, tmp_path / "pruned")  # the really smaller model scores the same
    neuroglot("evaluate", "tasks", tmp_path / "pruned", *asked[3:], "--out", tmp_path / "alone")
    alone = pd.read_csv(tmp_path / "alone" / "tables" / "tasks-all.csv").set_index("task")
    assert alone.loc["smoke_xcsqa_fr", "value"] == half.value

    neuroglot("report", run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What it costs on tasks" in page and "no benchmark" in page

    assert "share 0.8" in page and "McNemar" in page
    neuroglot(*asked[:3], "--tasks", "smoke_mgsm_fr", "--limit", 1, "--off", "none")  # what was there stays
    summary = pd.read_csv(run / "tables" / "tasks.csv")
    assert set(summary[summary.task == "smoke_mgsm_fr"].condition) == {"intact"}
    assert len(summary) == 1 + 2 * (1 + 1 + 1 + 2 * 2)

    said = refused(monkeypatch, capsys, "evaluate", "tasks", run, "--tasks", "smoke_nothing_fr", "--method", "random")
    assert "There is no task smoke_nothing_fr" in said
    assert "go together" in refused(monkeypatch, capsys, *asked, "--prune", "fr")
    assert "has no neurons of lape" in refused(monkeypatch, capsys, *asked)
    assert "is no run" in refused(
        monkeypatch, capsys, "evaluate", "tasks", tmp_path / "model", *asked[3:], "--off", "fr"
    )
    assert "which has its own model" in refused(monkeypatch, capsys, *asked, "--dtype", "bfloat16")
    assert "has not counted experts in zh" in refused(
        monkeypatch, capsys, *asked, "--method", "random", "--prune", "zh", "--share", "0.5"
    )
    assert "limit (was 3, now 2)" in refused(monkeypatch, capsys, *full, "--limit", 2)

    neuroglot("identify", run, "--method", "random", "--top-fraction", "0.2")  # other neurons: their rows go
    assert not list((run / "tasks").glob("*/fr-off-random.json"))
    assert len(list((run / "tasks").glob("*/intact.json"))) == 3
    assert not pd.read_csv(run / "tables" / "tasks.csv").condition.str.contains("off, random").any()
