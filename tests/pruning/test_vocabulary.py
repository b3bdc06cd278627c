"""A trimmed vocabulary: the text of the language is read and understood as before, and any other text still is read."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import neuroglot as ng
from neuroglot.errors import NeuroglotError
from neuroglot.models.vocabulary import changed, needed_tokens, token_counts, trim_tokenizer
from neuroglot.pruning.vocabulary import TokenRanking, expected_counts, kept_tokens, language_counts, trimmed

SPECIAL = ["<s>", "</s>", "<unk>", "<|turn|>", "<unused0>", "<unused1>"]


def trained(kind):
    """A tokenizer of 1,500 tokens, trained on the starter corpus."""
    corpus = ng.load_corpus("starter")
    texts = [text for tag in ("fr", "en", "vi", "id", "es") for text in corpus[tag]]
    bytewise = [f"<0x{i:02X}>" for i in range(256)]
    if kind == "byte-level BPE":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=1_500, special_tokens=SPECIAL, initial_alphabet=alphabet)
    else:
        core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True) if "BPE" in kind else models.Unigram())
        core.normalizer = normalizers.Replace(" ", "▁")
        core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        names = [*SPECIAL, *bytewise]
        if "BPE" in kind:
            trainer = trainers.BpeTrainer(vocab_size=1_756, special_tokens=names, limit_alphabet=400)
        else:
            trainer = trainers.UnigramTrainer(vocab_size=2_500, special_tokens=names, unk_token="<unk>")
    core.train_from_iterator(texts, trainer)
    if "Unigram" in kind:
        pieces = [tuple(entry) for entry in core_pieces(core)]
        core.model = models.Unigram(pieces, unk_id=2, byte_fallback=True)
    if "level" not in kind:  # bytes are pieces of the model, not tokens that a text could spell
        core = Tokenizer.from_str(without_added_bytes(core))
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = "{{ '<|turn|>' }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return fast


def core_pieces(core):
    import json

    return json.loads(core.to_str())["model"]["vocab"]


def without_added_bytes(core):
    import json

    data = json.loads(core.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if not token["content"].startswith("<0x")]
    return json.dumps(data)


@pytest.fixture(scope="module", params=["byte-level BPE", "BPE with byte fallback", "Unigram with byte fallback"])
def tokenizer(request):
    return trained(request.param)


@pytest.fixture(scope="module")
def french():
    return list(ng.load_corpus("starter")["fr"])


@pytest.fixture(scope="module")
def smaller(tokenizer, french):
    used = token_counts(tokenizer, french)
    keep = needed_tokens(tokenizer, list(used))
    return keep, trim_tokenizer(tokenizer, keep)


def test_the_text_it_was_trimmed_for_is_cut_as_before(tokenizer, french, smaller):
    keep, trimmed = smaller
    assert len(keep) == len(trimmed) < 0.9 * len(tokenizer)
    told = changed(tokenizer, trimmed, keep, french)
    assert (told.texts, told.changed, told.lost, told.share) == (len(french), 0, 0, 0.0)
    for text in french:
        assert keep[trimmed(text)["input_ids"]].tolist() == tokenizer(text)["input_ids"]  # with BOS


def test_any_text_is_read_and_given_back(tokenizer, smaller):
    @given(st.text(st.characters(codec="utf-8", exclude_characters="▁"), max_size=40))
    def law(text):
        keep, trimmed = smaller
        ids = trimmed(text, add_special_tokens=False)["input_ids"]
        old = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(old) == text:
            assert trimmed.decode(ids) == text
        if set(old) <= set(keep.tolist()):
            assert keep[ids].tolist() == old

    law()


def test_named_special_tokens_stay_and_reserved_ones_go(tokenizer, smaller):
    _, trimmed = smaller
    vocabulary = trimmed.get_vocab()
    assert {"<s>", "</s>", "<unk>", "<|turn|>"} <= set(vocabulary)
    assert not {"<unused0>", "<unused1>"} & set(vocabulary)
    assert trimmed.bos_token_id == vocabulary["<s>"] and trimmed("a")["input_ids"][0] == vocabulary["<s>"]
    messages = [{"role": "user", "content": "Où ?"}]
    said = trimmed.apply_chat_template(messages, tokenize=False)
    assert said == tokenizer.apply_chat_template(messages, tokenize=False)


def model_of(tokenizer, family="llama"):
    torch.manual_seed(0)
    settings = tiny.COMMON | {"vocab_size": len(tokenizer) + 3, "eos_token_id": [1, 3], "bos_token_id": 0}
    config = AutoConfig.for_model(family, **settings | {"tie_word_embeddings": family == "gemma"})
    return ng.Model(AutoModelForCausalLM.from_config(config), tokenizer, name=family)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_the_model_gives_the_kept_tokens_the_logits_they_had(family, tokenizer, french, tmp_path):
    model = model_of(tokenizer, family)
    counts = np.bincount(list(token_counts(tokenizer, french).elements()), minlength=model.vocabulary)
    keep = kept_tokens(model, counts)
    ids = torch.tensor([tokenizer(french[0])["input_ids"]])
    whole, fingerprint = model.network(ids).logits, model.fingerprint
    with trimmed(model, keep):
        assert model.vocabulary == len(keep) == len(model.tokenizer)
        few = model.network(torch.tensor([model.tokenizer(french[0])["input_ids"]])).logits
        torch.testing.assert_close(few, whole[..., torch.as_tensor(keep)])
        assert model.fingerprint != fingerprint
        model.save(tmp_path / "small")
    assert model.vocabulary == len(tokenizer) + 3 and model.fingerprint == fingerprint
    assert torch.equal(model.network(ids).logits, whole) and model.network.config.eos_token_id == [1, 3]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    reader = AutoTokenizer.from_pretrained(tmp_path / "small")
    assert plain.config.vocab_size == len(keep)
    assert keep[plain.config.eos_token_id].tolist() == [1, 3]
    torch.testing.assert_close(plain(torch.tensor([reader(french[0])["input_ids"]])).logits, few)
    if family == "gemma":
        assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight


def test_a_size_keeps_the_most_frequent_tokens_that_fit(tokenizer, french):
    model = model_of(tokenizer)
    counts = np.bincount(list(token_counts(tokenizer, french).elements()), minlength=model.vocabulary)
    everything = kept_tokens(model, counts)
    some = kept_tokens(model, counts, size=len(everything) - 100)
    assert len(some) <= len(everything) - 100 and set(some) < set(everything)
    gone = sorted(set(everything) - set(some))
    rare = max(int(counts[i]) for i in gone)
    assert rare <= np.sort(counts[counts > 0])[200]
    with pytest.raises(NeuroglotError, match="to read any text at all"):
        kept_tokens(model, counts, size=100)


def test_room_is_filled_with_tokens_that_the_model_expects(french):
    tokenizer = trained("byte-level BPE")
    model = model_of(tokenizer)
    few = language_counts(model, french[:3], "fr")
    used = kept_tokens(model, few)
    expected = np.zeros(model.vocabulary)
    likely = [i for i in range(300, 900) if i not in used][:200:2]
    expected[likely] = np.arange(len(likely), 0, -1)
    ranking = TokenRanking(model, few)
    ranking.extend(expected)
    some = ranking.within(len(used) + 40)
    assert len(used) < len(some) <= len(used) + 40
    assert set(used) < set(some)
    letters = set("".join(french[:3])) | {"\n"}
    spelled = [i for i in likely if letters.issuperset(tokenizer.decode([i]))]
    assert spelled[0] in some
    wanted = [i for i in some.tolist() if i in used or i in spelled]
    assert set(some) == set(needed_tokens(tokenizer, wanted).tolist()) | set(used)
    assert len(ranking.within(None)) > len(some)


def test_what_a_model_expects_is_its_mean_distribution(french):
    model = model_of(trained("byte-level BPE"))
    blocks = torch.randint(0, model.vocabulary, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model.network(blocks).logits.double().softmax(-1).sum((0, 1))
    np.testing.assert_allclose(expected_counts(model, blocks), wanted.numpy(), rtol=1e-4)


def test_the_line_break_of_packed_text_is_kept(tokenizer, french):
    """Documents have none, but stand between line breaks wherever a model reads them."""
    kept = needed_tokens(tokenizer, list(token_counts(tokenizer, french)))
    assert set(tokenizer("la mer\n", add_special_tokens=False)["input_ids"]) & set(kept.tolist())
    whole = "\n".join(french)
    smaller = trim_tokenizer(tokenizer, kept)
    ids = smaller(whole, add_special_tokens=False)["input_ids"]
    assert kept[ids].tolist() == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_what_cannot_be_rewritten_is_refused():
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(NeuroglotError, match="A WordLevel tokenizer cannot be trimmed"):
        needed_tokens(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"), [0])
    with pytest.raises(NeuroglotError, match="not backed by the tokenizers library"):
        needed_tokens(object(), [0])
