"""What a model goes on to write, intact and with a language's neurons off."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch

from neuroglot.corpus import Corpus
from neuroglot.errors import NeuroglotError
from neuroglot.interventions import Deactivate, intervene
from neuroglot.model import Model
from neuroglot.neurons import NeuronSet

__all__ = ["beginnings", "continuations", "generate"]


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[str], *, tokens: int = 64) -> list[str]:
    """Continue each prompt greedily, under the interventions in force.

    Args:
        model: intact or changed.
        prompts: texts; BOS is put before each where the tokenizer defines one.
        tokens: at most so many new ones each; an end-of-sequence token ends it sooner.

    Returns:
        The continuations, without their prompts.

    Raises:
        NeuroglotError: a prompt is empty.
    """
    bos = [] if model.bos is None else [model.bos]
    rows = [bos + ids for ids in model.tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]]
    if not rows:
        return []
    if not all(rows):
        raise NeuroglotError("A prompt is empty; give it some text.")
    padding = next((t for t in (model.tokenizer.pad_token_id, model.tokenizer.eos_token_id, 0) if t is not None), 0)
    length = max(map(len, rows))
    # padded on the left, so that every continuation begins at the same place
    ids = torch.tensor([[padding] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    written = model.network.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        top_p=None,
        top_k=None,
        temperature=None,
        pad_token_id=padding,
    )
    return [str(text) for text in model.tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)]


def beginnings(model: Model, corpus: Corpus, *, prompts: int = 3, tokens: int = 12) -> dict[str, list[str]]:
    """The first tokens of the first documents of each language, for `continuations`.

    A document that is shorter gives its first half.
    """
    chosen = {}
    for tag in corpus.languages:
        texts = [text for text, _ in zip(corpus[tag], range(prompts), strict=False)]
        encoded = model.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        cut = [model.tokenizer.decode(ids[: min(tokens, max(1, len(ids) // 2))]) for ids in encoded]
        chosen[tag] = [text.replace("\ufffd", "").rstrip() for text in cut]
    return chosen


def continuations(
    model: Model, prompts: Mapping[str, Sequence[str]], neurons: NeuronSet, *, tokens: int = 64
) -> pd.DataFrame:
    """Continuations of each language's prompts with its own neurons off, beside the intact model's.

    Zeng et al. 2025, appendix A.

    Args:
        model: left as it was.
        prompts: language → texts; each language is one of the neurons'.
        neurons: whose sets are switched off.
        tokens: at most so many new ones each.

    Returns:
        A row a prompt: language, prompt, intact, off.

    Raises:
        NeuroglotError: a language has no set, a prompt is empty, or the neurons are of another shape.
    """
    rows = []
    for tag, texts in prompts.items():
        intact = generate(model, texts, tokens=tokens)
        with intervene(model, Deactivate(neurons[tag])):
            off = generate(model, texts, tokens=tokens)
        rows += [
            {"language": tag, "prompt": prompt, "intact": before, "off": after}
            for prompt, before, after in zip(texts, intact, off, strict=True)
        ]
    return pd.DataFrame(rows, columns=["language", "prompt", "intact", "off"])
