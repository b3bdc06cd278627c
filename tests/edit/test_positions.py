"""`when`: which tokens an intervention touches, with a key-value cache and without, in every family."""

import pytest
import shapes
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.positions import prompt_length
from neuroglot.generation.engine import generate

PROMPTS = ["the cats sat", "a much longer prompt, so that the first one is padded", "x"]


def chosen(model: ng.Model) -> torch.Tensor:
    return torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(2)) < 0.5


@pytest.mark.parametrize("when", ["both", "prompt", "generated"])
@pytest.mark.parametrize("family", ["llama", "opt", "bloom", "gpt2", "gemma3_text", "falcon"])
def test_a_cache_changes_nothing(family, when):
    model = tiny.model(family)
    with ng.intervene(model, ng.Replace(chosen(model), 1.5, when=when)):
        with_cache = generate(model, PROMPTS, tokens=10, repetition_penalty=1.1)
        assert with_cache == generate(model, PROMPTS, tokens=10, repetition_penalty=1.1, cache=False)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_parts_are_the_positions(family):
    """Logits of a prompt's tokens do not see `generated`; those after it do, and both parts together are `both`."""
    model = tiny.model(family)
    tokens = torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(1))
    make = lambda when: ng.Replace(chosen(model), 1.5, when=when)  # noqa: E731

    def logits(*interventions):
        with torch.no_grad(), ng.intervene(model, *interventions), prompt_length(model, 5):
            return model.network(tokens).logits

    intact, generated, prompt = logits(), logits(make("generated")), logits(make("prompt"))
    torch.testing.assert_close(generated[:, :5], intact[:, :5])
    assert not torch.allclose(generated[:, 5:], intact[:, 5:])
    torch.testing.assert_close(prompt[:, :5], logits(make("both"))[:, :5])
    assert not torch.allclose(prompt[:, :5], intact[:, :5])
    torch.testing.assert_close(logits(make("prompt"), make("generated")), logits(make("both")))


def test_the_first_new_token_follows_from_the_prompt_alone():
    model = tiny.model()
    strong = ng.Replace(chosen(model), 9.0, when="generated")
    with ng.intervene(model, strong):
        assert generate(model, PROMPTS, tokens=1) == (changed := generate(model, PROMPTS, tokens=1))
    assert changed == generate(model, PROMPTS, tokens=1)


def test_a_text_is_a_prompt_elsewhere():
    model = tiny.model()
    intact = ng.evaluate.perplexity(model, tiny.corpus(60), block=32, progress=False)
    with ng.intervene(model, ng.Deactivate(chosen(model), when="generated")):
        assert ng.evaluate.perplexity(model, tiny.corpus(60), block=32, progress=False) == intact
    with ng.intervene(model, ng.Deactivate(chosen(model), when="prompt")):
        assert ng.evaluate.perplexity(model, tiny.corpus(60), block=32, progress=False) != intact


def test_strength_multiplies_the_values():
    model, tokens = tiny.model(), torch.arange(8)[None]
    mask, values = chosen(model), torch.randn(3, 24, generator=torch.Generator().manual_seed(3))
    for kind in (ng.Replace, ng.Raise, ng.Add):
        with torch.no_grad(), ng.intervene(model, kind(mask, values, strength=3.0)):
            strong = model.network(tokens).logits
        with torch.no_grad(), ng.intervene(model, kind(mask, 3.0 * values)):
            torch.testing.assert_close(model.network(tokens).logits, strong)


def test_difference_from_the_mean_of_the_others():
    recording = ng.record(tiny.model(), tiny.corpus(), block=16, progress=False)
    en, fr, ru = (recording.language_mean(tag) for tag in ("en", "fr", "ru"))
    torch.testing.assert_close(recording.language_difference("fr"), fr - (en + ru) / 2)
    with pytest.raises(ng.NeuroglotError, match="no mean of the others"):
        recording.select(["fr"]).language_difference("fr")


def test_padding_changes_nothing():
    """Each prompt alone writes what it writes in a batch, also with a penalty and though padding is the end token."""
    model = tiny.model()
    together = generate(model, PROMPTS, tokens=12, repetition_penalty=1.3)
    assert together == [generate(model, [prompt], tokens=12, repetition_penalty=1.3)[0] for prompt in PROMPTS]
    assert together == generate(model, PROMPTS, tokens=12, repetition_penalty=1.3, batch=2)


def test_sampling_is_seeded():
    model = tiny.model()
    write = lambda seed: generate(model, PROMPTS, tokens=12, temperature=1.0, seed=seed)  # noqa: E731
    assert write(1) == write(1) != write(2)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    write(3)
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's randomness is touched


def test_a_stream_ends_as_the_answer():
    model, seen = tiny.model(), []
    (answer,) = generate(model, PROMPTS[:1], tokens=8, written=seen.append)
    assert answer.rstrip("\ufffd") == seen[-1]  # half a character is not shown
    assert 1 < len(seen) <= 8


@shapes.unchecked()
def test_refusals():
    model = tiny.model()
    for wrong in ({"tokens": 0}, {"temperature": -1}, {"repetition_penalty": 0}, {"top_p": 0}, {"batch": 0}):
        with pytest.raises(ng.NeuroglotError, match="Generation takes"):
            generate(model, PROMPTS, **wrong)
    with pytest.raises(ng.NeuroglotError, match="prompt is empty"):
        generate(model, [" "])
    with pytest.raises(ng.NeuroglotError, match="chat template"):
        generate(model, PROMPTS, chat=True)
    with (
        pytest.raises(ng.NeuroglotError, match="both, prompt or generated"),
        ng.intervene(model, ng.Deactivate(chosen(model), when="never")),
    ):
        pass
