"""A process that uses the hub through the package, and prints what came of each of its cases as JSON.

It is one of its own, since the clients read HF_ENDPOINT when they are imported.
"""

import json
import os
import sys
import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, 0.05))  # the clients' waits between attempts

import neuroglot as ng  # noqa: E402
from neuroglot.models.loading import load_tokenizer  # noqa: E402


def model(source, **options):
    from huggingface_hub import constants

    constants.DOWNLOAD_CHUNK_SIZE = 1024  # what is written at once, and so the least that a broken download keeps
    constants.HF_HUB_DOWNLOAD_TIMEOUT = 0.7  # after which a silent answer counts as broken
    opened = ng.load_model(source, device="cpu", **options)
    return float(next(iter(opened.network.parameters())).detach().sum())


def tokenizer(source, **options):
    return load_tokenizer(source, **options)("one two")["input_ids"]


def corpus(source, **options):
    opened = ng.load_corpus(source, **options)
    return {"parallel": opened.parallel, "texts": {tag: list(opened[tag]) for tag in opened.languages}}


def samples(source, **options):
    return [texts for _, texts in ng.load_corpus(source, **options).samples()]


def main():
    results = []
    for case in json.load(sys.stdin):
        token = case.pop("token", None)
        os.environ.pop("HF_TOKEN", None)
        if token:
            os.environ["HF_TOKEN"] = token
        call = {"model": model, "tokenizer": tokenizer, "corpus": corpus, "samples": samples}[case.pop("do")]
        start = time.monotonic()
        try:
            results.append({"value": call(**case)})
        except ng.NeuroglotError as error:
            results.append({"error": str(error)})
        except Exception as error:
            results.append({"traceback": f"{type(error).__name__}: {error}"})
        results[-1]["seconds"] = time.monotonic() - start
    print("RESULTS" + json.dumps(results))


if __name__ == "__main__":
    main()
