"""Models and datasets of the hub, by the real clients, from a local server that speaks its protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import every_type
import pytest
import tiny
from hub.server import Hub

TEXT = {"en": ["one", "two"], "fr": ["un", "deux"]}
LONG = [f"{i} " + "x" * 50 for i in range(2000)]

REFUSED = {
    "bert": "reads a text in both directions",
    "mamba": "No FFN was found in mamba",
    "jetmoe": "mixture of experts with code of its own",
    "vit": "is of type vit, which is no causal language model",
    "alien": "is of type alien, which transformers",
}
"""What cannot be used, by its type, and what is said of it."""

CASES = {
    "main": {"do": "model", "source": "org/tiny"},
    "revision": {"do": "model", "source": "org/tiny", "revision": "older"},
    "tokenizer": {"do": "tokenizer", "source": "org/tiny"},
    "no revision": {"do": "model", "source": "org/tiny", "revision": "absent"},
    "no revision of a tokenizer": {"do": "tokenizer", "source": "org/tiny", "revision": "absent"},
    "gated": {"do": "model", "source": "org/gated"},
    "forbidden": {"do": "model", "source": "org/forbidden", "token": "hf_none"},
    "no model": {"do": "model", "source": "org/none"},
    "no weights": {"do": "model", "source": "org/lacks"},
    **{f"no {kind}": {"do": "model", "source": f"org/{kind}"} for kind in REFUSED},
    "cut": {"do": "model", "source": "org/cut"},
    "slow": {"do": "model", "source": "org/slow"},
    "status": {"do": "model", "source": "org/status"},
    "broken": {"do": "model", "source": "org/broken"},
    "broken, again": {"do": "model", "source": "org/broken"},
    "wiki": {"do": "corpus", "source": "hf:org/wiki"},
    "older wiki": {"do": "corpus", "source": "hf:org/wiki?revision=older"},
    "wiki of no revision": {"do": "corpus", "source": "hf:org/wiki?revision=absent"},
    "template": {"do": "corpus", "source": "hf:org/wiki?config=20231101.{language}", "languages": ["fr"]},
    "columns": {"do": "corpus", "source": "hf:org/flores?config=all&column=sentence_{language}",
                "languages": ["eng_Latn", "fra_Latn"]},
    "language column": {"do": "corpus", "source": "hf:org/column", "languages": ["fr", "en"]},
    "language column of no language": {"do": "corpus", "source": "hf:org/column"},
    "no language column": {"do": "corpus", "source": "hf:org/column?language=nix", "languages": ["fr"]},
    "no dataset": {"do": "corpus", "source": "hf:org/none"},
    "gated dataset": {"do": "corpus", "source": "hf:org/gated"},
    "forbidden dataset": {"do": "corpus", "source": "hf:org/forbidden", "token": "hf_none"},
    "cut dataset": {"do": "corpus", "source": "hf:org/cut"},
    "dataset that stops": {"do": "corpus", "source": "hf:org/stops"},
    "numbers": {"do": "corpus", "source": "hf:org/numbers"},
    "holes": {"do": "corpus", "source": "hf:org/holes"},
    "gaps": {"do": "samples", "source": "hf:org/gaps?config=all&column=sent_{language}", "languages": ["en", "fr"]},
    "objects": {"do": "samples", "source": "hf:org/opus", "languages": ["en", "fr"]},
    "objects listed": {"do": "samples", "source": "hf:org/opus?column=Translation"},
    "uneven": {"do": "samples", "source": "hf:org/uneven", "parallel": True},
    "tagged and aligned": {"do": "samples", "source": "hf:org/column", "languages": ["fr", "en"], "parallel": True},
    "capitals": {"do": "corpus", "source": "hf:org/capitals", "languages": ["fr", "en"]},
    "braces": {"do": "corpus", "source": "hf:org/wiki_{language}?column={nix}", "languages": ["en"]},
    "no text": {"do": "corpus", "source": "hf:org/body"},
}  # fmt: skip


def fill(hub, path):
    """Repositories of all kinds."""
    older = Path(tiny.model(seed=1).save(path / "older"))
    first = Path(tiny.model().save(path / "tiny"))
    hub.add_directory("models", "org/tiny", first)
    hub.add_directory("models", "org/tiny", older, "older")
    for name in ("cut", "slow", "status", "broken", "lacks"):
        hub.add_directory("models", f"org/{name}", first)
    del hub.files["models", "org/lacks", "main"]["model.safetensors"]
    for kind in REFUSED:
        small = every_type.refused_config(kind)
        hub.add("models", f"org/{kind}", {"config.json": json.dumps(small), "model.safetensors": "no weights"})
    hub.gated |= {"org/gated": 401, "org/forbidden": 403}
    hub.faults |= {
        ("org/cut", "model.safetensors"): ["cut", "cut"],
        ("org/slow", "model.safetensors"): [1.0],
        ("org/status", "model.safetensors"): [500] * 20,
        ("org/broken", "model.safetensors"): ["cut", *[1.0] * 5],
        ("org/cut", "fr.jsonl"): ["cut"],
        ("org/stops", "fr.jsonl"): [0.0] * 4 + [500] * 900,
    }

    def dataset(name, configs, revision="main"):
        card = "".join(f"- config_name: '{config}'\n  data_files: {config}.jsonl\n" for config in configs)
        files = {f"{config}.jsonl": "\n".join(map(json.dumps, rows)) for config, rows in configs.items()}
        hub.add("datasets", f"org/{name}", {"README.md": f"---\nconfigs:\n{card}---\n", **files}, revision)

    dataset("wiki", {f"20231101.{tag}": [{"text": text} for text in TEXT[tag]] for tag in TEXT})
    dataset("wiki", {"20231101.fr": [{"text": "ancien"}]}, "older")
    dataset("flores", {"all": [{"sentence_eng_Latn": "one", "sentence_fra_Latn": "un"}]})
    rows = [("one", "en"), ("un", "fr"), ("two", "EN"), (None, "fr"), ("huh", None), ("deux", "fra_Latn")]
    dataset("column", {"default": [{"text": text, "language": tag} for text, tag in rows]})
    dataset("cut", {"fr": [{"text": text} for text in LONG]})
    dataset("stops", {"fr": [{"text": "x" * 3000} for _ in range(10000)]})
    dataset("numbers", {"fr": [{"text": 1}, {"text": 2}]})
    dataset("holes", {"fr": [{"text": "un"}, {"text": None}, {"text": ""}]})
    pairs = [("one", "un"), (None, "deux"), ("three", ""), ("four", "quatre")]
    dataset("gaps", {"all": [{"Sent_en ": en, "Sent_fr ": fr} for en, fr in pairs]})
    dataset("opus", {"en-fr": [{"translation": {"en": en, "fr": fr}} for en, fr in pairs]})
    dataset("uneven", {"en": [{"text": "one"}, {"text": "two"}], "fr": [{"text": "un"}]})
    dataset("capitals", {"default": [{" Text": text, "Lang": tag} for text, tag in rows]})
    dataset("body", {"fr": [{"body": "un"}]})


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """What came of each case, and the hub that was asked."""
    path = tmp_path_factory.mktemp("hub")
    hub = Hub()
    fill(hub, path)
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(path / "home"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    try:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("session.py")], input=json.dumps(list(CASES.values())),
            env=environment | own, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        hub.close()
    assert done.returncode == 0, done.stderr
    hub.results = dict(zip(CASES, json.loads(done.stdout.split("RESULTS")[1]), strict=True))
    return hub


def value(hub, case):
    assert "value" in hub.results[case], hub.results[case]
    return hub.results[case]["value"]


def ranges(hub, name):
    return [asked for method, path, asked in hub.asked if method == "GET" and path.startswith(name)]


def test_a_model_and_its_revision(hub):
    assert value(hub, "main") != value(hub, "revision")
    assert value(hub, "tokenizer")


def test_a_cut_or_late_download_goes_on_where_it_stopped(hub):
    assert value(hub, "cut") == value(hub, "slow") == value(hub, "main")
    asked = ranges(hub, f"org/cut/resolve/{'1' * 40}/model.safetensors")
    assert asked[0] is None
    starts = [int(each.removeprefix("bytes=").split("-")[0]) for each in asked[1:]]
    assert len(starts) == 2 and 0 < starts[0] < starts[1]  # each after what came before


def test_after_a_broken_download_the_same_call_asks_for_what_is_missing(hub):
    assert "run the same again" in hub.results["broken"]["error"]
    assert value(hub, "broken, again") == value(hub, "main")
    weights = ranges(hub, f"org/broken/resolve/{'1' * 40}/model.safetensors")
    assert weights[0] is weights[-1] is None and None not in weights[1:-1], weights
    assert len(ranges(hub, f"org/broken/resolve/{'1' * 40}/config.json")) == 1


@pytest.mark.parametrize(
    ("case", "said"),
    {
        "no revision": "did not give it (it has no such revision)",
        "no revision of a tokenizer": "did not give it (it has no such revision)",
        "gated": "did not give it (it is gated: ask for access",
        "forbidden": "did not give it (it is gated: ask for access",
        "no model": "(there is no such repository, or it is private",
        "no weights": "model.safetensors",
        "status": "(the hub answered with status 500",
        "wiki of no revision": "it has no such revision",
        "language column of no language": "in its column 'language': say which languages to read",
        "no language column": "has no column 'nix'; it has text, language",
        "no dataset": "hf:org/none cannot be opened",
        "gated dataset": "gated",
        "forbidden dataset": "gated",
        "dataset that stops": "the hub answered with status 500",
        "numbers": "text is a number (1), where text should be",
        "no text": "has no column 'text'; it has body",
        "uneven": "has more samples in en than in fr",
        "tagged and aligned": "streamed rows cannot be aligned by a key",
        "braces": "hf:org/wiki_{language}?column={nix} cannot be opened",
    }.items(),
)
def test_refusals_are_one_sentence(hub, case, said):
    result = hub.results[case]
    assert said in result["error"], result
    assert "\n" not in result["error"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_used_is_refused_before_its_weights_are_asked_for(hub, kind):
    said = hub.results[f"no {kind}"]["error"]
    assert REFUSED[kind] in said and "\n" not in said
    asked = [path for _, path, _ in hub.asked if path.startswith(f"org/{kind}/resolve/")]
    assert any(path.endswith("config.json") for path in asked) and not any(
        "model" in path.split("/")[-1] for path in asked
    )


@pytest.mark.parametrize(
    ("case", "texts"),
    {
        "wiki": TEXT,
        "older wiki": {"fr": ["ancien"]},
        "template": {"fr": TEXT["fr"]},
        "columns": {"en": ["one"], "fr": ["un"]},
        "capitals": {"fr": ["un", "deux"], "en": ["one", "two"]},
        "language column": {"fr": ["un", "deux"], "en": ["one", "two"]},
        "cut dataset": {"fr": LONG},
        "holes": {"fr": ["un"]},
    }.items(),
)
def test_datasets_are_read_whole(hub, case, texts):
    assert value(hub, case) == {"parallel": case == "columns", "texts": texts}


@pytest.mark.parametrize("case", ["gaps", "objects", "objects listed"])
def test_a_row_without_text_leaves_the_others_where_they_are(hub, case):
    pairs = [("one", "un"), (None, "deux"), ("three", None), ("four", "quatre")]
    assert value(hub, case) == [{"en": en, "fr": fr} for en, fr in pairs]
