"""Neurons, directions and prompts, each tuned and measured alike: the table of steering scores of one model.

    python benchmarks/steering_scores.py --model gemma3-270m --out results/gemma3
    python benchmarks/steering_scores.py --model qwen2.5-0.5b.gguf --chat --out results/qwen --more vicuna/

Everything is found in one recording of the built-in corpus. Candidates of every family (a method, alone or with
neurons, under a prompting) are searched by successive halving on one half of the questions; the best of each family is
measured on the other half, and on `--more` questions in the same languages. LFS is by fastText or lingua, relevance by
the likelihood rule, which `--reader` may read with another model than the one that is steered. Written under --out:

    scores.csv      a row a family: LFS, relevance, steering score with 95 % intervals, fluency
    by-target.csv   the same scores by target language
    search.csv      every candidate of every rung
    answers.jsonl   all answers of the reported half
    kept/, kept-relevance/   every answer and rating as it is made, so that a second call goes on
    scores.json     settings, the winner, the best single method, their difference, seconds
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import neuroglot as ng
from neuroglot.edit.steering_methods import DIRECTIONS
from neuroglot.evaluate.steering.candidates import Candidate, alignment_layers, candidates
from neuroglot.evaluate.steering.forcing import Cell, Forcing
from neuroglot.evaluate.steering.relevance import LikelihoodRule
from neuroglot.evaluate.steering.scores import score_difference, steering_scores
from neuroglot.evaluate.steering.search import Found, search
from neuroglot.generation.settings import Generation

STATISTICS = ("active", "activation", "hidden", "residual")
SHOWN = ("setting", "answers", "lfs", "relevance", "steering_score", "steering_score_low", "steering_score_high",
         "well_formed", "degenerate", "perplexity", "within")  # fmt: skip


@dataclass
class Clock:
    """Seconds of each part."""

    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        """Say how long a part took."""
        now = time.perf_counter()
        self.seconds[name] = round(now - self.began, 1)
        self.began = now
        print(f"{name}: {self.seconds[name]} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--chat", action="store_true", help="ask in the model's chat template")
    parser.add_argument("--corpus", default="starter", help="parallel text to record")
    parser.add_argument("--record-tokens", type=int, default=20_000, help="of each language")
    parser.add_argument("--samples", type=int, default=40, help="sentences of each language for the probe")
    parser.add_argument("--prompts", default="questions", help="questions, or openings for a model that only continues")
    parser.add_argument("--more", default=None, help="further prompts in the sources, only reported on")
    parser.add_argument("--sources", default="en")
    parser.add_argument("--targets", default="zh,fr,es,vi,id,ja,ar,hi,pt")
    parser.add_argument("--promptings", default="none,I,II")
    parser.add_argument("--neurons", default="raise")
    parser.add_argument("--directions", default="diffmean,probe,sparse")
    parser.add_argument("--strengths", default="1,2,4", help="of directions")
    parser.add_argument("--limit", type=int, default=24, help="prompts, half for the search")
    parser.add_argument("--more-limit", type=int, default=24, help="further prompts")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--budget", type=int, default=8_000, help="answers of the search")
    parser.add_argument("--reader", default=None, help="another model for the likelihood rule")
    parser.add_argument("--identification", default="fasttext", choices=["fasttext", "lingua"])
    parser.add_argument("--max-loss", type=float, default=1.0, help="perplexity above native answers' by this share")
    return parser.parse_args()


def first(corpus: ng.Corpus, limit: int) -> dict[str, list[str]]:
    return {tag: list(corpus[tag])[:limit] for tag in corpus.languages}


def names(text: str) -> list[Any]:
    return [name for name in text.split(",") if name]


def main() -> None:
    asked, clock = arguments(), Clock()
    sources, targets = names(asked.sources), names(asked.targets)
    model = ng.load_model(asked.model, dtype=asked.dtype)
    clock.lap("model")
    corpus = ng.load_corpus(asked.corpus)
    recording = ng.record(model, corpus, tokens=asked.record_tokens, block=128, statistics=STATISTICS, progress=False)
    neurons = ng.identify.lape(recording)
    samples = ng.record_samples(model, corpus, samples=asked.samples, max_tokens=200, progress=False)
    clock.lap("recording")
    spots = alignment_layers(samples)
    tried = candidates(
        model.layers, neurons=names(asked.neurons), directions=names(asked.directions),
        promptings=names(asked.promptings), strengths=[float(s) for s in names(asked.strengths)], a_priori=spots,
    )  # fmt: skip
    possible = [each for each in tried if all(_possible(each, neurons, tag) for tag in targets)]
    if lost := {each.family for each in tried} - {each.family for each in possible}:
        print(f"left out, for a target has no such neurons: {', '.join(sorted(lost))}", flush=True)
    questions = first(ng.load_corpus(asked.prompts, languages=[*sources, *targets]), asked.limit)
    more = {} if asked.more is None else first(ng.load_corpus(asked.more, languages=sources), asked.more_limit)
    reader = model if asked.reader is None else ng.load_model(asked.reader, dtype=asked.dtype)
    everything = {tag: [*texts, *more.get(tag, [])] for tag, texts in questions.items()}
    chat = asked.chat and asked.reader is None
    rule = LikelihoodRule(reader, everything, chat=chat, directory=asked.out / "kept-relevance")
    generation = Generation(tokens=asked.tokens, chat=asked.chat)
    found = search(
        model, recording, neurons, questions, possible, targets=targets, sources=sources, more=more,
        budget=asked.budget, relevance=rule, max_loss=asked.max_loss, samples=samples,
        identification=asked.identification, directory=asked.out / "kept", generation=generation, progress=False,
    )  # fmt: skip
    clock.lap("search and report")
    write(asked, found, found.answers, spots, neurons, clock)
    rivals = Forcing(
        model, recording, neurons, languages=[*sources, *targets], samples=samples,
        identification=asked.identification, directory=asked.out / "kept", generation=generation, progress=False,
    )  # fmt: skip
    random = rule.rate(rivals.answers(_random(found, sources, targets)), progress=False)
    clock.lap("random baseline")
    write(asked, found, pd.concat([found.answers, random], ignore_index=True), spots, neurons, clock)


def _possible(candidate: Candidate, neurons: ng.NeuronSet, target: str) -> bool:
    """Whether the target has neurons in the layers where neurons are to be changed."""
    how = candidate.how
    if candidate.condition == "intact" or (how.raised is None and how.method in DIRECTIONS):
        return True
    mask = neurons[target]
    return bool((mask if how.layers is None or how.raised is not None else mask[list(how.layers)]).any())


def _random(found: Found, sources: Sequence[str], targets: Sequence[str]) -> list[Cell]:
    """The winner's size-matched random baseline: random neurons, shuffled directions, the same prompts."""
    asked = found.answers[found.answers["condition"] == found.chosen.family]
    texts = {source: list(dict.fromkeys(asked.loc[asked["source"] == source, "prompt"])) for source in sources}
    how, prompting = found.chosen.how, found.chosen.prompting
    return [
        Cell("random", source, target, texts[source], how, prompting, 0, "random baseline of the winner")
        for source in sources
        for target in targets
        if source != target and found.chosen.condition != "intact"
    ] or [Cell("intact", sources[0], targets[-1], texts[sources[0]][:1], name="random baseline of the winner")]


def write(
    asked: argparse.Namespace,
    found: Found,
    answers: pd.DataFrame,
    spots: Sequence[int],
    neurons: ng.NeuronSet,
    clock: Clock,
) -> None:
    asked.out.mkdir(parents=True, exist_ok=True)
    table = found.table[found.table["half"] == "reported"].set_index("family")
    random = answers[answers["condition"] == "random baseline of the winner"]
    if len(random):
        table = pd.concat([table, steering_scores(random).rename_axis("family").assign(setting="random")])
    table.to_csv(asked.out / "scores.csv")
    found.table.to_csv(asked.out / "search.csv", index=False)
    steering_scores(answers, ["condition", "target"]).to_csv(asked.out / "by-target.csv")
    answers.to_json(asked.out / "answers.jsonl", orient="records", lines=True, force_ascii=False)
    said = verdict(found, answers)
    about = {
        "settings": {name: str(value) for name, value in vars(asked).items()},
        "model": asked.model,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {"neuroglot": ng.__version__, "torch": torch.__version__},
        "neurons": neurons.sizes(),
        "layers of SADS and LRDS, from 1": [layer + 1 for layer in spots],
        "candidates": int((found.table["rung"] == 1).sum()),
        "seconds": clock.seconds,
        **said,
    }
    (asked.out / "scores.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(markdown(table))
    print(said["verdict"])


def verdict(found: Found, answers: pd.DataFrame) -> dict[str, Any]:
    """The winner of the search beside the best single method of the search, on the other half."""
    reported = found.table[found.table["half"] == "reported"].set_index("family")
    winner = found.chosen.family  # families stand best first, by the search
    single = next((name for name, each in found.families.items() if each.single), winner)
    combined = next((name for name, each in found.families.items() if not each.single), winner)
    difference = score_difference(answers, combined, single)
    above = "above" if difference[1] > 0 else "below" if difference[2] < 0 else "not told apart from"
    return {
        "winner": {"family": winner, "setting": found.chosen.words(), **_numbers(reported.loc[winner])},
        "best single": {"family": single, "setting": found.families[single].words(), **_numbers(reported.loc[single])},
        "best combination": {
            "family": combined, "setting": found.families[combined].words(), **_numbers(reported.loc[combined]),
        },
        "combination less single": dict(zip(("value", "low", "high"), difference, strict=True)),
        "chosen": {name: _plain(each) for name, each in found.families.items()},
        "verdict": f"The search chose {winner}. The best combination ({combined}) is {above} the best single method "
        f"({single}): {difference[0]:+.3f} ({difference[1]:+.3f} to {difference[2]:+.3f}) of the steering score.",
    }  # fmt: skip


def _plain(candidate: Candidate) -> dict[str, Any]:
    return {**asdict(candidate), "how": candidate.how.model_dump(mode="json")}


def _numbers(row: Mapping[str, Any] | Any) -> dict[str, float]:
    return {name: float(row[name]) for name in ("lfs", "relevance", "steering_score", "perplexity", "degenerate")}


def markdown(table: pd.DataFrame) -> str:
    """The table for people: percentages, best first."""
    shown = table[[name for name in SHOWN if name in table]].sort_values("steering_score", ascending=False)
    lines = ["| | " + " | ".join(shown.columns) + " |", "|---" * (len(shown.columns) + 1) + "|"]
    for name, row in shown.iterrows():
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
