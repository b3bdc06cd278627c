"""What everything costs, beside the bare pass and beside others: one table.

    make benchmarks                                   # Gemma 3 270M and SmolLM2 135M
    python benchmarks/table.py --model gemma3-270m --only recording perplexity

Rivals that are not installed are left out. The table is printed and saved, with all times, under benchmarks/results.
"""

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from unittest.mock import patch

import rivals
import torch
from side_by_side import Row, environment, measure, write
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

import neuroglot as ng
from neuroglot.generation.engine import generate
from neuroglot.tokens.packing import pack

BLOCK, BATCH = 512, 1024
EVERYTHING = ["active", "activation", "hidden", "magnitude"]


class Setting:
    """A model and the text that every row reads.

    Attributes:
        model: what is timed.
        tokens: of packed text that a row reads, with BOS.
        repeats: of every arm.
        clock: of seconds.
    """

    def __init__(self, name: str, tokens: int, repeats: int, clock: Callable[[], float]):
        self.name, self.tokens, self.repeats, self.clock = name, tokens, repeats, clock
        self.model = ng.load_model(name)
        self.corpus = ng.load_corpus("starter", languages=["en"])

    @cached_property
    def batches(self) -> list[Tensor]:
        """Packed text."""
        blocks = pack(self.model, self.corpus["en"], "en", block=BLOCK, tokens=self.tokens)
        return list(blocks.split(BATCH // BLOCK))

    @cached_property
    def directory(self) -> tempfile.TemporaryDirectory[str]:
        """The model as a checkpoint, which TransformerLens wants the config of."""
        folder = tempfile.TemporaryDirectory()
        self.model.network.config.save_pretrained(folder.name)
        return folder

    @torch.inference_mode()
    def bare(self) -> None:
        """The body over the packed text."""
        for batch in self.batches:
            self.model.hidden_states(batch)

    def record(self, statistics: list[str], partition: ng.experts.Partition | None = None) -> ng.Recording:
        """The same text, recorded."""
        return ng.record(
            self.model, self.corpus, statistics=statistics, partition=partition,
            tokens=self.tokens, block=BLOCK, batch_tokens=BATCH, progress=False,
        )  # fmt: skip

    def row(self, name: str, arms: dict[str, Callable[[], object]], base: str, tokens: int = 0, note: str = "") -> Row:
        """Measure, and say that it is done."""
        row = measure(
            f"{name} ({self.name})", arms, base=base, repeats=self.repeats, tokens=tokens, note=note, clock=self.clock
        )
        print("\n".join(row.lines()), flush=True)
        return row


def have(package: str) -> bool:
    if importlib.util.find_spec(package) is None:
        print(f"{package} is not installed; its arm is left out")
        return False
    return True


def recording(given: Setting) -> Iterator[Row]:
    """Counts for LAPE over packed text, ours and theirs; then everything at once."""
    model, count = given.model, sum(batch.numel() for batch in given.batches)
    counting = {"plain hooks": rivals.plain_hooks(model)}
    if have("nnsight"):
        counting["nnsight"] = rivals.nnsight(model)
    ours = given.record(["active"]).active[..., 0]
    theirs = {name: run(given.batches) for name, run in counting.items()}
    if have("transformer_lens"):  # last: it wraps the modules of the model
        counting["TransformerLens"] = rivals.transformer_lens(ng.load_model(given.name), given.directory.name)
        theirs["TransformerLens"] = counting["TransformerLens"](given.batches)
    same = {name: int((ours - counts).abs().max()) for name, counts in theirs.items()}
    arms: dict[str, Callable[[], object]] = {"Neuroglot": lambda: given.record(["active"]), "bare body": given.bare}
    arms |= {name: lambda run=run: run(given.batches) for name, run in counting.items()}
    note = f"largest difference from our counts: {same}; TransformerLens and nnsight run the language-model head too."
    yield given.row("counts for LAPE", arms, "bare body", count, note)

    split = ng.experts.partition(model, 256, kind="random")
    arms = {
        "counts": lambda: given.record(["active"]),
        "four sums": lambda: given.record(EVERYTHING),
        "four sums and 256 experts": lambda: given.record(EVERYTHING, split),
        "bare body": given.bare,
    }
    yield given.row("recording", arms, "bare body", count)


def sentences(given: Setting) -> Iterator[Row]:
    """Ragged text: one vector a sentence, and everything else in the same pass."""
    model = given.model
    texts = sorted(list(given.corpus["en"])[:48], key=len)
    parallel = ng.Corpus({"en": texts}, parallel=True)
    first = list(model.begin)
    rows = [torch.tensor([first + model.tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in texts]
    rows.sort(key=lambda row: -row.shape[1])
    groups: list[list[Tensor]] = [[]]
    for row in rows:  # batches as ours are: of like length, padded
        if groups[-1] and groups[-1][0].shape[1] * (len(groups[-1]) + 1) > BATCH:
            groups.append([])
        groups[-1].append(row)
    padded = []
    for group in groups:
        length = group[0].shape[1]
        ids = torch.cat([torch.nn.functional.pad(row, (0, length - row.shape[1])) for row in group])
        mask = torch.cat([torch.nn.functional.pad(torch.ones_like(row), (0, length - row.shape[1])) for row in group])
        padded.append((ids, mask))

    @torch.inference_mode()
    def bare() -> None:
        for ids, mask in padded:
            model.hidden_states(ids, mask)

    def ours(statistics: list[str]) -> None:
        ng.record_samples(model, parallel, statistics=statistics, batch_tokens=BATCH, progress=False)

    arms = {
        "vectors and embeddings": lambda: ours([]),
        "and four sums": lambda: ours(EVERYTHING),
        "bare body": bare,
        "published: a sentence a time": lambda: rivals.per_sentence(model)(rows),
    }
    yield given.row("sentences", arms, "bare body", sum(row.numel() for row in rows))


def perplexity(given: Setting) -> Iterator[Row]:
    """Perplexity, and the same with neurons off."""
    model, network = given.model, given.model.network
    batches = given.batches[:2]
    count = sum(batch.numel() for batch in batches)

    @torch.inference_mode()
    def body_and_head() -> None:
        for batch in batches:
            for states in model.hidden_states(batch):
                for some in states[:-1].split(128):
                    model.logits(some)

    @torch.inference_mode()
    def whole_logits() -> None:
        for batch in batches:
            logits = network(batch, use_cache=False).logits
            cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten().long())

    def ours() -> None:
        ng.evaluate.perplexity(
            model, given.corpus, tokens=(BLOCK - 1) * sum(map(len, batches)), block=BLOCK, batch_tokens=BATCH,
            progress=False,
        )  # fmt: skip

    off = ng.Deactivate(torch.rand(model.layers, model.neurons, generator=torch.Generator().manual_seed(0)) < 0.01)

    def edited() -> None:
        with ng.intervene(model, off):
            ours()

    arms = {
        "Neuroglot": ours,
        "with 1 % of neurons off": edited,
        "body and one head product": body_and_head,
        "whole logits": whole_logits,
    }
    yield given.row("perplexity", arms, "body and one head product", count)


def matrix(given: Setting) -> Iterator[Row]:
    """The perplexity-change matrix of two languages: intact, each one's neurons off, random ones off."""
    model, tags, block = given.model, ["en", "fr"], 256
    corpus = ng.load_corpus("starter", languages=tags)
    batches = [batch for tag in tags for batch in pack(model, corpus[tag], tag, block=block, tokens=block).split(1)]
    chosen = torch.rand(len(tags), model.layers, model.neurons, generator=torch.Generator().manual_seed(0)) < 0.01
    neurons = ng.NeuronSet(chosen, tags)

    @torch.inference_mode()
    def passes() -> None:
        for _ in range(2 + len(tags)):
            for batch in batches:
                for states in model.hidden_states(batch):
                    for some in states[:-1].split(128):
                        model.logits(some)

    def ours() -> None:
        ng.evaluate.perturb(
            model, corpus, neurons, tokens=block - 1, block=block, seeds=1, batch_tokens=block, progress=False
        )  # fmt: skip

    count = (2 + len(tags)) * sum(batch.numel() for batch in batches)
    arms = {"Neuroglot": ours, "as many bodies and head products": passes}
    yield given.row("perplexity-change matrix, 2 languages", arms, "as many bodies and head products", count)


def generation(given: Setting) -> Iterator[Row]:
    """Greedy generation with interventions in force."""
    model, tokens = given.model, 16
    model.network.generation_config.eos_token_id = None
    prompts = list(ng.load_corpus("openings", languages=["es"])["es"])[:8]
    chosen = torch.rand(2, model.layers, model.neurons, generator=torch.Generator().manual_seed(0)) < 0.01

    def run(*steps: ng.Intervention) -> None:
        with ng.intervene(model, *steps):
            generate(model, prompts, tokens=tokens, repetition_penalty=1.1)

    arms = {
        "1 % off, 1 % raised": lambda: run(ng.Deactivate(chosen[0]), ng.Raise(chosen[1], 0.01)),
        "without": run,
    }
    yield given.row("generation", arms, "without", tokens * len(prompts))


def opening(given: Setting) -> Iterator[Row]:
    """A GGUF file opened for the first time, which converts it, and its converted copy opened again."""

    def anew() -> None:
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"NEUROGLOT_CACHE": folder}):
            ng.load_model(given.name)

    yield given.row("opening, converted before", {"Neuroglot": lambda: ng.load_model(given.name)}, "Neuroglot")
    once = {"Neuroglot": anew}  # which is slow, and needs no warming
    row = measure(f"opening for the first time ({given.name})", once, base="Neuroglot", repeats=1, warm=False)
    print("\n".join(row.lines()), flush=True)
    yield row


def clustering(given: Setting) -> Iterator[Row]:
    """Balanced k-means of the middle layer's up-projection."""
    from neuroglot.experts.kmeans import balanced_kmeans

    rows = normalize(given.model.ffns[given.model.layers // 2].up_rows.detach().float(), dim=1)
    arms: dict[str, Callable[[], object]] = {"Neuroglot": lambda: balanced_kmeans(rows, 256, 0)}
    if have("k_means_constrained"):
        from k_means_constrained import KMeansConstrained

        size = len(rows) // 256
        arms["k-means-constrained"] = lambda: KMeansConstrained(256, size_min=size, size_max=size, random_state=0).fit(
            rows.double().numpy()
        )
    yield given.row("balanced k-means into 256", arms, "Neuroglot", note="what it finds is in benchmarks/kmeans.py.")


def methods(given: Setting) -> Iterator[Row]:
    """What is computed after the pass, at the sizes of large models; no model is run."""
    generator = torch.Generator().manual_seed(0)
    shape = (80, 28_672, 20)  # Llama 2 70B, 20 languages
    counted = torch.randint(0, 1_000_000, shape, generator=generator)
    recorded = ng.Recording.from_counts(counted, torch.full((20,), 1_000_000), [f"qa{chr(97 + i)}" for i in range(20)])
    arms = {"Neuroglot": lambda: ng.identify.lape(recorded)}
    yield given.row("LAPE of 2.3 M neurons × 20 languages", arms, "Neuroglot")
    del counted, recorded

    languages, n, layers, neurons = ["en", "zh", "fr", "es", "pt", "ar", "vi", "hi", "id"], 100, 18, 2048
    vectors = torch.randn(len(languages), n, layers * neurons, generator=generator)
    samples = ng.Samples.from_vectors(vectors, languages, layers=layers)

    def pairs() -> Tensor:
        total = torch.zeros(len(languages), layers * neurons, dtype=torch.float64)
        for k in range(len(languages)):
            for i in range(n):
                for j in range(i + 1, n):
                    total[k] += samples.vectors[k, i] * samples.vectors[k, j]
        return total

    arms = {"Neuroglot": lambda: ng.identify.contributions(samples), "loop over pairs": pairs}
    yield given.row("contribution scores, n = 100", arms, "Neuroglot")
    arms = {
        "map": lambda: ng.alignment.similarity_map(samples),
        "LRDS and SADS by layer, with intervals": lambda: ng.alignment.by_layer(samples),
    }
    yield given.row("similarity of 900 samples × 36,864", arms, "map")


ROWS = {
    "recording": recording, "sentences": sentences, "perplexity": perplexity, "matrix": matrix,
    "generation": generation, "opening": opening, "clustering": clustering, "methods": methods,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="one or more; by default the two that packages ship")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--tokens", type=int, default=3072, help="of packed text a row reads")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: other programs do not count")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "table")
    asked = parser.parse_args()
    clock = time.perf_counter if asked.clock == "wall" else time.process_time
    print(environment())
    rows = []
    for index, name in enumerate(asked.model or ["gemma3-270m", "smollm2-135m"]):
        given = Setting(name, asked.tokens, asked.repeats, clock)
        for kind in asked.only:
            if kind == "methods" and index:
                continue  # it runs no model
            for row in ROWS[kind](given):
                rows.append(row)
                write(rows, asked.out)
    print(f"wrote {asked.out.with_suffix('.md')} and {asked.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
