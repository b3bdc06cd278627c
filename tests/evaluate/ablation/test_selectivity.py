"""What a matrix of effects says, on matrices whose answer is known."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.artifacts.neurons import NeuronSet
from neuroglot.artifacts.parameters import ParameterSet
from neuroglot.edit.parameters import zeroed
from neuroglot.evaluate.ablation.comparison import Ablation, Comparison, measure_conditions
from neuroglot.evaluate.ablation.selectivity import (
    coverage,
    diagonal_dominant,
    jaccard,
    off_target_effect,
    on_target_effect,
    relation_correlation,
    selectivity,
)
from neuroglot.identify.ranking import rank
from neuroglot.identify.selection import select_top
from neuroglot.report.comparison import _findings as compare_findings
from neuroglot.report.comparison import _rows as compare_rows
from neuroglot.storage import sealed

D = torch.float64
TAGS = ["en", "fr", "ru"]


def test_selectivity_and_coverage_by_hand():
    effects = torch.tensor([[3.0, 1.0, 0.0], [0.5, 2.0, 0.5], [2.0, 0.0, 1.0]], dtype=D)
    assert float(on_target_effect(effects)) == 2
    assert float(off_target_effect(effects)) == pytest.approx(4 / 6)
    assert float(selectivity(effects)) == pytest.approx(3)
    assert diagonal_dominant(effects).tolist() == [True, True, False]
    assert float(coverage(effects)) == pytest.approx(2 / 3)


def test_random_neurons_have_a_selectivity_of_one_and_an_own_effect_alone_an_infinite_one():
    assert float(selectivity(torch.full((4, 4), 0.3, dtype=D))) == pytest.approx(1)
    assert math.isinf(float(selectivity(torch.eye(3, dtype=D))))
    assert math.isnan(float(selectivity(torch.zeros(3, 3, dtype=D))))
    harmless = torch.eye(3, dtype=D) - 0.2  # the others even gain
    assert math.isinf(float(selectivity(harmless)))
    assert float(selectivity(-torch.eye(3, dtype=D) + 0.5)) < 0  # the own language gains: not selective at all


def test_a_tie_does_not_lead():
    assert diagonal_dominant(torch.ones(2, 2, dtype=D)).tolist() == [False, False]


@given(st.lists(st.floats(0.01, 10), min_size=16, max_size=16), st.permutations(range(4)), st.floats(0.1, 10))
def test_measures_do_not_depend_on_order_or_unit(values, order, unit):
    effects = torch.tensor(values, dtype=D).view(4, 4)
    turned = effects[order][:, order]
    for measure in (on_target_effect, off_target_effect, selectivity, coverage):
        assert float(measure(turned)) == pytest.approx(float(measure(effects)))
    assert float(selectivity(unit * effects)) == pytest.approx(float(selectivity(effects)))
    distance = torch.tensor([[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0]], dtype=D)
    assert relation_correlation(turned, distance[order][:, order]) == pytest.approx(
        relation_correlation(effects, distance), nan_ok=True
    )


def test_relation_is_one_where_relatives_suffer_most():
    distance = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 2, 0]], dtype=D)
    effects = torch.tensor([[9, 3, 1], [3, 9, 1], [1, 1, 9]], dtype=D)
    assert relation_correlation(effects, distance) == pytest.approx(1)
    assert relation_correlation(4 - effects, distance) == pytest.approx(-1)
    assert math.isnan(relation_correlation(effects, torch.ones(3, 3, dtype=D)))
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(0)
    effects = torch.rand(3, 3, generator=generator, dtype=D)
    off = ~torch.eye(3, dtype=torch.bool)
    expected = spearmanr(effects[off], -distance[off]).statistic
    assert relation_correlation(effects, distance) == pytest.approx(expected)


def test_jaccard_of_sets():
    def sets(*rows):
        return NeuronSet(torch.tensor(rows, dtype=torch.bool)[:, None], ["en", "fr"])

    one, two = sets([1, 1, 0, 0], [0, 0, 0, 0]), sets([0, 1, 1, 0], [0, 0, 0, 0])
    assert jaccard([one, two]) == pytest.approx(1 / 3)  # French is empty in both, and left out
    assert jaccard([one, one]) == 1
    assert math.isnan(jaccard([one]))
    assert jaccard([one, two.select(["fr", "en"])]) == pytest.approx(1 / 3)


# --- what is measured ------------------------------------------------------------------------------------------------


def ablations(model):
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(3, model.layers, model.neurons, generator=generator) < 0.3
    name = "model.layers.1.mlp.down_proj.weight"
    parameters = ParameterSet({tag: {name: torch.arange(k, 200, 3)} for k, tag in enumerate(TAGS)})
    return [
        Ablation("margin", 0.3, "all", NeuronSet(mask, TAGS)),
        Ablation(
            "margin", 0.3, "half 1", NeuronSet(mask & (torch.rand(mask.shape, generator=generator) < 0.5), TAGS), False
        ),
        Ablation("pv parameters", 0.1, "all", parameters),
    ]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    import tiny

    model, folder = tiny.model(), tmp_path_factory.mktemp("cells")
    how = {"tokens": 300, "block": 32, "directory": folder, "progress": False}
    return model, how, measure_conditions(model, tiny.corpus(40), ablations(model), **how)


def test_cells_are_the_perplexities_under_intervention(measured):
    import tiny

    model, _, result = measured
    corpus = tiny.corpus(40)
    sets = ablations(model)[0].sets
    intact = ng.evaluate.perplexity(model, corpus, tokens=300, block=32, progress=False)
    matrix = result.perturbation("margin 0.3 all")
    assert matrix.intact == pytest.approx(intact)
    with ng.intervene(model, ng.Deactivate(sets["fr"])):
        off = ng.evaluate.perplexity(model, corpus, tokens=300, block=32, progress=False)
    assert matrix.off["fr"] == pytest.approx(off)
    effects = result.effects("margin 0.3 all")
    assert float(effects[1, 2]) == pytest.approx(math.log(off["ru"] / intact["ru"]))


def test_parameters_are_zeroed_and_put_back(measured):
    import tiny

    model, _, result = measured
    weight = model.network.get_parameter("model.layers.1.mlp.down_proj.weight")
    before = weight.detach().clone()
    places = ablations(model)[2].sets["fr"]
    with zeroed(model, places):
        assert not weight.flatten()[places["model.layers.1.mlp.down_proj.weight"]].any()
        off = ng.evaluate.perplexity(model, tiny.corpus(40), tokens=300, block=32, progress=False)
    assert torch.equal(weight, before)
    assert result.perturbation("pv parameters 0.1 all").off["fr"] == pytest.approx(off)


def test_what_is_only_compared_is_not_measured_but_its_likeness_is_told(measured):
    model, _, result = measured
    one, half = ablations(model)[:2]
    assert "margin 0.3 half 1" not in result.off
    assert result.stability["margin 0.3"]["half 1"] == pytest.approx(jaccard([one.sets, half.sets]))


def test_finished_rows_are_not_measured_again(measured, monkeypatch):
    import tiny

    model, how, result = measured
    monkeypatch.setattr(model, "hidden_states", None)  # no pass is possible now
    again = measure_conditions(model, tiny.corpus(40), ablations(model), **how)
    assert again.off == result.off
    with pytest.raises(TypeError):
        measure_conditions(
            model, tiny.corpus(40), ablations(model), **how | {"tokens": 200}
        )  # other text is other rows


def test_the_summary_has_intervals_around_its_numbers(measured, tmp_path, monkeypatch):
    _, _, result = measured
    table = result.summary(torch.tensor([[0, 1, 2], [1, 0, 2], [2, 2, 0]], dtype=D)).set_index("method")
    row = table.loc["margin"]
    assert row.on_target_low <= row.on_target <= row.on_target_high
    assert row.off_target_low <= row.off_target <= row.off_target_high
    assert (row.fewest, row.most) == (
        min(result.sizes["margin 0.3 all"].values()),
        max(result.sizes["margin 0.3 all"].values()),
    )
    again = Comparison.load(result.save(tmp_path / "comparison.json"))
    assert again.summary().equals(result.summary())
    kept = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    kept["arms"] = kept.pop("conditions")  # as earlier runs called them
    del kept["digest"]
    monkeypatch.setattr(sealed, "_noted", set())
    (tmp_path / "earlier.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.warns(ng.NeuroglotWarning, match="without a digest"):
        earlier = Comparison.load(tmp_path / "earlier.json")
    assert earlier.summary().equals(result.summary())
    assert len(result.changes()) == 2 * 9


def test_one_block_prints_no_interval(measured):
    _, _, result = measured
    one = Comparison(
        result.languages,
        {tag: values[:1] for tag, values in result.intact.items()},
        {
            name: {off: {tag: values[:1] for tag, values in row.items()} for off, row in rows.items()}
            for name, rows in result.off.items()
        },
        result.sizes,
        result.conditions,
        block=result.block,
    )
    table = one.summary()
    assert table.selectivity.notna().any()
    assert (
        table[[f"{name}_{end}" for name in ("on_target", "selectivity", "coverage") for end in ("low", "high")]]
        .isna()
        .all(axis=None)
    )
    assert one.frame()[["nats_low", "nats_high"]].isna().all(axis=None)
    said = compare_findings(table, 0.3)
    assert "no interval is known" in said[0] and not any("95 %" in sentence for sentence in said)
    shown = compare_rows(table, 0.3)
    assert shown and not any(" to " in row["selectivity"] or "nan" in row["selectivity"] for row in shown)


def test_cells_and_contrasts_are_those_of_blocks(measured):
    _, _, result = measured
    cell = result.frame().query("method == 'margin' and off == 'fr' and measured == 'ru'").iloc[0]
    assert cell.nats_low <= cell.nats <= cell.nats_high
    name = "margin 0.3 all"
    assert cell.nats == pytest.approx(float(result.effects(name)[1, 2]))
    found = result.contrast(name, "fr", "fr", "ru")
    assert found.difference == pytest.approx(float(result.effects(name)[1, 1] - result.effects(name)[1, 2]))
    same = result.contrast_sets(name, name, "fr")
    assert (same.difference, same.p) == (0, 1)
    with pytest.raises(ng.NeuroglotError, match="was not measured on de"):
        result.contrast_sets(name, name, "fr", "de")


def test_sets_of_another_model_or_language_are_refused(measured):
    import tiny

    model, how, _ = measured
    other = NeuronSet(torch.ones(3, 1, 4, dtype=torch.bool), TAGS)
    with pytest.raises(ng.NeuroglotError, match="1 × 4, not of 3 layers of at most 24"):
        measure_conditions(model, tiny.corpus(40), [Ablation("lape", 0.1, "all", other)], **how)
    lacking = NeuronSet(torch.ones(2, 3, 24, dtype=torch.bool), TAGS[:2])
    with pytest.raises(ng.NeuroglotError, match="no set of ru"):
        measure_conditions(model, tiny.corpus(40), [Ablation("lape", 0.1, "all", lacking)], **how)


@pytest.mark.long
@pytest.mark.real
def test_margin_is_more_selective_than_lape_on_a_real_model(gemma, tmp_path):
    """At one budget: what switching a language's neurons off costs it, beside what it costs the others."""
    tags = ["en", "fr", "vi"]
    corpus, held_out = ng.load_corpus("starter", languages=tags).split()
    recording = ng.record(
        gemma, corpus, tokens=2_000, block=128, statistics=["active", "activation", "hidden"], progress=False
    )
    evidence = ng.identify.Evidence(recording)
    conditions = [
        ng.evaluate.Ablation(name, 0.003, "all", select_top(rank(name, evidence), tuple(tags), 0.003))
        for name in ("margin", "lape", "random")
    ]
    result = measure_conditions(gemma, held_out, conditions, tokens=124, block=32, directory=tmp_path, progress=False)
    found = result.summary().set_index("method")
    assert found.selectivity["margin"] > 2 * found.selectivity["lape"]
    assert found.on_target["margin"] > 0.3 and abs(found.on_target["random"]) < 0.1
    assert found.diagonal_dominant["margin"] >= 2
