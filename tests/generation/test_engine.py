"""The continuous engine writes what transformers' `generate` writes, token by token, whatever the rows beside a row."""

import gc

import every_type
import pytest
import shapes
import tiny
import torch

import neuroglot as ng
from neuroglot.edit.conditions import Condition
from neuroglot.generation.choice import Choice
from neuroglot.generation.continuous import reason_against, write_continuously
from neuroglot.generation.engine import generate
from neuroglot.generation.huggingface import pads_alike, write_plainly
from neuroglot.generation.prompts import Row, end_tokens, prompt_tokens
from neuroglot.generation.slots import SlotCache

PROMPTS = ["the cats sat", "a much longer prompt, so that the first one is padded", "x", "dogs", "çà et là", "and"]
ONE_EACH = [*PROMPTS, "but"]  # a prompt for each of `conditions`
DRAWN = {"temperature": 1.0, "top_p": 0.9, "seed": 3}


def mask(model, seed=0, share=0.3):
    return torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(seed)) < share


def conditions(model):
    """One of each kind, several after one another, and some that act on one part of the text only."""
    values = torch.randn(model.layers, model.neurons, generator=torch.Generator().manual_seed(9))
    some, other = mask(model, 1), mask(model, 2)
    stream = torch.rand(model.layers, model.stream_width, generator=torch.Generator().manual_seed(4)) < 0.5
    return [
        None,
        Condition("off", (ng.Deactivate(some),)),
        Condition("replaced", (ng.Replace(some, values, 2.0, site="hidden"),)),
        Condition("raised", (ng.Deactivate(other), ng.Raise(some, values, when="generated"))),
        Condition("added", (ng.Add(some, values, 3.0, when="prompt"), ng.Scale(other, -1.5, site="hidden"))),
        Condition("mixed", (ng.Raise(some, 0.2), ng.Scale(other, -2.0), ng.Add(some, 0.5), ng.Raise(other, values))),
        Condition("steered", (ng.Deactivate(some), ng.Add(stream, 0.7, site="residual", when="generated"))),
    ]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gemma2", "opt", "gpt2", "gpt_neox", "cohere", "phi3"])
def test_texts_equal_the_reference(family):
    short_window = {"sliding_window": 8} if family.startswith("gemma") else {}
    model = tiny.model(family, **short_window)
    assert reason_against(model) == ""
    for how in ({"repetition_penalty": 1.3}, DRAWN):
        reference = generate(model, PROMPTS, tokens=24, engine="huggingface", **how)
        for batch in (2, None):
            assert generate(model, PROMPTS, tokens=24, engine="continuous", batch=batch, **how) == reference, how


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_a_recipe_a_row(family):
    model = tiny.model(family)
    recipes = conditions(model)
    prompts = [prompt for prompt in PROMPTS[:3] for _ in recipes]
    how = {"streams": [i for i in range(3) for _ in recipes], "recipes": recipes * 3, "tokens": 8, **DRAWN}
    together = generate(model, prompts, **how)
    assert len(set(together)) > 6
    for number, recipe in enumerate(recipes):
        with (recipe or Condition("none")).applied(model):
            alone = generate(model, PROMPTS[:3], tokens=8, engine="huggingface", **DRAWN)
        assert together[number :: len(recipes)] == alone, number
    assert together == generate(model, prompts, batch=4, **how) == generate(model, prompts, engine="huggingface", **how)


def test_layers_of_unequal_width():
    model = tiny.model()
    model.ffns[1].keep(torch.arange(16))
    recipes = [None, *(Condition(str(i), (ng.Add(mask(model, i) & model.exists, 2.0),)) for i in range(2))] * 2
    together = generate(model, PROMPTS, recipes=recipes, tokens=8)
    assert together == generate(model, PROMPTS, recipes=recipes, tokens=8, engine="huggingface")
    assert together != generate(model, PROMPTS, tokens=8)


def test_what_is_in_force_comes_before_the_recipes():
    model = tiny.model()
    values = torch.randn(model.layers, model.neurons, generator=torch.Generator().manual_seed(5))
    outer, inner = ng.Add(mask(model, 3), values), Condition("scaled", (ng.Scale(mask(model, 4), 3.0),))
    with ng.intervene(model, outer):
        together = generate(model, PROMPTS, recipes=[inner, None] * 3, tokens=10)
    with ng.intervene(model, outer, *inner.steps):
        both = generate(model, PROMPTS, tokens=10, engine="huggingface")
    assert together[::2] == both[::2]


def test_weights_and_changes_of_somebody_else_run_in_queues_of_their_own():
    class Half(ng.Intervention):
        def change(self, current, given):
            return current / 2

    model = tiny.model()
    zeroed = Condition("zeroed", ({"lm_head.weight": torch.arange(0, 4000, 7)},))
    recipes = [Condition("half", (Half(mask(model)),)), None, zeroed, None, zeroed, None]
    together = generate(model, PROMPTS, recipes=recipes, tokens=10)
    for recipe, prompt, answer in zip(recipes, PROMPTS, together, strict=True):
        with (recipe or Condition("none")).applied(model):
            assert generate(model, [prompt], tokens=10, engine="huggingface") == [answer]


def test_a_model_that_cannot_is_run_by_the_reference():
    model = tiny.model("bloom")  # its bias by distance needs a mask of its own
    assert reason_against(model)
    recipes = conditions(model)
    together = generate(model, ONE_EACH, recipes=recipes, tokens=8)
    for recipe, prompt, answer in zip(recipes, ONE_EACH, together, strict=True):
        with (recipe or Condition("none")).applied(model):
            assert generate(model, [prompt], tokens=8) == [answer]
    with pytest.raises(ng.NeuroglotError, match="cannot be run by the continuous engine"):
        generate(model, PROMPTS, engine="continuous")


def test_noise_has_the_distribution():
    """Many streams draw each token as often as its probability says."""
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(20_000, 4)
    drawn = Choice(temperature=0.5).drawn(logits, torch.arange(20_000), torch.full((20_000,), 7))
    share = drawn.bincount(minlength=4) / 20_000
    assert (share - (logits[0] / 0.5).softmax(0)).abs().max() < 0.012
    cut = Choice(temperature=1.0, top_p=0.7).drawn(logits, torch.arange(20_000), torch.full((20_000,), 7))
    assert set(cut.tolist()) == {1, 2}  # 0.64 is not enough, 0.87 is


def test_a_generation_config_does_not_leak():
    model = tiny.model()
    plain = [generate(model, PROMPTS, tokens=12, engine=engine) for engine in ("huggingface", "continuous")]
    settings = model.network.generation_config
    for name, value in {
        "no_repeat_ngram_size": 1, "temperature": 9.0, "do_sample": True, "min_new_tokens": 12, "num_beams": 3,
        "suppress_tokens": list(range(200)), "repetition_penalty": 5.0, "top_k": 1, "max_length": 3, "min_length": 60,
        "bad_words_ids": [[7]], "forced_eos_token_id": 3, "guidance_scale": 3.0, "renormalize_logits": True,
    }.items():  # fmt: skip
        setattr(settings, name, value)
    again = [generate(model, PROMPTS, tokens=12, engine=engine) for engine in ("huggingface", "continuous")]
    assert again == plain and model.network.generation_config is settings


def test_answers_end_where_the_checkpoint_says():
    model = tiny.model()
    rows = [Row(ids) for ids in prompt_tokens(model, PROMPTS[:3], False)]
    for write in (write_plainly, write_continuously):
        model.network.generation_config.eos_token_id = None
        model.network.config.eos_token_id = None
        whole = write(model, rows, 12, Choice())
        model.network.generation_config.eos_token_id = [whole[0][4], 999_999]
        ended = write(model, rows, 12, Choice())
        for before, after in zip(whole, ended, strict=True):
            end = before.index(whole[0][4]) if whole[0][4] in before else len(before)
            assert after == before[:end]
        model.network.generation_config.eos_token_id = "</s>"
        with pytest.raises(ng.NeuroglotError, match="'</s>', which is no token's number"):
            write(model, rows, 12, Choice())


def test_padding_that_has_no_embedding():
    model = tiny.model()
    expected = generate(model, PROMPTS, tokens=8)
    model.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert model.tokenizer.pad_token_id >= model.vocabulary
    for engine in ("huggingface", "continuous"):
        assert generate(model, PROMPTS, tokens=8, engine=engine) == expected
    (row,) = prompt_tokens(model, ["the [PAD] cats"], False)  # which is text
    assert max(row) < model.vocabulary and "[PAD]" in model.tokenizer.decode(row)
    assert len(generate(model, ["the [PAD] cats"], tokens=8)) == 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_lengths_beyond_the_positions_are_refused(family):
    model = tiny.model(family)  # of 128 positions
    length = len("<s>" and "x" * 60) + 1
    generate(model, ["x" * 60], tokens=128 - length + 1)  # the last token is not read
    with pytest.raises(ng.NeuroglotError, match=r"61 tokens.*128 positions.*at most 68 new tokens"):
        generate(model, ["y", "x" * 60], tokens=128 - length + 2)


@shapes.unchecked()
def test_refusals():
    model = tiny.model()
    with pytest.raises(ng.NeuroglotError, match="2 recipes for 6 prompts"):
        generate(model, PROMPTS, recipes=[None, None])
    with pytest.raises(ng.NeuroglotError, match=r"not Deactivate; put interventions into a Condition"):
        generate(model, PROMPTS[:1], recipes=[ng.Deactivate(mask(model))])
    with pytest.raises(ng.NeuroglotError, match="The engine is"):
        generate(model, PROMPTS, engine="fast")
    other = tiny.model(seed=1)
    recipe = ng.Recipe([ng.Deactivate(mask(other))], other.fingerprint)
    with pytest.raises(ng.NeuroglotError, match="made for"):
        generate(model, PROMPTS[:1], recipes=[recipe])
    assert generate(model, []) == []
    for wrong, sentence in (
        ({"tokens": 2.5}, "tokens must be a whole number of at least 0, not 2.5"),
        ({"temperature": "1"}, "temperature must be a number, not '1'"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"streams": ["a"]}, "streams are whole numbers"),
    ):
        with pytest.raises(ng.NeuroglotError, match=sentence):
            generate(model, PROMPTS[:1], **wrong)
    with pytest.raises(ng.NeuroglotError, match="half a surrogate pair"):
        generate(model, ["\ud800"])


TEMPLATE = "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] | trim }}</s>{% endfor %}bot:"


def test_a_prompt_that_spells_a_special_token_is_text():
    model = tiny.model()
    special = {model.tokenizer.bos_token_id, model.tokenizer.eos_token_id}
    (row,) = prompt_tokens(model, ["a <s>b</s>"], False)
    assert row[: len(model.begin)] == model.begin and not special & set(row[len(model.begin) :])
    assert model.tokenizer.decode(row[len(model.begin) :]) == "a <s>b</s>"
    model.tokenizer.chat_template = TEMPLATE
    spelled, plain = prompt_tokens(model, ["a <s>b</s> ", "a b "], True)
    for ids, text in ((spelled, "a <s>b</s>"), (plain, "a b")):
        assert [token for token in ids if token in special] == [
            model.tokenizer.bos_token_id,
            model.tokenizer.eos_token_id,
        ]
        assert model.tokenizer.decode(ids) == f"<s>user: {text}</s>bot:"
    model.tokenizer.chat_template = TEMPLATE.replace("trim", "length")
    for prompt in ("a <s>b</s>", "a b"):
        with pytest.raises(ng.NeuroglotError, match="leaves the question out"):
            prompt_tokens(model, [prompt], True)


def test_a_template_that_takes_messages_in_parts_only_is_given_parts():
    """Models that see images, too, have such ones: text alone they would leave out without a word."""
    model = tiny.model()
    model.tokenizer.chat_template = "{% for part in messages[0]['content'] %}{{ part['text'] }}{% endfor %}!"
    assert [model.tokenizer.decode(ids) for ids in prompt_tokens(model, ["a b", "a <s>"], True)] == ["a b!", "a <s>!"]


def test_angles_that_depend_on_the_longest_row():
    """LongRoPE takes other angles beyond the first training's length: no row may force them on its neighbours."""
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 24}
    half = tiny.model("phi3").network.config.hidden_size // tiny.model("phi3").network.config.num_attention_heads // 2
    factors = {"short_factor": [1.0] * half, "long_factor": [4.0] * half}
    model = tiny.model("phi3", rope_parameters={**rope, **factors}, original_max_position_embeddings=24)
    together = generate(model, PROMPTS, tokens=8)
    assert together == [generate(model, [prompt], tokens=8)[0] for prompt in PROMPTS]


@pytest.mark.parametrize(("kind", "alike"), [("bart", False), ("git", False), ("opt", True)])
def test_a_decoder_that_counts_padding_reads_prompts_of_one_length_together(kind, alike):
    """The decoder of BART numbers places from the first, so that padding on the left would be other places."""
    model = ng.Model(every_type.network(kind), tiny.tokenizer())
    how = {"tokens": 6, "engine": "huggingface", "repetition_penalty": 1.3}
    together = generate(model, PROMPTS, **how)
    assert together == [generate(model, [prompt], **how)[0] for prompt in PROMPTS]
    assert pads_alike(model) is alike


def test_other_windows_and_layers_fall_back():
    model = tiny.model()
    model.network.config.window_size = 4  # as GPT-Neo calls it
    assert "window_size" in reason_against(model)
    assert reason_against(tiny.model()) == ""

    class Mixture(type(tiny.model().ffns[0])):
        """Its tokens come in another order than rows."""

    model = tiny.model()
    recipes = conditions(model)
    expected = generate(model, ONE_EACH, recipes=recipes, tokens=8)
    for ffn in model.ffns:
        ffn.__class__ = Mixture
    assert generate(model, ONE_EACH, recipes=recipes, tokens=8) == expected


def test_nothing_is_left_behind():
    import gc
    import threading
    import weakref

    model = tiny.model()
    hooks = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())  # noqa: E731
    before = hooks(), threading.active_count()
    generate(model, ONE_EACH, recipes=conditions(model), tokens=6)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPTS[:1], tokens=6, written=stop)
    assert (hooks(), threading.active_count()) == before and model.prompt_tokens is None
    network = weakref.ref(model.network)
    del model, hooks
    gc.collect()
    assert network() is None
    training = tiny.model()
    training.network.train()
    with pytest.raises(ng.NeuroglotError, match="training mode"):
        generate(training, PROMPTS)


def test_what_a_queue_held_is_let_go_at_its_end_and_not_when_python_looks_for_circles():
    model = tiny.model("llama")
    generate(model, PROMPTS[:2], tokens=2)
    gc.collect()
    gc.disable()
    try:
        for batch in (1, 2):
            generate(model, PROMPTS[:2], tokens=2, batch=batch)
        assert not any(type(value) is SlotCache for value in gc.get_objects())
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_one_after_the_other_hold_the_memory_of_one_on_a_gpu():
    model = tiny.model("llama", max_position_embeddings=4096)
    model.network.cuda()
    gc.disable()
    try:
        held = []
        for batch in (64, 32, 64, 32, 64):
            generate(model, PROMPTS[:2] * 32, tokens=1024, batch=batch)
            held.append(torch.cuda.memory_allocated())
        assert held[-1] <= 1.05 * held[0], held
    finally:
        gc.enable()


@pytest.mark.parametrize("engine", ["continuous", "huggingface"])
@pytest.mark.parametrize("when", ["both", "generated"])
def test_an_answer_ends_where_logits_are_no_numbers(engine, when):
    model, prompts = tiny.model(), ["the cat", "a mat", "çà et là"]
    everything = torch.ones(model.layers, model.neurons, dtype=torch.bool)
    beyond = Condition("beyond", (ng.Add(everything, 3e38, when=when),))  # what float32 holds, once multiplied
    intact = ng.evaluate.generate(model, prompts, tokens=6, engine=engine)
    with pytest.warns(ng.NeuroglotWarning, match="1 answer ends where the logits of tiny-llama are not numbers"):
        changed = ng.evaluate.generate(model, prompts, tokens=6, engine=engine, recipes=[None, beyond, None])
    assert changed[::2] == intact[::2]
    assert len(changed[1].encode()) == 0 if when == "both" else intact[1].startswith(changed[1])


def test_a_list_of_no_end_tokens_says_nothing():
    model = tiny.model()
    for ends, expected in (([7, 9], [7, 9]), ([], [257]), (None, [257]), (0, [0])):
        model.network.generation_config.eos_token_id = ends
        assert end_tokens(model) == expected
