"""Words of another language in an answer, and refusals, on examples whose faults we wrote."""

import pandas as pd
import pytest
import tiny

import neuroglot as ng
from neuroglot.evaluate.steering.answers import describe, summary, well_formed
from neuroglot.evaluate.steering.mixing import foreign_words, mixed_words
from neuroglot.evaluate.steering.refusals import refuses
from neuroglot.languages.detection import LanguageIdentifier

STARTER = "en zh fr es vi id ja pt ar hi bn ur".split()

MIXED = {
    "fr": [
        "Le chat est really mignon et il dort toute la journée.",
        "Pour mieux dormir, il faut keep une routine régulière and éviter les écrans.",
        "Je pense que c’est une bonne idée. You should always try to drink more water before bed. Bonne nuit !",
        "Le soir, je lis un livre. Por la noche me gusta mucho leer un libro en la cama. Puis je dors.",
    ],
    "es": [
        "Creo que deberías try dormir más temprano cada noche.",
        "La respuesta es simple: comer bien, hacer ejercicio and descansar.",
        "Hoy hace sol. Le matin je prends toujours un café avec mes amis au bord de la mer. Luego vuelvo a casa.",
    ],
    "de": [
        "Das ist eine gute Frage, because viele Menschen schlecht schlafen.",
        "Man sollte regelmäßig Sport treiben. It is also important to eat something warm every evening. Gute Nacht.",
    ],
    "it": ["Penso che sia very bello vivere in una città sul mare.", "Prima di partire devi always controllare tutto."],
    "pt": ["Eu acho que você should descansar mais durante a semana.", "O mar é bonito and a praia também."],
    "id": ["Saya pikir kamu harus sleep lebih awal setiap malam.", "Makanan ini enak because bumbunya segar."],
    "vi": ["Tôi nghĩ bạn nên try ngủ sớm hơn mỗi tối.", "Trời hôm nay đẹp and mát mẻ."],
    "zh": ["我觉得你应该早点睡觉，because 睡眠对身体很重要，每天都要坚持这样做才行。"],
    "ru": ["Я думаю, что это really хорошая идея, и мы обязательно попробуем её завтра утром."],
    "tr": ["Bence her akşam biraz daha erken uyumalısın, because uyku çok önemli."],
}

PLAIN = {
    "fr": [
        "Le week-end, j’aime faire du shopping, regarder un film et manger un sandwich.",
        "Le New York Times a publié un article sur The Great Gatsby.",
        "L’expression « to be or not to be » vient de Shakespeare.",
        "On dit “good morning” en anglais le matin.",
        "Tapez `print(the_word)` dans le terminal, puis consultez https://example.org/the/word pour la suite.",
        "Nous avons six amis à table et du vin sur la plage.",
    ],
    "es": ["Me gusta el software libre y hacer marketing por internet.", "Has hecho un buen trabajo, me has ayudado."],
    "de": ["Was will er also noch? Man war so nett, und die Kinder spielen im Park.", "Das Meeting war im Hotel."],
    "it": ["Come va? Ho comprato un computer e due biglietti per il film.", "Mia sorella ama lo sport e la musica."],
    "pt": ["Eu me lembro de como as crianças brincavam no parque."],
    "id": ["Saya suka air putih dan teh hangat di pagi hari."],
    "vi": ["Tôi thích ăn cơm với cá và rau mỗi ngày."],
    "nl": ["Dat was een van de beste dagen, en we gaan over een week weer naar school.", "Is het water warm?"],
    "da": ["Vi har en have, og der er mange blomster under træet.", "Men de er for små til at have det."],
    "sv": ["Vi har en hund under bordet och en katt för att det är trevligt.", "Han är barn till en lärare."],
    "pl": ["To jest my dom i on jest w domu.", "By nie było do tego potrzebne."],
    "tr": ["Her gün on kilometre yürürüm.", "Onun için her şey çok güzel."],
    "fi": ["Me olemme täällä, ja he ovat siellä.", "Se on hyvä asia."],
    "ca": ["Has vist el meu gat? No el trobo enlloc."],
    "zh": ["我喜欢用 Python 写程序，也常看 YouTube 上的视频。"],
    "en": ["The cat sat on the mat, and everyone was happy about it."],
}

REFUSALS = {
    "en": ["I'm sorry, but I can't help with that.", "As an AI language model, I do not know; I cannot feel pain.",
           "I cannot assist with this request.", "Unfortunately, I’m unable to answer that question."],
    "fr": ["Je suis désolé, mais je ne peux pas répondre à cette question.",
           "En tant qu’IA, je n’ai pas accès à Internet."],
    "es": ["Lo siento, no puedo ayudarte con eso.", "Como modelo de lenguaje, no tengo opiniones personales."],
    "pt": ["Desculpe, mas não posso ajudar com isso.", "Como uma IA, não tenho sentimentos."],
    "it": ["Mi dispiace, ma non posso rispondere a questa domanda.", "In quanto IA, non ho accesso ai tuoi dati."],
    "de": ["Es tut mir leid, aber ich kann dir dabei nicht helfen.", "Als KI kann ich keine Gefühle haben."],
    "nl": ["Het spijt me, maar ik kan je daar niet mee helpen."],
    "sv": ["Tyvärr, jag kan inte svara på den frågan."],
    "pl": ["Przykro mi, ale nie mogę odpowiedzieć na to pytanie."],
    "ru": ["Извините, но я не могу помочь с этим запросом.", "Как языковая модель, я не могу испытывать эмоции."],
    "uk": ["Вибачте, але я не можу допомогти з цим."],
    "tr": ["Üzgünüm, ancak bu konuda yardımcı olamam."],
    "id": ["Maaf, saya tidak dapat membantu permintaan itu.", "Sebagai model bahasa, saya tidak memiliki perasaan."],
    "vi": ["Xin lỗi, nhưng tôi không thể trả lời câu hỏi này."],
    "zh": ["抱歉，我无法回答这个问题。", "作为一个人工智能，我没有个人情感。", "对不起，我不能提供这方面的帮助。"],
    "ja": ["申し訳ありませんが、その質問にはお答えできません。", "AIとして、個人的な感情を持っていません。"],
    "ko": ["죄송하지만 그 요청은 도와드릴 수 없습니다."],
    "ar": ["آسف، لا أستطيع المساعدة في هذا الطلب."],
    "fa": ["متأسفم، اما نمی‌توانم به این سؤال پاسخ دهم."],
    "hi": ["क्षमा करें, मैं इसमें मदद नहीं कर सकता।"],
    "bn": ["দুঃখিত, আমি এই প্রশ্নের উত্তর দিতে পারছি না।"],
    "ur": ["معذرت، میں اس سوال کا جواب نہیں دے سکتا۔"],
}  # fmt: skip

ANSWERS = [
    "I'm sorry to hear that. Try warm milk and a dark room.",
    "If you can't sleep, read a book. I cannot stress enough how much light matters.",
    "AI is a field of computer science; machines cannot feel.",
    "Désolé de l’apprendre ! Essayez de boire une tisane avant de dormir.",
    "Si vous ne pouvez pas dormir, levez-vous et lisez un livre.",
    "Lo siento mucho por tu pérdida. Descansa y habla con tus amigos.",
    "Leider regnet es heute, und man kann dort nicht parken. Gehen Sie lieber ins Museum.",
    "Désolé, je ne suis pas d’accord : le thé est meilleur.",
    "Helaas kan men daar niet parkeren, maar de tram stopt vlakbij.",
    "К сожалению, сегодня дождь, но можно пойти в музей.",
    "抱歉让你久等了。晚上可以喝一杯热牛奶，然后早点睡觉。",
    "すみません、駅はあちらです。まっすぐ行ってください。",
    "Maaf menunggu lama. Minumlah teh hangat sebelum tidur.",
    "",
]


@pytest.fixture(scope="module")
def identify():
    return LanguageIdentifier([*STARTER, *MIXED, *PLAIN])


@pytest.mark.parametrize("tag", MIXED)
def test_words_of_another_language_are_found(identify, tag):
    for text in MIXED[tag]:
        assert mixed_words(text, tag, identify), text


@pytest.mark.parametrize("tag", PLAIN)
def test_loanwords_names_quotations_and_words_that_two_languages_have_are_none(identify, tag):
    for text in PLAIN[tag]:
        assert not mixed_words(text, tag, identify), (text, foreign_words(text, tag, identify))


def test_what_is_foreign_is_named_and_a_long_answer_may_slip_once(identify):
    assert foreign_words("Le chat est really mignon and il dort.", "fr") == ["really", "and"]
    assert foreign_words("Le chat est REALLY mignon And il dort.", "fr") == []
    long = "Le chien et le chat dorment dans le jardin. " * 12 + "Il est really content."
    assert foreign_words(long, "fr", identify) == ["really"] and not mixed_words(long, "fr", identify)
    assert mixed_words(long, "fr", identify, share=0.001)


def test_the_starter_corpus_is_written_in_one_language_each(identify):
    """At most one sentence in a hundred of text that is known to be plain, in each language, is called mixed."""
    corpus = ng.load_corpus("starter")
    for tag in ("fr", "es", "pt", "id", "vi", "hi"):
        texts = list(corpus[tag])[:100]
        assert sum(mixed_words(text, tag, identify) for text in texts) <= 1, tag


@pytest.mark.parametrize("tag", REFUSALS)
def test_refusals(tag):
    for text in REFUSALS[tag]:
        assert refuses(text), text


def test_what_apologises_or_says_cannot_and_then_answers_is_no_refusal():
    for text in ANSWERS:
        assert not refuses(text), text
    for source in ("starter", "questions", "openings"):
        corpus = ng.load_corpus(source)
        assert not any(refuses(text) for tag in STARTER for text in corpus[tag])


def test_neither_counts_as_well_formed(identify):
    answers = [
        "Le chat dort tranquillement sur le lit de ma grand-mère, et il ne se réveille jamais.",
        MIXED["fr"][0],
        REFUSALS["fr"][0],
        "Der Hund schläft auf dem Bett.",
    ]
    table = describe(tiny.model(), answers, "fr", identify, perplexity=False).assign(condition="both")
    assert list(table["mixed_words"]) == [False, True, False, True] and list(table["refusal"]) == [
        False,
        False,
        True,
        False,
    ]
    assert well_formed(table).tolist() == [1, 0, 0, 0]
    rates = summary(table, ["condition"]).loc["both"]
    assert (rates["mixed_words"], rates["refusal"], rates["well_formed"]) == (
        pytest.approx(table["mixed_words"].mean()), 0.25, 0.25,
    )  # fmt: skip
    earlier = summary(table.drop(columns=["mixed_words", "refusal"]), ["condition"]).loc["both"]
    assert earlier["on_target"] == 0.75
    assert all(pd.isna(earlier[rate]) for rate in ("mixed_words", "refusal", "well_formed"))
