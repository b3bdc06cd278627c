"""The judge against a real server (transformers' own), one that talks garbage, and none at all."""

import http.server
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.request

import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import neuroglot as ng
from neuroglot.evaluate.steering.judge import Judge, JudgeSettings, _content, one_score, read_rating
from neuroglot.evaluate.steering.local_judge import shares_of
from neuroglot.evaluate.steering.tables import matrix
from neuroglot.run.steering_settings import SteeringSettings

pytest.importorskip("openai")


def model_that_says(path, text: str) -> None:
    """A real model whose weights say: after a newline comes `text`, letter by letter, and then the end.

    Attention and FFN give zero, so the last token alone decides the next one; each letter of `text` occurs once in it.
    """
    network, tokenizer = tiny.network(hidden_size=64, head_dim=32, max_position_embeddings=1024), tiny.tokenizer()
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        network.lm_head.weight.zero_()
        ids = [tokenizer("\n")["input_ids"][-1], *tokenizer(text)["input_ids"][-len(text) :], 257]
        for before, after in itertools.pairwise(ids):
            network.lm_head.weight[after] = network.model.embed_tokens.weight[before]
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '\\n' }}"
    network.generation_config.eos_token_id = 257
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(model, port):
    """`transformers serve` in a process of its own, once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--port", str(port),
         "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    for _ in range(240):
        assert process.poll() is None, process.stdout.read().decode()[-2000:]
        try:
            urllib.request.urlopen(f"http://localhost:{port}/health", timeout=2)
            return process
        except OSError:
            time.sleep(0.5)
    stop(process)
    raise AssertionError("the server did not start")


def stop(process):
    process.kill()
    process.communicate()  # which also closes its pipe


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    path = tmp_path_factory.mktemp("judge") / "seven"
    model_that_says(path, "Rating: 7")
    port = free_port()
    process = serve(path, port)
    yield f"http://localhost:{port}/v1", str(path)
    stop(process)


ANSWERS = pd.DataFrame(
    {
        "condition": "both",
        "source": ["es", "es", "fr"],
        "target": ["zh", "en", "zh"],
        "prompt": ["¿Qué es esto?"] * 3,
        "answer": ["这是一本书。", "It is a book.", ""],
    }
)


def judge(url, model="m", directory=None, **more):
    return Judge(JudgeSettings(model=model, base_url=url, per_minute=6000, **more), directory)


@pytest.mark.slow
def test_a_real_server(server, tmp_path):
    url, model = server
    table = judge(url, model, tmp_path).rate(ANSWERS, progress=False)
    assert list(table["score"]) == [7, 7, 1]
    assert matrix(table, "both", "score").loc["es", "zh"] == 7
    assert len(list(tmp_path.glob("*.json"))) == 2  # an empty answer is not asked for
    # nobody listens there now, and a rerun does not mind; a new answer does
    gone = judge(url, model, tmp_path)
    gone._asked = judge(f"http://localhost:{free_port()}/v1", retries=0)._asked
    assert list(gone.rate(ANSWERS, progress=False)["score"]) == [7, 7, 1]
    with pytest.raises(ng.NeuroglotError, match="cannot be reached"):
        gone.score("another", "answer", "en")


@pytest.mark.slow
def test_a_real_model_that_gives_no_rating(tmp_path):
    pytest.importorskip("fastapi")
    model_that_says(tmp_path / "no", "No idea!")
    port = free_port()
    process = serve(tmp_path / "no", port)
    try:
        with pytest.raises(ng.NeuroglotError, match="no rating from 1 to 10 but 'No"):
            judge(f"http://localhost:{port}/v1", str(tmp_path / "no"), tmp_path / "kept").score("a", "b", "en")
    finally:
        stop(process)
    assert not list(tmp_path.glob("kept/*"))


@pytest.mark.parametrize(("says", "scores"), [("Rating: 7", [7, 7, 1]), ("No idea!", None)])
def test_a_model_of_this_process(tmp_path, says, scores):
    """What its reply says, or the likeliest of the ratings; found again without asking."""
    model_that_says(tmp_path / "m", says)
    rater = judge("local", str(tmp_path / "m"), tmp_path / "kept")
    found = list(rater.rate(ANSWERS, progress=False)["score"])
    if scores is None:  # every rating follows from "\n" and "Rating: " alone, as this model is made
        scores = [found[0], found[0], 1]
        assert 1 <= found[0] <= 10
    assert found == scores
    assert len(list((tmp_path / "kept").glob("*.json"))) == 2
    again = judge("local", str(tmp_path / "m"), tmp_path / "kept")
    again._asked.replies = lambda questions: iter(()) if not questions else pytest.fail("asked again")
    assert list(again.rate(ANSWERS, progress=False)["score"]) == scores


def test_a_rating_that_begins_another_is_counted_only_where_it_ends():
    replies = [[5, 1], [5, 2], [5, 1, 0], [5, 1, 0, 0]]
    begun = [0.5, 0.2, 0.4, 0.1]  # of all that may be said
    found = shares_of(replies, [-math.log(share) for share in begun])
    assert found == pytest.approx([0.1 / 0.7, 0.2 / 0.7, 0.3 / 0.7, 0.1 / 0.7])


@given(st.lists(st.floats(0.01, 50), min_size=9, max_size=9), st.floats(0, 1))
def test_shares_of_ratings_are_those_of_whole_replies(weights, ten):
    """Whatever a model says after a digit: 1 goes on to 10 in the share `ten` of cases, and ends in the others."""
    total = sum(weights)
    begun = [weight / total for weight in weights] + [max(weights[0] / total * ten, 1e-12)]
    shares = shares_of([[digit] for digit in range(1, 10)] + [[1, 0]], [-math.log(share) for share in begun])
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(begun[0] - begun[9], abs=1e-9) and shares[1:] == pytest.approx(begun[1:])


def test_the_mean_of_all_ratings_by_their_likelihood(tmp_path):
    """By brute force: the likelihood of each rating by the network itself; kept apart from what it replies."""
    model_that_says(tmp_path / "m", "Rating: 7")
    asked = {"model": str(tmp_path / "m"), "base_url": "local", "rubric": "relevance"}
    rater = Judge(JudgeSettings(**asked, reading="expected"), tmp_path / "kept")
    found = list(rater.rate(ANSWERS, progress=False)["relevance"])
    model = ng.load_model(tmp_path / "m")
    question = rater._question("¿Qué es esto?", "这是一本书。", "zh")
    before = torch.tensor(model.tokenizer(question + "\n", add_special_tokens=False)["input_ids"])
    said = []
    for rating in range(3):
        after = torch.tensor(model.encode([f"Rating: {rating}"])[0])
        with torch.no_grad():
            logits = model.network(torch.cat([before, after])[None]).logits[0].double().log_softmax(-1)
        said.append(float(logits[len(before) - 1 : -1].gather(1, after[:, None]).sum().exp()))
    assert found[0] == pytest.approx((said[1] + 2 * said[2]) / sum(said), rel=1e-3)
    assert found[2] == 0
    replies = Judge(JudgeSettings(**asked), tmp_path / "kept")
    assert float(replies.rate(ANSWERS, progress=False)["relevance"][0]).is_integer()
    with pytest.raises(ng.NeuroglotError, match="does not say how likely"):
        judge("http://localhost:1/v1", reading="expected")


def test_a_judge_that_does_not_tell_answers_apart_is_warned_of(tmp_path):
    """Of ten answers and more; what is empty was not read."""
    model_that_says(tmp_path / "m", "Rating: 7")
    rater = judge("local", str(tmp_path / "m"))
    many = pd.concat([ANSWERS] * 4, ignore_index=True)
    with pytest.warns(ng.NeuroglotWarning, match="every answer that it read one score, 7"):
        rater.rate(many, progress=False)
    rated = many.assign(score=[7, 3, 1] * 4)
    assert one_score(rated, "score") is None
    assert one_score(rated[rated.answer == ""], "score") is None  # it read none
    assert one_score(rated[rated.score != 3], "score") == 7


def test_tables_of_a_judge_s_replies_keep_the_names_that_earlier_versions_gave_them():
    replies = JudgeSettings(model="m", base_url="local")
    assert SteeringSettings(judge=replies).digest == "1adbabb8af2725c27b4eb99701462e51"
    slowly = replies.model_copy(update={"per_minute": 5, "retries": 9})
    assert SteeringSettings(judge=slowly).digest == "1adbabb8af2725c27b4eb99701462e51"
    expected = replies.model_copy(update={"reading": "expected"})
    assert SteeringSettings(judge=expected).digest != SteeringSettings(judge=replies).digest


def test_a_model_of_this_process_is_chosen_by_the_settings_alone(tmp_path):
    with pytest.raises(ng.NeuroglotError, match="nowhere"):
        judge("local", str(tmp_path / "nowhere.gguf"))


def test_nobody_there(tmp_path):
    with pytest.raises(ng.NeuroglotError, match="cannot be reached.*Scores so far are kept"):
        judge(f"http://localhost:{free_port()}/v1", directory=tmp_path, retries=0).score("a", "b", "en")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"{}",
        b'{"choices": []}',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b'{"choices": [{"message": 3}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"choices": [{"message": {"content": [3]}}]}',
        b"",
    ],
)
def test_garbage(tmp_path, body):
    class Garbage(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Garbage) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            with pytest.raises(ng.NeuroglotError, match="did not answer as an OpenAI-compatible"):
                judge(f"http://127.0.0.1:{listening.server_port}/v1", directory=tmp_path, retries=0).score(
                    "a", "b", "en"
                )
        finally:
            listening.shutdown()
    assert not list(tmp_path.iterdir())


def test_a_reply_in_parts_is_their_text():
    parts = [{"type": "thinking", "text": "Rating: 3?"}, {"type": "text", "text": "Rating: 1\ud800"}]
    message = types.SimpleNamespace(content=parts)
    assert _content(types.SimpleNamespace(choices=[types.SimpleNamespace(message=message)])) == "Rating: 1?"


@pytest.mark.parametrize(
    ("said", "score"),
    [("Rating: 7", 7), ("**Rating:** 8", 8), ("rating: [[9]]", 9), ("7", 7), (" 10/10. ", 10), ("Rating: 6.5", 6.5),
     ("Rating: 11", None), ("Rating: 0", None), ("Rating: 3 … Rating: 4", None), ("I like it", None), ("", None),
     ("There are 7 reasons", None), ("Rating: 7/10", 7), ("Rating: 4/5", None), ("4/5", None), ("Rating: -1", None),
     ("Rating: 1-2", None), ("Rating: 10 to 12", None), ("Rating - 5", 5), ("Rating: 5 - it is good", 5)],
)  # fmt: skip
def test_ratings_are_read_or_refused(said, score):
    assert read_rating(said) == score


def test_the_key_is_written_nowhere(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-the-environment")
    url, model = server
    settings = JudgeSettings(model=model, base_url=url, api_key="sk-very-secret")
    Judge(settings, tmp_path).score("a", "b", "en")
    assert "secret" not in settings.model_dump_json() + repr(settings)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert json.loads(written)["score"] == 7 and "sk-" not in written


def test_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ng.NeuroglotError, match="set OPENAI_API_KEY"):
        Judge(JudgeSettings(model="m"))


def test_the_rate_is_kept(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    slow = Judge(JudgeSettings(model="m", base_url="http://localhost:1/v1", per_minute=30))
    for moment in (100.0, 100.5, 103.0):
        slow._asked._wait(lambda moment=moment: moment)
    assert slept == [0.0, 1.5, 0.0]


def test_relevance_is_a_rubric_of_its_own(tmp_path, monkeypatch):
    """0 to 2, whatever the language; kept apart from the scores of the other rubric."""
    asked = []
    rater = judge("http://localhost:9/v1", directory=tmp_path, rubric="relevance")
    said = iter(["Rating: 2", "0", "Rating: 1"])

    def ask(question):
        asked.append(question)
        return next(said)

    monkeypatch.setattr(rater._asked, "_ask", ask)
    table = rater.rate(ANSWERS, progress=False)
    assert list(table["relevance"]) == [2, 0, 0] and "score" not in table and len(asked) == 2  # an empty answer is a 0
    assert "Chinese" not in asked[0] and "¿Qué es esto?" in asked[0] and "这是一本书。" in asked[0]
    assert rater.name == "m as judge"
    assert read_rating("Rating: 0") is None and read_rating("Rating: 3", 0, 2) is None and read_rating("2", 0, 2) == 2
    assert read_rating("2/10", 0, 2) is None and read_rating("Rating: 2/2", 0, 2) == 2
