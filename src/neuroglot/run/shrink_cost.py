"""What a model costs to keep and to run: bytes, and tokens a second here and in llama.cpp."""

import json
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import torch

from neuroglot.errors import NeuroglotWarning
from neuroglot.generation.engine import generate
from neuroglot.models.model import Model

__all__ = ["Cost", "cost"]

PROMPT_WORDS = 12
SEARCHED = 500  # documents
WRITTEN = 48
"""Tokens of an example."""


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        safetensors: bytes of its weights.
        gguf: bytes of its GGUF file; None without one.
        tokens_per_second: written here, one text at a time.
        llama_cpp: the same by llama.cpp, of the GGUF file; None without it.
        examples: prompt and what is written after it, by likelihood.
    """

    safetensors: int
    gguf: int | None
    tokens_per_second: float
    llama_cpp: float | None
    examples: list[tuple[str, str]]


def cost(model: Model, documents: Iterable[str], gguf: Path | None, *, count: int = 2) -> Cost:
    """Measure a model on the beginnings of documents.

    Args:
        model: intact or cut.
        documents: held out; the first so many that have enough words are continued.
        gguf: its file, if there is one.
        count: how many are continued.
    """
    first = [document.split() for document in islice(documents, SEARCHED)]
    long = [words for words in first if len(words) > PROMPT_WORDS] or first
    prompts = [" ".join(words[:PROMPT_WORDS])[:200] for words in long[:count]]
    generate(model, prompts[:1], tokens=2)  # what is made once
    written, tokens, spent = [], 0, 0.0
    for prompt in prompts:
        started = time.perf_counter()
        (text,) = generate(model, [prompt], tokens=WRITTEN)
        spent += time.perf_counter() - started
        tokens += max(1, len(model.encode([text])[0]))
        written.append((prompt, text))
    weights = {id(weight): weight for weight in model.network.parameters()}
    return Cost(
        sum(weight.numel() * weight.element_size() for weight in weights.values()),
        None if gguf is None else gguf.stat().st_size,
        tokens / spent,
        None if gguf is None else llama_cpp_speed(gguf, prompts[0]),
        written,
    )


def llama_cpp_speed(path: Path, prompt: str, tokens: int = WRITTEN) -> float | None:
    """Tokens a second that llama.cpp writes with a GGUF file, as it says itself; None where there is none."""
    if find_spec("xllamacpp") is None:
        return None
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.warmup = str(path), 512, True
    settings.cpuparams.n_threads = torch.get_num_threads()
    try:
        server = xllamacpp.Server(settings)
    except RuntimeError:  # it does not know the architecture, or the tokenizer
        warnings.warn("llama.cpp cannot open this GGUF file, so its speed is left out.", NeuroglotWarning, stacklevel=3)
        return None
    asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "timings_per_token": True}
    started = time.perf_counter()
    answer = server.handle_completions(asked)
    spent = time.perf_counter() - started
    answer = answer if isinstance(answer, dict) else json.loads(answer)
    speed = answer.get("timings", {}).get("predicted_per_second")
    return float(speed) if speed else tokens / spent
