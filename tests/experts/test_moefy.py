"""Dense models as ordinary mixtures of experts: the same logits and the same recording, permuted."""

import json

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import neuroglot as ng

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # by plain transformers

TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(0))
WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
LAYOUTS = {
    "llama": ("mixtral", {}),
    "mistral": ("mixtral", {"sliding_window": 6}),
    "qwen2": ("qwen2_moe", {}),
    "qwen3": ("qwen3_moe", {}),
    "gemma3_text": ("gemma4_text", {**WINDOWS, "query_pre_attn_scalar": 7}),
}

LESS = ("mistral", "qwen3")


def dense(family="llama", **changes):
    return tiny.model(family, intermediate_size=32, **changes)


@torch.no_grad()
def logits(network):
    return network(TOKENS).logits


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "gemma3_text", *(pytest.param(name, marks=pytest.mark.slow) for name in LESS)]
)
def test_with_all_experts_chosen_it_is_the_dense_model(family, tmp_path):
    kind, settings = LAYOUTS[family]
    model = dense(family, **settings)
    before = logits(model.network)
    split = ng.experts.partition(model, 4, progress=False)
    path = ng.experts.moefy(model, split, 4, tmp_path / "moe", progress=False)
    assert torch.equal(logits(model.network), before)
    assert json.loads((path / "config.json").read_text())["model_type"] == kind
    twin, plain = ng.load_model(path), AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    torch.testing.assert_close(logits(twin.network), before, rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(plain.eval()), logits(twin.network))
    assert twin.expert_sizes == ((4, 8),) * 3

    names = ("active", "activation", "hidden")
    one, two = (
        ng.record(each, tiny.corpus(), tokens=500, block=32, statistics=names, progress=False) for each in (model, twin)
    )
    order = split.order[..., None].expand(-1, -1, 3)
    assert torch.equal(one.active.gather(1, order), two.active)
    for name in names[1:]:
        torch.testing.assert_close(one.sum(name).gather(1, order), two.sum(name), rtol=1e-4, atol=1e-3)
    assert (two.sum("routed") == two.tokens).all()
    found, again = (ng.identify.lape(each, top_fraction=0.1, activity_quantile=0.5) for each in (one, two))
    for tag in ("en", "fr", "ru"):
        assert torch.equal(found[tag].gather(1, split.order), again[tag])


@pytest.mark.parametrize("family", ["llama", pytest.param("qwen3", marks=pytest.mark.slow), "gemma3_text"])
def test_a_fitted_router_chooses_what_the_dense_model_uses(family, tmp_path):
    model = dense(family, **LAYOUTS[family][1])
    text = tiny.corpus(60)
    split = ng.experts.partition(model, 4, kind="contiguous")
    path = ng.experts.moefy(model, split, 2, tmp_path / "moe", text=text, tokens=6000, progress=False)
    made = ng.load_model(path)
    assert [mixture.routing.chosen for mixture in made.mixtures.values()] == [2, 2, 2]
    routed = ng.record(made, text, tokens=500, block=32, progress=False)
    assert (routed.sum("routed").sum(1) == 2 * routed.tokens).all()

    # in the first layer, which reads the same in both, the experts that the dense model uses most
    chosen, lengths = [], []
    tokens = torch.tensor([[*model.begin, *model.encode([" ".join(list(text["fr"])[:3])])[0]]])
    with made.mixtures[0].observe_routing(chosen.append):
        made.hidden_states(tokens)
    ffn = model.ffns[0]
    weight = ffn.down_columns.norm(dim=0)
    stop = ffn.observe(lambda _, hidden: lengths.append((hidden * weight).view(*hidden.shape[:-1], 4, 8).norm(dim=-1)))
    model.hidden_states(tokens)
    stop()
    used = torch.zeros_like(chosen[0]).scatter(-1, lengths[0].topk(2).indices, True)
    assert float((used & chosen[0]).sum() / used.sum()) > 0.65  # at random it is a half

    # what the chosen experts weigh is what they weigh in the dense model: experts left out are neurons off
    masks = torch.ones(3, 32, dtype=torch.bool)
    with made.mixtures[0].observe_routing(chosen.append):
        alone = made.hidden_states(tokens[:, :1])
    for layer, mixture in made.mixtures.items():
        seen = []
        with mixture.observe_routing(seen.append):
            made.hidden_states(tokens[:, :1])
        masks[layer] = ~seen[0][0, 0].repeat_interleave(8)
    with ng.intervene(model, ng.Deactivate(masks)):
        torch.testing.assert_close(model.hidden_states(tokens[:, :1]), alone, rtol=0.02, atol=0.02)


def test_what_cannot_be_a_mixture_is_refused_in_one_sentence(tmp_path):
    model = dense()
    path = tmp_path / "moe"

    def refused(model, *given, **more):
        with pytest.raises(ng.NeuroglotError) as caught:
            ng.experts.moefy(model, *given, path, progress=False, **more)
        assert not path.exists()
        return str(caught.value)

    assert "from 1 to the 4 experts" in refused(model, 4, 5)
    assert "give text=" in refused(model, 4, 2)
    assert "split them into 1, 2, 4" in refused(model, 8, 8)
    labels = torch.arange(32).clamp_max(3).expand(3, 32)
    uneven = ng.experts.partition(model, 4, kind="labels", labels=labels, equal=False)
    assert "share one width" in refused(model, uneven, 4)
    assert "not those of" in refused(model, ng.experts.partition(dense(seed=1), 4, kind="contiguous"), 4)
    assert "whose block is that of bloom" in refused(tiny.model("bloom"), 4, 4)
    assert "have biases" in refused(dense(attention_bias=True), 4, 4)
    slides = {**WINDOWS, "layer_types": ["full_attention", "full_attention", "sliding_attention"]}
    assert "Gemma 4's never does" in refused(dense("gemma3_text", **slides), 4, 4)
    path.mkdir()
    with pytest.raises(ng.NeuroglotError, match="exists"):
        ng.experts.moefy(model, 4, 4, path)


def test_a_mixture_takes_nothing_made_for_its_dense_twin(tmp_path):
    model = dense()
    made = ng.load_model(ng.experts.moefy(model, 4, 4, tmp_path / "moe", progress=False))
    split = ng.experts.partition(model, 4, kind="contiguous")
    with pytest.raises(ng.NeuroglotError, match="native mixture of experts"):
        ng.experts.moefy(made, 4, 4, tmp_path / "again")
    with pytest.raises(ng.NeuroglotError, match="native mixture of experts"):
        ng.record(made, tiny.corpus(), tokens=100, block=16, partition=split, progress=False)


@pytest.mark.long
@pytest.mark.real
def test_a_real_model_is_its_twin(gemma, tmp_path):
    split = ng.experts.partition(gemma, 8, kind="random")
    twin = ng.load_model(ng.experts.moefy(gemma, split, 8, tmp_path / "moe"), device="cpu")
    text = ng.load_corpus("starter").select(["en", "fr"])
    one, two = (ng.record(each, text, tokens=250, block=64, progress=False) for each in (gemma, twin))
    apart = one.active.gather(1, split.order[..., None].expand(-1, -1, 2)) - two.active
    assert int(apart.abs().max()) <= 2  # values within rounding of zero
    assert float((apart != 0).double().mean()) < 1e-3
