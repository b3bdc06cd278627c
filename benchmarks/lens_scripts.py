"""In which script a model's layers write: the probability of the tokens of each script after every layer.

    python benchmarks/lens_scripts.py --model gemma3-270m --text texts/ --languages hi fr --out out/scripts.csv

The lens says whose tokens are likely by what a text has; this needs no text to say so. It tells whether a language that
the lens does not see in a layer is not there, or is there in tokens that were not counted.
"""

import argparse
import unicodedata
from collections import Counter
from pathlib import Path

import pandas as pd
import torch

import neuroglot as ng
from neuroglot.models.architecture.readout import Readout
from neuroglot.tokens.packing import pack

SCRIPTS = {
    "LATIN": "Latin", "DEVANAGARI": "Devanagari", "CYRILLIC": "Cyrillic", "ARABIC": "Arabic", "HANGUL": "Korean",
    "CJK": "Chinese, Japanese", "HIRAGANA": "Chinese, Japanese", "KATAKANA": "Chinese, Japanese", "THAI": "Thai",
}  # fmt: skip


def script(text: str) -> str:
    """Of most of its letters."""
    letters = [unicodedata.name(each, "other").split()[0] for each in text if unicodedata.category(each)[0] in "LM"]
    return SCRIPTS.get(Counter(letters).most_common(1)[0][0], "other") if letters else "no letter"


@torch.inference_mode()
def by_script(model: ng.Model, documents: object, language: str, tokens: int, block: int) -> pd.DataFrame:
    """Layer × script: the mean probability of its tokens after a layer."""
    written = model.tokenizer.batch_decode([[token] for token in range(model.vocabulary)])
    names = [script(text) for text in written]
    scripts = sorted({*names}, key=names.count, reverse=True)
    member = torch.tensor([scripts.index(name) for name in names])
    blocks = pack(model, documents, language, block=block, tokens=tokens).to(model.device)
    readout = Readout(model.network, model.ffns)
    totals = torch.zeros(len(readout.layers), model.vocabulary, device=model.device)
    for batch in blocks.split(1):
        for layer, output in enumerate(readout.outputs(batch)):
            states = readout.read(output, batch)[0, :-1]
            totals[layer] += sum(model.logits(some).float().softmax(-1).sum(0) for some in states.split(128))
    totals = totals.cpu() / (blocks.shape[0] * (block - 1))
    shares = torch.zeros(len(totals), len(scripts)).index_add(1, member, totals)
    table = pd.DataFrame(shares.numpy(), columns=scripts, index=range(1, len(totals) + 1))
    return table.rename_axis("layer").reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--text", required=True, help="a directory of {language}.txt")
    parser.add_argument("--languages", nargs="+", default=["hi", "fr"])
    parser.add_argument("--tokens", type=int, default=1_024, help="held out, of each language")
    parser.add_argument("--block", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ng.load_model(options.model, dtype="float32", device=device)
    held_out = ng.load_corpus(options.text, languages=options.languages).split(5)[1]
    parts = []
    for tag in options.languages:
        table = by_script(model, held_out[tag], tag, options.tokens, options.block)
        table.insert(0, "text", tag)
        parts.append(table)
        pd.concat(parts).to_csv(options.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
