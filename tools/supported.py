"""Write docs/supported.md: every causal type of transformers, tried as tests/every_type.py tries them."""

import argparse
import sys
import warnings
from multiprocessing import Pool
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

HEAD = """# Supported models

Written by `make models`, which builds a small random model of every causal type of transformers {version} and
tries on it what is promised: the FFNs are found and proved, a recording's counts equal a plain loop, neurons and heads
that are switched off equal zeroed weights, and the model is as it was afterwards. [How that works](families.md).

| what | types |
|---|---|
| recorded | {recorded} |
| dense or hybrid, with an FFN, and not recorded | {lost} |
| no FFN | {bare} |
| native mixture of experts, recorded (among the recorded) | {experts} |
| native mixture of experts with code of its own, refused | {mixtures} |
| no small model could be built, so not tried | {unbuilt} |
| encoder with a decoder, its decoder recorded (not among the above) | {both} |

## Recorded

*Activation* is the module that gives it, or the function where it is called in line. `ppl` is missing where the head is
no function of the last hidden states alone, so perplexity cannot be measured. *Heads* says in how many attentions the
[heads](method/heads.md) can be read and switched off; the small models have {layers} layers. *Experts* are those of a
native [mixture](experts.md#native-mixtures-of-experts); shared experts and dense layers of one are recorded too.

"""
COLUMNS = "| type | FFN | activation | ppl | heads |\n|---|---|---|---|---|\n"


def main() -> None:
    """Try all types and write the page."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--workers", type=int, default=1, help="how many processes try types side by side")
    asked.add_argument("--out", type=Path, default=ROOT / "docs" / "supported.md", help="the page")
    asked = asked.parse_args()
    import every_type
    import transformers

    jobs = [(kind, False) for kind in every_type.TYPES] + [(kind, True) for kind in every_type.WITH_ENCODER]
    with Pool(asked.workers, quiet) as pool:
        found = pool.starmap(every_type.tried, jobs, chunksize=1)
    outcomes, pairs = found[: len(every_type.TYPES)], found[len(every_type.TYPES) :]

    def of(*states: str) -> list[every_type.Outcome]:
        return [outcome for outcome in outcomes if outcome.state in states]

    bare = [each for each in of("not found") if each.kind in every_type.WITHOUT_FFN]
    lost = [each for each in of("not found", "wrong") if each not in bare]
    lines = [
        HEAD.format(
            version=transformers.__version__, recorded=len(of("recorded")), lost=len(lost), bare=len(bare),
            experts=sum(each.layout.startswith("experts") for each in of("recorded")),
            mixtures=len(of("mixture")), unbuilt=len(of("not built")), both=sum(each.recorded for each in pairs),
            layers=every_type.LAYERS,
        )
    ]  # fmt: skip
    lines += [COLUMNS, *map(_row, of("recorded"))]
    lines += ["\n## Encoders with a decoder\n\n", "The decoder is recorded, and its encoder reads an empty text.\n\n"]
    lines += [COLUMNS, *map(_row, (each for each in pairs if each.recorded))]
    for title, some in (
        ("Not recorded", lost),
        ("No FFN", bare),
        ("Mixtures of experts, refused", of("mixture")),
        ("Not tried", of("not built")),
        ("Encoders with a decoder, not recorded", [each for each in pairs if not each.recorded]),
    ):
        if some:
            lines.append(f"\n## {title}\n\n| type | why |\n|---|---|\n")
            lines += [f"| {each.kind} | {_cell(each.reason)} |\n" for each in some]
    asked.out.write_text("".join(lines), encoding="utf-8")


def quiet() -> None:
    """What a process says nothing of, and one thread each: they share the cores."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def _row(outcome: Any) -> str:
    uneven = ", uneven" if len(set(outcome.widths)) > 1 else ""
    ppl = "yes" if outcome.perplexity else ""
    return f"| {outcome.kind} | {outcome.layout}{uneven} | {outcome.site} | {ppl} | {outcome.attentions or ''} |\n"


def _cell(words: str) -> str:
    return " ".join(words.replace("|", "/").split()).partition("; see docs/")[0].partition("; describe the")[0]


if __name__ == "__main__":
    main()
