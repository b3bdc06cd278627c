"""A model that is compiled, copied, trained or used by two threads gives right numbers or one sentence."""

import copy
import threading

import pytest
import tiny
import torch

import neuroglot as ng

TOKENS = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))


def some(model: ng.Model, seed: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(model.layers, model.neurons, generator=draw) < 0.3


def logits(network) -> torch.Tensor:
    with torch.no_grad():
        return network(TOKENS).logits.clone()


@pytest.mark.parametrize("how", ["network", "layer", "wrapped"])
def test_interventions_act_on_a_compiled_network(how):
    model = tiny.model()
    run = model.network
    with ng.intervene(model, ng.Deactivate(some(model))):
        expected = logits(run)
    if how == "wrapped":
        run = torch.compile(run, backend="eager")
    else:
        (run if how == "network" else run.model.layers[1]).compile(backend="eager")
    intact = logits(run)  # compiled here, without hooks
    with ng.intervene(model, ng.Deactivate(some(model))):
        assert torch.equal(logits(run), expected)
    assert torch.equal(logits(run), intact) and not torch.equal(intact, expected)
    torch._dynamo.reset()


def test_a_compiled_network_opens():
    network = torch.compile(tiny.network(), backend="eager")
    assert ng.Model(network, tiny.tokenizer()).widths == (24, 24, 24)


def test_blocks_may_be_left_in_any_order():
    model = tiny.model()
    first, second = (ng.intervene(model, ng.Deactivate(some(model, seed))) for seed in (1, 2))
    intact = logits(model.network)
    with ng.intervene(model, ng.Deactivate(some(model, 2))):
        expected = logits(model.network)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(logits(model.network), expected)
    second.__exit__(None, None, None)
    assert torch.equal(logits(model.network), intact)


def test_a_copy_made_inside_a_block_is_not_edited():
    model = tiny.model()
    intact = logits(model.network)
    with ng.intervene(model, ng.Deactivate(some(model))):
        copied = copy.deepcopy(model.network)
        assert torch.equal(logits(copied), intact)
        assert not torch.equal(logits(model.network), intact)


def test_another_thread_is_refused_while_a_block_is_open():
    model = tiny.model()
    said: list = []

    def run():
        try:
            logits(model.network)
        except ng.NeuroglotError as error:
            said.append(str(error))

    with ng.intervene(model, ng.Deactivate(some(model))):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(said) == 1 and "Another thread" in said[0]


def test_two_threads_record_one_model_as_one_does():
    model = tiny.model()
    expected = ng.record(model, tiny.corpus(), block=16, progress=False)
    found: list = []
    record = lambda: found.append(ng.record(model, tiny.corpus(), block=16, progress=False))  # noqa: E731
    threads = [threading.Thread(target=record) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and all(torch.equal(each.active, expected.active) for each in found)


def test_states_that_give_other_numbers_are_refused():
    model = tiny.model()
    record = lambda: ng.record(model, tiny.corpus(), block=16, progress=False)  # noqa: E731
    with ng.intervene(model, ng.Deactivate(some(model))), pytest.raises(ng.NeuroglotError, match="in force"):
        record()
    with torch.autocast("cpu"), pytest.raises(ng.NeuroglotError, match="Autocast"):
        record()
    model.network.model.layers[1].train()
    with pytest.raises(ng.NeuroglotError, match="training mode"):
        record()
    with pytest.raises(ng.NeuroglotError, match="training mode"), ng.intervene(model, ng.Deactivate(some(model))):
        pass


def test_an_intervention_that_is_passed_by_is_an_error():
    model = tiny.model()
    model.network.model.layers[1].mlp.forward = lambda x: 0 * x  # as a fused kernel would
    with pytest.raises(ng.NeuroglotError, match="did not act"), ng.intervene(model, ng.Deactivate(some(model))):
        logits(model.network)


def test_the_fingerprint_follows_the_weights():
    model = tiny.model()
    before = model.fingerprint
    with torch.no_grad():
        model.ffns[0].down.weight[0, 0] += 1
    assert model.fingerprint != before
