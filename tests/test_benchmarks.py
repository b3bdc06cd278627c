"""The numbers on the page of benchmarks are those of the files in docs/results."""

import re
import statistics

from pages import read, rounded, tables


def test_generation_on_a_gpu():
    seven, half, *_ = tables("benchmarks.md", "Generation on a GPU")
    for table, name in ((seven, "llama-2-7b"), (half, "qwen2.5-0.5b")):
        batches = table[0][1:]
        found = {}
        for row in read(f"generation/{name}.csv"):
            found.setdefault((row["how"], row["batch"]), int(row["tokens_per_second"]))  # without rivals first
        shown = {row[0]: dict(zip(batches, row[1:], strict=True)) for row in table[1:]}
        for (how, batch), rate in found.items():
            assert shown[how][batch] == f"{rate:,}", (name, how, batch)
        one, intact = ("1 % off, by recipe", "intact")
        for label, cells in shown.items():
            for batch, cell in cells.items():
                if label.startswith("1 % off by recipe, of intact"):
                    assert rounded(cell, found[one, batch] / found[intact, batch])
                if label.startswith("a recipe a row, of one"):
                    assert rounded(cell, found["a recipe a row", batch] / found[one, batch])
    wanted = dict(zip(seven[0][1:], shown_rates(seven, "wanted"), strict=True))
    assert all(
        rate >= wanted[batch] for batch, rate in zip(seven[0][1:], shown_rates(seven, "1 % off, by"), strict=True)
    )


def shown_rates(table, start):
    """The first row of a table that begins so, as numbers; 0 where there is none."""
    row = next(row for row in table[1:] if row[0].startswith(start))
    return [float(cell.replace(",", "") or 0) for cell in row[1:]]


def test_balanced_k_means_in_three_conditions():
    table = tables("benchmarks.md", "Balanced k-means")[1]
    rows = read("kmeans/conditions.csv")
    for name, _, *cells in table[1:]:
        model = name.lower().replace(" ", "-").replace("gemma-3", "gemma3")
        own = [row for row in rows if row["model"] == model]
        assert len(own) in (18, 24, 30)
        for column, cell in zip(("seconds_idle", "seconds_busy", "", "seconds_h100"), cells, strict=True):
            if column:
                seconds = [float(row[column]) for row in own if row[column]]
                values = (statistics.median(seconds), min(seconds), max(seconds))
                assert all(rounded(*pair) for pair in zip(re.findall(r"[\d.]+", cell), values, strict=True)), (
                    model,
                    column,
                )
