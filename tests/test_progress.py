"""What long work says in a log: how often, what, and in plain text."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest
import tiny

from neuroglot.progress import progress_bar, reading, status, token_progress


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_line_at_the_start_one_a_language_and_else_one_a_minute(clock, capfd):
    with token_progress("recording", 6_000, clock=clock) as advance:
        for language in ("en", "fr", "zh"):
            for _ in range(200):  # at one second each
                clock.now += 1
                advance(10, language)
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        "recording: 0 % of 6,000 tokens",
        "recording en: 0 %, 10 tokens/s, 10 min left",
        "recording en: 10 %, 10 tokens/s, 9 min left",
        "recording en: 20 %, 10 tokens/s, 8 min left",
        "recording en: 30 %, 10 tokens/s, 7 min left",
        "recording fr: 34 %, 10 tokens/s, 7 min left",
        "recording fr: 44 %, 10 tokens/s, 6 min left",
        "recording fr: 54 %, 10 tokens/s, 5 min left",
        "recording fr: 64 %, 10 tokens/s, 4 min left",
        "recording zh: 67 %, 10 tokens/s, 3 min left",
        "recording zh: 77 %, 10 tokens/s, 2 min left",
        "recording zh: 87 %, 10 tokens/s, 79 s left",
        "recording zh: 97 %, 10 tokens/s, 19 s left",
        "recording: done, 6,000 tokens in 10 min",
    ]


def test_languages_that_come_and_go_and_details_make_no_further_lines(clock, capfd):
    with token_progress("perturbing", 1_000, clock=clock) as advance:
        for step in range(50):
            clock.now += 1
            advance(10, ("off en, fr", "off fr, en", "off en, zh", "")[step % 4])
    said = capfd.readouterr().err
    assert re.findall(r"perturbing (.*?):", said) == ["off en, fr", "off fr, en"]


def test_hours_are_told_as_hours_and_a_total_may_become_known_later(clock, capfd):
    total = [36_000]
    with token_progress("recording", lambda: total[0], clock=clock) as advance:
        clock.now = 60
        advance(60, "en")
        total[0] = 3_720
        clock.now = 120
        advance(60, "en")
        clock.now = 180
        advance(3_600, "en")
    assert capfd.readouterr().err.splitlines()[1:] == [
        "recording en: 0 %, 1 tokens/s, 9 h 59 min left",
        "recording en: 3 %, 1 tokens/s, 60 min left",
        "recording en: 100 %, 60 tokens/s",
        "recording: done, 3,720 tokens in 3 min",
    ]


def test_things_are_counted(clock, capfd):
    with progress_bar("tuning", 300, unit="steps", clock=clock) as advance:
        clock.now = 10
        advance(100, "fr")
        advance(1, "fr")
    assert capfd.readouterr().err.splitlines() == [
        "tuning: 0 % of 300 steps",
        "tuning fr: 33 %, 100 of 300 steps, 20 s left",
        "tuning: done, 101 steps in 10 s",
    ]


def test_nothing_is_said_where_nothing_is_to_be_shown(clock, capfd):
    with (
        status("opening", shown=False),
        reading(shown=False),
        token_progress("a", 10, shown=False, clock=clock) as tokens,
        progress_bar("b", 10, unit="steps", shown=False, clock=clock) as steps,
    ):
        clock.now = 1000
        tokens(5, "en")
        steps(5, "fr")
    assert capfd.readouterr() == ("", "")


WORK = """
from neuroglot.progress import progress_bar, reading, status, token_progress
with status("opening a model"):
    pass
with reading():
    pass
with token_progress("recording", 100) as advance:
    advance(50, "en")
    advance(50, "fr")
with progress_bar("tasks", 2, unit="tasks") as advance:
    advance(1, "belebele")
    advance(1, "belebele")
"""


@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1"}])
def test_a_file_gets_plain_lines(forced, tmp_path):
    log = tmp_path / "log"
    with log.open("wb") as stream:
        subprocess.run([sys.executable, "-c", WORK], stderr=stream, env={**os.environ, **forced}, check=True)
    said = log.read_bytes().decode()
    assert "\r" not in said and "\x1b" not in said
    assert [line.split(",")[0] for line in said.splitlines()] == [
        "opening a model",
        "reading the corpus",
        "recording: 0 % of 100 tokens",
        "recording en: 50 %",
        "recording fr: 100 %",
        "recording: done",
        "tasks: 0 % of 2 tasks",
        "tasks belebele: 50 %",
        "tasks: done",
    ]


def test_a_line_is_there_as_soon_as_it_is_said():
    program = "import sys\nfrom neuroglot.progress import status\nwith status('opening'): sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr.readline() == b"opening\n"  # while it still waits


def test_a_terminal_gets_bars():
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", WORK], stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            said += part
    os.close(ours)
    assert process.returncode == 0
    assert b"\x1b[" in said and "━".encode() in said and b"0 % of" not in said


BATCH = """
import json, sys
from neuroglot.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["neuroglot", *words]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
"""


@pytest.mark.slow
def test_a_batch_job_of_the_command_line_logs_its_steps_and_no_library_its_bars(tmp_path, checkpoint):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"language": tag, "text": text} for tag in ("en", "fr") for text in tiny.corpus()[tag]]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run, log = tmp_path / "run", tmp_path / "log"
    commands = [
        ("record", checkpoint, corpus, "--out", run, "--block", "32"),
        ("identify", run, "--top-fraction", "0.2", "--activity-quantile", "0.6"),
        ("perturb", run, "--block", "16", "--seeds", "1"),
    ]
    with log.open("wb") as stream:
        words = json.dumps([list(map(str, command)) for command in commands])
        subprocess.run([sys.executable, "-c", BATCH, words], stderr=stream, stdout=stream, check=True)
    said = log.read_bytes().decode()
    assert "\r" not in said and "\x1b" not in said
    steps = [f"opening {checkpoint}", "reading the corpus", "recording: 0 %", "recording en: ", "recording fr: "]
    steps += ["recorded ", f"opening {checkpoint}", "perturbing: 0 %", "perturbing intact, en: ", "perturbing off "]
    place = 0
    for step in steps:
        place = said.index(step, place)
    assert "|" not in said.partition("identify")[0]  # of a bar
