"""The part of a report about methods side by side."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from neuroglot.evaluate.ablation.comparison import Comparison
from neuroglot.figures.comparison import budget_figure, curve_figure, matrices_figure, text_figure
from neuroglot.identify.registry import title as method_title
from neuroglot.languages.genealogy import distances
from neuroglot.report.files import keep_figure, keep_table
from neuroglot.run.directory import Run

__all__ = ["compare_part"]


def compare_part(run: Run) -> dict[str, Any] | None:
    """Write the tables and figures of the comparison, and gather what the page shows; None if there was none."""
    if not run.manifest.compare or not run.comparison_path.is_file():
        return None
    result = Comparison.load(run.comparison_path)
    if not result.conditions:
        return None
    distance, budget = distances(result.languages), run.manifest.compare["budget"]
    summary = result.summary(distance)
    keep_table(run.path, "compare", summary)
    keep_table(run.path, "compare-cells", result.frame())
    likeness = pd.DataFrame(result.stability).T.rename_axis("choice").reset_index()
    keep_table(run.path, "compare-likeness", likeness)
    source = run.manifest.model.source
    equal = [name for name, what in result.conditions.items() if what["part"] == "all" and what["budget"] == budget]
    title = f"Methods in {source}, {100 * budget:g} % of all neurons a language"
    shown: dict[str, Any] = {
        "settings": run.manifest.compare,
        "block": result.block,
        "tokens": {tag: len(values) * (result.block - 1) for tag, values in result.intact.items()},
        "languages": len(result.languages),
        "rows": _rows(summary, budget),
        "findings": _findings(summary, budget),
        "matrices": keep_figure(run.path, matrices_figure(result, equal, title), "compare"),
        "relation": distance is not None,
    }
    curves = summary[(summary.part == "all") & summary.budget.notna()]
    bent = [str(name) for name, rows in curves.groupby("method", sort=False) if rows.budget.nunique() > 1]
    if bent:
        shown["curves"] = keep_figure(run.path, curve_figure(summary, f"Budgets in {source}"), "compare-budgets")
        shown["budgets"] = {
            method_title(method): keep_figure(
                run.path,
                budget_figure(result, method, f"{method_title(method)}, {source}"),
                f"compare-budget-{method}",
            )
            for method in bent
            if method != "random"
        }
    if any(part.endswith(" tokens") for found in result.stability.values() for part in found):
        drawn = text_figure(result, summary, budget, f"How much text is enough, {source}")
        shown["texts"] = keep_figure(run.path, drawn, "compare-texts")
    return shown


def _rows(summary: pd.DataFrame, budget: float) -> list[dict[str, str]]:
    """The summary table as text: equal budgets first, then each method's own choice."""
    whole = summary[summary.part == "all"]
    parts = [(whole[whole.budget == budget], ""), (whole[whole.budget.isna()], ", default")]
    rows = []
    for table, note in parts:
        for row in table.to_dict("records"):
            rows.append(
                {
                    "method": method_title(row["method"]) + note,
                    "neurons": _range(row["fewest"], row["most"]),
                    "held": _shares(row),
                    "on_target": _between(row, "on_target", 2),
                    "off_target": _between(row, "off_target", 3),
                    "selectivity": _between(row, "selectivity", 1),
                    "diagonal_dominant": f"{row['diagonal_dominant']}",
                    "relation": _number(row["relation"], 2),
                    "split_half": _number(
                        row["split_half"] if row["split_half"] == row["split_half"] else row["seeds"], 2
                    ),
                    "seconds": _number(row["seconds"], 0),
                }
            )
    return rows


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:,.{digits}f}"


def _between(row: Mapping[Any, Any], name: str, digits: int) -> str:
    if math.isnan(row[f"{name}_low"]):  # one block: no interval is known
        return _number(row[name], digits)
    ends = f"{_number(row[f'{name}_low'], digits)} to {_number(row[f'{name}_high'], digits)}"
    return f"{_number(row[name], digits)} ({ends})"


def _shares(row: Mapping[Any, Any]) -> str:
    """The shares of the model's parameters and FLOPs, where they are known."""
    shares = [row.get(name, math.nan) for name in ("parameters", "flops")]
    return " / ".join(f"{100 * share:.2g} %" for share in shares if share == share)


def _findings(summary: pd.DataFrame, budget: float) -> list[str]:
    """What the numbers say, in sentences."""
    equal = summary[(summary.part == "all") & (summary.budget == budget)].set_index("method")
    said = []
    chosen = equal.drop(index=[name for name in ("random",) if name in equal.index])
    unknown = chosen.selectivity_low.isna() & chosen.selectivity.notna()
    if len(chosen) and unknown.all():
        best = chosen.sort_values("selectivity", ascending=False).iloc[0]
        return [
            f"Highest is the selectivity of {method_title(str(best.name))}, {_number(best.selectivity, 1)}. A language "
            "has one block of held-out text, so no interval is known, and nothing says that the order would hold on "
            "other text. Compare again with more --tokens or a smaller --block."
        ]
    sure = chosen[chosen.selectivity_low > 1]
    if len(sure):
        best = sure.sort_values("selectivity", ascending=False).iloc[0]
        name = str(best.name)
        said.append(
            f"Most selective is {method_title(name)}: on target it costs {best.on_target:.2f} nats a token, off "
            f"target {best.off_target:.3f} on average, a selectivity of {_number(best.selectivity, 1)} (95 % interval "
            f"{_number(best.selectivity_low, 1)} to {_number(best.selectivity_high, 1)})."
        )
        most = chosen.sort_values("on_target", ascending=False).iloc[0]
        if most.name != best.name:
            strong = method_title(str(most.name))
            said.append(
                f"Most harm on target does {strong}: {most.on_target:.2f} nats, with {most.off_target:.2f} off target."
            )
    rest = [method_title(str(name)) for name in chosen.index if name not in sure.index]
    if rest:
        said.append(f"Not certainly more selective than 1, which is what random neurons are: {', '.join(rest)}.")
    return said
