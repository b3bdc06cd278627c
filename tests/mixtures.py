"""Native mixtures of experts, computed as plain loops over tokens and over the experts that each of them reaches."""

from typing import Any

import every_type
import torch
from torch.nn import functional as F

import neuroglot as ng
from neuroglot.artifacts.provenance import Provenance
from neuroglot.recording.worker import Work, record_shard
from neuroglot.tokens.shard_stream import Shard

LENGTH = 16
BLOCKS = torch.randint(3, 250, (6, LENGTH), generator=torch.Generator().manual_seed(3))


def recorded(model: ng.Model, names: tuple[str, ...] = ("active", "activation", "hidden")) -> ng.Recording:
    """The recording of the blocks."""
    work = Work(names, None, (), 64, Provenance(model="", fingerprint="", tokenizer="", block=LENGTH))
    return record_shard(model, Shard("en", 0, "", BLOCKS), work.kept(model), work)


@torch.no_grad()
def by_loops(model: ng.Model) -> dict[str, torch.Tensor]:
    """The same statistics and `routed`: plain loops over what enters the experts while transformers computes them."""
    if hasattr(model.network, "set_experts_implementation"):
        model.network.set_experts_implementation("eager")
    calls: dict[int, list[Any]] = {layer: [] for layer in range(model.layers)}
    inner: dict[tuple[int, int], list[torch.Tensor]] = {}
    handles = []
    for layer, ffn in enumerate(model.ffns):
        mixture = model.mixtures.get(layer)
        if mixture is not None:
            handles.append(
                mixture.module.register_forward_pre_hook(
                    lambda _, args, kwargs, i=layer: calls[i].append([*args, *kwargs.values()]), with_kwargs=True
                )
            )
        for part, dense in enumerate(mixture.shared if mixture else [ffn]):
            for site, module in ((0, dense.activation), (1, dense.down)):
                kept = inner.setdefault((layer, 2 * part + site), [])
                if site:
                    hook = module.register_forward_pre_hook(lambda _, args, k=kept: k.append(args[0].clone()))
                else:
                    hook = module.register_forward_hook(lambda _, __, out, k=kept: k.append(out.clone()))
                handles.append(hook)
    for batch in BLOCKS.split(4):
        model.hidden_states(batch)
    for handle in handles:
        handle.remove()
    most = max(mixture.experts for mixture in model.mixtures.values())
    sums = {name: torch.zeros(model.layers, model.neurons, dtype=torch.float64) for name in ("activation", "hidden")}
    active = torch.zeros(model.layers, model.neurons, dtype=torch.int64)
    routed = torch.zeros(model.layers, most, dtype=torch.int64)
    for layer in range(model.layers):
        mixture = model.mixtures.get(layer)
        begins = [part.start for _, part in mixture.parts] if mixture else [0]
        for part, begin in enumerate(begins):
            kept = [torch.cat([each.flatten() for each in inner[layer, 2 * part + site]]) for site in (0, 1)]
            a, h = (each.view(len(BLOCKS), LENGTH, -1)[:, 1:].flatten(0, 1).double() for each in kept)
            own = slice(begin, begin + a.shape[1])
            active[layer, own] += (a > 0).sum(0)
            sums["activation"][layer, own] += a.sum(0)
            sums["hidden"][layer, own] += h.sum(0)
        for call in calls[layer]:
            for token, expert, state in pairs(mixture, call):
                if token % LENGTH < 1:
                    continue
                a, h = sites(mixture.module, expert, state)
                own = slice(expert * mixture.width, (expert + 1) * mixture.width)
                routed[layer, expert] += 1
                active[layer, own] += a > 0
                sums["activation"][layer, own] += a.double()
                sums["hidden"][layer, own] += h.double()
    return {"active": active, **sums, "routed": routed}


def pairs(mixture: Any, call: list[torch.Tensor]) -> list[tuple[int, int, torch.Tensor]]:
    """Each token with an expert that it reaches, and its state there."""
    if len(call) == 1:  # Llama 4 gives every expert every token
        rows = call[0].view(mixture.experts, -1, call[0].shape[-1])
        return [(t, e, rows[e, t]) for e in range(len(rows)) for t in range(rows.shape[1]) if bool(rows[e, t].any())]
    states, index = call[0].reshape(-1, call[0].shape[-1]), call[1]
    return [(t, e, states[t]) for t, row in enumerate(index) for e in set(row.tolist())]


def sites(module: Any, expert: int, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The activation and the hidden values of one expert on one token, as each family's own code says them."""
    kind = type(module).__name__
    if kind.startswith("NemotronH"):
        activation = module.act_fn(module.up_proj[expert] @ state)
        return activation, activation
    weight = module.gate_up_proj[expert]
    both = state @ weight if kind.startswith(("GptOss", "Llama4", "Aria")) else weight @ state
    if kind.startswith("GptOss"):
        both = both + module.gate_up_proj_bias[expert]
        gate, up = both[::2].clamp(max=module.limit), both[1::2].clamp(-module.limit, module.limit)
        activation = gate * torch.sigmoid(gate * module.alpha)
        return activation, (up + 1) * activation
    gate, up = both.chunk(2)
    if kind.startswith(("DeepseekV4", "HYV4")):
        limit = module.limit if hasattr(module, "limit") else module.swiglu_limit
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return F.silu(gate), F.silu(gate) * up
    if kind.startswith("Inkling2"):
        return module.act_fn(gate, torch.ones_like(gate)), module.act_fn(gate, up)
    return module.act_fn(gate), module.act_fn(gate) * up


def counted_wrong(model: ng.Model) -> str | None:
    """What a recording says otherwise than the loops, if anything."""
    recording, expected = recorded(model), by_loops(model)
    for name, values in expected.items():
        got = recording.sum(name)[..., 0]
        same = torch.equal(got, values) if values.dtype == torch.int64 else torch.allclose(got, values, 1e-4, 1e-4)
        if not same:
            return f"{name} differs from a plain loop by {float((got - values).abs().max()):.3g}"
    return None


@torch.no_grad()
def ablated_wrong(model: ng.Model) -> str | None:
    """How neurons that are off differ from zeroed weights, or the model from what it was, if they do."""
    tokens = every_type.TOKENS
    chosen = (torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(2)) < 0.3) & model.exists
    intact = model.hidden_states(tokens).clone()
    for site in ("activation", "hidden"):
        with ng.intervene(model, ng.Deactivate(chosen, site=site)):
            off = model.hidden_states(tokens).clone()
        weights = {name: weight.clone() for name, weight in model.network.named_parameters()}
        for ffn, row in zip(model.ffns, chosen, strict=True):
            zero(ffn, row[: ffn.neurons])
        by_hand = model.hidden_states(tokens).clone()
        for name, weight in model.network.named_parameters():
            weight.copy_(weights[name])
        if not torch.allclose(off, by_hand, rtol=1e-3, atol=1e-3):
            return f"neurons off at the {site} site are not zeroed weights: {float((off - by_hand).abs().max()):.2g}"
        if float((off - intact).abs().max()) < 1e-6:
            return f"neurons off at the {site} site change nothing"
        if not torch.equal(model.hidden_states(tokens), intact):
            return "the model is not as it was"
    return None


def zero(ffn: Any, row: torch.Tensor) -> None:
    """Zero the down-projection's columns of some neurons of a layer."""
    if not hasattr(ffn, "shared"):
        ffn.down_columns[:, row] = 0
        return
    own = row[: ffn.experts * ffn.width].view(ffn.experts, ffn.width)
    for expert in range(ffn.experts):
        ffn.weights.down[expert][:, own[expert]] = 0
    for dense, part in ffn.parts:
        dense.down_columns[:, row[part]] = 0
