"""The command line. Thin: every command opens things, calls the library, and says what it wrote and where.

One file a command; the order here is the order of `neuroglot --help`.
"""

# isort: off
from neuroglot.cli import demo, record, merge, identify, perturb, align, evolve, experts, prune, tune, compare  # noqa: F401
from neuroglot.cli import lens, moefy, shrink  # noqa: F401
from neuroglot.cli import steer, fix, evaluate  # noqa: F401
from neuroglot.cli import evaluate_confusion, evaluate_generation, evaluate_score, evaluate_tasks  # noqa: F401
from neuroglot.cli import study, report, explore, doctor  # noqa: F401
from neuroglot.cli.app import main

__all__ = ["main"]
