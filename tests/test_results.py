"""The numbers on the pages of claims and of steering are those of the files in docs/results."""

import csv
import itertools
import re
import statistics
from pathlib import Path

import pytest

from neuroglot.studies.registry import STUDIES as STUDY_OF
from neuroglot.studies.settings import read_settings

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"
MODELS = ("gemma3-270m", "smollm2-135m", "qwen2.5-coder-0.5b")
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
SCORES = ("lfs", "relevance", "steering_score")
LINK = re.compile(r"\[([^\]]*)\]\(([^)#]*)(#[^)]*)?\)")


def read(name):
    with (RESULTS / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbers(text):
    """All of a text, in order: commas group thousands, and a link counts by its words."""
    found = re.findall(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e\d+)?", LINK.sub(r"\1", text))
    return [float(each.replace(",", "").replace("−", "-")) for each in found]


def tables(page, heading):
    """The tables under a heading, each a list of rows of cells; the first row is the head."""
    text = (DOCS / page).read_text(encoding="utf-8").replace("\r", "")
    section = re.split(r"^#+ ", text, flags=re.MULTILINE)
    (body,) = [part for part in section if part.startswith(heading + "\n")]
    blocks = itertools.groupby(body.splitlines(), key=lambda line: line.startswith("|"))
    rows = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        for is_table, lines in blocks
        if is_table
    ]
    return [[table[0], *table[2:]] for table in rows]


def in_order(few, many):
    """Whether the few are among the many, in the same order."""
    left = iter(many)
    return all(each in left for each in few)


def rounded(shown, value):
    """Whether a number as it is shown is the value, rounded to as many decimals."""
    decimals = len(shown.partition(".")[2])
    return abs(float(shown.replace(",", "").replace("−", "-")) - float(value)) <= 0.5 * 10**-decimals + 1e-9


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


def test_the_judge_beside_a_person():
    (correlation, *_) = read("lape/judge.csv")
    assert f"with the person is {correlation['value']} " in (DOCS / "claims.md").read_text(encoding="utf-8")


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


def test_rates():
    (table,) = tables("claims.md", "Time and memory")
    found = {}
    for row in read("rates.csv"):
        found.setdefault(row["model"], {})[row["pass"]] = row
    assert len(table) - 1 == len(found)
    for (_, *cells), of in zip(table[1:], found.values(), strict=True):
        passes = ("record active", "record all four sums", "ablate 1 %", "perplexity")
        assert cells[0] == f"{int(of['bare']['tokens_per_second']):,}"
        assert cells[1:5] == [of[name]["of_bare"] if name in of else MISSING for name in passes]
        assert cells[6:] == [of[name]["hours"] for name in passes[:2]]
        if of["bare"]["layers"] == of["bare"]["opened"]:
            assert float(cells[5]) == max(float(row["gib"]) for row in of.values())
        else:
            assert not cells[5]


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


# --- steering --------------------------------------------------------------------------------------------------------


def test_steering_scores():
    scores, parts, differences, targets = tables("steering.md", "Steering scores")
    rows = read("steering/differences.csv")
    assert [row["model"] for row in rows][: len(MODELS)] == list(MODELS)
    for place, row in enumerate(rows):
        model = row["model"]
        found = {each["family"]: each for each in read(f"steering/{model}-scores.csv")}
        assert set(found) <= {shown[0] for shown in scores[1:]} == {shown[0] for shown in parts[1:]}
        for (family, *cells), (same, *shares) in zip(scores[1:], parts[1:], strict=True):
            assert family == same
            if family not in found:  # a target has no such neurons
                assert cells[place] == shares[place] == "–", (model, family)
                continue
            two = {name: f"{float(value):.2f}" for name, value in found[family].items() if name.startswith(SCORES)}
            score = f"{two['steering_score']} ({two['steering_score_low']} to {two['steering_score_high']})"
            score += " †" if found[family]["within"] == "False" else ""
            assert (cells[place], shares[place]) == (score, f"{two['lfs']}, {two['relevance']}"), (model, family)

        _, chosen, single, single_score, both, both_score, difference = differences[1 + place]
        assert (chosen, single, both) == (row["chosen"], row["best_single"], row["best_combination"])
        assert rounded(single_score, row["best_single_score"])
        assert rounded(both_score, row["best_combination_score"])
        values = [float(row[name]) for name in ("difference", "low", "high")]
        assert numbers(difference.replace("− ", "−")) == [round(value, 3) for value in values]
        for name, family in (("best_single_score", single), ("best_combination_score", both)):
            assert row[name] == found[family]["steering_score"]

        by_target = {(each["condition"], each["target"]): each for each in read(f"steering/{model}-by-target.csv")}
        for target, *cells in targets[1:]:
            values = [by_target[name, target]["steering_score"] for name in (chosen, "native")]
            assert cells[2 * place : 2 * place + 2] == [f"{float(value):.2f}" for value in values], (model, target)


def test_prompting_of_the_model_whose_run_was_cut_off():
    rows = read("steering/qwen2.5-coder-1.5b-prompting.csv")
    means = {
        name: statistics.mean(float(row["lfs"]) for row in rows if row["condition"] == name)
        for name in ("prompting I", "prompting II", "native", "intact")
    }
    page = " ".join((DOCS / "steering.md").read_text(encoding="utf-8").split())
    one, two, native, intact = (f"{value:.2f}" for value in means.values())
    assert f"LFS {one} under prompting I and {two} under prompting II" in page
    assert f"{native} native, and {intact} intact" in page
    rated = [float(row["relevance"]) for row in rows if row["condition"] == "prompting I" and row["relevance"]]
    assert f"Relevance under prompting I is {statistics.mean(rated):.2f} over" in page


def test_confusion():
    """By model: what was chosen beside the intact model; then the best of each method."""
    share = lambda value, decimals=1: f"{100 * float(value):.{decimals}f} %" if value else "–"  # noqa: E731
    *by_model, methods, together = tables("howto/confusion.md", "Measured")
    files = sorted((RESULTS / "steering").glob("*-confusion.csv"))
    assert len(by_model) == len(files) > 0
    for place, (table, file) in enumerate(zip(by_model, files, strict=True)):
        rows = read(file.relative_to(RESULTS))
        assert [row["target"] for row in rows] == [cells[0] for cells in table[1:]]
        for row, cells in zip(rows, table[1:], strict=True):
            shown = dict(zip(table[0][1:4], cells[1:4], strict=True))
            method = row["chosen"].replace(" ", "_")
            assert shown["answers"] == str(int(float(row["judged"])))
            assert shown["line pass rate"] == share(row["before"])
            if method:
                assert shown["fixed"] == share(row[f"{method}_after"]) and cells[-1].startswith(row["chosen"])
                assert cells[4] == share(row[f"{method}_gained"], 0)
                assert rounded(cells[5].replace("%", "").replace(" ", "").replace("+", ""),
                               100 * float(row[f"{method}_cost"]))  # fmt: skip
                assert float(row[f"{method}_cost"]) <= 0.02
            names = ["before", *(f"{name}_after" for name in ("ablation", "direction", "drift", "head_rows"))]
            if not (found := [line for line in methods[1:] if line[0] == row["target"]]):
                continue  # of one model only
            (found,) = found
            cells = [cell.removesuffix(" †") for cell in found[5 * place + 1 : 5 * place + 6]]
            assert cells == [share(row[name], 0) for name in names], row["target"]
        alone = [row for row in rows if " " not in row["target"]]
        weights = [float(row["judged"]) for row in alone]
        fixed = [row[f"{row['chosen'].replace(' ', '_')}_after"] if row["chosen"] else row["before"] for row in alone]
        before, after = (
            sum(w * float(value) for w, value in zip(weights, values, strict=True)) / sum(weights)
            for values in ([row["before"] for row in alone], fixed)
        )
        assert together[1 + place][1:] == [share(before), share(after), share((after - before) / (1 - before), 0)]


# --- shrinking -------------------------------------------------------------------------------------------------------


def test_shrinking():
    """Every table whose numbers are in a file; the paper's are those of Liu et al. 2024, Table 2."""
    sizes, languages, _, command, tried, costs, ffn, liu, *_ = tables("howto/shrink.md", "What it costs")
    of_command = {row["what"]: row for row in read("shrink/gemma3-270m-fr-33.csv")}
    for cells, name in zip(command[1:], ("intact", "vocabulary", "refit", "magnitude", "random"), strict=True):
        row = of_command[name]
        assert rounded(cells[1], row["bits"]) and rounded(cells[2], row["times"])
        assert cells[3] == (f"{float(row['low']):.3f} to {float(row['high']):.3f}" if row["low"] else "")
    for cells, row in zip(tried[1:], read("shrink/gemma3-270m-fr-33-tried.csv"), strict=True):
        assert all(rounded(cell, row[name]) for cell, name in zip(cells, row, strict=True))
    for place, row in enumerate(read("shrink/gemma3-270m-fr-33-costs.csv"), 1):
        names = ("parameters", "safetensors", "gguf", "tokens_per_second", "llama_cpp", "fr perplexity", "en bits")
        scale = {"safetensors": 1e6, "gguf": 1e6}
        for cells, name in zip(costs[1:], names, strict=False):
            assert rounded(cells[place], float(row[name]) / scale.get(name, 1)), name
        assert costs[-1][place] == f"{100 * float(row['smoke_xcsqa_cloze_fr']):.1f} %"
    found = {
        tag: {row["what"]: row for row in read(f"shrink/gemma3-270m-{tag}-sizes.csv")} for tag in ("fr", "zh", "hi")
    }
    for share, tokens, _, what, bits, times, _ in sizes[3:]:
        name = "random" if not what else what.split()[0].replace("re-fit", "refit")
        row = found["fr"][name]
        assert share == "33 %" and numbers(tokens) == [float(row["tokens"])]
        assert rounded(bits, row["bits"]) and rounded(times, row["times"])
    for (tag, rows), (_, tokens, _, intact, *times) in zip(found.items(), languages[1:], strict=True):
        assert numbers(tokens) == [float(rows["refit"]["tokens"])]
        assert rounded(intact, rows["intact"]["bits"]), tag
        for name, cell in zip(("refit", "magnitude", "random"), times, strict=True):
            assert rounded(cell, rows[name]["times"]), (tag, name)
    alone = {row["what"]: row for row in read("shrink/gemma3-270m-fr-ffn.csv")}
    for (_, perplexity, times), name in zip(
        ffn[1:], ("intact", "refit, uneven", "magnitude, uneven", "random, uneven"), strict=True
    ):
        assert rounded(perplexity, alone[name]["perplexity"])
        assert rounded(times, alone[name]["times"])
    paper = [(15.56, 5.25), (16.54, 5.83), (7.20, 5.25), (7.62, 5.83)]
    wanted = [after / before for after, before in paper]
    wanted += [float(alone[f"{name}, uneven"]["times"]) for name in ("magnitude", "refit")]
    assert all(rounded(row[2], value) for row, value in zip(liu[1:], wanted, strict=True))


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_a_quarter_of_the_experts():
    (perplexities, items) = tables("experts.md", "A quarter of the experts")
    steps = {row["step"].removeprefix("routers "): row for row in read("moefied/perplexity.csv")}
    for tag, *cells in perplexities[1:]:
        values = [float(steps[name][tag]) for name in perplexities[0][1:]]
        assert all(rounded(*pair) for pair in zip(cells, values, strict=True)), tag
        assert values[2] < values[1] and float(steps["of random rows"][tag]) > 1e7
    assert {row[0] for row in perplexities[1:]} == set(steps["dense"]) - {"step"}
    spread = [float(row["spread"]) for row in read("moefied/figure-1.csv")]
    shared = [float(row["shared_by_all"]) for row in read("moefied/figure-3.csv")]
    parts = [(spread[:12], spread[12:]), None, (shared, shared[:2], shared[6:12], shared[-3:])]
    for (_, cell), part in zip(items[1:], parts, strict=True):
        if part is not None:
            shown = re.findall(r"0\.\d+|\d+(?= %)", cell)
            means = [
                statistics.fmean(each) * (1 if "." in number else 100) for each, number in zip(part, shown, strict=True)
            ]
            assert all(rounded(*pair) for pair in zip(shown, means, strict=True)), cell


# --- the files -------------------------------------------------------------------------------------------------------


def test_every_file_is_linked_and_small_and_names_no_machine():
    linked = {
        (page.parent / target).resolve()
        for page in DOCS.rglob("*.md")
        for _, target, _ in LINK.findall(page.read_text(encoding="utf-8"))
        if target.endswith(".csv")
    }
    files = {path.resolve() for path in RESULTS.rglob("*.csv")}
    assert linked == files
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert len(text) < 60_000, path
        assert not re.search(r"(^|[\s,\"])/\w+/|\\\\", text), path


def test_a_number_that_is_not_in_its_file_would_be_seen():
    assert numbers("LAPE 5 of 7, [LAVE](results/2.csv) 7; + 3.4 %, ×4e7, −0.62") == [5, 7, 7, 3.4, 4e7, -0.62]
    assert rounded("36,127", 36127.09)
    assert rounded("1.38", "1.3847")
    assert not rounded("1.39", "1.3847")
    assert not rounded("-0.62", "0.62")


def interval(row, decimals):
    times, low, high = (f"{float(row[name]):.{decimals}f}" for name in ("times", "low", "high"))
    return f"{times} ({low} to {high})"


def test_healing():
    sizes, controls, ffn, only = tables("howto/shrink.md", "Healing")
    files = {"Gemma 3 270M": "gemma3-270m", "Qwen2.5-Coder 0.5B": "qwen2.5-coder-0.5b"}
    tags = {"French": "fr", "Chinese": "zh", "Hindi": "hi"}
    for name, size, *cells in sizes[1:]:
        model, language = name.split(", ")
        rows = [
            row
            for row in read(f"shrink/{files[model]}-{tags[language]}-sizes.csv")
            if row["share"] and float(row["share"]) == float(size.split()[0]) / 100
        ]
        found = {row["what"]: interval(row, 3) for row in rows if row["times"]}
        before = found.get("refit", found.get("vocabulary"))
        assert cells == [before, found.get("healed", ""), found.get("healed, teacher alone", "")], name
    for name, size, what, *cells in controls[1:]:
        model, language = name.split(", ")
        kind = {"nothing": "not healed", "text and teacher": "healed"}.get(what, what)
        (row,) = [
            row
            for row in read(f"shrink/{files[model]}-{tags[language]}-controls.csv")
            if (row["what"], float(row["share"])) == (kind, float(size.split()[0]) / 100)
        ]
        elsewhere = {name: row[f"elsewhere {name}"] for name in ("times", "low", "high")}
        assert cells == [interval(row, 3), interval(elsewhere, 3)], name
    alone = {row["what"]: row for row in read("shrink/gemma3-270m-fr-ffn.csv")}
    for cells, kind in zip(ffn[1:], ("even", "uneven"), strict=True):
        assert cells[1:] == [interval(alone[f"{name}, {kind}"], 2) for name in ("magnitude", "refit", "healed")]
    for cells, row in zip(only[1:], read("shrink/gemma3-270m-fr-only.csv")[1:], strict=True):
        assert cells == [
            row["what"].replace("adapter", "LoRA"),
            f"{100 * float(row['trained']):.1f}",
            f"{float(row['rate']):g}",
            *(f"{float(row[f'{tag} times']):.3f}" for tag in "fr en de es zh hi ru ja elsewhere".split()),
        ]


def test_units():
    """Every method on neurons and on heads, at equal budgets; a cell is selectivity with its interval."""
    shown, more = tables("results.md", "Neurons and heads on real text")
    names = ("selectivity", "selectivity_low", "selectivity_high")
    files = [read(f"units/{model}.csv") for model in ("gemma3-270m", "qwen2.5-coder-0.5b")]
    found = [{(row["method"], row["budget"]): row for row in rows if row["part"] == "all"} for rows in files]
    for method, *cells in shown[1:]:
        places = [(rows, budget) for rows in found for budget in ("0.05", "0.01", "0.001")]
        for cell, (rows, budget) in zip(cells, places, strict=True):
            value, low, high = (f"{float(rows[method, budget][name]):.1f}" for name in names)
            assert cell == f"{value} ({low} to {high})", method
    for method, *cells in more[1:]:
        for effect, half, seconds, rows in zip(cells[::3], cells[1::3], cells[2::3], found, strict=True):
            row = rows[method, "0.01"]
            assert effect == f"{float(row['on_target']):.2f}, {float(row['off_target']):.2f}"
            assert half == (f"{float(row['split_half']):.2f}" if row["split_half"] else "")
            assert seconds == f"{float(row['seconds']):.0f}"


def test_the_middle_layers():
    middle, ahead, scripts = tables("results.md", "Which language the middle layers speak")
    assert middle[1:] == [list(row.values()) for row in read("units/lens-middle.csv")]
    found = []
    for model, name in (("gemma3-270m", "Gemma 3 270M"), ("qwen2.5-coder-0.5b", "Qwen2.5-Coder 0.5B")):
        cells = {(row["language"], int(row["layer"]), row["tokens_of"]): row for row in read(f"units/{model}-lens.csv")}
        for tag in [row[1] for row in ahead[1:] if row[0] == name]:
            layers = [layer for text, layer, of in cells if (text, of) == (tag, "en") and float(
                cells[tag, layer, "unseen"]["mass"]) <= 0.75 and float(cells[tag, layer, "en"]["mass_low"]) > float(
                cells[tag, layer, tag]["mass_high"])]  # fmt: skip
            mass = {layer: [float(cells[tag, layer, of]["mass"]) for of in ("en", tag)] for layer in layers}
            most = max(layers, key=lambda layer: mass[layer][0] - mass[layer][1])
            found.append([name, tag, ", ".join(map(str, layers)), str(most), *(f"{100 * x:.1f}" for x in mass[most])])
    assert ahead[1:] == found
    rows = {(row["text"], row["layer"]): row for row in read("units/gemma3-270m-scripts.csv")}
    for text, layer, *cells in scripts[1:]:
        assert cells == [f"{100 * float(rows[text, layer][name]):.1f}" for name in scripts[0][2:]]
