"""Alternatives timed in turns: every repeat runs each of them once, and ratios are taken within a repeat.

So a machine whose speed drifts slows all of them alike. The median of the ratios is given, and the lowest and highest.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["Row", "environment", "measure", "write"]

PACKAGES = ("neuroglot", "torch", "transformers", "transformer-lens", "nnsight", "k-means-constrained")


@dataclass
class Row:
    """One measurement: what was run beside what.

    Attributes:
        name: what is measured.
        times: by arm the seconds of each repeat; the first arm is ours.
        base: the arm that ratios are taken to.
        tokens: read by each arm, where rates mean something.
        note: what a reader must know.
    """

    name: str
    times: dict[str, list[float]]
    base: str
    tokens: int = 0
    note: str = ""
    ratios: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for arm, taken in self.times.items():
            each = [mine / its for mine, its in zip(taken, self.times[self.base], strict=True)]
            self.ratios[arm] = (statistics.median(each), min(each), max(each))

    def lines(self) -> list[str]:
        """Rows of a Markdown table: arm, time, rate, ratio, range."""
        result = []
        for arm, taken in self.times.items():
            middle = statistics.median(taken)
            rate = f"{self.tokens / middle:,.0f}" if self.tokens else ""
            ratio, low, high = self.ratios[arm]
            spread = f"{low:.3g} to {high:.3g}" if arm != self.base else ""
            result.append(f"| {self.name} | {arm} | {middle:.3g} s | {rate} | {ratio:.3g} | {spread} |")
        return result


def measure(
    name: str,
    arms: Mapping[str, Callable[[], object]],
    *,
    base: str,
    repeats: int,
    tokens: int = 0,
    note: str = "",
    clock: Callable[[], float] = time.perf_counter,
    warm: bool = True,
) -> Row:
    """Run every arm once to warm up, if asked, then all of them in turn, `repeats` times."""
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    for repeat in range(repeats + warm):
        for arm, run in arms.items():
            begun = clock()
            run()
            if repeat or not warm:
                times[arm].append(clock() - begun)
    return Row(name, times, base, tokens, note)


def environment() -> dict[str, str]:
    """The machine, the versions and the commit."""
    found = {"machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, {torch.get_num_threads()} threads"}
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    if model:
        found["processor"] = model[0].partition(":")[2].strip()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return found | {"python": platform.python_version(), "commit": commit.stdout.strip() or "unknown"}


def write(rows: list[Row], path: Path) -> None:
    """`path`.json with every time, and `path`.md with the table."""
    about = environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps({"environment": about, "rows": [asdict(row) for row in rows]}))
    lines = [", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines += ["| | arm | median | tokens/s | ratio | range |", "|---|---|---|---|---|---|"]
    lines += [line for row in rows for line in row.lines()]
    lines += [""] + [f"{row.name}: {row.note}" for row in rows if row.note]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n")
