"""More tokens for a finished run: what was found in fewer is dropped, and what does not depend on them stays."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from neuroglot.storage.atomic import read_json
from neuroglot.storage.results import save_json

if TYPE_CHECKING:
    from neuroglot.run.directory import Run
    from neuroglot.run.settings import Manifest

__all__ = ["extend_run"]

HALF, EARLIER = "recording half", "earlier"
"""Of the names of times; see `evidence`."""

MEASURED = ("tasks", "continuations")
"""What the names of tables begin with that are measurements of their own; the report makes the others."""


def extend_run(run: "Run", tokens: int) -> list[str]:
    """Have a finished run ask for more tokens a language. The next pass records them; until then it is not finished.

    Held-out text is every n-th document, however many tokens are recorded, so it stays what it was. Dropped is what
    depends on the recording: neurons that a method found in it, what was measured with them, the comparison, what
    pruning cost, answers, and the report. Kept are the partition, samples and key regions, imported neurons, and
    everything that is kept under a digest of what it depends on.

    Args:
        run: `Run.prepare` with `extend` has checked it.
        tokens: at most so many of each language.

    Returns:
        What was dropped, in words.
    """
    if (texts := _texts(run)) and all(text.get("ended") for text in texts):  # all the text is recorded
        with run.changing() as manifest:
            manifest.record.tokens = tokens
        return []
    with run.changing() as manifest:
        dropped = [f"neurons of {method}" for method in manifest.identify if _found_in_recording(method)]
        for method in [method for method in manifest.identify if _found_in_recording(method)]:
            _drop_method(run, manifest, method)
        dropped += [
            name
            for name, there in {
                "the comparison of methods": manifest.compare,
                "what pruning cost": manifest.prune,
                "answers that were steered": manifest.steering,
                "the report": (run.path / "report.html").is_file(),
            }.items()
            if there
        ]
        _drop_measured(run, manifest)
        manifest.record.tokens = tokens
    return dropped


def _texts(run: "Run") -> list[dict[str, object]]:
    """What was read of each language."""
    return [read_json(path) or {} for path in sorted((run.path / "recording" / "text").glob("*.json"))]


def _found_in_recording(method: str) -> bool:
    """Whether a method's neurons depend on the recorded text."""
    from neuroglot.errors import NeuroglotError
    from neuroglot.identify.registry import described

    if method == "imported":
        return False
    try:
        needs = described(method).needs
    except NeuroglotError:  # a method that is not installed here
        return True
    return not {*needs} <= {"samples", "tuned", "seed"}


def _drop_method(run: "Run", manifest: "Manifest", method: str) -> None:
    from neuroglot.run.identification import forget_measured

    forget_measured(run, manifest, method)
    run.neurons_path(method).unlink(missing_ok=True)
    del manifest.identify[method]


def _drop_measured(run: "Run", manifest: "Manifest") -> None:
    """Drop what follows from the recording in other ways than by neurons."""
    if manifest.tasks:
        from neuroglot.run.tasks import forget_pruned

        forget_pruned(run)
    if manifest.steering:
        from neuroglot.run.steering import forget_answers

        for method in {asked["neurons"] for asked in manifest.steering.values()}:
            forget_answers(run, manifest, method)  # means of the recording stand in for activations
    (run.path / "experts" / "pruning.csv").unlink(missing_ok=True)
    run.comparison_path.unlink(missing_ok=True)
    shutil.rmtree(run.comparison_path.parent / "defaults", ignore_errors=True)
    _move_times(run.comparison_path.parent / "seconds.json")
    for table in (run.path / "tables").glob("*.csv"):
        if not table.name.startswith(MEASURED):
            table.unlink()
    shutil.rmtree(run.path / "figures", ignore_errors=True)
    (run.path / "report.html").unlink(missing_ok=True)
    manifest.compare, manifest.prune, manifest.tuned = {}, {}, None


def _move_times(file: Path) -> None:
    """What recording the halves took counts as what it took earlier: the next time only the new text is recorded."""
    kept = read_json(file)
    if kept is None:
        return
    moved = {name: value for name, value in kept.items() if not name.startswith(HALF)}
    for name, value in kept.items():
        if name.startswith(HALF):
            moved[f"{EARLIER} {name}"] = moved.get(f"{EARLIER} {name}", 0.0) + value
    save_json(file, moved)
