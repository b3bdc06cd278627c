"""Native mixtures of experts: what is recorded and edited is what plain loops and zeroed weights give."""

import copy
from collections import Counter

import every_type
import mixtures
import pytest
import tiny
import torch
from accelerate import cpu_offload
from torch.nn import functional as F

import neuroglot as ng
from neuroglot.models.architecture.hooks import observe_routing

# gated, shared, dense layers first, interleaved with biases, groups, every token to every expert, plain, transposed
SAMPLE = (
    "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "glm4_moe", "granitemoe",
    "llama4_text", "nemotron_h", "aria_text",
)  # fmt: skip
OWN_CODE = ("dbrx", "jetmoe", "inkling_text", "minimax_m3_vl_text")
TOKENS = every_type.TOKENS


def opened(kind: str, **changes) -> ng.Model:
    return ng.Model(every_type.network(kind, **changes), tiny.tokenizer())


def some_experts(model: ng.Model, *numbers: int) -> torch.Tensor:
    most = max(mixture.experts for mixture in model.mixtures.values())
    chosen = torch.zeros(model.layers, most, dtype=torch.bool)
    for layer in model.mixtures:
        chosen[layer, list(numbers)] = True
    return chosen


def routed(model: ng.Model) -> dict[int, torch.Tensor]:
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), observe_routing(model.ffns, lambda layer, chosen: seen.update({layer: chosen})):
        model.hidden_states(TOKENS)
    return seen


@pytest.mark.parametrize("kind", SAMPLE)
def test_counts_sums_and_routed_equal_plain_loops_and_ablation_zeroed_weights(kind):
    model = opened(kind)
    assert mixtures.counted_wrong(model) is None
    assert mixtures.ablated_wrong(model) is None


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts_of_a_width_that_torch_cannot_multiply_at_once(kind):
    """Grouped products take rows of whole 16 bytes; plain transformers stops there with an error of strides."""
    model = opened(kind, intermediate_size=21)
    assert model.hidden_states(TOKENS).isfinite().all() and model.widths == (84,) * 4
    assert mixtures.counted_wrong(model) is None


@pytest.mark.parametrize("kind", ["qwen2_moe", "aria_text", "nemotron_h"])
def test_neurons_are_numbered_expert_by_expert_and_have_their_weights(kind):
    model = opened(kind)
    layer, mixture = next(iter(model.mixtures.items()))
    assert model.widths[layer] == mixture.experts * mixture.width + sum(ffn.neurons for ffn in mixture.shared)
    assert mixture.up_rows.shape == (mixture.neurons, 32) and mixture.down_columns.shape == (32, mixture.neurons)
    states = torch.randn(3, 32)
    for expert in range(mixture.experts):
        own = mixture.expert(expert)
        first = [states @ rows[own].T for rows in (mixture.gate_rows, mixture.up_rows) if rows is not None]
        if mixture.weights.first_bias is None and mixture.weights._plain:
            for row, state in enumerate(states):
                activation, hidden = mixtures.sites(mixture.module, expert, state)
                torch.testing.assert_close(mixture.module.act_fn(first[0][row]), activation)
                if mixture.gated:
                    torch.testing.assert_close(activation * first[1][row], hidden)


@pytest.mark.slow
def test_four_of_five_types_are_recorded():
    states: Counter[str] = Counter()
    for kind in every_type.SOME:
        if kind == "kimi_linear":  # half a minute of its own
            continue
        try:
            network = every_type.network(kind)
        except every_type.CannotBuild:
            continue
        if not every_type.is_mixture(network):
            continue
        if kind in OWN_CODE:
            states["refused"] += 1
            continue
        model = ng.Model(network, tiny.tokenizer())
        assert (mixtures.counted_wrong(model) or mixtures.ablated_wrong(model)) is None, kind
        states["recorded"] += 1
    assert states["recorded"] >= 0.8 * states.total()
    assert states.total() > (40 if every_type.SOME == every_type.TYPES else 3)


@pytest.mark.parametrize("kind", OWN_CODE)
def test_experts_with_code_of_their_own_are_refused_in_one_sentence(kind):
    with pytest.raises(ng.NeuroglotError) as caught:
        opened(kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_the_implementation_that_is_chosen_plays_no_part_and_comes_back(implementation):
    model = opened("mixtral")
    expected = mixtures.recorded(model)
    model.network.set_experts_implementation(implementation)
    with torch.no_grad():
        before = model.hidden_states(TOKENS)
        got = mixtures.recorded(model)
        for name, values in expected.sums.items():
            torch.testing.assert_close(got.sums[name], values)
        assert torch.equal(model.hidden_states(TOKENS), before)
    assert all("forward" not in mixture.module.__dict__ for mixture in model.mixtures.values())


def test_a_copy_of_an_edited_model_is_not_edited():
    model = opened("olmoe")
    with torch.no_grad():
        intact = model.hidden_states(TOKENS)
        with ng.intervene(model, ng.Deactivate(model.exists)):
            other = copy.deepcopy(model.network)
            edited = model.hidden_states(TOKENS)
        assert not torch.allclose(edited, intact)
        torch.testing.assert_close(other.get_decoder()(TOKENS).last_hidden_state, intact)
        assert torch.equal(model.hidden_states(TOKENS), intact)


def test_experts_that_are_elsewhere_until_they_run():
    """As `device_map` leaves what fits nowhere."""
    expected = mixtures.recorded(opened("gpt_oss"))
    elsewhere = ng.Model(cpu_offload(every_type.network("gpt_oss"), torch.device("cpu")), tiny.tokenizer())
    got = mixtures.recorded(elsewhere)
    assert torch.equal(got.active, expected.active) and torch.equal(got.sum("hidden"), expected.sum("hidden"))


def test_half_precision_leaves_the_neurons_beside_those_off_as_they_are():
    model = ng.Model(every_type.network("gpt_oss").to(torch.bfloat16), tiny.tokenizer())
    mixture = model.mixtures[0]
    seen: list[torch.Tensor] = []
    off = torch.zeros(model.layers, model.neurons, dtype=torch.bool)
    off[0, :40] = True
    with torch.no_grad():
        for steps in ([], [ng.Deactivate(off)]):
            with ng.intervene(model, *steps):
                stop = mixture.observe(lambda _, hidden: seen.append(hidden.clone()))
                model.hidden_states(TOKENS)
                stop()
    assert torch.equal(seen[0][..., 40:], seen[1][..., 40:]) and not bool(seen[1][..., :40].any())


@pytest.mark.parametrize("kind", ["mixtral", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "llama4_text"])
def test_experts_that_are_off_are_never_chosen_and_others_take_their_place(kind):
    model = opened(kind)
    before = routed(model)
    most = int(next(iter(before.values())).sum((0, 1)).argmax())  # routed of all
    with torch.no_grad():
        intact = model.hidden_states(TOKENS)
    with ng.intervene(model, ng.DeactivateExperts(some_experts(model, most))):
        during = routed(model)
    for layer in model.mixtures:
        assert not bool(during[layer][..., most].any())
        assert torch.equal(during[layer].sum(-1), before[layer].sum(-1))  # as many as ever
    assert all(torch.equal(routed(model)[layer], before[layer]) for layer in before)
    with torch.no_grad():
        assert torch.equal(model.hidden_states(TOKENS), intact)


def test_an_expert_off_is_a_logit_of_minus_infinity():
    model = opened("mixtral")
    off = some_experts(model, 0, 3)
    with torch.no_grad():
        with ng.intervene(model, ng.DeactivateExperts(off)):
            got = model.hidden_states(TOKENS)
        for layer in model.mixtures:
            gate = model.network.model.layers[layer].mlp.gate

            def forward(states, gate=gate):
                logits = F.linear(states.reshape(-1, 32), gate.weight)
                logits[:, [0, 3]] = -torch.inf
                values, index = logits.softmax(-1).topk(2, dim=-1)
                return logits, values / values.sum(-1, keepdim=True), index

            gate.forward = forward
        torch.testing.assert_close(model.hidden_states(TOKENS), got)


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3", "gpt_oss", "llama4_text"])
def test_a_bonus_makes_an_expert_chosen_more_often_and_a_large_one_always(kind):
    model = opened(kind)
    experts = some_experts(model, 2)
    shares = []
    for strength in (0.0, 1.0, 1e4):
        with ng.intervene(model, ng.FavourExperts(experts, strength=strength)):
            seen = routed(model)
        shares.append(sum(float(chosen[..., 2].float().mean()) for chosen in seen.values()) / len(seen))
    assert shares[0] <= shares[1] <= shares[2] == 1.0
    assert shares[0] == sum(float(c[..., 2].float().mean()) for c in routed(model).values()) / len(model.mixtures)


def test_changes_of_the_router_compose_with_those_of_neurons_and_act_under_generate():
    model = opened("qwen2_moe")
    off = some_experts(model, 0)
    own = torch.zeros(model.layers, model.neurons, dtype=torch.bool)
    own[:, model.mixtures[0].expert(2)] = True
    with torch.no_grad():
        with ng.intervene(model, ng.DeactivateExperts(off), ng.Deactivate(own)):
            both = model.hidden_states(TOKENS)
            tokens = model.network.generate(TOKENS, max_new_tokens=4, do_sample=False)
        with ng.intervene(model, ng.Deactivate(own)), ng.intervene(model, ng.DeactivateExperts(off)):
            torch.testing.assert_close(model.hidden_states(TOKENS), both)
        with ng.intervene(model, ng.DeactivateExperts(off)):
            assert not torch.allclose(model.hidden_states(TOKENS), both)
    assert tokens.shape == (2, 11)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: ng.DeactivateExperts(some_experts(m, 0, 1, 2)), "switch off fewer"),
        (lambda m: ng.DeactivateExperts(torch.ones(1, 1, dtype=torch.bool)), "4 layers × 4 experts"),
        (lambda m: ng.FavourExperts(some_experts(m, 0), strength=float("nan")), "finite"),
    ],
)
def test_bad_changes_of_the_router_are_one_sentence(change, sentence):
    model = opened("mixtral")
    with pytest.raises(ng.NeuroglotError, match=sentence), ng.intervene(model, change(model)):
        pass


def test_a_dense_model_has_no_router():
    model = ng.Model(tiny.network("llama"), tiny.tokenizer())
    change = ng.DeactivateExperts(torch.ones(model.layers, 4, dtype=torch.bool))
    with pytest.raises(ng.NeuroglotError, match="dense"), ng.intervene(model, change):
        pass


def test_a_partition_of_a_native_mixture_is_one_sentence():
    with pytest.raises(ng.NeuroglotError, match="native mixture of experts"):
        ng.experts.partition(opened("mixtral"), experts=4)


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_the_stream_of_a_mixtures_layer_is_edited_as_any_others(kind):
    model = ng.Model(every_type.network(kind), tiny.tokenizer())
    chosen = torch.zeros(model.shape("residual"), dtype=torch.bool)
    chosen[1] = True
    values = torch.randn(chosen.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        intact = model.hidden_states(every_type.TOKENS).clone()
        with ng.intervene(model, ng.Add(chosen, values, site="residual")):
            got = model.hidden_states(every_type.TOKENS).clone()
        handle = model.ffns[1].layer.register_forward_hook(
            lambda _, __, out: (out[0] + values[1], *out[1:]) if isinstance(out, tuple) else out + values[1]
        )
        expected = model.hidden_states(every_type.TOKENS).clone()
        handle.remove()
        torch.testing.assert_close(got, expected)
        assert not torch.allclose(got, intact, atol=1e-3)
        assert torch.equal(model.hidden_states(every_type.TOKENS), intact)
