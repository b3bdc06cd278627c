"""The numbers on the pages of claims and of steering are those of the files in docs/results."""

import csv
import itertools
import re
import statistics
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"
MODELS = ("gemma3-270m", "smollm2-135m", "qwen2.5-coder-0.5b")
STUDIES = {"Language-Specific Neurons (LAPE)": "lape", "Converging to a Lingua Franca": "lingua-franca"}
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
    verdicts = {row["item"]: row for row in read(f"{study}/models.csv")}
    table, *_ = tables("claims.md", heading)
    for item, _, *cells in table[1:]:
        source = "Figure 2" if study == "lape" and item in ("Figure 3", "Figure 8") else item
        for model, cell in zip(MODELS, cells, strict=True):
            assert numbers(cell), (item, model)
            assert in_order(numbers(cell), numbers(said[source, model])), (item, model)
            if item == "Figure 8":
                assert cell.replace(" ", "") == re.search(r"Figure 8.*?: (\S+ to \S+%)", said[source, model])[
                    1
                ].replace(" ", "")
            verdict = re.match(r"\[(agrees|does not agree)\]", cell)
            if item in verdicts and source == item:
                assert (verdict[1] if verdict else "no verdict") == verdicts[item][model], (item, model)
            elif verdict:  # Figure 3 is Figure 2 of several models, each of which has a page of its own
                agrees = len(diagonal(f"lape/{model}/figure-2-lape.csv")) > 7 / 2
                assert verdict[1] == ("agrees" if agrees else "does not agree")
            assert all(model in target or target.endswith("items.csv") for _, target, _ in LINK.findall(cell))
    shown = {row[0] for row in table[1:]}
    assert set(verdicts) - shown <= {"Figure 4", "Figure 7", "Appendix B"}, "a row is missing"


def test_what_items_say_is_what_their_tables_say():
    for model in MODELS:
        said = {row["item"]: row["measured"] for row in read("lape/items.csv") if row["model"] == model}
        for method in ("LAPE", "LAP", "LAVE"):
            count = len(diagonal(f"lape/{model}/figure-2-{method.lower()}.csv"))
            assert f"{method}: diagonal-dominant for {count} of 7" in said["Figure 2"]
        sizes = [int(size) for size in read(f"lape/{model}/table-3.csv")[0].values()]
        assert {min(sizes), max(sizes), sum(sizes)} <= set(numbers(said["Table 3"]))
        layers = [sum(int(row[tag]) for tag in row if tag != "layer") for row in read(f"lape/{model}/figure-5.csv")]
        third = len(layers) // 3  # 18, 24 and 30 layers
        shares = [sum(part) / sum(layers) for part in (layers[:third], layers[third : 2 * third], layers[2 * third :])]
        assert [f"{share:.0%}" for share in shares] == re.findall(r"\d+%", said["Figure 5"])[:3]
        growth = [float(row["fr"]) for row in read(f"lape/{model}/figure-4.csv")]
        assert f"{growth[0]:+.0%} at 1.0%" in said["Figure 4"]
        repaired = read(f"lape/{model}/table-4.csv")
        repaired, off = (sum(int(row[name]) for row in repaired) for name in ("repaired", "off_target"))
        assert f"{repaired} of {off} off-target" in said["Table 4"]

        said = {row["item"]: row["measured"] for row in read("lingua-franca/items.csv") if row["model"] == model}
        for row in read(f"lingua-franca/{model}/figure-2.csv"):
            shown = [f"{float(row[name]):.4f}" for name in ("value", "low", "high")]
            assert "{} (95 % interval {} to {})".format(*shown) in said["Figure 2"]
        sizes = [int(row["neurons"]) for row in read(f"lingua-franca/{model}/figure-6.csv")]
        assert {min(sizes), max(sizes), sum(sizes)} <= set(numbers(said["Figure 6"]))


def test_sizes_of_regions():
    _, (_, smallest, largest) = tables("claims.md", "Converging to a Lingua Franca")
    for place, model in enumerate(MODELS, 1):
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


def test_babel_s_numbers_are_on_the_pages_that_say_how_they_were_measured():
    (table,) = tables("claims.md", "Unraveling Babel")
    said = {row["item"]: row for row in read("babel/items.csv")}
    for item, _, _, cell, smollm2 in table[1:]:
        if item in said:
            assert LINK.match(smollm2)[1] == said[item]["verdict"], item
            assert set(numbers(smollm2)) <= set(numbers(said[item]["measured"])), item
        else:
            assert not LINK.search(smollm2), item
        pages = [(DOCS / target).read_text(encoding="utf-8") for _, target, _ in LINK.findall(cell)]
        assert set(numbers(cell)) <= {number for page in pages for number in numbers(page)}, cell


def test_our_own_claims():
    (table,) = tables("claims.md", "Our own claims")
    differences = {row["model"]: row for row in read("steering/differences.csv")}
    for claim, command, cell, _ in table[1:]:
        ((_, target, _),) = LINK.findall(cell)
        shown = re.findall(r"[-−]?\d[\d,.]*\d|\d", LINK.sub(r"\1", cell))
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
        else:
            (model,) = [model for model in MODELS if model in command] or MODELS[:1]
            values = [differences[model][name] for name in ("difference", "low", "high")]
        assert [rounded(*pair) for pair in zip(shown, values, strict=True)] == [True] * 3, claim


# --- steering --------------------------------------------------------------------------------------------------------


def test_steering_scores():
    scores, differences, targets = tables("steering.md", "Steering scores of three models")
    for place, model in enumerate(MODELS):
        found = {row["family"]: row for row in read(f"steering/{model}-scores.csv")}
        assert sorted(found) == sorted(row[0] for row in scores[1:])
        for family, *cells in scores[1:]:
            two = {
                name: f"{float(found[family][name]):.2f}"
                for name in found[family]
                if name.startswith(("lfs", "rel", "steer"))
            }
            score = f"{two['steering_score']} ({two['steering_score_low']} to {two['steering_score_high']})"
            score += " †" if found[family]["within"] == "False" else ""
            assert cells[3 * place : 3 * place + 3] == [score, two["lfs"], two["relevance"]], (model, family)

        (row,) = [row for row in read("steering/differences.csv") if row["model"] == model]
        _, chosen, single, single_score, both, both_score, difference = differences[1 + place]
        assert (chosen, single, both) == (row["chosen"], row["best_single"], row["best_combination"])
        assert rounded(single_score, row["best_single_score"])
        assert rounded(both_score, row["best_combination_score"])
        values = [float(row[name]) for name in ("difference", "low", "high")]
        assert numbers(difference) == [round(value, 3) for value in values]
        for name, family in (("best_single_score", single), ("best_combination_score", both)):
            assert row[name] == found[family]["steering_score"]

        by_target = {(row["condition"], row["target"]): row for row in read(f"steering/{model}-by-target.csv")}
        for target, *cells in targets[1:]:
            values = [by_target[name, target]["steering_score"] for name in (chosen, "native")]
            assert cells[2 * place : 2 * place + 2] == [f"{float(value):.2f}" for value in values], (model, target)


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
