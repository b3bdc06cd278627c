"""The numbers on the page of claims are those of the files in docs/results."""

import re
import statistics

import pytest
from pages import DOCS, LINK, MODELS, RESULTS, in_order, numbers, read, rounded, tables

from neuroglot.studies.registry import STUDIES as STUDY_OF
from neuroglot.studies.settings import read_settings

STUDIED = (*MODELS, "qwen2.5-coder-1.5b")
STUDIES = {
    "Language-Specific Neurons (LAPE)": "lape",
    "Converging to a Lingua Franca": "lingua-franca",
    "Unraveling Babel": "babel",
}
MISSING = "–"
"""A cell of what was not measured on that model; the page says why."""
ELSEWHERE = {  # rows of the page, by the item whose sentences have their numbers
    "lape": {"Figure 3": "Figure 2", "Figure 8": "Figure 2"},
    "lingua-franca": {},
    "babel": {
        "Tables 2, 8, 9": "Table 2",
        "By magnitude": "Table 2",
        "Tables 3, 5, 10": "Table 3",
        "Tables 4, 6": "Table 4",
    },
}


def diagonal(name):
    """The languages whose own neurons, ablated, harm them more than they harm any other; English is not counted."""
    changes = {(row["off"], row["measured"]): float(row["change"]) for row in read(name) if row["off"] != "random"}
    languages = {measured for _, measured in changes} - {"en"}
    return {one for one in languages if all(changes[one, one] >= changes[one, other] for _, other in changes)}


# --- the papers' tables ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heading", STUDIES)
def test_the_papers_tables_are_those_of_the_items(heading):
    study = STUDIES[heading]
    said = {(row["item"], row["model"]): row["measured"] for row in read(f"{study}/items.csv")}
    if study == "lape":  # parameter variation's numbers are the last of the cell
        for row in read("lape/pv.csv") if (RESULTS / "lape" / "pv.csv").is_file() else []:
            said[row["item"], row["model"]] += " " + row["measured"]
    verdicts = {row["item"]: row for row in read(f"{study}/models.csv")}
    table, *_ = tables("claims.md", heading)
    for item, _, *cells in table[1:]:
        source = ELSEWHERE[study].get(item, item)
        for model, cell in zip(STUDIED, cells, strict=True):
            if cell == MISSING:
                assert verdicts[source][model] == "not measured", (item, model)
                continue
            assert numbers(cell), (item, model)
            found = numbers(said[source, model])
            level = study == "babel" and item == "Figure 1"  # the lowest and the highest of some
            assert set(numbers(cell)) <= set(found) if level else in_order(numbers(cell), found), (item, model)
            if item == "Figure 8":
                assert cell.replace(" ", "") == re.search(r"Figure 8.*?: (\S+ to \S+%)", said[source, model])[
                    1
                ].replace(" ", "")
            verdict = re.match(r"\[(agrees|does not agree)\]", cell)
            if study == "lape" and item == "Figure 3":  # Figure 2 of several models, each of which has its own page
                agrees = len(diagonal(f"lape/{model}/figure-2-lape.csv")) > 7 / 2
                assert verdict[1] == ("agrees" if agrees else "does not agree")
            elif item not in ("Figure 8", "By magnitude"):
                assert (verdict[1] if verdict else "no verdict") == verdicts[source][model], (item, model)
            assert all(model in target or target.endswith("items.csv") for _, target, _ in LINK.findall(cell))
    shown = {ELSEWHERE[study].get(row[0], row[0]) for row in table[1:]} | {row[0] for row in table[1:]}
    over = {"lingua-franca": {"Figure 4", "Figure 7"}}  # of many models, in a table of their own
    assert set(verdicts) - shown <= over.get(study, set()), "a row is missing"


def test_what_items_say_is_what_their_tables_say():
    for model in STUDIED:
        said = {row["item"]: row["measured"] for row in read("lape/items.csv") if row["model"] == model}
        for method in ("LAPE", "LAP", "LAVE"):
            count = len(diagonal(f"lape/{model}/figure-2-{method.lower()}.csv"))
            assert f"{method}: diagonal-dominant for {count} of 7" in said["Figure 2"]
        if "Table 3" not in said:
            continue
        sizes = [int(size) for size in read(f"lape/{model}/table-3.csv")[0].values()]
        assert {min(sizes), max(sizes), sum(sizes)} <= set(numbers(said["Table 3"]))
        layers = [sum(int(row[tag]) for tag in row if tag != "layer") for row in read(f"lape/{model}/figure-5.csv")]
        third = len(layers) // 3
        parts = (layers[:third], layers[third : len(layers) - third], layers[len(layers) - third :])
        shares = [sum(part) / sum(layers) for part in parts]
        assert [f"{share:.0%}" for share in shares] == re.findall(r"\d+%", said["Figure 5"])[:3]
        growth = [float(row["fr"]) for row in read(f"lape/{model}/figure-4.csv")]
        assert f"{growth[0]:+.0%} at 1.0%" in said["Figure 4"]
        repaired = read(f"lape/{model}/table-4.csv")
        repaired, off = (sum(int(row[name]) for row in repaired) for name in ("repaired", "off_target"))
        assert f"{repaired} of {off} off-target" in said["Table 4"]

    for model in STUDIED:
        said = {row["item"]: row["measured"] for row in read("lingua-franca/items.csv") if row["model"] == model}
        for row in read(f"lingua-franca/{model}/figure-2.csv"):
            shown = [f"{float(row[name]):.4f}" for name in ("value", "low", "high")]
            assert "{} (95 % interval {} to {})".format(*shown) in said["Figure 2"]
        sizes = [int(row["neurons"]) for row in read(f"lingua-franca/{model}/figure-6.csv")]
        assert {min(sizes), max(sizes), sum(sizes)} <= set(numbers(said["Figure 6"]))


def test_seconds_of_a_study():
    names = {"LAPE": "lape", "LAPE, parameter variation": "lape, parameter variation", "Lingua Franca": "lingua-franca",
             "Babel": "babel", "tuning for parameter variation": "tune, eight languages",
             "tuning for Figure 4 of Babel": "tune"}  # fmt: skip
    rows = read("studies.csv")
    *table, (_, *recorded) = tables("claims.md", "Time and memory")[-1][1:]
    seconds = {(row["study"], row["model"]): row["seconds"] for row in rows}
    assert {
        (names[title], model): cell for title, *cells in table for model, cell in zip(STUDIED, cells, strict=True)
    } == seconds
    for model, cell in zip(STUDIED, recorded, strict=True):
        rates = sorted(
            float(row["recorded_tokens"]) / float(row["recording_seconds"])
            for row in rows
            if row["model"] == model and row["recorded_tokens"]
        )
        assert numbers(cell) == [round(rate, -3) for rate in rates]


def test_the_judge_beside_a_person():
    (correlation, *_) = read("lape/judge.csv")
    said = " ".join((DOCS / "claims.md").read_text(encoding="utf-8").split())
    assert (
        f"with the person is {correlation['reply']} by its replies and {correlation['expected']} by that mean" in said
    )
    said = (DOCS / "steering.md").read_text(encoding="utf-8")
    assert f"with a person goes from {correlation['reply']} to {correlation['expected']}" in said


def test_sizes_of_regions():
    _, (_, smallest, largest) = tables("claims.md", "Converging to a Lingua Franca")
    for place, model in enumerate(STUDIED, 1):
        shares = [float(row["share"].rstrip("%")) for row in read(f"lingua-franca/{model}/table-1.csv")]
        assert numbers(smallest[place]) == [min(shares)]
        assert numbers(largest[place]) == [max(shares)]


def test_over_training_and_over_size():
    items, steps = tables("claims.md", "Over training and over size")
    for (item, _, verdict, cell), row in zip(items[1:], read("lingua-franca/over-models.csv"), strict=True):
        assert item == row["item"]
        assert LINK.match(verdict)[1] == row["verdict"]
        assert numbers(cell)
        assert in_order(numbers(cell), numbers(row["measured"])), item
    measured = {row["step"]: row for row in read("lingua-franca/training/figure-4.csv")}
    for step, *cells in steps[1:]:
        for name, cell in zip(("lrds", "sads", "sklr", "perplexity"), cells, strict=True):
            assert rounded(cell, measured[step][name]), (step, name)


def test_babel_s_items_are_those_of_their_tables():
    for model in STUDIED:
        said = {row["item"]: row["measured"] for row in read("babel/items.csv") if row["model"] == model}
        for choice in ("threshold 0.05", "threshold 0.01", "threshold 0.005") if "Table 2" in said else ():
            rows = [row for row in read(f"babel/{model}/table-2.csv") if row["choice"] == choice]
            better = sum(float(row["experts"]) < float(row["random"]) for row in rows)
            medians = [
                statistics.median(float(row[name]) for row in rows) for name in ("experts", "random", "original")
            ]
            words = re.search(
                rf"{choice} .*?(\d) of (\d) languages.*?perplexity (\S+), random (\S+), original (\S+)\.",
                said["Table 2"],
            )
            assert [int(words[1]), int(words[2])] == [better, len(rows)]
            assert all(rounded(words[3 + place], median) for place, median in enumerate(medians))
        if "Figure 4" not in said:
            continue
        changes = [
            statistics.fmean(float(row[tag]) for tag in row if tag != "layer")
            for row in read(f"babel/{model}/figure-4.csv")
        ]
        most = max(range(len(changes)), key=changes.__getitem__)
        assert f"most in layer {most + 1} of {len(changes)}, by {changes[most]:.4f}" in said["Figure 4"]


def test_languages_whose_last_layer_changes_most():
    last = []
    for model in STUDIED:
        *layers, at_the_end = read(f"babel/{model}/figure-4.csv")
        tags = [tag for tag in at_the_end if tag != "layer"]
        last.append(sum(all(float(at_the_end[tag]) > float(row[tag]) for row in layers) for tag in tags))
    said = " ".join((DOCS / "claims.md").read_text(encoding="utf-8").split())
    assert last[:3] == [0, 0, 0] and "In the other three models it is so for 0 of 9." in said
    assert f"it is in the 1.5B, for {last[3]} of 9;" in said


def test_rates():
    models, shapes, _ = tables("claims.md", "Time and memory")
    found = {}
    for row in read("rates.csv"):
        found.setdefault(row["model"], {})[row["pass"]] = row
    assert len(models) - 1 == len(found)
    for (_, bare, ablated, memory), of in zip(models[1:], found.values(), strict=True):
        assert bare == f"{int(of['bare']['tokens_per_second']):,}"
        assert ablated == of["ablate 1 %"]["of_bare"]
        whole = of["bare"]["layers"] == of["bare"]["opened"]
        assert memory == (str(max(float(row["gib"]) for row in of.values())) if whole else "")
    passes = ("record active", "record all four sums", "perplexity")
    for (name, *cells), of in zip(shapes[1:], [each for name, each in found.items() if "llama" in name], strict=True):
        assert "shape" in name
        assert cells[:3] == [of[each]["of_bare"] for each in passes]
        assert cells[3:] == [of[each]["hours"] for each in passes[:2]]


def test_the_settings_of_the_page_are_read():
    for path in sorted((DOCS.parent / "benchmarks" / "evidence").glob("*.toml")):
        name = next(name for name in STUDY_OF if path.stem.startswith(name))
        assert read_settings(STUDY_OF[name].Settings, path.read_text(encoding="utf-8"), path.name)


def test_our_own_claims():
    (table,) = tables("claims.md", "Our own claims")
    differences = {row["model"]: row for row in read("steering/differences.csv")}
    for claim, command, cell, _ in table[1:]:
        ((_, target, _),) = LINK.findall(cell)
        shown = re.findall(r"[-−]?\d[\d,.]*\d|\d", LINK.sub(r"\1", cell).replace("− ", "−"))
        if target.endswith(".md"):
            assert set(numbers(cell)) <= set(numbers((DOCS / target).read_text(encoding="utf-8"))), claim
            continue
        found = read(target.removeprefix("results/"))
        if "shrink" in target:
            times = {row["what"].removesuffix(", uneven"): row["times"] for row in found}
            values = [times["refit"], times["magnitude"], times["random"]]
        elif "kmeans" in target:
            seconds = [float(row["seconds"]) for row in found]
            values = [statistics.median(seconds), min(seconds), max(seconds)]
        elif "units" in target:
            chosen = [
                row for row in found if (row["budget"], row["part"]) == ("0.01", "all") and "heads" not in row["method"]
            ]
            chosen.sort(key=lambda row: -float(row["selectivity"]))
            (lape,) = [row for row in chosen if row["method"] == "lape"]
            assert chosen[0]["method"] == "margin"
            of = [chosen[0], lape, chosen[1]]
            values = [row[name] for row in of for name in ("selectivity", "selectivity_low", "selectivity_high")]
        elif "moefied" in target:
            steps = {row["step"]: row["fr"] for row in found}
            wanted = ("routers trained", "routers fitted", "routers of random rows", "dense")
            values = [steps[step] for step in wanted]
        else:
            (model,) = [model for model in differences if model in command] or MODELS[:1]
            values = [differences[model][name] for name in ("difference", "low", "high")]
        assert all(rounded(*pair) for pair in zip(shown, values, strict=True)), claim
