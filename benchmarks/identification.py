"""Who tells languages best: lingua with scripts, and fastText, on all built-in text.

    python benchmarks/identification.py

A table by language and set of text: the share that each identifier gives its language. `cut` are the first five words
of a sentence (of a language without spaces, the first twelve characters).
"""

import argparse
from collections.abc import Iterator

import pandas as pd

import neuroglot as ng
from neuroglot.corpus.prompts import _sentences, answer_in
from neuroglot.languages.identifiers import IDENTIFICATIONS, identifier
from neuroglot.languages.tags import closest, language_name


def cut(text: str) -> str:
    words = text.split()
    return " ".join(words[:5]) if len(words) >= 5 else text[:12]


def texts() -> Iterator[tuple[str, str, str]]:
    """Set, language and text."""
    for name in ("starter", "questions", "openings"):
        corpus = ng.load_corpus(name)
        for tag in corpus.languages:
            for text in corpus[tag]:
                yield name, tag, text
                if name == "starter":
                    yield "starter, cut", tag, cut(text)
    for tag in _sentences():
        yield "«answer in X»", tag, answer_in(tag, said_in=tag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    table = pd.DataFrame(list(texts()), columns=["set", "language", "text"])
    built_in = list(ng.load_corpus("questions").languages)
    for name in IDENTIFICATIONS:
        tell = identifier(name, built_in)
        found = [tell(text) for text in table["text"]]
        hits = zip(found, table["language"], strict=True)
        table[name] = [said is not None and closest(said, [tag]) is not None for said, tag in hits]
    among = table[table["language"].isin(built_in)]
    shares = among.groupby(["set"], sort=False)[list(IDENTIFICATIONS)].mean()
    shares.insert(0, "texts", among.groupby("set", sort=False).size())
    print(shares.map(lambda value: f"{value:.2%}" if value <= 1 else f"{value:.0f}"))
    by = among[among["set"] != "«answer in X»"].groupby(["language", "set"], sort=False)[list(IDENTIFICATIONS)].mean()
    print(by.unstack("set").map(lambda value: f"{value:.1%}").to_string())
    requests = table[table["set"] == "«answer in X»"]
    missed = requests.loc[~requests["fasttext"], "language"]
    print(f"«answer in X» of {len(requests)} languages: fastText misses {', '.join(map(language_name, missed))}.")


if __name__ == "__main__":
    main()
