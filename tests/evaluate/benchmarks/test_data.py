"""The smoke sets, and local data in place of the hub's."""

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import tiny

import neuroglot as ng
from neuroglot.evaluate.benchmarks import data
from neuroglot.evaluate.benchmarks.harness import load_tasks

LANGUAGES = ("en", "fr", "es", "zh", "vi", "id")


@pytest.fixture(scope="module")
def model():
    return tiny.model(max_position_embeddings=1024)


# --- the smoke sets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["xcsqa", "xstorycloze", "mgsm"])
def test_smoke_sets_are_whole_and_aligned(dataset):
    held = {tag: data.read_local(data.SMOKE, dataset, tag)[data.SPLITS[dataset][0]] for tag in LANGUAGES}
    answer = {"xcsqa": "answerKey", "xstorycloze": "answer_right_ending", "mgsm": "answer_number"}[dataset]
    key = {"xcsqa": "id", "xstorycloze": "story_id", "mgsm": "answer_number"}[dataset]
    english = held["en"]
    for tag, rows in held.items():
        assert len(rows) == 24
        assert rows[answer] == english[answer] and rows[key] == english[key]
        texts = [json.dumps(row, ensure_ascii=False) for row in rows]
        assert len(set(texts)) == 24
        if tag != "en":
            assert not set(texts) & {json.dumps(row, ensure_ascii=False) for row in english}
    if dataset != "mgsm":  # no answer can be guessed from its place
        counts = pd.Series(english[answer]).value_counts()
        assert counts.max() - counts.min() <= 1


def test_numbers_of_a_problem_are_the_same_in_every_language():
    held = {tag: data.read_local(data.SMOKE, "mgsm", tag)["test"]["question"] for tag in LANGUAGES}
    numbers = {tag: [sorted(re.findall(r"[0-9]+", text)) for text in texts] for tag, texts in held.items()}
    for tag in LANGUAGES:
        for found, english in zip(numbers[tag], numbers["en"], strict=True):
            assert set(found) <= set(english) if tag == "vi" else found == english  # Vietnamese writes "ba năm nữa"


def test_every_definition_says_what_it_is():
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(Path(data.__file__).parent), include_defaults=False)
    assert len(manager.all_subtasks) == 2 * 16 + 11 + 4 * 6
    for name, entry in ((name, manager.task_index[name]) for name in manager.all_subtasks):
        function = str(entry.cfg["custom_dataset"]).rsplit(".", 1)[1]
        assert name.startswith("smoke_") == function.startswith("smoke_")
        assert name.endswith(f"_{entry.cfg['dataset_kwargs']['language']}")


def test_story_in_one_language_and_endings_in_english():
    (task,) = load_tasks(["smoke_xstorycloze_english_fr"]).values()
    story = task.eval_docs[1]
    assert task.doc_to_text(story) == (
        "Omar voulait prendre le premier bus. Il a réglé son réveil sur cinq heures. Dans la nuit, le courant a été "
        "coupé. Le réveil n'a jamais sonné. The ending in English:"
    )
    assert task.doc_to_choice(story) == ["Omar missed his bus.", "Omar arrived an hour early."]
    assert task.doc_to_target(story) == 0


# --- local data -------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path):
    for dataset in data.SPLITS:
        shutil.copytree(data.SMOKE / dataset, tmp_path / "data" / dataset)
    return tmp_path / "data"


@pytest.mark.slow
def test_local_data_stands_in_for_the_hub_in_our_tasks_and_in_the_harness_own(local):
    names = ["xcsqa_fr", "xstorycloze_english_es", "xstorycloze_zh", "mgsm_native_cot_fr"]
    loaded = load_tasks(names, data_dir=local)
    assert [len(task.eval_docs) for task in loaded.values()] == [24] * 4
    mgsm = loaded["mgsm_native_cot_fr"]
    assert mgsm.doc_to_text(mgsm.eval_docs[0]).startswith("Question : Une boîte contient 12 œufs.")
    assert mgsm.doc_to_text(mgsm.eval_docs[0]).endswith("\nRéponse étape par étape :")
    story = loaded["xstorycloze_zh"]
    assert story.doc_to_choice(story.eval_docs[1])[0].startswith("奥马尔")


def test_mgsm_examples_from_a_local_train_file(local, model):
    example = {
        "question": "Question : Combien font 1 + 1 ?",
        "answer": "Réponse étape par étape : 1 + 1 = 2. La réponse est 2.",
        "answer_number": 2,
    }
    file = local / "mgsm" / "fr" / "train.jsonl"
    file.write_text((json.dumps(example) + "\n") * 2, encoding="utf-8")
    (task,) = load_tasks(["mgsm_native_cot_fr"], data_dir=local).values()
    task.set_config(key="num_fewshot", value=1)
    task.set_fewshot_seed(0)
    asked = task.fewshot_context(task.eval_docs[0], num_fewshot=1)
    assert asked.startswith(
        "Question : Combien font 1 + 1 ?\nRéponse étape par étape : 1 + 1 = 2. La réponse est 2.\n\n"
    )


def test_the_options_may_be_two_lists_or_a_list_of_pairs(local):
    file = local / "xcsqa" / "fr" / "validation.jsonl"
    before = list(data.xcsqa("fr", local)["validation"])
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line in lines:  # as the hub has it
        choices = line["question"]["choices"]
        line["question"]["choices"] = {name: [choice[name] for choice in choices] for name in ("label", "text")}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert list(data.xcsqa("fr", local)["validation"]) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "spoil", "said"),
    [
        ("xcsqa", lambda item: item["question"]["choices"].pop(), "question.choices"),
        ("xcsqa", lambda item: item.update(answerKey="F"), "answerKey"),
        ("xstorycloze", lambda item: item.pop("input_sentence_3"), "input_sentence_3"),
        ("xstorycloze", lambda item: item.update(answer_right_ending=3), "answer_right_ending"),
        ("mgsm", lambda item: item.update(answer_number="many"), "answer_number"),
    ],
)
def test_a_malformed_item_is_named_by_file_and_line(local, dataset, spoil, said):
    file = local / dataset / "fr" / f"{data.SPLITS[dataset][0]}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    item = json.loads(lines[6])
    spoil(item)
    lines[6] = json.dumps(item)
    file.write_text("\n".join(lines), encoding="utf-8-sig")  # whose mark is no text
    name = {"xcsqa": "xcsqa_fr", "xstorycloze": "xstorycloze_english_fr", "mgsm": "mgsm_direct_fr"}[dataset]
    if dataset == "xstorycloze":
        name = "xstorycloze_english_zh"
        shutil.move(file, local / dataset / "zh" / file.name)
        file = local / dataset / "zh" / file.name
    with pytest.raises(ng.NeuroglotError, match=f"{file.name}, line 7 is no item of {dataset}.*{said}"):
        load_tasks([name], data_dir=local)


def test_what_cannot_be_opened_is_one_sentence(local, tmp_path):
    with pytest.raises(ng.NeuroglotError, match="no task smoke_xcsqa_ft; did you mean smoke_xcsqa_"):
        load_tasks(["smoke_xcsqa_ft"])
    with pytest.raises(ng.NeuroglotError, match="hub is out of reach.*give local JSON lines with --data-dir"):
        load_tasks(["xcsqa_fr"])
    with pytest.raises(ng.NeuroglotError, match=r"There is no .*xcsqa/fr/validation.jsonl; put the items there"):
        (local / "xcsqa" / "fr" / "validation.jsonl").unlink()
        load_tasks(["xcsqa_fr"], data_dir=local)
    with pytest.raises(ng.NeuroglotError, match="Story smoke-01 in fr has no English story"):
        english = local / "xstorycloze" / "en" / "eval.jsonl"
        english.write_text("\n".join(english.read_text(encoding="utf-8").splitlines()[1:]), encoding="utf-8")
        data.xstorycloze_english("fr", local)
    with pytest.raises(ng.NeuroglotError, match="There is no directory"):
        load_tasks(["xcsqa_fr"], data_dir=tmp_path / "nowhere")
    with pytest.raises(ng.NeuroglotError, match="No task was named"):
        load_tasks([])


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ng.NeuroglotError, match=r'pip install "neuroglot\[tasks\]"'):
        load_tasks(["smoke_mgsm_fr"])
