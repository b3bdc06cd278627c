"""Encoders with a decoder: the decoder is recorded, while the encoder reads an empty text."""

import every_type
import pytest
import tiny
import torch
from transformers import AutoModelForSeq2SeqLM

import neuroglot as ng
from neuroglot.models.description import describe

TOKENS = every_type.TOKENS


@pytest.fixture(scope="module", params=["t5", "bart", "m2m_100"])
def opened(request, tmp_path_factory):
    """A checkpoint as people have it, with its encoder, and what `load_model` makes of it."""
    config = every_type.small_config(request.param, is_decoder=False)
    torch.manual_seed(0)
    network = AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.2)
    path = tmp_path_factory.mktemp(request.param) / request.param
    network.save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return network, ng.load_model(path)


def test_the_whole_model_is_opened_and_its_decoder_recorded(opened):
    network, model = opened
    assert type(model.network) is type(network) and model.layers == every_type.LAYERS
    names = {module: name for name, module in model.network.named_modules()}
    assert all("decoder" in names[ffn.down] for ffn in model.ffns)
    assert every_type._counts(model) is None and every_type._ablation(model) is None
    start = model.network.generation_config.decoder_start_token_id
    assert model.begin == ((start,) if start is not None else (256,))


@torch.no_grad()
def test_the_encoder_reads_its_end_token(opened):
    network, model = opened
    end = torch.full((len(TOKENS), 1), network.config.eos_token_id)
    expected = network(input_ids=end, decoder_input_ids=TOKENS, use_cache=False).logits
    torch.testing.assert_close(model.logits(model.hidden_states(TOKENS)), expected, rtol=1e-4, atol=1e-4)
    assert all(
        value > 1
        for value in ng.evaluate.perplexity(model, tiny.corpus(), tokens=60, block=16, progress=False).values()
    )


def test_it_is_pruned_and_does_not_continue_prompts(opened, tmp_path):
    _, model = opened
    keep = torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(1)) < 0.7
    pruned = ng.load_model(ng.prune(model, keep, tmp_path / "pruned"))
    assert pruned.widths == tuple(keep.sum(1).tolist())
    with torch.no_grad(), ng.intervene(model, ng.Deactivate(~keep)):
        torch.testing.assert_close(pruned.hidden_states(TOKENS), model.hidden_states(TOKENS), rtol=1e-3, atol=1e-4)
    with pytest.raises(ng.NeuroglotError, match="does not continue a prompt"):
        ng.evaluate.generate(model, ["the cats"], tokens=2)


def test_a_pruned_model_that_could_not_be_opened_is_not_written(tmp_path):
    config = every_type.small_config("led", is_decoder=False)
    AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "led")
    tiny.tokenizer().save_pretrained(tmp_path / "led")
    model = ng.load_model(tmp_path / "led")
    with pytest.raises(ng.NeuroglotError, match="found only with its weights"):
        ng.prune(model, torch.arange(model.neurons).expand(model.layers, -1) % 2 == 0, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists() and describe(model).opens == []
