"""Telling languages apart, and what is said of answers, against texts whose language we know."""

import math

import pandas as pd
import pytest
import tiny
import torch

import neuroglot as ng
from neuroglot.corpus.prompts import _sentences, answer_in, asking, prompted
from neuroglot.evaluate.steering.answers import answer_nll, choice_nll, degenerate, describe, nll_after, summary
from neuroglot.languages.detection import LanguageIdentifier, mixed_script, scripts
from neuroglot.languages.identifiers import identifier
from neuroglot.languages.tags import closest, language_name

STARTER = "en zh fr es vi id ja pt ar hi bn ur".split()


@pytest.fixture(scope="module")
def identify():
    return LanguageIdentifier(STARTER)


@pytest.mark.parametrize("source", ["starter", "questions"])
def test_whole_sentences(identify, source):
    corpus = ng.load_corpus(source)
    for tag in STARTER:
        texts = list(corpus[tag])[:24]
        assert sum(identify(text) == tag for text in texts) >= 23, tag


def test_short_ones(identify):
    """The first four words (eight characters) of the built-in openings: most are still told."""
    for tag, texts in ((tag, list(ng.load_corpus("openings")[tag])) for tag in STARTER):
        short = [text[:8] if tag in ("zh", "ja") else " ".join(text.split()[:4]) for text in texts]
        assert sum(identify(text) == tag for text in short) >= 0.7 * len(short), tag


def test_mixed_text_is_what_most_of_it_is(identify):
    assert identify("Time管理是一个非常重要的技能，因为它可以提高你的生产力。") == "zh"
    assert identify("Python と JavaScript の違いは何ですか。説明してください。") == "ja"
    assert identify("The Chinese word for tea is 茶, and it is spelled cha in most dictionaries.") == "en"
    assert identify("استخدم Google للبحث عن المعلومات التي تحتاج إليها") == "ar"
    assert identify("```print('hello world, how are you')``` Voilà comment on écrit un programme.") == "fr"
    assert identify("https://example.org/the/english/page Esta es la página que buscabas ayer.") == "es"


def test_nothing_to_tell(identify):
    for text in ("", " \n", "12 + 30 = 42", "!!! ???", "a", "https://example.org/page", "🙂🙂🙂"):
        assert identify(text) is None


def test_one_script_for_several_languages(identify):
    assert identify("यह किताब मुझे मेरे दादाजी ने दी थी") == "hi"
    assert identify("یہ کتاب مجھے میرے دادا نے دی تھی") == "ur"
    assert identify("هذا الكتاب أعطاني إياه جدي") == "ar"
    assert identify("این کتاب را پدربزرگم به من داده بود") == "fa"  # not asked for, and not forced into Arabic
    assert identify("Dieses Buch hat mir mein Großvater geschenkt") == "de"
    assert LanguageIdentifier(["zh-Hant", "ja"])("這本書是我爺爺送給我的") == "zh"
    assert LanguageIdentifier(["km"])("ខ្ញុំចង់រៀនភាសាថ្មី") == "km"  # lingua has no Khmer, but nobody else writes so


def test_a_language_no_library_tells():
    with pytest.raises(ng.NeuroglotError, match="No library here tells ceb"):
        LanguageIdentifier(["ceb"])


def test_scripts_weigh_what_they_hold():
    assert scripts("abc茶") == {"Latin": 0.5, "Han": 0.5}
    assert scripts("ＡＢＣ ｶﾀｶﾅ") == {"Kana": 8 / 11, "Latin": 3 / 11}
    assert scripts("1, 2!") == {}
    assert mixed_script("我昨天 went to the market 买东西") and not mixed_script(
        "我昨天用 Python 写了一个很有用的小程序"
    )
    assert not mixed_script("昨日、新しい本を買いました") and not mixed_script("naïve café")
    assert mixed_script("это very good")


def test_repetition():
    assert degenerate("东区东区东区东区东区东区东区") and degenerate("the the the the the the the the")
    assert degenerate("en la calle, " * 6)
    for source in ("starter", "questions"):
        corpus = ng.load_corpus(source)
        assert not any(degenerate(text) for tag in STARTER for text in corpus[tag])
        assert not any(degenerate(" ".join(list(corpus[tag])[:5])) for tag in STARTER)
    assert not degenerate("no no") and not degenerate("")


def test_nll_is_the_models_own():
    model = tiny.model()
    texts = ["the cats", "", "a longer text than the first", "x"]
    for (nll, count), text in zip(answer_nll(model, texts, batch_tokens=20), texts, strict=True):
        ids = torch.tensor([[256, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logits = model.network(ids).logits[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum") if text else torch.zeros(())
        assert count == ids.shape[1] - 1
        assert nll == pytest.approx(float(expected), rel=1e-4)


def test_described_and_summed(identify):
    model = tiny.model()
    answers = [
        "Ich weiß nicht, was das ist.",
        "Je ne sais pas ce que c’est.",
        "la maison est belle, la maison est belle, la maison est belle",
        "",
        "7",
    ]
    table = describe(model, answers, "fr", identify)
    assert list(table["language"]) == ["de", "fr", "fr", "", ""]
    rates = summary(table.assign(condition="x"), ["condition"]).loc["x"]
    assert (rates["answers"], rates["on_target"], rates["off_target"], rates["undetermined"]) == (5, 0.4, 0.2, 0.4)
    assert (rates["degenerate"], rates["well_formed"]) == (0.2, 0.2)
    assert rates["perplexity"] == pytest.approx(math.exp(table["nll"].sum() / table["tokens"].sum()))
    without = summary(describe(model, answers, "fr", identify, perplexity=False).assign(condition="x"), ["condition"])
    assert pd.isna(without.loc["x", "perplexity"])


def test_built_in_prompts_are_whole(identify):
    for name, least in (("questions", 24), ("openings", 12)):
        corpus = ng.load_corpus(name)
        assert corpus.parallel and list(corpus.languages) == STARTER
        rows = [texts for _, texts in corpus.samples()]
        assert len(rows) >= least and all(all(row.values()) for row in rows)
        for tag in STARTER:
            assert len(set(corpus[tag])) == len(rows)


def test_every_language_asks_for_every_language(identify):
    said = {tag: [answer_in(target, said_in=tag) for target in STARTER] for tag in STARTER}
    for tag, sentences in said.items():
        assert len(set(sentences)) == len(STARTER)
        own = next(iter(scripts(next(iter(ng.load_corpus("questions")[tag])))))
        assert all(own in scripts(sentence) or tag == "ja" for sentence in sentences)
    asked = asking(ng.load_corpus("questions", languages=["zh", "es"]), "fr")
    assert next(iter(asked["es"])).endswith("? Responde en francés.") and next(iter(asked["zh"])).endswith(
        "？请用法语回答。"
    )
    with pytest.raises(ng.NeuroglotError, match="no «answer in» for de said in fr"):
        answer_in("de", said_in="fr")


def test_each_prompting_says_its_sentence():
    """In more languages than questions are built in; most sentences are identified as what they are in."""
    tags = [tag for tag in _sentences() if tag != "en"]
    assert len(tags) >= 40
    tell, unsure = identifier("fasttext", tags), []
    for tag in tags:
        said = answer_in(tag, said_in=tag)
        assert said != answer_in(tag, said_in="en") == f"Answer in {language_name(tag)}."
        if tell(said) is None or closest(tell(said), [tag]) is None:
            unsure.append(tag)
    # a handful of words: near relatives and rare languages are taken for others
    assert len(unsure) <= 6, unsure
    question = ["How do I sleep?"]
    assert prompted(question, "en", "de", "none") == question
    assert prompted(question, "en", "de", "I") == ["How do I sleep? Answer in German."]
    assert prompted(question, "en", "de", "II") == ["How do I sleep? Antworte auf Deutsch."]
    assert prompted(["怎么睡？"], "zh", "ja", "II") == ["怎么睡？日本語で答えてください。"]
    assert prompted(["Last summer we"], "en", "de", "I") == ["Answer in German.\n\nLast summer we"]
    assert prompted(["Last summer we"], "en", "de", "I", chat=True) == ["Last summer we Answer in German."]
    for ended in ("क्यों?", "کیوں؟", "«Why?»", "为什么？", "ཅི་ཡིན།", "ነው።", "Γιατί;", "So it is…"):
        assert prompted([ended], "en", "de", "I") == [f"{ended} Answer in German."]
    with pytest.raises(ng.NeuroglotError, match="said in xh"):
        prompted(question, "en", "xh", "II")


def test_an_answer_that_the_model_cannot_read_is_refused():
    model = tiny.model(max_position_embeddings=32)
    answer_nll(model, ["a" * 31])
    with pytest.raises(ng.NeuroglotError, match="An answer has 33 tokens, and tiny-llama reads 32"):
        answer_nll(model, ["short", "a" * 32])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_replies_that_begin_alike_are_read_once_and_are_as_likely_as_each_alone(family):
    model = tiny.model(family)
    befores = [[1, 2, 3, 4], [7], [9, 8, 7, 6, 5, 4, 3, 2, 1]]
    replies = [[5, 6, 1], [5, 6, 2], [5, 6, 1, 0], [5], [9, 9], [4, 4, 4, 4]]
    found = choice_nll(model, befores, replies, batch_tokens=40)
    for before, of in zip(befores, found, strict=True):
        alone = [total for total, _ in nll_after(model, [(before, reply) for reply in replies])]
        assert of == pytest.approx(alone, rel=1e-4)
    read = []
    model.network.register_forward_hook(lambda *_: read.append(None))
    hidden = model.hidden_states
    model.hidden_states = lambda tokens, mask: read.append(len(tokens)) or hidden(tokens, mask)
    choice_nll(model, befores, [[5, 6, digit] for digit in range(10)])
    assert sum(filter(None, read)) == len(befores)
