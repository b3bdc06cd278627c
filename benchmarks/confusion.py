"""Language confusion before and after `fix`, on prompts of the Language Confusion Benchmark (Marchisio et al. 2024).

    python benchmarks/confusion.py --model qwen2.5-0.5b.gguf --chat --lcb test_sets/ --out results/qwen

LCB is a folder TASK/SOURCE/LANGUAGE.csv with a column `prompt`, as the benchmark publishes it. For each target language
`fix` is told to stay in it; then one recipe for all of them is told not to slip into English. Half of the prompts
choose, the other half is reported. Neurons, directions and whose a token is come from one recording of the built-in
corpus, perplexity from what it held out. The reported answers are also rated by the likelihood rule, which the intact
model reads: an answer in the right language may be about nothing. Written under --out, after each target:

    remedies.csv     every remedy of every target, on both halves, with its cost of perplexity
    languages.csv    the reported half by target, condition, task and source
    answers.csv      its answers
    summary.csv      a row a target: line pass rate before and after, the share of what was missing, perplexity
    confusion.json   settings, seconds, device
    kept/            answers and costs as they are measured, so that a second call goes on
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import neuroglot as ng
from neuroglot.corpus.corpus import Corpus
from neuroglot.evaluate.fixing.fixing import Fixed
from neuroglot.evaluate.fixing.remedies import METHODS
from neuroglot.evaluate.steering.confusion import english_words
from neuroglot.evaluate.steering.relevance import LikelihoodRule
from neuroglot.generation.settings import Generation
from neuroglot.tokens.counts import TokenLanguages, token_counts

ENGLISH = "en"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lcb", type=Path, required=True, help="TASK/SOURCE/LANGUAGE.csv")
    parser.add_argument("--words", type=Path, default=None, help="the benchmark's English words")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--targets", default="fr,es,zh,ja,ar,hi,vi,id")
    parser.add_argument("--corpus", default="starter")
    parser.add_argument("--record-tokens", type=int, default=20_000, help="of each language")
    parser.add_argument("--held-out", type=int, default=4_000, help="tokens of each language for perplexity")
    parser.add_argument("--limit", type=int, default=16, help="prompts of each source, half to choose")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--max-cost", type=float, default=0.02)
    parser.add_argument("--methods", default=",".join(METHODS))
    return parser.parse_args()


def prompts_of(lcb: Path, targets: list[str], limit: int) -> dict[str, dict[str, list[str]]]:
    """Task and source → language → prompts, evenly spread over each file."""
    found: dict[str, dict[str, list[str]]] = {}
    for file in sorted(lcb.glob("*/*/*.csv")):
        if file.stem in targets:
            texts = [str(text) for text in pd.read_csv(file)["prompt"]]
            step = max(1, len(texts) // limit)
            found.setdefault(f"{file.parent.parent.name}/{file.parent.name}", {})[file.stem] = texts[::step][:limit]
    return found


def rated(model: ng.Model, found: Fixed, prompts: dict[str, dict[str, list[str]]], chat: bool) -> pd.DataFrame:
    """The reported answers with their relevance, each beside other prompts of its language."""
    asked = {tag: [text for part in prompts.values() for text in part.get(tag, ())] for tag in found.wanted}
    language = found.answers["language"]
    table = LikelihoodRule(model, asked, chat=chat).rate(
        found.answers.assign(source=language, target=language), progress=False
    )
    return found.answers.assign(relevance=table["relevance"].to_numpy())


def summary(name: str, found: Fixed, answers: pd.DataFrame) -> dict[str, Any]:
    before = found.reported("intact")
    assert before is not None
    row: dict[str, Any] = {"target": name, "avoided": " ".join(found.avoided), "answers": before["answers"]}
    row |= {"judged": before["judged"], "before": before["line_pass_rate"], "before_word": before["word_pass_rate"]}
    relevance = answers.groupby("condition")["relevance"].mean() / 2
    row |= {"before_degenerate": before["degenerate"], "before_relevance": relevance["intact"]}
    chosen = found.chosen
    row |= {"chosen": chosen.method if chosen else "", "setting": chosen.words if chosen else ""}
    for method in found.best:
        after = found.reported(method)
        assert after is not None
        missing = 1 - before["line_pass_rate"]
        gained = (after["line_pass_rate"] - before["line_pass_rate"]) / missing if missing else float("nan")
        short = method.replace(" ", "_")
        row |= {f"{short}_after": after["line_pass_rate"], f"{short}_word": after["word_pass_rate"]}
        row |= {f"{short}_gained": gained, f"{short}_cost": after["perplexity_change"]}
        row |= {f"{short}_degenerate": after["degenerate"], f"{short}_relevance": relevance[method]}
    return row


def main() -> None:
    asked, began = arguments(), time.perf_counter()
    targets = [tag for tag in asked.targets.split(",") if tag]
    asked.out.mkdir(parents=True, exist_ok=True)
    model = ng.load_model(asked.model, dtype=asked.dtype)
    recorded, held_out = ng.load_corpus(asked.corpus).split(5)
    recording = ng.record(
        model, recorded, tokens=asked.record_tokens, block=128, statistics=("active", "residual"), progress=False
    )
    owners = TokenLanguages.of(token_counts(model, recorded, asked.record_tokens), recorded.languages)
    prompts = prompts_of(asked.lcb, targets, asked.limit)
    print(f"recorded {recording}: {time.perf_counter() - began:.0f} s", flush=True)
    seconds: dict[str, float] = {}
    tables: dict[str, list[pd.DataFrame]] = {"remedies": [], "languages": [], "answers": [], "summary": []}
    jobs = [(tag, [tag], None) for tag in targets] + [("all but English", targets, [ENGLISH])]
    for name, wanted, avoided in jobs:
        start = time.perf_counter()
        chosen = {
            source: {tag: texts for tag, texts in languages.items() if tag in wanted}
            for source, languages in prompts.items()
        }
        limit = 4 if len(wanted) > 1 else asked.limit  # of each language, where there are many
        chosen = {
            source: {tag: texts[:limit] for tag, texts in languages.items()}
            for source, languages in chosen.items()
            if languages
        }
        found = ng.evaluate.fix(
            model, recording, chosen, _only(held_out, [*recording.languages]), owners, avoided=avoided,
            methods=asked.methods.split(","), max_cost=asked.max_cost, tokens=asked.held_out,
            generation=Generation(tokens=asked.tokens, repetition_penalty=1.0, chat=asked.chat),
            words=None if asked.words is None else sorted(english_words(asked.words)), progress=False,
            directory=asked.out / "kept",
        )  # fmt: skip
        seconds[name] = round(time.perf_counter() - start, 1)
        tables["remedies"].append(found.table.assign(target=name))
        tables["languages"].append(found.by_language.assign(target=name))
        answers = rated(model, found, chosen, asked.chat)
        tables["answers"].append(answers.assign(target=name))
        tables["summary"].append(pd.DataFrame([summary(name, found, answers) | {"seconds": seconds[name]}]))
        for table, parts in tables.items():
            pd.concat(parts, ignore_index=True).to_csv(asked.out / f"{table}.csv", index=False)
        print(f"{name}: {seconds[name]} s\n{tables['summary'][-1].T.to_string()}\nslips {found.slips}", flush=True)
        if found.recipe is not None:
            found.recipe.save(asked.out / f"{name.replace(' ', '-')}.safetensors")
    about = {name: str(value) for name, value in vars(asked).items()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    (asked.out / "confusion.json").write_text(json.dumps({"settings": about, "device": device, "seconds": seconds}))


def _only(corpus: Corpus, languages: list[str]) -> Corpus:
    return corpus.select(languages)


if __name__ == "__main__":
    main()
