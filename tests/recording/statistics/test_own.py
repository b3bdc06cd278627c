"""Statistics of one's own: exact under shards, resuming and merging, and never mixed with another's code."""

import pytest
import shapes
import tiny
import torch

import neuroglot as ng
from neuroglot.recording.statistics import own

NAMES = ("active", "hidden", "squares", "highest", "pair")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(own, "_registered", {})

    @ng.recording.statistic("squares")
    def squares(activation, hidden):
        return hidden.double().square().sum((0, 1))

    @ng.recording.statistic("highest", merge="max", version="2")
    def highest(activation, hidden):
        return activation.amax((0, 1))

    @ng.recording.statistic("pair", shape=(2,))
    def pair(activation, hidden):
        return torch.stack([(activation > 0).sum((0, 1)), (hidden < 0).sum((0, 1))], -1)


def recorded(model, corpus=None, **how):
    return ng.record(model, corpus or tiny.corpus(), block=16, statistics=NAMES, progress=False, **how)


def test_equals_a_loop_over_all_tokens(model):
    found = recorded(model)
    seen = []

    def keep(activation, hidden):
        seen.append((activation.double().flatten(0, 1), hidden.double().flatten(0, 1)))
        return hidden.sum((0, 1))

    own._registered["keep"] = own.OwnStatistic("keep", keep, (), own.Own(digest="x"))
    ng.record(model, tiny.corpus().select(["fr"]), block=16, statistics=("active", "keep"), progress=False)
    k = found.languages.index("fr")
    for layer in range(3):
        activation, hidden = (torch.cat([pair[site] for pair in seen[layer::3]]) for site in (0, 1))
        torch.testing.assert_close(found.sum("squares")[layer, :, k], hidden.square().sum(0), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.sum("highest")[layer, :, k], activation.amax(0), rtol=1e-6, atol=1e-8)
        assert torch.equal(found.sum("pair")[layer, :, 0, k], found.active[layer, :, k].double())
        assert torch.equal(found.sum("pair")[layer, :, 1, k], (hidden < 0).sum(0).double())
    assert torch.equal(found.mean("highest"), found.sum("highest"))  # no sum over tokens
    assert "highest" in found.frame() and "pair" not in found.frame()


def test_shards_parts_and_resuming_give_the_same_bytes(model, tmp_path):
    whole = recorded(model, shard_tokens=128, directory=tmp_path / "whole")
    for part in ((1, 2), (2, 2)):
        recorded(model, shard_tokens=128, directory=tmp_path / "parts", part=part)
    merged = ng.recording.merge([tmp_path / "parts"], tmp_path / "parts")
    one, two = (tmp_path / name / "recording.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == two.read_bytes()
    cut = recorded(model)  # of one shard a language
    assert torch.equal(cut.sum("highest"), whole.sum("highest")) and torch.equal(cut.sum("pair"), whole.sum("pair"))
    torch.testing.assert_close(cut.sum("squares"), merged.sum("squares"), rtol=1e-9, atol=1e-9)
    again = ng.Recording.load(one)
    assert again.provenance == whole.provenance
    assert again.provenance.own["highest"].merge == "max"
    both = again + cut
    assert torch.equal(both.sum("highest"), whole.sum("highest"))
    assert torch.equal(both.active, 2 * whole.active)


def test_other_code_does_not_add_and_does_not_go_on(model, tmp_path):
    first = recorded(model, directory=tmp_path / "r")

    del own._registered["squares"]

    @ng.recording.statistic("squares", version="2")
    def other(activation, hidden):
        return hidden.double().square().sum((0, 1))

    with pytest.raises(ng.NeuroglotError, match="the code of their own statistics"):
        first + recorded(model)
    with pytest.raises(ng.NeuroglotError, match="holds a recording made"):
        recorded(model, directory=tmp_path / "r")


def test_a_digest_is_of_the_code_not_of_its_lines():
    def one(activation, hidden):
        return hidden.sum((0, 1))

    before = own._digest("x", "1", "sum", one)

    def one(activation, hidden):
        # a comment
        return hidden.sum( (0, 1) )  # fmt: skip

    assert own._digest("x", "1", "sum", one) == before != own._digest("x", "2", "sum", one)

    def one(activation, hidden):
        return hidden.sum((1, 0))

    assert own._digest("x", "1", "sum", one) != before


def test_refusals(model):
    with pytest.raises(ng.NeuroglotError, match="cannot be called 'active'"):
        ng.recording.statistic("active")
    with shapes.unchecked(), pytest.raises(ng.NeuroglotError, match="merge is sum, max, min"):
        ng.recording.statistic("mine", merge="mean")
    with pytest.raises(ng.NeuroglotError, match="already"):
        ng.recording.statistic("squares")(lambda activation, hidden: hidden.sum((0, 1)))
    with pytest.raises(ng.NeuroglotError, match="cannot be recorded; choose among active.*squares"):
        ng.record(model, tiny.corpus(), block=16, statistics=("nothing",), progress=False)

    @ng.recording.statistic("wrong")
    def wrong(activation, hidden):
        return hidden.sum()

    with pytest.raises(ng.NeuroglotError, match=r"wrong must give a tensor \(24,\), not \(\)"):
        ng.record(model, tiny.corpus(), block=16, statistics=("wrong",), progress=False)

    @ng.recording.statistic("endless")
    def endless(activation, hidden):
        return hidden.sum((0, 1)) / 0

    with pytest.raises(ng.NeuroglotError, match="endless gives values that are not numbers"):
        ng.record(model, tiny.corpus(), block=16, statistics=("endless",), progress=False)


def test_a_method_may_need_it(model, monkeypatch):
    from neuroglot.identify import registry
    from neuroglot.identify.ranking import METHODS

    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    @ng.identify.method("by_squares", needs=("squares",))
    def by_squares(recording):
        """Highest mean square."""
        return recording.mean("squares").movedim(-1, 0)

    found = METHODS["by_squares"](recorded(model), top_fraction=0.1)
    assert found.sizes() == {"en": 7, "fr": 7, "ru": 7}
