"""Write docs/supported.md: every causal type of transformers, tried as tests/every_type.py tries them."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

HEAD = """# Supported models

Written by `make models`, which builds a small random model of every causal type of transformers {version} and
tries on it what is promised: the FFNs are found and proved, a recording's counts equal a plain loop, neurons that are
switched off equal zeroed weights, and the model is as it was afterwards. [How that works](families.md).

| what | types |
|---|---|
| recorded | {recorded} |
| dense or hybrid, with an FFN, and not recorded | {lost} |
| no FFN | {bare} |
| native mixture of experts, recorded (among the recorded) | {experts} |
| native mixture of experts with code of its own, refused | {mixtures} |
| no small model could be built, so not tried | {unbuilt} |

## Recorded

*Activation* is the module that gives it, or the function where it is called in line. `ppl` is missing where the head is
no function of the last hidden states alone, so perplexity cannot be measured. *Experts* are those of a native
[mixture](experts.md#native-mixtures-of-experts); shared experts and dense layers of such a model are recorded too.

| type | FFN | activation | ppl |
|---|---|---|---|
"""


def main() -> None:
    """Try all types and write the page."""
    import every_type
    import transformers

    transformers.logging.set_verbosity_error()
    outcomes = [every_type.tried(kind) for kind in every_type.TYPES]

    def of(*states: str) -> list[every_type.Outcome]:
        return [outcome for outcome in outcomes if outcome.state in states]

    bare = [each for each in of("not found") if each.kind in every_type.WITHOUT_FFN]
    lost = [each for each in of("not found", "wrong") if each not in bare]
    lines = [
        HEAD.format(
            version=transformers.__version__, recorded=len(of("recorded")), lost=len(lost), bare=len(bare),
            experts=sum(each.layout.startswith("experts") for each in of("recorded")),
            mixtures=len(of("mixture")), unbuilt=len(of("not built")),
        )
    ]  # fmt: skip
    for each in of("recorded"):
        uneven = ", uneven" if len(set(each.widths)) > 1 else ""
        lines.append(f"| {each.kind} | {each.layout}{uneven} | {each.site} | {'yes' if each.perplexity else ''} |\n")
    for title, some in (
        ("Not recorded", lost),
        ("No FFN", bare),
        ("Mixtures of experts, refused", of("mixture")),
        ("Not tried", of("not built")),
    ):
        lines.append(f"\n## {title}\n\n| type | why |\n|---|---|\n")
        lines += [f"| {each.kind} | {_cell(each.reason)} |\n" for each in some]
    (ROOT / "docs" / "supported.md").write_text("".join(lines), encoding="utf-8")


def _cell(words: str) -> str:
    return " ".join(words.replace("|", "/").split()).partition("; see docs/")[0].partition("; describe the")[0]


if __name__ == "__main__":
    main()
