"""The Pruning tab: size against perplexity, and the command that writes a chosen model."""

import pandas as pd

from neuroglot.explorer.run_view import RunView
from neuroglot.figures.screen import DASHES, LINES, Plot, curves, plain
from neuroglot.languages.tags import named
from neuroglot.run.pruning import pruning_measured

__all__ = ["choices", "command", "pruning_plot", "table"]


def table(run_view: RunView) -> pd.DataFrame | None:
    """What was measured; None if nothing was."""
    path = run_view.run.path / "experts" / "pruning.csv"
    if not path.is_file():
        return None
    found = pruning_measured(path)
    for column in ("proportion", "random", "random_std", "experts", "original"):
        found[column] = pd.to_numeric(found[column], errors="coerce")
    return found.dropna(subset=["proportion", "experts"])


def choices(measured: pd.DataFrame) -> list[str]:
    """What can be picked: choice and language."""
    return [f"{row.choice} · {row.language}" for row in measured.itertuples()]


def pruning_plot(measured: pd.DataFrame) -> Plot:
    """Share of experts kept against perplexity, a line a language and rule; dotted: random experts, as many."""
    languages: list[str] = list(dict.fromkeys(measured.language))
    plot = curves(pd.DataFrame(), x_title="experts kept", y_title="perplexity of held-out samples")
    traces = plot["data"]
    rules = measured.choice.str.replace(r" [\d.]+", "", regex=True)
    marks = dict(zip(dict.fromkeys(rules), ("circle", "square", "diamond", "x", "triangle-up"), strict=False))
    for tag, rule in dict.fromkeys(zip(measured.language, rules, strict=True)):
        of_tag = measured[(measured.language == tag) & (rules == rule)].sort_values("proportion")
        colour = LINES[languages.index(tag) % len(LINES)]
        original = float(of_tag.original.iloc[0])
        for column, dash, what in (("experts", DASHES[0], "its experts"), ("random", DASHES[2], "random experts")):
            x = [*of_tag.proportion.tolist(), 1.0]
            y = [*of_tag[column].tolist(), original]
            labels = [plain(f"{choice} · {tag}") for choice in of_tag.choice] + ["nothing pruned"]
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "x": x,
                    "y": y,
                    "name": f"{named(tag)}, {plain(rule)}, {what}",
                    "text": labels,
                    "line": {"color": colour, "dash": dash},
                    "marker": {"size": 9, "symbol": marks.get(rule, "star")},
                    "hovertemplate": "%{text}<br>%{x:.1%} kept<br>perplexity %{y:.4g}<extra></extra>",
                }
            )
    plot["layout"]["yaxis"]["type"] = "log"
    plot["layout"]["xaxis"]["tickformat"] = ".0%"
    plot["layout"]["height"] = 440
    return plot


def command(run_view: RunView, picked: str) -> str:
    """The command that writes the picked model."""
    choice, _, tag = picked.rpartition(" · ")
    rule, value, *rest = choice.split(" ")
    if rule not in ("threshold", "share", "budget"):
        return f"{picked} was found by a search; repeat it with neuroglot prune --max-perplexity-increase."
    extra = f" --salience {rest[1]}" if len(rest) == 2 and rest[0] == "by" else ""
    return run_view.command(f"prune {{run}} --languages {tag} --{rule} {value}{extra} --out pruned-{tag}-{value}")
