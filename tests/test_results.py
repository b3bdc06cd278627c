"""The numbers on the pages of results, steering, shrinking and experts are those of the files in docs/results."""

import re
import statistics

from pages import DOCS, LINK, MODELS, RESULTS, interval, numbers, read, rounded, tables

SCORES = ("lfs", "relevance", "steering_score")


# --- steering --------------------------------------------------------------------------------------------------------


def test_steering_scores():
    scores, parts, differences, targets = tables("steering.md", "Steering scores")
    rows = read("steering/differences.csv")
    assert [row["model"] for row in rows] == [*MODELS, "qwen2.5-coder-1.5b"]
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


def test_why_no_combination_is_above_prompting_in_the_instruct_models():
    """The sentences under the tables: the best of all combinations, and prompting in every target but Hindi."""
    page = " ".join((DOCS / "steering.md").read_text(encoding="utf-8").split())
    best, alone, apart = [], [], []
    for model in ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"):
        scores = {row["family"]: float(row["steering_score"]) for row in read(f"steering/{model}-scores.csv")}
        best.append(max(score for name, score in scores.items() if " + " in name))
        alone.append(scores["prompting I"])
        rows = [row for row in read(f"steering/{model}-by-target.csv") if row["condition"] == "prompting I"]
        rows = [row for row in rows if row["target"] != "hi"]
        apart.append(statistics.harmonic_mean([statistics.mean(float(r[n]) for r in rows) for n in SCORES[:2]]))
    assert f"the best combination has {best[0]:.3f} and {best[1]:.3f}" in page
    assert f"prompting I has {alone[0]:.3f} and {alone[1]:.3f}" in page
    assert f"prompting I alone scores {apart[0]:.2f} and {apart[1]:.2f}" in page


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


# --- two GPUs --------------------------------------------------------------------------------------------------------


def test_two_gpus():
    (shown,) = tables("scale.md", "Several GPUs of one host")
    for cells, row in zip(shown[1:], read("two-gpus/workers.csv"), strict=True):
        assert numbers(" ".join(cells[1:4])) == [float(row[name]) for name in ("one_process", "two_workers", "ratio")]
        assert round(float(row["two_workers"]) / float(row["one_process"]), 2) == float(row["ratio"])
    _, rates, written, graphs = tables("scale.md", "One model over two GPUs")
    found = read("two-gpus/split.csv")
    passes = [row for row in found if row["of_naive"]]
    cells = [cell for column in (1, 3) for row in rates[1:] for cell in row[column : column + 2] if cell]
    for row, rate, share in zip(passes, cells[::2], cells[1::2], strict=True):
        assert numbers(rate) == [int(row["tokens_per_second"])]
        assert numbers(share)[0] == round(float(row["of_naive"]), 2)
        naive = next(each for each in found if each["launch_queues"] == row["launch_queues"])
        share_of_naive = int(row["tokens_per_second"]) / int(naive["tokens_per_second"])
        assert round(share_of_naive, 3) == float(row["of_naive"])
    made = [int(row["tokens_per_second"]) for row in found if not row["of_naive"]]
    assert [rate for row in written[1:] for rate in numbers(" ".join(row[1:]))] == made
    for cells, row in zip(graphs[1:], read("two-gpus/graphs.csv"), strict=True):
        assert cells == [row["rows"], *(f"{float(value):.1f}" for value in list(row.values())[1:])]


# --- models ----------------------------------------------------------------------------------------------------------


def test_how_many_types_the_readme_says_are_recorded():
    (table, *_) = tables("supported.md", "Supported models")
    types = {what: int(count) for what, count in table[1:]}
    recorded = types["recorded"]
    refused = [count for what, count in types.items() if "not recorded" in what or "refused" in what]
    mixtures = types["native mixture of experts, recorded (among the recorded)"]
    readme = " ".join((DOCS.parent / "README.md").read_text(encoding="utf-8").split())
    assert f"{recorded} of {recorded + sum(refused)} are recorded, {mixtures} of them" in readme
